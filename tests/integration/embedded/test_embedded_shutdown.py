"""However it ends, nothing is left: no process, no port, no directory."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from embedded_lab import Lab, gone, living, port_is_free, wait_until

from embedded import EmbeddedAws
from embedded.launching import ROOT

pytestmark = pytest.mark.integration

# Starts an emulator with a task that will not go by itself, says which processes those are, and waits.
OWNER = """
import sys
import zipfile
sys.path[:0] = [{here!r}, {root!r}]
from embedded import EmbeddedAws
from embedded_lab import Lab
aws = EmbeddedAws.start()
lab = Lab(aws)
arn = lab.run(lab.define("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
lab.wait_for_line(arn, "ready")
print(aws.directory, aws.pid, lab.task(arn).pid, flush=True)
sys.stdin.read()
"""


def with_task(aws: EmbeddedAws) -> int | None:
    lab = Lab(aws)
    arn = lab.run(lab.define("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
    lab.wait_for_line(arn, "ready")
    return lab.task(arn).pid


def warm_function(aws: EmbeddedAws) -> int:
    """Invoke a function; its worker process stays, as Lambda keeps environments warm."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.py", "import os\ndef handler(event, context):\n    return os.getpid()\n")
    client = aws.client("lambda")
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = aws.client("iam").create_role(RoleName="function", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    code = {"ZipFile": archive.getvalue()}
    client.create_function(FunctionName="f", Runtime="python3.13", Handler="index.handler", Role=role, Code=code)
    return int(json.load(client.invoke(FunctionName="f")["Payload"]))


def test_stop_leaves_nothing_even_after_the_emulator_was_killed() -> None:
    aws = EmbeddedAws.start()
    task, worker = with_task(aws), warm_function(aws)
    reaper = int((aws.directory / "reaper.pid").read_text())
    assert not gone(worker)
    psutil.Process(aws.pid).kill()
    wait_until(lambda: gone(task, worker), "the orphans to be reaped")
    aws.stop()
    assert gone(aws.pid, task, reaper)
    assert port_is_free(aws.endpoint)
    assert not aws.directory.exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5, 5.0])
def test_killed_while_it_starts_it_can_be_started_again(seconds: float, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "embedded"]
    environment = {**os.environ, "EMBEDDED_DIR": str(tmp_path)}
    up = subprocess.Popen([*command, "up"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    time.sleep(seconds)  # somewhere on its way; where, depends on the machine
    up.kill()
    up.wait()
    for arguments in ("up", "down"):
        subprocess.run([*command, arguments], cwd=ROOT, env=environment, check=True, capture_output=True)
    wait_until(lambda: not living(tmp_path), f"all processes to end, but there are {living(tmp_path)}")
    assert not list(tmp_path.glob("*.json"))


def test_it_ends_with_the_process_that_started_it() -> None:
    script = OWNER.format(here=str(Path(__file__).parent), root=str(ROOT))
    owner = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory, emulator, task = owner.stdout.readline().split()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: gone(int(emulator), int(task)), "the emulator and its task to end")
    wait_until(lambda: not Path(directory).exists(), "the directory to be removed")
