from collections.abc import Mapping
from typing import Any

import pytest

from cdk_prefect_ecs.settings import (
    DEFAULT_PATIENCE_SECONDS,
    check_lazarus_settings,
    check_no_service_settings,
    check_work_pool_settings,
    check_worker_settings,
)

POOL: Mapping[str, Any] = {
    "work_pool_name": "etl",
    "cpu": 1024,
    "memory_mib": 2048,
    "cpu_architecture": "X86_64",
    "concurrency_limit": None,
    "environment": None,
}
WORKER: Mapping[str, Any] = {
    "cpu": 512,
    "memory_mib": 1024,
    "cpu_architecture": "ARM64",
    "desired_count": 1,
    "poll_seconds": 5,
    "environment": None,
}


@pytest.mark.parametrize(
    "change", [{}, {"concurrency_limit": 0}, {"cpu_architecture": "ARM64"}, {"environment": {"A": "1"}}]
)
def test_work_pool(change: dict[str, Any]) -> None:
    check_work_pool_settings(**{**POOL, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"work_pool_name": "a/b"}, "contains /"),
        ({"cpu": 300}, "cpu 300 is not a Fargate size"),
        ({"memory_mib": 512}, "memory_mib 512 does not go with cpu 1024"),
        ({"cpu_architecture": "arm"}, "cpu_architecture must be X86_64 or ARM64; got 'arm'"),
        ({"concurrency_limit": -1}, "concurrency_limit must be 0 to 2147483647; got -1"),
        ({"environment": {"PREFECT_API_KEY": "x"}}, "environment must not hold PREFECT_API_KEY"),
        ({"environment": {"PREFECT_API_AUTH_STRING": "x"}}, "environment must not hold PREFECT_API_AUTH_STRING"),
    ],
)
def test_work_pool_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_work_pool_settings(**{**POOL, **change})


@pytest.mark.parametrize("change", [{}, {"desired_count": 0}, {"poll_seconds": 1}, {"environment": {"A": ""}}])
def test_worker(change: dict[str, Any]) -> None:
    check_worker_settings(**{**WORKER, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpu": 100}, "cpu 100 is not a Fargate size"),
        ({"cpu_architecture": "x86"}, "cpu_architecture must be X86_64 or ARM64; got 'x86'"),
        ({"desired_count": -1}, "number of workers must be 0 to 5000; got -1"),
        ({"poll_seconds": 0.5}, "poll_interval must be at least one second; got 0.5 seconds"),
        ({"environment": {"PREFECT_API_KEY": "x"}}, "environment must not hold PREFECT_API_KEY"),
    ],
)
def test_worker_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_worker_settings(**{**WORKER, **change})


def test_a_host_takes_no_settings_of_a_service() -> None:
    check_no_service_settings("host", {"cpu": (512, 512), "max_count": (None, None)})
    with pytest.raises(ValueError, match="host makes the worker a host") as error:
        check_no_service_settings("host", {"cpu": (256, 512), "memory": (1024, 1024), "max_count": (3, None)})
    assert "which has no cpu (got 256), no max_count (got 3): these shape a worker service" in str(error.value)
    assert "Leave them out, or leave out host" in str(error.value)


@pytest.mark.parametrize(
    ("spot_attempts", "max_reschedules", "patience_seconds"),
    [(2, 3, DEFAULT_PATIENCE_SECONDS), (1, 0, 10), (100, 100, 12.5)],
)
def test_lazarus(spot_attempts: int, max_reschedules: int, patience_seconds: float) -> None:
    check_lazarus_settings(spot_attempts, max_reschedules, patience_seconds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 3, 90), "spot_attempts must be 1 or more; got 0. For no Spot at all use SpotPolicy.ON_DEMAND"),
        ((-2, 3, 90), "spot_attempts must be 1 or more; got -2"),
        ((2, -1, 90), "max_reschedules must be 0 or more; got -1"),
        ((2, 3, 9.5), "patience must be at least 10 seconds, or runs .* would be rescheduled; got 9.5 seconds"),
        ((2, 3, 0), "patience must be at least 10 seconds.*; got 0 seconds"),
    ],
)
def test_lazarus_refuses(settings: tuple[int, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_lazarus_settings(*settings)


def test_a_credential_in_the_environment_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ValueError, match="environment must not hold") as error:
        check_work_pool_settings(**{**POOL, "environment": {"PREFECT_API_KEY": "pnu_secret"}})
    assert "pnu_secret" not in str(error.value)
