"""The environments. Edit these: configuration is code, reviewed like code. stacks/config.py explains the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from stacks.config import (
    PLACEHOLDER_ID,
    CloudApi,
    DaskConfig,
    EnvironmentConfig,
    MonitoringConfig,
    PoolConfig,
    SelfHostedApi,
    WorkerConfig,
)

REGION: Final = "us-east-1"

#: Prefect's own default address of a local server; app.py passes PREFECT_API_URL when it is set.
LOCAL_API_URL: Final = "http://127.0.0.1:4200/api"
EMBEDDED_AUTH_PARAMETER: Final = "/prefect/embedded/auth-string"


def _dev(_: str | None) -> EnvironmentConfig:
    return EnvironmentConfig(
        name="dev",
        region=REGION,
        api=CloudApi(
            account_id=PLACEHOLDER_ID,
            workspace_id=PLACEHOLDER_ID,
            api_key_parameter="/prefect/dev/api-key",
        ),
        pool=PoolConfig(name="etl-dev", cpu=512, memory_mib=1024),
        keep_data=False,
        log_retention_days=7,
        execute_command=True,
        tags={"Project": "prefect", "Environment": "dev"},
    )


def _staging(_: str | None) -> EnvironmentConfig:
    return EnvironmentConfig(
        name="staging",
        region=REGION,
        api=CloudApi(
            account_id=PLACEHOLDER_ID,
            workspace_id=PLACEHOLDER_ID,
            api_key_parameter="/prefect/staging/api-key",
        ),
        pool=PoolConfig(name="etl-staging"),
        image="build",
        tags={"Project": "prefect", "Environment": "staging"},
    )


def _prod(_: str | None) -> EnvironmentConfig:
    return EnvironmentConfig(
        name="prod",
        region=REGION,
        api=CloudApi(
            account_id=PLACEHOLDER_ID,
            workspace_id=PLACEHOLDER_ID,
            api_key_parameter="/prefect/prod/api-key",
        ),
        pool=PoolConfig(name="etl", concurrency_limit=100),
        worker=WorkerConfig(count=2, cpu=1024, memory_mib=2048),
        image="build",
        termination_protection=True,
        log_retention_days=90,
        flow_logs=True,
        access_logs=True,
        monitoring=MonitoringConfig(),  # say whom to tell: alarm_email or alarm_topic_arn
        tags={"Project": "prefect", "Environment": "prod"},
    )


def _embedded(api_url: str | None) -> EnvironmentConfig:
    """The embedded AWS: everything goes when the stacks go, and the server is a local one."""
    return EnvironmentConfig(
        name="embedded",
        region="us-east-1",
        account="000000000000",
        api=SelfHostedApi(url=api_url or LOCAL_API_URL, auth_string_parameter=EMBEDDED_AUTH_PARAMETER),
        pool=PoolConfig(name="etl", cpu=512, memory_mib=1024),
        worker=WorkerConfig(poll_seconds=2),
        dask=DaskConfig(scheduler_cpu=512, scheduler_memory_mib=1024, worker_cpu=1024, worker_memory_mib=2048),
        keep_data=False,
        log_retention_days=1,
        tags={"Project": "prefect", "Environment": "embedded"},
    )


ENVIRONMENTS: Final[dict[str, Callable[[str | None], EnvironmentConfig]]] = {
    "dev": _dev,
    "staging": _staging,
    "prod": _prod,
    "embedded": _embedded,
}


def environment(name: str | None, *, api_url: str | None = None, image: str | None = None) -> EnvironmentConfig:
    """The configuration of one environment; only this one is made.

    :param api_url: Address of the local Prefect server; only ``embedded`` takes it.
    :param image: Image of worker and flow runs, as in :class:`EnvironmentConfig`; only ``embedded`` takes it.
    :raises ValueError: No or an unknown name; lists the known ones.
    """
    known = ", ".join(ENVIRONMENTS)
    if not name:
        raise ValueError(f"no environment given; say -c env=NAME with one of {known}")
    if name not in ENVIRONMENTS:
        raise ValueError(f"unknown environment {name!r}; use one of {known} (stacks/environments.py)")
    for what, value in (("api_url", api_url), ("image", image)):
        if value is not None and name != "embedded":
            raise ValueError(f"{what} is for the environment embedded; {name} has its own in stacks/environments.py")
    config = ENVIRONMENTS[name](api_url)
    return config if image is None else dataclasses.replace(config, image=image)
