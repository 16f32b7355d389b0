"""However the emulator ends, no container, no volume and no process is left."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from embedded_lab import Lab, gone, wait_until

from embedded import EmbeddedAws
from embedded.launching import ROOT
from embedded.task_containers import left_of

pytestmark = [pytest.mark.image, pytest.mark.timeout(600)]

# Starts an emulator with a task that will not go by itself, says which processes those are, and waits.
OWNER = """
import sys
sys.path[:0] = [{here!r}, {root!r}, {lab!r}]
from embedded import EmbeddedAws
from test_podman_shutdown import deaf_task
aws = EmbeddedAws.start(runtime="podman")
task = deaf_task(aws, {image!r})
print(aws.directory, aws.pid, task, flush=True)
sys.stdin.read()
"""


def deaf_task(aws: EmbeddedAws, image: str) -> int:
    """The first process of a task with a volume that ignores SIGTERM."""
    lab = Lab(aws, image=image)
    definition = lab.define(
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        mountPoints=[{"sourceVolume": "disk", "containerPath": "/disk"}],
        task={"volumes": [{"name": "disk"}]},
    )
    arn = lab.run(definition)
    lab.wait_for_line(arn, "ready")
    pid = lab.task(arn).pid
    assert pid is not None
    assert len(left_of(aws)) == 2
    return pid


def test_stop_leaves_nothing(image: str) -> None:
    aws = EmbeddedAws.start(runtime="podman")
    task = deaf_task(aws, image)
    aws.stop()
    assert gone(aws.pid, task)
    assert left_of(aws) == []
    assert not aws.directory.exists()


def test_nothing_is_left_after_the_emulator_was_killed(image: str) -> None:
    aws = EmbeddedAws.start(runtime="podman")
    task = deaf_task(aws, image)
    psutil.Process(aws.pid).kill()
    wait_until(lambda: gone(task), "the container's process to end", 60)
    wait_until(lambda: left_of(aws) == [], "the container and its volume to be removed", 60)
    aws.stop()
    assert not aws.directory.exists()


def test_nothing_is_left_after_its_owner_was_killed(image: str) -> None:
    here = Path(__file__).parent
    lab = ROOT / "tests" / "integration" / "embedded"
    script = OWNER.format(here=str(here), root=str(ROOT), lab=str(lab), image=image)
    owner = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory, emulator, task = owner.stdout.readline().split()
    aws = EmbeddedAws.attach(Path(directory))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: gone(int(emulator), int(task)), "the emulator and its task to end", 60)
    wait_until(lambda: not Path(directory).exists(), "the directory to be removed", 60)
    assert left_of(aws) == []
