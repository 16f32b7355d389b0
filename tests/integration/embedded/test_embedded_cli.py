"""``python -m embedded`` as a developer types it, with a real Prefect server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from embedded_lab import Lab, gone

from embedded.instance import AUTH_PARAMETER, Instance
from embedded.launching import ROOT

pytestmark = pytest.mark.integration


class Cli:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def environment(self) -> dict[str, str]:
        return {**os.environ, "EMBEDDED_DIR": str(self.directory), "PREFECT_API_URL": "http://wrong", "COLUMNS": "200"}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "embedded", *arguments],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        result = self(*arguments)
        assert result.returncode == 0, result
        assert result.stderr == ""
        return result.stdout

    def fails(self, *arguments: str) -> str:
        result = self(*arguments)
        assert result.returncode == 1, result
        assert "Traceback" not in result.stderr
        return result.stderr


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    cli = Cli(tmp_path_factory.mktemp("embedded"))
    assert "Starting" in cli.ok("up")
    yield cli
    cli.ok("down")


@pytest.fixture(scope="module")
def up(cli: Cli) -> Instance:
    return Instance.attach(cli.directory)


def test_up_twice_says_so(cli: Cli, up: Instance) -> None:
    text = cli.ok("up")
    assert text.startswith("Already up.")
    assert up.aws.endpoint in text
    assert up.prefect.ui_url in text


def test_the_password_is_where_a_stack_finds_it_and_not_on_a_command_line(cli: Cli, up: Instance) -> None:
    parameter = up.aws.client("ssm").get_parameter(Name=AUTH_PARAMETER, WithDecryption=True)["Parameter"]
    assert (parameter["Type"], parameter["Value"]) == ("SecureString", up.prefect.auth_string)
    secret = parameter["Value"].split(":", 1)[1]
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if secret in line]


def test_run_gives_a_command_both_worlds(cli: Cli, up: Instance) -> None:
    program = "import os, json; print(json.dumps(dict(os.environ)))"
    environment = json.loads(cli.ok("run", "--", "python", "-c", program))
    assert environment["AWS_ENDPOINT_URL"] == up.aws.endpoint
    assert environment["PREFECT_API_URL"] == up.prefect.api_url
    assert "No work pools found" in cli.ok("run", "--", "prefect", "work-pool", "ls")
    assert "command not found: 'no-such-thing'" in cli.fails("run", "--", "no-such-thing")
    assert "no command given" in cli.fails("run")


def test_tasks_are_shown_logged_and_interrupted(cli: Cli, up: Instance) -> None:
    lab = Lab(up.aws)
    arn = lab.run(lab.define("echo ready; sleep 60"))
    task_id = arn.rsplit("/", 1)[-1]
    lab.wait_for_line(arn, "ready")
    status = cli.ok("status")
    assert task_id[:8] in status
    assert "FARGATE_SPOT" in status
    assert cli.ok("logs", task_id[:6]).rstrip().endswith("ready")
    assert "lab/main/" in cli.ok("logs", "--group", "/lab/tasks")
    assert "no log group '/other'. There are:\n  /lab/tasks" in cli.fails("logs", "--group", "/other")
    assert f"no live task 'zzz'. There are:\n  {task_id}  RUNNING" in cli.fails("interrupt", "zzz")
    assert "exclude each other" in cli.fails("interrupt", task_id, "--kill", "--grace", "1")
    assert "Gave notice to" in cli.ok("interrupt", task_id[:10], "--grace", "1")
    assert lab.wait(arn, "STOPPED").stop_code == "SpotInterruption"
    assert "no task runs on FARGATE_SPOT" in cli.fails("interrupt", "--all-spot")
    assert "SpotInterruption (143)" in cli.ok("status")


def test_down_copes_with_parts_that_are_dead_already(cli: Cli, up: Instance) -> None:
    """Runs last: the fixture's own ``down`` then finds nothing."""
    psutil.Process(up.aws.pid).kill()
    assert "no embedded AWS runs in" in cli.fails("status")
    text = cli.ok("down")
    assert "the remains of the embedded AWS" in text
    assert "Stopped the Prefect server" in text
    assert cli.ok("down").startswith("Nothing runs in")


def test_ctrl_c_ends_a_foreground_instance(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "embedded", "up", "--foreground"],
        cwd=ROOT,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job ignores SIGINT, and so would everything that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert any("Ctrl-C ends it" in line for line in process.stdout)
    children = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
    assert len(children) >= 3  # emulator, its reaper, the server, its reaper
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait() == 0
    assert "Traceback" not in rest
    assert gone(*children)
    assert not list(tmp_path.glob("*.json"))
