import dataclasses
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from embedded import cdk, instance, launching
from embedded.aws import EmbeddedAws, Task
from embedded.cli import find_task
from embedded.errors import EmbeddedError
from embedded.launching import ServerState

ME = ServerState("a server", "mark", os.getpid(), psutil.Process().create_time(), 4566, {"auth_string": "u:p"})


def test_the_state_survives_a_round_trip_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    ME.write(file)
    assert ServerState.read(file) == ME
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_missing_or_torn_state_is_no_state(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    assert ServerState.read(file) is None
    file.write_text('{"name": "a ser')
    assert ServerState.read(file) is None


def test_a_reused_process_id_is_not_the_server() -> None:
    assert ME.process() is not None
    assert dataclasses.replace(ME, created=ME.created - 100).process() is None


def test_a_server_that_never_answered_is_not_attached_to(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    ME.write(file)
    assert ServerState.attach(file) == ME
    dataclasses.replace(ME, ready=False).write(file)
    assert ServerState.attach(file) is None


def test_attaching_to_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="python -m embedded up"):
        EmbeddedAws.attach(tmp_path)


def test_remains_are_cleaned_up_without_harm_to_others(tmp_path: Path) -> None:
    file = tmp_path / "aws.json"
    dataclasses.replace(ME, created=ME.created - 100, mark="nobody-has-this").write(file)
    assert instance.clean_up(tmp_path) == ["the remains of a server"]
    assert not file.exists()


def test_directory_by_environment(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBEDDED_DIR", str(tmp_path))
    assert launching.default_directory() == tmp_path
    monkeypatch.delenv("EMBEDDED_DIR")
    monkeypatch.chdir(tmp_path)
    assert launching.default_directory() == tmp_path / ".embedded"


def test_the_cdk_shares_the_jsii_cache_but_no_home_and_no_credentials(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("CDK_DEFAULT_ACCOUNT", "123456789012")
    environment = cdk.cdk_environment(EmbeddedAws(tmp_path, ME))
    assert "AWS_PROFILE" not in environment
    assert environment["CDK_DEFAULT_ACCOUNT"] == "000000000000"
    assert environment["HOME"].startswith(str(tmp_path))
    assert not environment["JSII_RUNTIME_PACKAGE_CACHE_ROOT"].startswith(str(tmp_path))


def task(task_id: str, status: str = "RUNNING") -> Task:
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Task))
    arn = f"arn:aws:ecs:us-east-1:000000000000:task/c/{task_id}"
    known = {"arn": arn, "last_status": status, "group": "family:f", "capacity_provider": "FARGATE", "exit_codes": {}}
    return Task(**{**nothing, **known, "created_at": datetime.now(UTC)})  # type: ignore[arg-type]


def test_tasks_are_found_by_arn_id_and_beginning() -> None:
    tasks = [task("abc1"), task("abd2"), task("xyz", "STOPPED")]
    for reference in ("abc", "abc1", tasks[0].arn):
        assert find_task(reference, tasks, only_live=True) is tasks[0]
    with pytest.raises(EmbeddedError, match="beginning of 2 tasks"):
        find_task("ab", tasks, only_live=True)
    with pytest.raises(EmbeddedError, match=r"no live task 'xyz'. There are:\n  abc1  RUNNING"):
        find_task("xyz", tasks, only_live=True)
    assert find_task("xyz", tasks, only_live=False) is tasks[2]


def test_the_cdk_builds_images_where_tasks_run_in_them(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBEDDED_RUNTIME", "podman")
    by_default = cdk.cdk_environment(EmbeddedAws(tmp_path, ME))
    assert (by_default["EMBEDDED_RUNTIME"], "CDK_DOCKER" in by_default) == ("process", False), (
        "the instance's, not mine"
    )
    podman = dataclasses.replace(ME, settings={"runtime": "podman"})
    environment = cdk.cdk_environment(EmbeddedAws(tmp_path, podman))
    assert environment["EMBEDDED_RUNTIME"] == "podman"
    assert os.access(environment["CDK_DOCKER"], os.X_OK)
