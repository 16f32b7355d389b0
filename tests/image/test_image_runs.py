"""The flow image at work: as its own user, without network, capabilities or a writable root."""

import ast
import json
import time
from pathlib import Path

import pytest
from image_helpers import HARDENED, interrupted, logs, podman, run

from cdk_prefect_ecs.worker_service import HEALTH_CHECK

pytestmark = pytest.mark.image

FLOWS = Path(__file__).parent / "flows"
CODE = (f"--volume={FLOWS}:/code:ro",)
#: An API of its own in the container: there is no network.
EPHEMERAL = {"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true", "DO_NOT_TRACK": "1"}


def test_it_is_not_root_and_writes_only_where_it_says(image: str) -> None:
    program = """
import os, pathlib
written = []
for directory in ("/", "/opt", "/opt/venv", "/etc", "/usr", "/var", "/run", "/home", "/home/prefect", "/tmp", "/root"):
    try:
        file = pathlib.Path(directory, "written"); file.touch(); written.append(directory); file.unlink()
    except OSError: pass
print((os.getuid(), os.getgid(), os.getcwd(), written))
"""
    done = run(image, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == (10001, 10001, "/home/prefect", ["/home/prefect", "/tmp"])  # noqa: S108


def test_a_real_flow_runs_and_its_result_is_right(baked: str) -> None:
    program = (
        "import json; from flights import flights_etl; "
        "print('RESULT', json.dumps(flights_etl(output='data', months=(1, 2))))"
    )
    done = run(baked, "python", "-c", program, env={**EPHEMERAL, "PYTHONPATH": "/opt/flows"}, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.rpartition("RESULT")[2])
    # January has 27,004 flights and February 24,951.
    assert result["source_rows"] == 51_955
    assert result["flown"] + result["not_flown"] == 51_955
    assert result["not_flown"] == 606 + 1340
    assert "Finished in state Completed()" in done.stderr


def test_a_flow_that_fails_ends_with_an_error(image: str) -> None:
    done = run(image, "python", "/code/failing.py", options=CODE, env=EPHEMERAL, timeout=240)
    assert done.returncode == 1
    assert "RuntimeError: on purpose" in done.stderr


def test_sigterm_reaches_every_process_of_a_command(image: str) -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('heard'), sys.exit(7))); "
        "print('ready'); time.sleep(60)"
    )
    # A shell that stays: without -g it alone would be told, and end.
    shell = f'trap "" TERM; python -c "{program}"; echo "python said $?"; exit 3'
    ended = interrupted(image, "sh", "-c", shell, when=lambda output: "ready" in output)
    assert "heard" in ended.output
    assert "python said 7" in ended.output
    assert ended.exit_code == 3
    assert ended.seconds < 10


def test_sigterm_without_a_handler_ends_the_container(image: str) -> None:
    ended = interrupted(
        image, "python", "-c", "import time; print('ready'); time.sleep(60)", when=lambda output: "ready" in output
    )
    assert ended.exit_code == 128 + 15
    assert ended.seconds < 10


def test_an_interrupted_flow_run_is_relinquished(image: str) -> None:
    ended = interrupted(
        image,
        "sh",
        "/code/execute.sh",
        when=lambda output: "the flow is at work" in output,
        options=CODE,
        env={"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "relinquish", "DO_NOT_TRACK": "1"},
        patience=150,
    )
    assert "the flow was told: TerminationSignal" in ended.output
    assert ended.exit_code == 1
    assert ended.seconds < 30, "the engine must be done long before the 120 seconds that Fargate gives it"


def test_the_worker_serves_and_its_health_check_answers(image: str) -> None:
    started = podman(
        *("run", "--detach", "--rm", "--name=worker-of-the-image"),
        *HARDENED,
        *CODE,
        *(f"--env={name}={value}" for name, value in EPHEMERAL.items()),
        image,
        *("sh", "/code/worker.sh"),
    )
    assert started.returncode == 0, started.stderr
    try:
        deadline = time.monotonic() + 150
        while podman("exec", "worker-of-the-image", "python", "-c", HEALTH_CHECK).returncode != 0:
            assert time.monotonic() < deadline, logs("worker-of-the-image")[-3000:]
            time.sleep(1)
    finally:
        podman("rm", "--force", "--volumes", "--time=0", "worker-of-the-image")
