"""Rules for the settings of work pools and workers. Pure rules: imports no CDK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cdk_prefect_ecs.fargate import check_fargate_size
from cdk_prefect_ecs.names import check_work_pool_name

CPU_ARCHITECTURES: Final = ("X86_64", "ARM64")
_CREDENTIALS: Final = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")


def check_work_pool_settings(
    work_pool_name: str,
    cpu: int,
    memory_mib: int,
    cpu_architecture: str,
    concurrency_limit: int | None,
    environment: Mapping[str, str] | None,
) -> None:
    """Check what a work pool is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.WorkPool` documents.
    """
    check_work_pool_name(work_pool_name)
    check_fargate_size(cpu, memory_mib)
    _check_cpu_architecture(cpu_architecture)
    if concurrency_limit is not None and concurrency_limit < 0:
        raise ValueError(f"concurrency_limit must be 0 or more; got {concurrency_limit}. Leave it out for no limit")
    _check_environment(environment)


def check_worker_settings(
    cpu: int,
    memory_mib: int,
    cpu_architecture: str,
    desired_count: int,
    poll_seconds: float,
    environment: Mapping[str, str] | None,
) -> None:
    """Check what a worker is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.WorkerService` documents.
    """
    check_fargate_size(cpu, memory_mib)
    _check_cpu_architecture(cpu_architecture)
    if desired_count < 0:
        raise ValueError(f"the number of workers must be 0 or more; got {desired_count}")
    if poll_seconds < 1:
        raise ValueError(f"poll_interval must be at least one second; got {poll_seconds:g} seconds")
    _check_environment(environment)


def _check_cpu_architecture(cpu_architecture: str) -> None:
    if cpu_architecture not in CPU_ARCHITECTURES:
        raise ValueError(f"cpu_architecture must be {' or '.join(CPU_ARCHITECTURES)}; got {cpu_architecture!r}")


def _check_environment(environment: Mapping[str, str] | None) -> None:
    for name, value in (environment or {}).items():
        if name in _CREDENTIALS:
            raise ValueError(
                f"environment must not hold {name}: it would be readable in the template and in Prefect's API; "
                "pass it as the api's ssm_secure_string or secrets_manager secret"
            )
        if not isinstance(value, str):
            raise ValueError(f"environment variable {name} must be a string; got {value!r}")
