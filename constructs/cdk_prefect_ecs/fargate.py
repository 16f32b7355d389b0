"""The task sizes that Fargate offers. Pure rules: imports no CDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdk_prefect_ecs.arguments import checked

# CPU units -> valid memory in MiB, for Linux. Source: "Task CPU and memory" in the Amazon ECS Developer Guide,
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html#fargate-tasks-size
FARGATE_SIZES: Final[dict[int, tuple[int, ...]]] = {
    256: (512, 1024, 2048),
    512: tuple(range(1024, 4096 + 1, 1024)),
    1024: tuple(range(2048, 8192 + 1, 1024)),
    2048: tuple(range(4096, 16384 + 1, 1024)),
    4096: tuple(range(8192, 30720 + 1, 1024)),
    8192: tuple(range(16384, 61440 + 1, 4096)),
    16384: tuple(range(32768, 122880 + 1, 8192)),
}

#: Seconds that Fargate gives a container between SIGTERM and SIGKILL at most, which is also all that is left of the
#: two-minute Spot notice. Source: ContainerDefinition.stopTimeout, Amazon ECS API Reference.
MAX_STOP_TIMEOUT_SECONDS: Final = 120


#: Ephemeral storage of a task in GiB: 20 are there anyway, at no charge. Source: "Fargate task ephemeral storage",
#: Amazon ECS Developer Guide.
MIN_EPHEMERAL_STORAGE_GIB: Final = 21
MAX_EPHEMERAL_STORAGE_GIB: Final = 200


@checked
def check_ephemeral_storage(size_gib: int) -> None:
    """Check the ephemeral storage of a Fargate task.

    :raises ValueError: Not a whole number of GiB from 21 to 200.
    """
    if not MIN_EPHEMERAL_STORAGE_GIB <= size_gib <= MAX_EPHEMERAL_STORAGE_GIB:
        raise ValueError(
            f"ephemeral_storage_gib must be a whole number from {MIN_EPHEMERAL_STORAGE_GIB} to "
            f"{MAX_EPHEMERAL_STORAGE_GIB}; got {size_gib!r}. Leave it out for the 20 GiB that cost nothing"
        )


@checked
def check_fargate_size(cpu: int, memory_mib: int) -> None:
    """Check that Fargate offers a task of this size.

    :param cpu: CPU units; 1024 are one vCPU.
    :param memory_mib: Memory in MiB.
    :raises ValueError: No such CPU value, or not with this memory; names the values allowed.
    """
    if cpu not in FARGATE_SIZES:
        allowed = ", ".join(str(units) for units in FARGATE_SIZES)
        raise ValueError(f"cpu {cpu!r} is not a Fargate size; use one of {allowed} CPU units (1024 = 1 vCPU)")
    sizes = FARGATE_SIZES[cpu]
    if memory_mib not in sizes:
        allowed = (
            ", ".join(str(size) for size in sizes)
            if len(sizes) <= 3
            else f"{sizes[0]} to {sizes[-1]} in steps of {sizes[1] - sizes[0]}"
        )
        raise ValueError(f"memory_mib {memory_mib!r} does not go with cpu {cpu} on Fargate; use {allowed} MiB")


@dataclass(frozen=True)
class FargatePrice:
    """On-demand price of Fargate in US dollars.

    :param vcpu_hour: Price of one vCPU for an hour.
    :param gb_hour: Price of one GB of memory for an hour.
    """

    vcpu_hour: float
    gb_hour: float


#: List prices in us-east-1 for Linux. Source: AWS Fargate Pricing, https://aws.amazon.com/fargate/pricing/, June 2026.
ON_DEMAND_PRICES: Final = {
    "X86_64": FargatePrice(vcpu_hour=0.04048, gb_hour=0.004445),
    "ARM64": FargatePrice(vcpu_hour=0.03238, gb_hour=0.00356),
}

#: Fargate Spot is "up to 70 %" cheaper than on-demand; the price floats. Source: AWS Fargate Pricing.
MAX_SPOT_DISCOUNT: Final = 0.70

#: Fargate bills by the second, at least this many. Source: AWS Fargate Pricing.
MIN_BILLED_SECONDS: Final = 60


def on_demand_cost(cpu: int, memory_mib: int, seconds: float, cpu_architecture: str = "X86_64") -> float:
    """What a task costs on demand, in US dollars at us-east-1 list prices.

    :param cpu: CPU units of the task.
    :param memory_mib: Memory of the task in MiB.
    :param seconds: How long it ran; less than a minute is billed as one.
    :param cpu_architecture: X86_64 or ARM64. Default: X86_64.
    """
    price = ON_DEMAND_PRICES[cpu_architecture]
    hours = max(seconds, MIN_BILLED_SECONDS) / 3600
    return hours * (cpu / 1024 * price.vcpu_hour + memory_mib / 1024 * price.gb_hour)
