"""Checkpoints inside a long task: where the next attempt of the same flow run goes on.

They are kept where Prefect keeps the results of tasks, and by the same means, so they need no storage, permission or
setting of their own.
"""

from typing import Any

from prefect.results import get_result_store
from prefect.runtime import flow_run


class Checkpoint:
    """One checkpoint of the flow run that is being executed.

    Args:
        name: Tells it from others of the same run. Tasks that run side by side need a name each.
    """

    def __init__(self, name: str) -> None:
        if flow_run.id is None:
            raise RuntimeError(f"checkpoint {name!r} belongs to a flow run; use it inside a flow or a task")
        # Without a cache in memory, which would hand out the very object that the task has changed since. Without
        # metadata in a file of its own, so that a checkpoint is one file, which is whole or not there.
        self._store = get_result_store().model_copy(update={"cache_result_in_memory": False, "metadata_storage": None})
        # Two files in turn: a kill in the middle of a save leaves the one before it untouched.
        self._keys = [f"checkpoints/{flow_run.id}/{name}/{turn}" for turn in (0, 1)]
        self._number: int | None = None

    def load(self) -> Any:
        """What was saved last, or None."""
        saved = [self._store.read(key) for key in self._keys if self._store.exists(key)]
        self._number, state = max((record.result for record in saved), key=lambda pair: pair[0], default=(0, None))
        return state

    def save(self, state: Any) -> None:
        """Save what `load` is to return from now on: anything that can be pickled."""
        if self._number is None:
            self.load()  # or an earlier attempt's would count as the newer one
        self._number = (self._number or 0) + 1
        self._store.write((self._number, state), key=self._keys[self._number % 2])
