import pytest

from cdk_prefect_ecs import WorkQueue
from cdk_prefect_ecs.queues import check_queues


def test_queues_that_can_be() -> None:
    check_queues([])
    check_queues([WorkQueue("urgent", 1), WorkQueue("default", 2, concurrency_limit=0), WorkQueue("night run", 7, 10)])


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        ([WorkQueue("", 1)], "must not be empty"),
        ([WorkQueue(" a", 1)], "must not begin or end with a space; got ' a'"),
        ([WorkQueue("a/b", 1)], "'a/b' contains /; Prefect refuses any of"),
        ([WorkQueue("a", 0)], "priority of queue a must be 1 to 2147483647; got 0"),
        (
            [WorkQueue("a", 1, -1)],
            "concurrency_limit of queue a must be 0 to 2147483647; got -1. Leave it out",
        ),
        ([WorkQueue("a", 1), WorkQueue("a", 2)], "each queue of a pool has another name; got a, a"),
        ([WorkQueue("a", 1), WorkQueue("b", 1)], "each queue of a pool has another priority; got 1, 1"),
    ],
)
def test_refuses_queues(queues: list[WorkQueue], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_queues(queues)
