from collections.abc import Sequence

import pytest

from cdk_prefect_ecs.capacity import (
    DEFAULT_CLUSTER_STRATEGY,
    FARGATE,
    FARGATE_SPOT,
    CapacityWeight,
    SpotPolicy,
    check_strategy,
    default_spot_policy,
    flow_run_strategy,
)

BOTH = (FARGATE, FARGATE_SPOT)


def item(provider: str = FARGATE, weight: int = 1, base: int = 0) -> CapacityWeight:
    return CapacityWeight(provider, weight=weight, base=base)


def test_classic_split_of_a_cluster() -> None:
    assert list(DEFAULT_CLUSTER_STRATEGY) == [item(FARGATE, 2, 1), item(FARGATE_SPOT, 3)]
    check_strategy(DEFAULT_CLUSTER_STRATEGY, known=BOTH)


@pytest.mark.parametrize(
    "strategy",
    [
        [item(FARGATE, 0, 100_000), item(FARGATE_SPOT, 1000)],
        [item(FARGATE, 1), item(FARGATE_SPOT, 0)],
    ],
)
def test_limits_are_allowed(strategy: Sequence[CapacityWeight]) -> None:
    check_strategy(strategy, known=BOTH)


def test_twenty_providers_are_the_most() -> None:
    names = [f"provider-{number}" for number in range(21)]
    check_strategy([item(name) for name in names[:20]], known=names)
    with pytest.raises(ValueError, match="at most 20 items; got 21"):
        check_strategy([item(name) for name in names], known=names)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ([], "at least one item; got none"),
        ([item("EC2")], "'EC2' is not in this cluster; it has FARGATE, FARGATE_SPOT"),
        ([item(weight=-1)], "weight of FARGATE must be a whole number from 0 to 1000; got -1"),
        ([item(weight=1001)], "from 0 to 1000; got 1001"),
        ([item(weight=1.5)], "whole number from 0 to 1000; got 1.5"),  # type: ignore[arg-type]
        ([item(weight=True)], "whole number from 0 to 1000; got True"),
        ([item(base=100_001)], "base of FARGATE must be a whole number from 0 to 100000; got 100001"),
        ([item(), item()], "may appear once in a strategy; got FARGATE, FARGATE"),
        ([item(weight=0), item(FARGATE_SPOT, 0)], "a weight above 0; all are 0"),
        ([item(base=1), item(FARGATE_SPOT, base=1)], "only one capacity provider of a strategy may have a base"),
    ],
)
def test_refuses_what_ecs_would(strategy: Sequence[CapacityWeight], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_strategy(strategy, known=BOTH)


@pytest.mark.parametrize(
    ("policy", "strategy", "uses_spot", "falls_back"),
    [
        (SpotPolicy.ON_DEMAND, (item(FARGATE),), False, False),
        (SpotPolicy.SPOT, (item(FARGATE_SPOT),), True, False),
        (SpotPolicy.SPOT_WITH_FALLBACK, (item(FARGATE_SPOT),), True, True),
        (SpotPolicy.weights(spot=3, on_demand=1), (item(FARGATE_SPOT, 3), item(FARGATE, 1)), True, False),
        (SpotPolicy.weights(spot=0, on_demand=5), (item(FARGATE, 5),), False, False),
        (SpotPolicy.weights(spot=1000, on_demand=0), (item(FARGATE_SPOT, 1000),), True, False),
    ],
    ids=lambda value: value.name if isinstance(value, SpotPolicy) else "",
)
def test_policies(policy: SpotPolicy, strategy: tuple[CapacityWeight, ...], uses_spot: bool, falls_back: bool) -> None:
    assert policy.strategy() == strategy
    assert flow_run_strategy(policy, BOTH) == strategy
    assert (policy.uses_spot, policy.falls_back) == (uses_spot, falls_back)


@pytest.mark.parametrize("spot", [0, 1, 3, 1000])
@pytest.mark.parametrize("on_demand", [1, 2, 1000])
def test_a_flow_run_strategy_has_no_base(spot: int, on_demand: int) -> None:
    # ECS counts base per RunTask call: with a base every run would land on that provider.
    assert {item.base for item in SpotPolicy.weights(spot=spot, on_demand=on_demand).strategy()} == {0}


@pytest.mark.parametrize(
    ("spot", "on_demand", "message"),
    [
        (0, 0, "spot and on_demand cannot both be 0"),
        (-1, 1, "weight of FARGATE_SPOT must be a whole number from 0 to 1000; got -1"),
        (1, 1001, "weight of FARGATE must be a whole number from 0 to 1000; got 1001"),
        ("1", 1, "weight of FARGATE_SPOT must be a whole number from 0 to 1000; got '1'"),
    ],
)
def test_refuses_weights(spot: int, on_demand: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpotPolicy.weights(spot=spot, on_demand=on_demand)


def test_policy_in_a_cluster_without_spot() -> None:
    assert default_spot_policy(()) == SpotPolicy.ON_DEMAND
    assert default_spot_policy(BOTH) == SpotPolicy.SPOT_WITH_FALLBACK
    assert flow_run_strategy(SpotPolicy.ON_DEMAND, ()) == ()
    with pytest.raises(ValueError, match="spot_policy SPOT needs FARGATE_SPOT, which this cluster does not offer"):
        flow_run_strategy(SpotPolicy.SPOT, ())


def test_policy_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        flow_run_strategy(SpotPolicy("none", spot_weight=0, on_demand_weight=0), BOTH)
