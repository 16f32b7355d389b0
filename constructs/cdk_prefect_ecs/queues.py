"""The queues of a work pool. Pure rules: imports no CDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdk_prefect_ecs.names import banned_characters


@dataclass(frozen=True)
class WorkQueue:
    """A queue of a work pool: workers take the runs of a queue with a lower number first.

    Every pool has a queue ``default`` for deployments that name none; list it to give it a priority or a limit.

    :param name: Name in Prefect.
    :param priority: 1 is the most urgent; each queue of a pool has another.
    :param concurrency_limit: How many runs of the queue may run at once. Default: no limit but the pool's.
    """

    name: str
    priority: int
    concurrency_limit: int | None = None


def check_queues(queues: Sequence[WorkQueue]) -> None:
    """Check the queues of one work pool.

    :raises ValueError: A name that Prefect refuses, a priority below 1, a limit below 0, a name or priority twice.
    """
    for queue in queues:
        if not queue.name or queue.name != queue.name.strip():
            raise ValueError(
                f"the name of a queue must not be empty, nor begin or end with a space; got {queue.name!r}"
            )
        if banned := banned_characters(queue.name):
            raise ValueError(f"the name of queue {queue.name!r} contains {' '.join(banned)}, which Prefect refuses")
        if not _is_whole(queue.priority) or queue.priority < 1:
            raise ValueError(
                f"priority of queue {queue.name} must be a whole number of 1 or more; got {queue.priority!r}"
            )
        limit = queue.concurrency_limit
        if limit is not None and (not _is_whole(limit) or limit < 0):
            raise ValueError(
                f"concurrency_limit of queue {queue.name} must be 0 or more; got {limit!r}. Leave it out for no limit"
            )
    for what, values in (
        ("name", [queue.name for queue in queues]),
        ("priority", [queue.priority for queue in queues]),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"each queue of a pool has another {what}; got {', '.join(map(str, values))}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
