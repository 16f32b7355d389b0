from collections.abc import Sequence
from dataclasses import replace

import pytest

from cdk_prefect_ecs.capacity import (
    DEFAULT_CLUSTER_STRATEGY,
    FARGATE,
    FARGATE_SPOT,
    CapacityKind,
    CapacityWeight,
    FlowCapacity,
    SpotPolicy,
    check_architecture,
    check_gpus,
    check_provider_count,
    check_strategy,
    default_spot_policy,
    flow_run_strategy,
)

BOTH = (FARGATE, FARGATE_SPOT)
ON_FARGATE = FlowCapacity("Fargate", CapacityKind.FARGATE, on_demand=FARGATE, spot=FARGATE_SPOT)
PLAIN_FARGATE = FlowCapacity("Fargate", CapacityKind.FARGATE)
ON_INSTANCES = FlowCapacity("Gpu", CapacityKind.AUTO_SCALING, "gpu", "gpu-spot", "X86_64", has_gpu=True)
OWN = FlowCapacity("Cellar", CapacityKind.EXTERNAL, cpu_architecture="ARM64")


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
    assert flow_run_strategy(policy, ON_FARGATE, BOTH) == strategy
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
        (-1, 1, "weight of spot must be a whole number from 0 to 1000; got -1"),
        (1, 1001, "weight of on_demand must be a whole number from 0 to 1000; got 1001"),
    ],
)
def test_refuses_weights(spot: int, on_demand: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpotPolicy.weights(spot=spot, on_demand=on_demand)


def test_policy_in_a_cluster_without_spot() -> None:
    assert default_spot_policy(PLAIN_FARGATE) == SpotPolicy.ON_DEMAND
    assert default_spot_policy(ON_FARGATE) == SpotPolicy.SPOT_WITH_FALLBACK
    assert flow_run_strategy(SpotPolicy.ON_DEMAND, PLAIN_FARGATE, ()) == ()
    with pytest.raises(ValueError, match="spot_policy SPOT needs FARGATE_SPOT, which this cluster does not offer"):
        flow_run_strategy(SpotPolicy.SPOT, PLAIN_FARGATE, ())


def test_policy_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        flow_run_strategy(SpotPolicy("none", spot_weight=0, on_demand_weight=0), ON_FARGATE, BOTH)


def test_fargate_is_not_mixed_with_others() -> None:
    known = (*BOTH, "gpu", "gpu-spot")
    check_strategy([item("gpu"), item("gpu-spot")], known=known)
    with pytest.raises(ValueError, match=r"does not mix Fargate with other capacity providers.*got FARGATE, gpu"):
        check_strategy([item(FARGATE), item("gpu")], known=known)


def test_a_cluster_has_twenty_providers_at_most() -> None:
    check_provider_count(20)
    with pytest.raises(ValueError, match="at most 20 capacity providers; this would be number 21"):
        check_provider_count(21)


@pytest.mark.parametrize(
    ("policy", "strategy"),
    [
        (SpotPolicy.ON_DEMAND, (item("gpu"),)),
        (SpotPolicy.SPOT, (item("gpu-spot"),)),
        (SpotPolicy.SPOT_WITH_FALLBACK, (item("gpu-spot"),)),
        (SpotPolicy.weights(spot=3, on_demand=1), (item("gpu-spot", 3), item("gpu", 1))),
    ],
    ids=lambda value: value.name if isinstance(value, SpotPolicy) else "",
)
def test_policies_on_instances(policy: SpotPolicy, strategy: tuple[CapacityWeight, ...]) -> None:
    assert flow_run_strategy(policy, ON_INSTANCES, (*BOTH, "gpu", "gpu-spot")) == strategy


@pytest.mark.parametrize(
    ("changes", "policy", "message"),
    [
        ({"spot": None}, SpotPolicy.SPOT, "needs Spot, which capacity 'Gpu' does not have; add it with spot=True"),
        ({"spot": None}, SpotPolicy.SPOT_WITH_FALLBACK, "spot_policy SPOT_WITH_FALLBACK needs Spot"),
        ({"on_demand": None}, SpotPolicy.ON_DEMAND, "needs on-demand machines, which capacity 'Gpu' does not have"),
        ({"on_demand": None}, SpotPolicy.SPOT_WITH_FALLBACK, "add it with on_demand=True or use SpotPolicy.SPOT"),
        ({"spot": "elsewhere"}, SpotPolicy.ON_DEMAND, "capacity 'Gpu' is not one of this cluster"),
    ],
)
def test_refuses_a_policy_that_the_capacity_cannot_serve(
    changes: dict[str, str | None], policy: SpotPolicy, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        flow_run_strategy(policy, replace(ON_INSTANCES, **changes), (*BOTH, "gpu", "gpu-spot"))


def test_default_policies_of_instances() -> None:
    assert default_spot_policy(ON_INSTANCES) == SpotPolicy.SPOT_WITH_FALLBACK
    assert default_spot_policy(replace(ON_INSTANCES, spot=None)) == SpotPolicy.ON_DEMAND
    assert default_spot_policy(replace(ON_INSTANCES, on_demand=None)) == SpotPolicy.SPOT
    assert default_spot_policy(OWN) == SpotPolicy.ON_DEMAND


def test_machines_of_ones_own_are_placed_by_launch_type() -> None:
    assert flow_run_strategy(SpotPolicy.ON_DEMAND, OWN, BOTH) == ()
    with pytest.raises(ValueError, match="needs Spot, which capacity 'Cellar' does not have"):
        flow_run_strategy(SpotPolicy.SPOT, OWN, BOTH)


@pytest.mark.parametrize(
    ("kind", "providers", "message"),
    [
        (CapacityKind.EXTERNAL, {"on_demand": "mine"}, "'x': machines of your own have no capacity providers"),
        (CapacityKind.AUTO_SCALING, {}, "'x' needs an on_demand or a spot capacity provider; got neither"),
        (CapacityKind.MANAGED_INSTANCES, {}, "got neither"),
    ],
)
def test_refuses_capacity_that_cannot_be(kind: CapacityKind, providers: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowCapacity("x", kind, **providers)  # type: ignore[arg-type]


def test_gpus() -> None:
    check_gpus(0, ON_FARGATE)
    check_gpus(4, ON_INSTANCES)
    for gpus, capacity, message in (
        (1, ON_FARGATE, "gpus 1 cannot be had on Fargate, which has no GPUs; give the pool GPU instances"),
        (2, OWN, "gpus 2 cannot be had of capacity 'Cellar', whose machines have no GPU"),
        (-1, ON_INSTANCES, "gpus must be a whole number from 0 to 16, as no machine has more; got -1"),
        (17, ON_INSTANCES, "got 17"),
    ):
        with pytest.raises(ValueError, match=message):
            check_gpus(gpus, capacity)


def test_architectures() -> None:
    assert check_architecture(None, ON_FARGATE) == "X86_64"
    assert check_architecture("ARM64", ON_FARGATE) == "ARM64"
    assert check_architecture(None, OWN) == "ARM64"
    assert check_architecture("ARM64", OWN) == "ARM64"
    with pytest.raises(ValueError, match="X86_64 does not go with capacity 'Cellar', whose machines are ARM64"):
        check_architecture("X86_64", OWN)
