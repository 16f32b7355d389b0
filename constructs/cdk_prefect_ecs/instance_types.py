"""Rules for EC2 instance types, and for what instances of one capacity have in common. Pure rules: imports no CDK."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdk_prefect_ecs.arguments import checked

#: Size of the ECS-optimized images on Amazon Linux 2023.
MIN_DISK_GIB: Final = 30
#: The least that a container on an instance gets: an eighth of a vCPU, and what Python needs to start.
MIN_INSTANCE_CPU: Final = 128
MIN_INSTANCE_MEMORY_MIB: Final = 256
#: What the largest instance has: 1,920 vCPUs, and 32 TiB. Source: "Memory optimized", Amazon EC2 Instance Types.
MAX_INSTANCE_CPU: Final = 1920 * 1024
MAX_INSTANCE_MEMORY_MIB: Final = 32 * 1024 * 1024
#: Container instances of one cluster. Source: Amazon ECS service quotas.
MAX_INSTANCES: Final = 5000
#: Source: "General Purpose SSD volumes", Amazon EBS User Guide.
MAX_DISK_GIB: Final = 65_536

# Instance types are FAMILY.SIZE; a family is letters, the generation, attributes: "g5g" is of the GPU family g, fifth
# generation, with Graviton. Source: "Naming conventions", Amazon EC2 Instance Types.
_INSTANCE_TYPE: Final = re.compile(
    r"(?P<series>[a-z]+)(?P<generation>[0-9]{1,2})(?P<attributes>[a-z0-9-]*)\.[a-z0-9-]+"
)
_GPU_SERIES: Final = ("g", "gr", "p")


@dataclass(frozen=True)
class InstanceKind:
    """What instance types of one Auto Scaling group have in common.

    :param cpu_architecture: X86_64 or ARM64.
    :param has_gpu: Whether they have NVIDIA GPUs.
    """

    cpu_architecture: str
    has_gpu: bool


@checked
def check_instance_types(instance_types: Sequence[str]) -> InstanceKind:
    """Check the instance types of one Auto Scaling group: all boot one image.

    :raises ValueError: None, something that is no instance type, one given twice, different architectures, GPU beside
        other instances, GPUs that are not NVIDIA's, which ECS does not hand out, or with Graviton.
    """
    if not instance_types:
        raise ValueError("instance_types needs at least one instance type, such as m7i.large; got none")
    if len(set(instance_types)) < len(instance_types):
        raise ValueError(f"each instance type may appear once; got {', '.join(instance_types)}")
    kinds = {name: _instance_kind(name) for name in instance_types}
    for what, values in (
        ("architecture", {kind.cpu_architecture for kind in kinds.values()}),
        ("kind, with or without GPU,", {kind.has_gpu for kind in kinds.values()}),
    ):
        if len(values) > 1:
            raise ValueError(
                f"the instance types of one capacity boot one image, so they are all of one {what}; "
                f"got {', '.join(instance_types)}. Add another capacity for the others"
            )
    return kinds[instance_types[0]]


@checked
def check_host_type(name: str) -> str:
    """The architecture of the instance type of a worker host: X86_64 or ARM64.

    :raises ValueError: It is no instance type, or one that runs macOS.
    """
    return "ARM64" if _is_arm(_parts(name)) else "X86_64"


def _parts(name: str) -> re.Match[str]:
    found = _INSTANCE_TYPE.fullmatch(name)
    if found is None or found["series"] == "mac":
        raise ValueError(f"{name!r} is not an instance type that runs Linux; use one such as m7i.large")
    return found


def _is_arm(parts: re.Match[str]) -> bool:
    return parts["attributes"].startswith("g") or parts["series"] == "a"


def _instance_kind(name: str) -> InstanceKind:
    found = _parts(name)
    if found["series"] == "g" and found["attributes"].startswith("a"):
        raise ValueError(
            f"{name} has GPUs of AMD, which ECS does not hand out; use one with GPUs of NVIDIA, as g5.xlarge"
        )
    is_arm = _is_arm(found)
    has_gpu = found["series"] in _GPU_SERIES
    if is_arm and has_gpu:
        raise ValueError(f"{name} has GPUs and Graviton: there is no ECS-optimized image; use one as g5.xlarge")
    return InstanceKind("ARM64" if is_arm else "X86_64", has_gpu)


@checked
def check_instance_counts(minimum: int, maximum: int, disk_gib: float) -> None:
    """Check how many instances a capacity has, and their disk.

    :raises ValueError: Fewer than 0, a maximum below 1 or below the minimum or above what a cluster takes, a disk that
        is too small for the image; else as :func:`check_disk`.
    """
    if minimum < 0:
        raise ValueError(f"min_instances must be 0 or more; got {minimum}")
    if not max(1, minimum) <= maximum <= MAX_INSTANCES:
        raise ValueError(f"max_instances must be 1 to {MAX_INSTANCES}, and not below min_instances; got {maximum}")
    if disk_gib < MIN_DISK_GIB:
        raise ValueError(f"disk must be at least {MIN_DISK_GIB} GiB, as the image is that large; got {disk_gib:g} GiB")
    check_disk(disk_gib)


@checked
def check_disk(disk_gib: float) -> None:
    """Check the disk of an instance.

    :raises ValueError: Not a whole number of GiB that EBS offers.
    """
    if not 1 <= disk_gib <= MAX_DISK_GIB or disk_gib % 1:
        raise ValueError(f"disk must be a whole number of GiB from 1 to {MAX_DISK_GIB}; got {disk_gib:g} GiB")


@checked
def check_instance_size(cpu: int, memory_mib: int) -> None:
    """Check the size of a container on an instance.

    :raises ValueError: Less than it needs to start, or more than any instance has.
    """
    for name, value, least, most in (
        ("cpu", cpu, MIN_INSTANCE_CPU, MAX_INSTANCE_CPU),
        ("memory_mib", memory_mib, MIN_INSTANCE_MEMORY_MIB, MAX_INSTANCE_MEMORY_MIB),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}; got {value}")
