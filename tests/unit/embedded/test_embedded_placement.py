from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded.emulator.placement import Share, place, problem, strategy_from

CLASSIC = (Share("FARGATE", weight=2, base=1), Share("FARGATE_SPOT", weight=3))


def test_one_task_goes_to_the_base() -> None:
    assert place(CLASSIC, 1) == ["FARGATE"]


def test_base_first_then_by_weight() -> None:
    placed = place(CLASSIC, 11)
    assert placed[0] == "FARGATE"
    assert Counter(placed) == {"FARGATE": 1 + 4, "FARGATE_SPOT": 6}


def test_a_service_counts_what_it_has() -> None:
    assert place(CLASSIC, 1, {"FARGATE": 1}) == ["FARGATE_SPOT"]
    assert place(CLASSIC, 1, {"FARGATE": 0, "FARGATE_SPOT": 5}) == ["FARGATE"]


def test_weight_zero_gets_nothing_beyond_its_base() -> None:
    strategy = (Share("FARGATE", weight=0, base=2), Share("FARGATE_SPOT", weight=1))
    assert Counter(place(strategy, 5)) == {"FARGATE": 2, "FARGATE_SPOT": 3}


@given(
    st.integers(0, 30),
    st.integers(0, 5),
    st.lists(st.integers(0, 10), min_size=1, max_size=4).filter(any),
)
def test_shares_are_as_close_to_the_weights_as_whole_tasks_allow(count: int, base: int, weights: list[int]) -> None:
    strategy = [Share(f"p{i}", weight, base if i == 0 else 0) for i, weight in enumerate(weights)]
    placed = Counter(place(strategy, count))
    assert sum(placed.values()) == count
    assert placed["p0"] >= min(base, count)
    beyond = max(0, count - base)
    for share in strategy:
        ideal = beyond * share.weight / sum(weights)
        assert abs(placed[share.provider] - (min(base, count) if share.base else 0) - ideal) <= len(weights)


def test_strategy_accepts_arns_and_strings() -> None:
    arn = "arn:aws:ecs:us-east-1:000000000000:capacity-provider/mine"
    assert strategy_from([{"capacityProvider": arn, "weight": "2"}]) == (Share("mine", 2, 0),)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ([Share("mine", 1)], "'mine' is not associated with the cluster; associated are: FARGATE, FARGATE_SPOT, asg"),
        ([Share("FARGATE", 1), Share("asg", 1)], "cannot contain a mix of capacity providers"),
        ([Share("FARGATE", 1, 1), Share("FARGATE_SPOT", 1, 1)], "Only one capacity provider"),
        ([Share("FARGATE", 0), Share("FARGATE_SPOT", 0)], "weight value greater than 0"),
        ([Share("FARGATE", 1001)], "it must be between 0 and 1000"),
        ([Share("FARGATE", 1)] * 21, "contains 21 capacity providers; the maximum is 20"),
    ],
)
def test_what_ecs_refuses(strategy: list[Share], message: str) -> None:
    assert message in (problem(strategy, ["FARGATE", "FARGATE_SPOT", "asg"]) or "")


def test_one_provider_alone_needs_no_weight() -> None:
    alone = strategy_from([{"capacityProvider": "FARGATE_SPOT"}])
    assert problem(alone, ["FARGATE", "FARGATE_SPOT"]) is None
    assert place(alone, 2) == ["FARGATE_SPOT", "FARGATE_SPOT"]


def test_a_good_strategy_has_no_problem() -> None:
    assert problem(CLASSIC, ["FARGATE", "FARGATE_SPOT"]) is None
