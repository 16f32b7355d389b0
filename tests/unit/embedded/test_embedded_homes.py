"""Which directory a task gets: the same for each attempt of a flow run, and never one that another task is using."""

from pathlib import Path

import pytest

from embedded.emulator.tasks import claim_home


def test_every_attempt_of_a_flow_run_gets_the_same_directory(tmp_path: Path) -> None:
    homes = tmp_path / "homes"
    first = claim_home(homes, "task-1", "run-1")
    assert first.is_dir()
    first.rmdir()
    assert claim_home(homes, "task-2", "run-1") == first


def test_a_second_living_task_of_the_run_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    first = claim_home(tmp_path, "task-1", "run-1")
    second = claim_home(tmp_path, "task-2", "run-1")
    assert second == tmp_path / "task-2" != first
    assert second.is_dir()


def test_tasks_without_a_flow_run_are_kept_apart_by_their_ids(tmp_path: Path) -> None:
    assert claim_home(tmp_path, "task-1", None) == tmp_path / "task-1"
    assert claim_home(tmp_path, "task-2", None) == tmp_path / "task-2"
    with pytest.raises(FileExistsError, match="another task has the directory"):
        claim_home(tmp_path, "task-2", None)


@pytest.mark.parametrize("run", ["..", "../elsewhere", "/elsewhere", "a/b", ""])
def test_an_id_that_leads_elsewhere_is_not_followed(tmp_path: Path, run: str) -> None:
    assert claim_home(tmp_path / "homes", "task-1", run) == tmp_path / "homes" / "task-1"
