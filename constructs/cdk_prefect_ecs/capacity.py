"""Where flow runs are placed: Spot policies and capacity provider strategies. Pure rules: imports no CDK."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from cdk_prefect_ecs.arguments import checked, checked_fields

CPU_ARCHITECTURES: Final = ("X86_64", "ARM64")
FARGATE: Final = "FARGATE"
FARGATE_SPOT: Final = "FARGATE_SPOT"
_FARGATE_PROVIDERS: Final = (FARGATE, FARGATE_SPOT)

# Limits of a capacity provider strategy, and of a cluster's providers. Sources: CapacityProviderStrategyItem and
# RunTask, Amazon ECS API Reference; Amazon ECS service quotas.
MAX_PROVIDERS: Final = 20
MAX_WEIGHT: Final = 1000
MAX_BASE: Final = 100_000
#: Of the largest instances. Source: "Accelerated computing", Amazon EC2 Instance Types.
MAX_GPUS: Final = 16


@checked_fields
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


@checked
def check_strategy(strategy: Sequence[CapacityWeight], *, known: Sequence[str]) -> None:
    """Check a capacity provider strategy against the rules of ECS.

    :param strategy: The items to check.
    :param known: Names of the capacity providers that the cluster has.
    :raises ValueError: Empty, too many items, an unknown or repeated provider, a weight or base out of range, no
        weight above 0, more than one base, Fargate beside other providers.
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
    if any(name in _FARGATE_PROVIDERS for name in names) and any(name not in _FARGATE_PROVIDERS for name in names):
        raise ValueError(
            "ECS does not mix Fargate with other capacity providers in one strategy; use either "
            f"{' and '.join(_FARGATE_PROVIDERS)} or the others; got {', '.join(names)}"
        )


@checked
def check_provider_count(count: int) -> None:
    """Check how many capacity providers a cluster has.

    :raises ValueError: More than ECS allows.
    """
    if count > MAX_PROVIDERS:
        raise ValueError(f"a cluster has at most {MAX_PROVIDERS} capacity providers; this would be number {count}")


@checked
def check_provider_names(names: Sequence[str]) -> None:
    """Check the names of a cluster's capacity providers.

    :raises ValueError: Without a name, or one twice.
    """
    if "" in names:
        raise ValueError("a capacity provider has a name; got ''")
    if len(set(names)) < len(names):
        raise ValueError(f"each capacity provider may appear once; got {', '.join(names)}")


def _check_range(what: str, provider: str, value: int, maximum: int) -> None:
    if not 0 <= value <= maximum:
        raise ValueError(f"{what} of {provider} must be a whole number from 0 to {maximum}; got {value}")


