"""Where flow runs are placed: Spot policies and capacity provider strategies. Pure rules: imports no CDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

FARGATE: Final = "FARGATE"
FARGATE_SPOT: Final = "FARGATE_SPOT"

# Limits of a capacity provider strategy. Source: CapacityProviderStrategyItem and RunTask, Amazon ECS API Reference.
MAX_PROVIDERS: Final = 20
MAX_WEIGHT: Final = 1000
MAX_BASE: Final = 100_000


@dataclass(frozen=True)
class CapacityWeight:
    """One item of a capacity provider strategy.

    :param capacity_provider: Name of the provider, such as ``FARGATE_SPOT``.
    :param weight: Relative share of the tasks, 0 to 1000.
    :param base: How many tasks run on this provider before weights apply. Default: 0.
    """

    capacity_provider: str
    weight: int
    base: int = 0


#: The classic split for services and for tasks that are run by hand: one task is always on-demand, of the others three
#: in five are on Spot. Flow runs do not use it: their work pool has a :class:`SpotPolicy`.
DEFAULT_CLUSTER_STRATEGY: Final = (
    CapacityWeight(FARGATE, weight=2, base=1),
    CapacityWeight(FARGATE_SPOT, weight=3),
)


def check_strategy(strategy: Sequence[CapacityWeight], *, known: Sequence[str]) -> None:
    """Check a capacity provider strategy against the rules of ECS.

    :param strategy: The items to check.
    :param known: Names of the capacity providers that the cluster has.
    :raises ValueError: Empty, too many items, an unknown or repeated provider, a weight or base out of range, no
        weight above 0, more than one base.
    """
    if not strategy:
        raise ValueError("a capacity provider strategy needs at least one item; got none")
    if len(strategy) > MAX_PROVIDERS:
        raise ValueError(f"a capacity provider strategy has at most {MAX_PROVIDERS} items; got {len(strategy)}")
    names = [item.capacity_provider for item in strategy]
    for item in strategy:
        if item.capacity_provider not in known:
            raise ValueError(
                f"capacity provider {item.capacity_provider!r} is not in this cluster; it has {', '.join(known)}"
            )
        _check_range("weight", item.capacity_provider, item.weight, MAX_WEIGHT)
        _check_range("base", item.capacity_provider, item.base, MAX_BASE)
    if len(set(names)) < len(names):
        raise ValueError(f"each capacity provider may appear once in a strategy; got {', '.join(names)}")
    if not any(item.weight for item in strategy):
        raise ValueError("at least one capacity provider needs a weight above 0; all are 0")
    if sum(item.base > 0 for item in strategy) > 1:
        raise ValueError("only one capacity provider of a strategy may have a base")


def _check_range(what: str, provider: str, value: int, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise ValueError(f"{what} of {provider} must be a whole number from 0 to {maximum}; got {value!r}")


@dataclass(frozen=True)
class SpotPolicy:
    """How a work pool's flow runs use Fargate Spot.

    - ``SpotPolicy.ON_DEMAND``: never on Spot; no interruptions, full price.
    - ``SpotPolicy.SPOT``: always on Spot, up to 70 % cheaper; an interrupted run waits for Spot again.
    - ``SpotPolicy.SPOT_WITH_FALLBACK``: on Spot first; a run that Spot keeps interrupting or cannot place is switched
      to on-demand.
    - ``SpotPolicy.weights(spot=3, on_demand=1)``: by share.

    A strategy for flow runs never has a ``base``: ECS counts base and weight over the tasks of one RunTask call or
    service, and a worker starts one task a call, so a base of 1 would put every run on that provider.
    """

    name: str
    spot_weight: int
    on_demand_weight: int
    falls_back: bool = False

    ON_DEMAND: ClassVar[SpotPolicy]
    SPOT: ClassVar[SpotPolicy]
    SPOT_WITH_FALLBACK: ClassVar[SpotPolicy]

    @staticmethod
    def weights(*, spot: int, on_demand: int) -> SpotPolicy:
        """Place flow runs by share.

        :param spot: Weight of FARGATE_SPOT, 0 to 1000.
        :param on_demand: Weight of FARGATE, 0 to 1000.
        :raises ValueError: A weight out of range, or both 0.
        """
        policy = SpotPolicy(f"weights(spot={spot}, on_demand={on_demand})", spot, on_demand)
        _check_range("weight", FARGATE_SPOT, spot, MAX_WEIGHT)
        _check_range("weight", FARGATE, on_demand, MAX_WEIGHT)
        if not spot and not on_demand:
            raise ValueError("spot and on_demand cannot both be 0; give at least one a weight")
        return policy

    @property
    def uses_spot(self) -> bool:
        """Whether a flow run can land on Spot under this policy."""
        return self.spot_weight > 0

    def strategy(self) -> tuple[CapacityWeight, ...]:
        """The capacity provider strategy of one flow run; a provider without weight is left out."""
        items = (CapacityWeight(FARGATE_SPOT, self.spot_weight), CapacityWeight(FARGATE, self.on_demand_weight))
        return tuple(item for item in items if item.weight)


SpotPolicy.ON_DEMAND = SpotPolicy("ON_DEMAND", spot_weight=0, on_demand_weight=1)
SpotPolicy.SPOT = SpotPolicy("SPOT", spot_weight=1, on_demand_weight=0)
SpotPolicy.SPOT_WITH_FALLBACK = SpotPolicy("SPOT_WITH_FALLBACK", spot_weight=1, on_demand_weight=0, falls_back=True)


def default_spot_policy(capacity_providers: Sequence[str]) -> SpotPolicy:
    """Spot with fallback in a cluster that offers Spot, else on-demand."""
    return SpotPolicy.SPOT_WITH_FALLBACK if FARGATE_SPOT in capacity_providers else SpotPolicy.ON_DEMAND


def flow_run_strategy(policy: SpotPolicy, capacity_providers: Sequence[str]) -> tuple[CapacityWeight, ...]:
    """The strategy of a flow run under this policy; empty in a cluster without capacity providers.

    :param capacity_providers: Names of the cluster's capacity providers.
    :raises ValueError: The policy wants Spot and the cluster does not offer it.
    """
    if policy.uses_spot and FARGATE_SPOT not in capacity_providers:
        raise ValueError(
            f"spot_policy {policy.name} needs {FARGATE_SPOT}, which this cluster does not offer; "
            "make it with spot=True or use SpotPolicy.ON_DEMAND"
        )
    if not capacity_providers:
        return ()
    strategy = policy.strategy()
    check_strategy(strategy, known=capacity_providers)
    return strategy
