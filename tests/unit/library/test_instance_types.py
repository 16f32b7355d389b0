import re

import pytest

from cdk_prefect_ecs.instance_types import (
    InstanceKind,
    check_host_type,
    check_instance_counts,
    check_instance_size,
    check_instance_types,
)


@pytest.mark.parametrize(
    ("names", "architecture", "has_gpu"),
    [
        (["m7i.large", "c5.xlarge", "r7iz.metal-16xl"], "X86_64", False),
        (["m7g.large", "t4g.nano", "c7gn.medium", "a1.large", "im4gn.large", "x2gd.medium"], "ARM64", False),
        (["g5.xlarge", "g4dn.xlarge", "g6e.12xlarge", "p4d.24xlarge", "p5en.48xlarge", "gr6.4xlarge"], "X86_64", True),
    ],
)
def test_kinds(names: list[str], architecture: str, has_gpu: bool) -> None:
    assert check_instance_types(names) == InstanceKind(architecture, has_gpu)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "needs at least one instance type, such as m7i.large; got none"),
        (["large"], "'large' is not an instance type"),
        (["m7i.large", "m7i.large"], "each instance type may appear once; got m7i.large, m7i.large"),
        (["m7i.large", "m7g.large"], "all of one architecture; got m7i.large, m7g.large. Add another capacity"),
        (["m7i.large", "g5.xlarge"], "all of one kind, with or without GPU,; got m7i.large, g5.xlarge"),
        (["g5g.xlarge"], "g5g.xlarge has GPUs and Graviton: there is no ECS-optimized image"),
        (["g4ad.xlarge"], "g4ad.xlarge has GPUs of AMD, which ECS does not hand out"),
    ],
)
def test_refuses_instance_types(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_instance_types(names)


@pytest.mark.parametrize("name", ["t4g.nano", "t4g.micro", "t3.micro", "m7i-flex.large"])
def test_host_types(name: str) -> None:
    check_host_type(name)


@pytest.mark.parametrize("name", ["", "micro", "t4g", "t4g.", "T4G.micro", "t4g.micro "])
def test_refuses_host_types(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is not an instance type that runs Linux; use one")):
        check_host_type(name)


def test_counts_and_disk() -> None:
    check_instance_counts(0, 1, 30)
    check_instance_counts(3, 3, 500)
    for counts, message in (
        ((-1, 3, 50), "min_instances must be 0 or more; got -1"),
        ((0, 0, 50), "max_instances must be 1 to 5000, and not below min_instances; got 0"),
        ((4, 3, 50), "not below min_instances; got 3"),
        ((0, 5001, 50), "got 5001"),
        ((0, 1, 30.5), "disk must be a whole number of GiB from 1 to 65536; got 30.5 GiB"),
        ((0, 1, 29.5), "disk must be at least 30 GiB, as the image is that large; got 29.5 GiB"),
    ):
        with pytest.raises(ValueError, match=message):
            check_instance_counts(*counts)


def test_sizes_of_containers() -> None:
    check_instance_size(128, 256)
    check_instance_size(96_000, 380_001)
    for size, message in (
        ((64, 512), "cpu must be a whole number from 128 to 1966080; got 64"),
        ((256, 100), "memory_mib must be a whole number from 256 to 33554432; got 100"),
        ((2_000_000, 512), "got 2000000"),
    ):
        with pytest.raises(ValueError, match=message):
            check_instance_size(*size)
