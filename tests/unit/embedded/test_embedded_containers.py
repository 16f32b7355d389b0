from pathlib import Path

import pytest

from embedded.emulator import processes
from embedded.emulator.containers import environment, fargate_environment
from embedded.emulator.processes import ProcessRuntime, Reaper, command_line
from embedded.emulator.runtime import CannotStartContainerError
from embedded.emulator.secret_values import SecretReference, parse

SECRET = "arn:aws:secretsmanager:us-east-1:000000000000:secret:prefect-AbCdEf"


@pytest.mark.parametrize(
    ("definition", "override", "argv"),
    [
        ({"command": ["prefect", "version"]}, {}, ["prefect", "version"]),
        ({"command": ["a"]}, {"command": ["b", "c"]}, ["b", "c"]),
        ({"entryPoint": ["sh", "-c"], "command": ["exit 3"]}, {}, ["sh", "-c", "exit 3"]),
        ({"entryPoint": ["/usr/bin/tini", "-g", "--"], "command": ["a", "-b"]}, {}, ["a", "-b"]),
        ({"entryPoint": ["tini", "-g", "--", "/opt/prefect/entrypoint.sh"], "command": ["a"]}, {}, ["a"]),
    ],
)
def test_command_line(definition: dict, override: dict, argv: list[str], monkeypatch) -> None:
    monkeypatch.setattr(processes.shutil, "which", lambda name: None)
    assert command_line(definition, override) == argv


def test_an_images_own_command_is_unknown() -> None:
    with pytest.raises(CannotStartContainerError, match="set entryPoint or command"):
        command_line({}, {})


def test_later_sources_of_the_environment_win() -> None:
    result = environment(
        {"environment": [{"name": "A", "value": "definition"}, {"name": "B", "value": "definition"}]},
        {"environment": [{"name": "B", "value": "override"}]},
        base={"A": "base", "HOME": "/h"},
        secrets={"C": "secret"},
    )
    port = result.pop("PREFECT_WORKER_WEBSERVER_PORT")
    assert result == {"A": "definition", "B": "override", "C": "secret", "HOME": "/h"}
    assert port.isdigit()


def test_a_webserver_port_of_ones_own_stays() -> None:
    own = {"environment": [{"name": "PREFECT_WORKER_WEBSERVER_PORT", "value": "8080"}]}
    assert environment(own, {}, base={}, secrets={})["PREFECT_WORKER_WEBSERVER_PORT"] == "8080"


def test_nothing_of_the_developers_environment_leaks(tmp_path: Path, monkeypatch) -> None:
    for name in ("PREFECT_API_KEY", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "PYTHONPATH", "EDITOR"):
        monkeypatch.setenv(name, "mine")
    runtime = ProcessRuntime(Reaper.__new__(Reaper))
    base = runtime.environment(tmp_path) | fargate_environment(endpoint="http://127.0.0.1:1", region="us-east-1")
    assert "mine" not in base.values()
    assert base["HOME"] == str(tmp_path)


@pytest.mark.parametrize(
    ("value_from", "reference"),
    [
        ("/prefect/key", SecretReference("ssm", "/prefect/key")),
        (
            "arn:aws:ssm:us-east-1:000000000000:parameter/prefect/key",
            SecretReference("ssm", "arn:aws:ssm:us-east-1:000000000000:parameter/prefect/key"),
        ),
        (SECRET, SecretReference("secretsmanager", SECRET)),
        (f"{SECRET}:password::", SecretReference("secretsmanager", SECRET, "password")),
        (f"{SECRET}:password:AWSPREVIOUS:", SecretReference("secretsmanager", SECRET, "password", "AWSPREVIOUS")),
        (f"{SECRET}:::v1", SecretReference("secretsmanager", SECRET, "", "", "v1")),
    ],
)
def test_secret_references(value_from: str, reference: SecretReference) -> None:
    assert parse(value_from) == reference
