"""Several attempts of one flow run, as a rescheduled run has them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.flow_engine import run_flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from prefect.states import AwaitingRetry

FLOWS = Path(__file__).parents[3] / "flows"


class Attempts:
    """A flow run whose results are persisted in a directory, and its attempts."""

    def __init__(self, flow: Flow[..., Any], parameters: Mapping[str, Any], results: Path) -> None:
        self.flow, self.parameters, self.results = flow, dict(parameters), results
        self.client: SyncPrefectClient = get_client(sync_client=True)
        self.id: UUID = self.client.create_flow_run(flow, parameters=self.parameters).id

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """An attempt in a process of its own, which is killed without a word at the end of the block."""
        file = Path(self.flow.fn.__code__.co_filename)
        environment = os.environ | {
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_LOCAL_STORAGE_PATH": str(self.results),
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
            "PREFECT__FLOW_ENTRYPOINT": f"{file}:{self.flow.fn.__name__}",
            "PYTHONPATH": str(FLOWS),
        }
        engine = subprocess.Popen([sys.executable, "-m", "prefect.engine", str(self.id)], env=environment)
        try:
            yield engine
        finally:
            engine.kill()
            engine.wait()
        state = self.client.read_flow_run(self.id).state
        assert state is not None
        assert state.is_running(), "it ended by itself"

    def run(self) -> Any:
        """An attempt in this process, to the end. Raises what the flow raises."""
        if self.client.read_flow_run(self.id).run_count:
            self.client.set_flow_run_state(self.id, AwaitingRetry(), force=True)
        with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: self.results}):
            return run_flow(self.flow, flow_run=self.client.read_flow_run(self.id), parameters=self.parameters)

    def task_runs(self) -> list[TaskRun]:
        found: list[TaskRun] = self.client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[self.id])), limit=200
        )
        return found

    def states(self, name: str) -> list[str]:
        """The states of the task runs with this name."""
        return sorted(str(run.state_name) for run in self.task_runs() if run.name == name)


def wait_until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
