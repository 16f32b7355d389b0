"""The queues of a work pool in Prefect: made, kept and taken away again as the stack says.

A queue that this resource made carries the pool's mark in its description, which tells it from queues that were there
before or that somebody made by hand: those are given the priority and limit that the stack says, and are never deleted.
"""

import logging
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from .prefect_api import PrefectApiClient, PrefectApiError

logger: logging.Logger = logging.getLogger(__name__)

_PAGE = 200
#: Runs that a queue still has something to do with: deleted with it, they would wait for ever.
_UNFINISHED = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")

Undo = Callable[[ExitStack, str, Callable[[PrefectApiClient], object]], None]
"""Notes what to do when the request fails later."""


@dataclass(frozen=True)
class WantedQueue:
    """A queue as the stack says."""

    name: str
    priority: int
    concurrency_limit: int | None

    @classmethod
    def parse(cls, raw: Any) -> "WantedQueue":
        """Read one item of the property ``WorkQueues``.

        :raises ValueError: A field is missing or wrong.
        """
        if not isinstance(raw, Mapping) or not isinstance(raw.get("Name"), str) or not raw["Name"]:
            raise ValueError("each of WorkQueues has the fields Name, Priority and ConcurrencyLimit")
        limit = raw.get("ConcurrencyLimit")
        try:
            return cls(raw["Name"], int(raw["Priority"]), None if limit in (None, "") else int(limit))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"queue {raw['Name']!r}: Priority and ConcurrencyLimit are whole numbers") from None


def sync_queues(
    client: PrefectApiClient, pool: str, wanted: Sequence[WantedQueue], mark: str, undo: ExitStack, on_failure: Undo
) -> list[str]:
    """Make the pool's queues what the stack says; returns what was left for a reason, in sentences.

    :param mark: Description of the queues that this resource makes.
    """
    found = {queue["name"]: queue for queue in _queues(client, pool)}
    for queue in wanted:
        if queue.name not in found:
            _create(client, pool, queue, mark, undo, on_failure)
        elif found[queue.name]["concurrency_limit"] != queue.concurrency_limit:
            _patch(client, pool, found[queue.name], {"concurrency_limit": queue.concurrency_limit}, undo, on_failure)
    names = {queue.name for queue in wanted}
    left = [
        _remove(client, pool, queue) for name, queue in found.items() if name not in names and _is_ours(queue, mark)
    ]
    _set_priorities(client, pool, wanted, undo, on_failure)
    return [sentence for sentence in left if sentence]


def _set_priorities(
    client: PrefectApiClient, pool: str, wanted: Sequence[WantedQueue], undo: ExitStack, on_failure: Undo
) -> None:
    """Prefect makes room for a queue by moving down those at and below its priority: in ascending order, none that has
    its priority already is moved any more."""
    found = _queues(client, pool)
    if {queue.name: queue.priority for queue in wanted}.items() <= {q["name"]: q["priority"] for q in found}.items():
        return
    before = {queue["name"]: queue["priority"] for queue in found}
    on_failure(undo, f"restore the priorities in {pool!r}", lambda rescue: _set(rescue, pool, before))
    _set(client, pool, {queue.name: queue.priority for queue in wanted})


def _set(client: PrefectApiClient, pool: str, priorities: Mapping[str, int]) -> None:
    for name, priority in sorted(priorities.items(), key=lambda item: item[1]):
        client.patch(_path(pool, name), {"priority": priority})


def _create(
    client: PrefectApiClient, pool: str, queue: WantedQueue, mark: str, undo: ExitStack, on_failure: Undo
) -> None:
    on_failure(
        undo,
        f"delete the queue {queue.name!r} of {pool!r} again",
        lambda rescue: rescue.delete(_path(pool, queue.name)),
    )
    body = {"name": queue.name, "description": mark, "concurrency_limit": queue.concurrency_limit}
    try:
        client.post(f"{_pool_path(pool)}/queues", body)
    except PrefectApiError as error:
        if error.status != 409:  # else a repeated request meets the queue that its first attempt made
            raise
    logger.info("Queue %s of %s created.", queue.name, pool)


def _patch(
    client: PrefectApiClient,
    pool: str,
    queue: Mapping[str, Any],
    changes: Mapping[str, Any],
    undo: ExitStack,
    on_failure: Undo,
) -> None:
    before = {key: queue[key] for key in changes}
    name = queue["name"]
    on_failure(undo, f"restore the queue {name!r} of {pool!r}", lambda rescue: rescue.patch(_path(pool, name), before))
    client.patch(_path(pool, name), dict(changes))


def _remove(client: PrefectApiClient, pool: str, queue: Mapping[str, Any]) -> str | None:
    """Delete a queue that the stack has no more; returns why not, if not.

    Not undone when the request fails later: it is empty, and CloudFormation's roll-back makes it anew.
    """
    name = queue["name"]
    of_queue = {"work_pools": {"name": {"any_": [pool]}}, "work_pool_queues": {"name": {"any_": [name]}}}
    deployments = int(client.post("/deployments/count", of_queue))
    runs = int(
        client.post("/flow_runs/count", {**of_queue, "flow_runs": {"state": {"type": {"any_": [*_UNFINISHED]}}}})
    )
    if deployments or runs:
        # Its mark stays, so the next deployment of the stack that changes the pool tries again.
        uses = " and ".join(
            f"{count} {what}{'' if count == 1 else 's'}"
            for count, what in ((deployments, "deployment"), (runs, "unfinished run"))
            if count
        )
        return f"left its queue {name!r}: {uses} {'uses' if deployments + runs == 1 else 'use'} it"
    try:
        client.delete(_path(pool, name))
    except PrefectApiError as error:
        if error.status != 404:
            raise
    logger.info("Queue %s of %s deleted.", name, pool)
    return None


def _is_ours(queue: Mapping[str, Any], mark: str) -> bool:
    return queue.get("description") == mark


def _queues(client: PrefectApiClient, pool: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    while True:
        page = client.post(f"{_pool_path(pool)}/queues/filter", {"limit": _PAGE, "offset": len(found)})
        found += page
        if len(page) < _PAGE:
            return found


def _pool_path(pool: str) -> str:
    return f"/work_pools/{urllib.parse.quote(pool, safe='')}"


def _path(pool: str, queue: str) -> str:
    return f"{_pool_path(pool)}/queues/{urllib.parse.quote(queue, safe='')}"
