import pytest

from cdk_prefect_ecs.fargate import FARGATE_SIZES, MAX_STOP_TIMEOUT_SECONDS, check_fargate_size, on_demand_cost


@pytest.mark.parametrize(
    ("cpu", "smallest", "largest", "count"),
    [
        (256, 512, 2048, 3),
        (512, 1024, 4096, 4),
        (1024, 2048, 8192, 7),
        (2048, 4096, 16384, 13),
        (4096, 8192, 30720, 23),
        (8192, 16384, 61440, 12),
        (16384, 32768, 122880, 12),
    ],
)
def test_sizes_that_aws_documents(cpu: int, smallest: int, largest: int, count: int) -> None:
    sizes = FARGATE_SIZES[cpu]
    assert (sizes[0], sizes[-1], len(sizes)) == (smallest, largest, count)
    for memory in sizes:
        check_fargate_size(cpu, memory)


def test_there_are_no_other_cpu_values() -> None:
    assert list(FARGATE_SIZES) == [256, 512, 1024, 2048, 4096, 8192, 16384]


@pytest.mark.parametrize(
    ("cpu", "memory", "message"),
    [
        (300, 1024, "cpu 300 is not a Fargate size; use one of 256, 512, 1024, 2048, 4096, 8192, 16384 CPU units"),
        (0, 512, "cpu 0 is not"),
        (256, 4096, "memory_mib 4096 does not go with cpu 256 on Fargate; use 512, 1024, 2048 MiB"),
        (1024, 1024, "memory_mib 1024 does not go with cpu 1024 on Fargate; use 2048 to 8192 in steps of 1024 MiB"),
        (8192, 17408, "use 16384 to 61440 in steps of 4096 MiB"),
        (16384, 122881, "use 32768 to 122880 in steps of 8192 MiB"),
    ],
)
def test_refuses_other_sizes(cpu: int, memory: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fargate_size(cpu, memory)


def test_all_of_the_spot_notice_is_used() -> None:
    assert MAX_STOP_TIMEOUT_SECONDS == 120


def test_cost_of_an_hour_and_of_a_moment() -> None:
    assert on_demand_cost(1024, 2048, 3600) == pytest.approx(0.04048 + 2 * 0.004445)
    assert on_demand_cost(512, 1024, 3600, "ARM64") == pytest.approx(0.03238 / 2 + 0.00356)
    assert on_demand_cost(1024, 2048, 1) == on_demand_cost(1024, 2048, 60)


def test_the_worker_costs_what_the_docs_say() -> None:
    assert round(on_demand_cost(512, 1024, 730 * 3600)) == 18
