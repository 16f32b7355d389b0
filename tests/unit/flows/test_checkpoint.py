import os
import signal
from pathlib import Path
from typing import Any

import pytest
from flow_attempts import Attempts
from prefect import flow, task
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from checkpoint import Checkpoint


@pytest.fixture
def results(prefect_api: None, tmp_path: Path) -> Any:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path / "results"


def test_what_was_saved_last_is_loaded(results: Path) -> None:
    @task
    def work() -> list[Any]:
        first, loaded = Checkpoint("a"), []
        loaded.append(first.load())
        for number in range(3):
            first.save({"number": number})
            loaded.append(Checkpoint("a").load())
        loaded.append(Checkpoint("b").load())
        return loaded

    @flow
    def run() -> list[Any]:
        return work()

    assert run() == [None, {"number": 0}, {"number": 1}, {"number": 2}, None]
    assert run()[0] is None, "another run has checkpoints of its own"


def test_it_is_kept_where_the_task_keeps_its_result(results: Path, tmp_path: Path) -> None:
    @task(result_storage=tmp_path / "elsewhere", persist_result=True)
    def work() -> None:
        Checkpoint("a").save(1)

    @flow
    def run() -> None:
        work()

    run()
    assert len(list((tmp_path / "elsewhere").glob("checkpoints/*/a/?"))) == 1
    assert not (results / "checkpoints").exists()


def test_a_flow_may_use_it_outside_its_tasks(results: Path) -> None:
    @flow
    def run() -> int:
        Checkpoint("a").save(7)
        return int(Checkpoint("a").load())

    assert run() == 7


def test_a_retry_in_the_same_process_gets_what_was_saved_and_not_what_became_of_it(results: Path) -> None:
    seen: list[list[int]] = []

    @task(retries=1)
    def work() -> None:
        checkpoint = Checkpoint("a")
        state: list[int] = checkpoint.load() or []
        seen.append(list(state))
        if not state:
            state.append(1)
            checkpoint.save(state)
            state.append(2)  # half of the next step
            raise ConnectionError

    @flow
    def run() -> None:
        work()

    run()
    assert seen == [[], [1]]


def test_a_save_that_was_cut_short_leaves_the_one_before_it(results: Path) -> None:
    @flow
    def run() -> list[Any]:
        checkpoint, loaded = Checkpoint("a"), []
        for number in (1, 2, 3):
            checkpoint.save(number)
        newest = max(results.glob("checkpoints/*/a/?"), key=lambda file: file.stat().st_mtime_ns)
        for length in (0, newest.stat().st_size // 2):
            os.truncate(newest, length)
            loaded.append(Checkpoint("a").load())
        Checkpoint("a").save(4)  # over the broken one, without having been loaded
        loaded.append(Checkpoint("a").load())
        os.truncate(newest, 1)
        loaded.append(Checkpoint("a").load())
        return loaded

    assert run() == [2, 2, 4, 2]


KILLED_IN_A_SAVE = """
import os, signal
from checkpoint import Checkpoint
from prefect import flow
from prefect.filesystems import LocalFileSystem

def write_half(self, path, content, **_):
    self._resolve_path(path).write_bytes(content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

@flow
def saves():
    checkpoint = Checkpoint("a")
    if (loaded := checkpoint.load()) is None:
        checkpoint.save("one")
        checkpoint.save("two")
        LocalFileSystem.write_path = write_half
        checkpoint.save("three")
    return loaded
"""


def test_a_kill_in_the_middle_of_a_save_loses_that_save_only(results: Path, tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED_IN_A_SAVE)
    run = Attempts(load_flow_from_entrypoint(f"{tmp_path / 'killed.py'}:saves"), {}, results)
    with run.started() as engine:
        assert engine.wait() == -signal.SIGKILL
    whole, half = sorted((file.stat().st_size for file in results.glob("checkpoints/*/a/?")), reverse=True)
    assert half < whole * 0.6
    assert run.run() == "two"


def test_outside_of_a_run_there_is_nothing_that_it_could_belong_to() -> None:
    with pytest.raises(RuntimeError, match="checkpoint 'a' belongs to a flow run"):
        Checkpoint("a")
