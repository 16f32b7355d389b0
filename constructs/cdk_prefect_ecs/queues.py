"""The queues of a work pool. Pure rules: imports no CDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdk_prefect_ecs.arguments import checked, checked_fields
from cdk_prefect_ecs.names import check_prefect_name

#: The largest that a column of Prefect's database holds. Source: "Numeric Types", PostgreSQL documentation.
MAX_INTEGER: Final = 2**31 - 1


@checked_fields
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


@checked
def check_queues(queues: Sequence[WorkQueue]) -> None:
    """Check the queues of one work pool.

    :raises ValueError: A name that Prefect refuses, a priority below 1, a limit below 0, a number that
        Prefect cannot store, a name or priority twice.
    """
    for queue in queues:
        check_prefect_name("the name of a queue", queue.name)
        if not 1 <= queue.priority <= MAX_INTEGER:
            raise ValueError(f"priority of queue {queue.name} must be 1 to {MAX_INTEGER}; got {queue.priority}")
        check_concurrency_limit(f"concurrency_limit of queue {queue.name}", queue.concurrency_limit)
    for what, values in (
        ("name", [queue.name for queue in queues]),
        ("priority", [queue.priority for queue in queues]),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"each queue of a pool has another {what}; got {', '.join(map(str, values))}")


@checked
def check_concurrency_limit(what: str, limit: int | None) -> None:
    """Check how many runs may run at once.

    :param what: What has the limit, for the message.
    :raises ValueError: Below 0, or more than Prefect can store.
    """
    if limit is not None and not 0 <= limit <= MAX_INTEGER:
        raise ValueError(f"{what} must be 0 to {MAX_INTEGER}; got {limit}. Leave it out for no limit")