@checked_fields
@dataclass(frozen=True)
class SpotPolicy:
    """How a work pool's flow runs use Spot: Fargate Spot, or the Spot instances of the pool's capacity.

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
    @checked
    def weights(*, spot: int, on_demand: int) -> SpotPolicy:
        """Place flow runs by share.

        :param spot: Weight of Spot, 0 to 1000.
        :param on_demand: Weight of on-demand, 0 to 1000.
        :raises ValueError: A weight out of range, or both 0.
        """
        policy = SpotPolicy(f"weights(spot={spot}, on_demand={on_demand})", spot, on_demand)
        _check_range("weight", "spot", spot, MAX_WEIGHT)
        _check_range("weight", "on_demand", on_demand, MAX_WEIGHT)
        if not spot and not on_demand:
            raise ValueError("spot and on_demand cannot both be 0; give at least one a weight")
        return policy

    @property
    def uses_spot(self) -> bool:
        """Whether a flow run can land on Spot under this policy."""
        return self.spot_weight > 0

    @property
    def uses_on_demand(self) -> bool:
        """Whether a flow run can land on on-demand capacity under this policy, be it as a fallback."""
        return self.on_demand_weight > 0 or self.falls_back

    def strategy(self, *, on_demand: str = FARGATE, spot: str = FARGATE_SPOT) -> tuple[CapacityWeight, ...]:
        """The capacity provider strategy of one flow run; a provider without weight is left out.

        :param on_demand: The provider of on-demand machines. Default: FARGATE.
        :param spot: The provider of Spot machines. Default: FARGATE_SPOT.
        """
        items = (CapacityWeight(spot, self.spot_weight), CapacityWeight(on_demand, self.on_demand_weight))
        return tuple(item for item in items if item.weight)


SpotPolicy.ON_DEMAND = SpotPolicy("ON_DEMAND", spot_weight=0, on_demand_weight=1)
SpotPolicy.SPOT = SpotPolicy("SPOT", spot_weight=1, on_demand_weight=0)
SpotPolicy.SPOT_WITH_FALLBACK = SpotPolicy("SPOT_WITH_FALLBACK", spot_weight=1, on_demand_weight=0, falls_back=True)


class CapacityKind(StrEnum):
    """What machines are; the values are what ECS calls them in ``requiresCompatibilities``."""

    FARGATE = "FARGATE"
    AUTO_SCALING = "EC2"
    MANAGED_INSTANCES = "MANAGED_INSTANCES"
    EXTERNAL = "EXTERNAL"


@checked_fields
@dataclass(frozen=True)
class FlowCapacity:
    """Where the flow runs of a work pool can be placed: machines of one kind, on demand, on Spot or both.

    :class:`~cdk_prefect_ecs.FlowCluster` makes them. Make one by hand only to name the providers of an existing
    cluster.

    :param name: Name for people; appears in messages.
    :param kind: What the machines are.
    :param on_demand: The capacity provider of on-demand machines. None: there are none, or no providers at all.
    :param spot: The capacity provider of Spot machines. None: there are none.
    :param cpu_architecture: Architecture of the machines. None: flow runs may choose, as on Fargate.
    :param has_gpu: Whether the machines have GPUs.
    :raises ValueError: Spot machines of a kind that has none; Auto Scaling or Managed Instances without a provider; a
        provider without a name; an unknown architecture.
    """

    name: str
    kind: CapacityKind
    on_demand: str | None = None
    spot: str | None = None
    cpu_architecture: str | None = None
    has_gpu: bool = False

    def __post_init__(self) -> None:
        if "" in self.capacity_providers:
            raise ValueError(f"capacity {self.name!r} has a capacity provider without a name; leave it out or name it")
        if self.cpu_architecture not in (None, *CPU_ARCHITECTURES):
            raise ValueError(
                f"capacity {self.name!r}: cpu_architecture must be {' or '.join(CPU_ARCHITECTURES)}, or None; "
                f"got {self.cpu_architecture!r}"
            )
        if self.kind is CapacityKind.EXTERNAL and (self.on_demand or self.spot):
            raise ValueError(f"capacity {self.name!r}: machines of your own have no capacity providers; leave them out")
        if self.kind in (CapacityKind.AUTO_SCALING, CapacityKind.MANAGED_INSTANCES) and not self.capacity_providers:
            raise ValueError(f"capacity {self.name!r} needs an on_demand or a spot capacity provider; got neither")

    @property
    def capacity_providers(self) -> tuple[str, ...]:
        """Names of its capacity providers, Spot last; empty where tasks are placed by launch type."""
        return tuple(name for name in (self.on_demand, self.spot) if name is not None)


def default_spot_policy(capacity: FlowCapacity) -> SpotPolicy:
    """Spot with fallback where there are both, else what there is."""
    if capacity.spot is None:
        return SpotPolicy.ON_DEMAND
    return SpotPolicy.SPOT if capacity.on_demand is None else SpotPolicy.SPOT_WITH_FALLBACK


@checked
def flow_run_strategy(policy: SpotPolicy, capacity: FlowCapacity, known: Collection[str]) -> tuple[CapacityWeight, ...]:
    """The strategy of a flow run under this policy; empty where tasks are placed by launch type.

    :param capacity: Where the pool's flow runs are placed.
    :param known: Names of the cluster's capacity providers.
    :raises ValueError: The policy wants Spot or on-demand machines that the capacity does not have, or the capacity is
        not of this cluster.
    """
    if policy.uses_spot and capacity.spot is None:
        if capacity.kind is CapacityKind.FARGATE:
            raise ValueError(
                f"spot_policy {policy.name} needs {FARGATE_SPOT}, which this cluster does not offer; "
                "make it with spot=True or use SpotPolicy.ON_DEMAND"
            )
        raise ValueError(
            f"spot_policy {policy.name} needs Spot, which capacity {capacity.name!r} does not have; "
            "add it with spot=True or use SpotPolicy.ON_DEMAND"
        )
    if not capacity.capacity_providers:
        return ()
    if policy.uses_on_demand and capacity.on_demand is None:
        raise ValueError(
            f"spot_policy {policy.name} needs on-demand machines, which capacity {capacity.name!r} does not have; "
            "add it with on_demand=True or use SpotPolicy.SPOT"
        )
    if not set(capacity.capacity_providers) <= set(known):
        raise ValueError(
            f"capacity {capacity.name!r} is not one of this cluster; use what the cluster's own add_…_capacity methods "
            "return, or its fargate"
        )
    strategy = policy.strategy(on_demand=capacity.on_demand or "", spot=capacity.spot or "")
    check_strategy(strategy, known=tuple(known))
    return strategy


@checked
def check_gpus(gpus: int, capacity: FlowCapacity) -> None:
    """Check the number of GPUs of a flow run.

    :raises ValueError: Below 0, or of a capacity that has none.
    """
    if not 0 <= gpus <= MAX_GPUS:
        raise ValueError(f"gpus must be a whole number from 0 to {MAX_GPUS}, as no machine has more; got {gpus}")
    if not gpus or capacity.has_gpu:
        return
    if capacity.kind is CapacityKind.FARGATE:
        raise ValueError(
            f"gpus {gpus} cannot be had on Fargate, which has no GPUs; give the pool GPU instances, such as "
            'cluster.add_auto_scaling_capacity("Gpu", instance_types=[ec2.InstanceType("g5.xlarge")], …)'
        )
    raise ValueError(f"gpus {gpus} cannot be had of capacity {capacity.name!r}, whose machines have no GPU")


@checked
def check_architecture(cpu_architecture: str | None, capacity: FlowCapacity) -> str:
    """The architecture of the flow runs: the one asked for, else that of the machines, else X86_64.

    :raises ValueError: Another one than that of the machines.
    """
    if cpu_architecture and capacity.cpu_architecture not in (None, cpu_architecture):
        raise ValueError(
            f"cpu_architecture {cpu_architecture} does not go with capacity {capacity.name!r}, whose machines are "
            f"{capacity.cpu_architecture}"
        )
    return cpu_architecture or capacity.cpu_architecture or "X86_64"
