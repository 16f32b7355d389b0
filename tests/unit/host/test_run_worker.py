"""The worker's start on a host: what it hands over, and what it says when it cannot."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cdk_prefect_ecs.functions.credential import CredentialError
from cdk_prefect_ecs.host import run_worker
from cdk_prefect_ecs.host.settings import HostSettings, instance_id

CREDENTIAL = {"Kind": "SsmParameter", "Id": "/prefect/api-key", "Scheme": "Bearer"}
WRITTEN: dict[str, Any] = {
    "WorkPoolName": "etl",
    "Environment": {"PREFECT_API_URL": "https://prefect.example.com/api", "AWS_REGION": "eu-west-1"},
    "Credential": CREDENTIAL,
    "SecretVariable": "PREFECT_API_KEY",
    "LogGroupName": "/prefect",
    "Region": "eu-west-1",
}


def settings(tmp_path: Path, **changes: Any) -> HostSettings:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({key: value for key, value in (WRITTEN | changes).items() if value is not None}))
    return HostSettings.read(file)


def test_command_is_the_ecs_worker_of_the_pool(tmp_path: Path) -> None:
    command = run_worker.command(settings(tmp_path), "i-1")
    assert command[0] == str(Path(sys.executable).with_name("prefect"))
    assert command[1:] == [
        *("worker", "start", "--type", "ecs", "--pool", "etl", "--name", "i-1", "--with-healthcheck"),
    ]


def test_environment_holds_the_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(reference: Any, *, patience_seconds: float) -> str:
        asked.append((reference.identifier, patience_seconds))
        return "pnu_1"

    monkeypatch.setattr(run_worker, "read_secret", read)
    inherited = {"HOME": "/var/lib/prefect-worker", "AWS_REGION": "us-east-1"}
    assert run_worker.environment(settings(tmp_path), inherited) == {
        "HOME": "/var/lib/prefect-worker",
        "PREFECT_API_URL": "https://prefect.example.com/api",
        "AWS_REGION": "eu-west-1",
        "PREFECT_API_KEY": "pnu_1",
    }
    assert asked == [("/prefect/api-key", 60.0)]


def test_without_a_credential_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(run_worker, "read_secret")
    assert "PREFECT_API_KEY" not in run_worker.environment(settings(tmp_path, Credential=None), {})


def test_a_credential_that_cannot_be_read_ends_it_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise CredentialError("it does not exist")

    monkeypatch.setattr(run_worker, "read_secret", refuse)
    read = settings(tmp_path)
    monkeypatch.setattr(run_worker.HostSettings, "read", lambda: read)
    monkeypatch.setattr(os, "execve", None)
    with pytest.raises(SystemExit, match="The worker does not start: it does not exist"):
        run_worker.main()


def test_a_credential_that_is_rejected_ends_it_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, variables: dict[str, str], pool: str) -> str:
        assert (variables["PREFECT_API_KEY"], pool) == ("pnu_old", "etl")
        return f"The worker does not start: {source} was rejected"

    monkeypatch.setattr(run_worker, "read_secret", lambda *_, **__: "pnu_old")
    monkeypatch.setattr(run_worker.start_worker, "refusal", refuse)
    read = settings(tmp_path)
    monkeypatch.setattr(run_worker.HostSettings, "read", lambda: read)
    monkeypatch.setattr(os, "execve", None)
    with pytest.raises(SystemExit, match="does not start: SSM parameter '/prefect/api-key' was rejected"):
        run_worker.main()


def test_main_becomes_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[Any] = []
    read = settings(tmp_path, Credential=None)
    monkeypatch.setattr(run_worker.HostSettings, "read", lambda: read)
    monkeypatch.setattr(run_worker, "instance_id", lambda: "i-1")
    monkeypatch.setattr(os, "execve", lambda *arguments: became.append(arguments))
    run_worker.main()
    ((path, command, environment),) = became
    assert (path, command[1:3]) == (command[0], ["worker", "start"])
    assert environment["PREFECT_API_URL"] == "https://prefect.example.com/api"


def test_instance_is_named_by_cloud_init_or_the_hostname(tmp_path: Path) -> None:
    file = tmp_path / "instance-id"
    assert instance_id(file) != ""
    file.write_text("i-0123456789abcdef0\n")
    assert instance_id(file) == "i-0123456789abcdef0"
