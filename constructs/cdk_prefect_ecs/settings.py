"""Rules for the settings of work pools, workers and APIs. Pure rules: imports no CDK."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from cdk_prefect_ecs.capacity import CapacityKind, FlowCapacity, check_gpus
from cdk_prefect_ecs.fargate import check_ephemeral_storage, check_fargate_size
from cdk_prefect_ecs.instance_types import check_instance_size
from cdk_prefect_ecs.names import check_work_pool_name
from cdk_prefect_ecs.queues import WorkQueue, check_queues

CPU_ARCHITECTURES: Final = ("X86_64", "ARM64")
#: How long a run may be without a task: a worker's retries of registering and starting one take well under a minute.
DEFAULT_PATIENCE_SECONDS: Final = 90
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Parameter names: letters, digits and . - _ / . Source: PutParameter, AWS Systems Manager API Reference.
_PARAMETER_NAME: Final = re.compile(r"/?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
#: A task has 50 at most; prefect-aws sets up to ten. Source: Tagging, Amazon ECS Developer Guide.
_MAX_TAGS: Final = 40
_CREDENTIALS: Final = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
# Source: CreateRole and CreatePolicy, AWS Identity and Access Management API Reference.
_ROLE_PATH: Final = re.compile(r"/([\x21-\x2e\x30-\x7e]+/)*")
_MAX_ROLE_PATH: Final = 512
_POLICY_NAME: Final = re.compile(r"([\w+=,.@-]+/)*[\w+=,.@-]{1,128}", re.ASCII)
_POLICY_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/([\w+=,.@-]+/)*[\w+=,.@-]{1,128}", re.ASCII)
_KEY_ARN: Final = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):(\d{12}):key/[\w-]+", re.ASCII)


def check_work_pool_settings(
    work_pool_name: str,
    cpu: int,
    memory_mib: int,
    cpu_architecture: str | None,
    concurrency_limit: int | None,
    environment: Mapping[str, str] | None,
    *,
    capacity: FlowCapacity | None = None,
    gpus: int = 0,
    ephemeral_storage_gib: int | None = None,
    queues: Sequence[WorkQueue] = (),
    secret_names: Collection[str] = (),
    tags: Mapping[str, str] | None = None,
) -> None:
    """Check what a work pool is made with.

    :param capacity: Where flow runs are placed. Default: Fargate.
    :param secret_names: Variables that are injected.
    :raises ValueError: As :class:`~cdk_prefect_ecs.WorkPool` documents.
    """
    check_work_pool_name(work_pool_name)
    capacity = capacity or FlowCapacity("Fargate", CapacityKind.FARGATE)
    if capacity.kind is CapacityKind.FARGATE:
        check_fargate_size(cpu, memory_mib)
    else:
        check_instance_size(cpu, memory_mib)
    if cpu_architecture is not None:
        check_cpu_architecture(cpu_architecture)
    check_gpus(gpus, capacity)
    if ephemeral_storage_gib is not None:
        check_ephemeral_storage(ephemeral_storage_gib)
        if capacity.kind is not CapacityKind.FARGATE:
            raise ValueError(
                f"ephemeral_storage_gib is Fargate's; on capacity {capacity.name!r} flow runs use the disk of their "
                "machine. Leave it out, and give the capacity a larger disk"
            )
    check_queues(queues)
    _check_secret_names(secret_names, environment)
    _check_tags(tags)
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
    *,
    max_count: int | None = None,
) -> None:
    """Check what a worker is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.WorkerService` documents.
    """
    check_fargate_size(cpu, memory_mib)
    check_cpu_architecture(cpu_architecture)
    if desired_count < 0:
        raise ValueError(f"the number of workers must be 0 or more; got {desired_count}")
    if max_count is not None and (max_count < desired_count or desired_count < 1):
        raise ValueError(
            f"workers scale from desired_count, at least 1, up to max_count; got {desired_count} and {max_count}"
        )
    check_host_settings(poll_seconds, environment)


def check_host_settings(poll_seconds: float, environment: Mapping[str, str] | None) -> None:
    """Check what a worker is made with, wherever it runs.

    :raises ValueError: As :class:`~cdk_prefect_ecs.WorkerHost` documents.
    """
    if poll_seconds < 1:
        raise ValueError(f"poll_interval must be at least one second; got {poll_seconds:g} seconds")
    _check_environment(environment)


def check_no_service_settings(host: str, service: Mapping[str, tuple[object, object]]) -> None:
    """Check that nothing shapes a worker service where the worker is a host.

    :param host: Name of the setting that makes it a host.
    :param service: The settings of a service by name: the value of each, and its default.
    :raises ValueError: One that is not its default; says which.
    """
    given = [f"{name} (got {value!r})" for name, (value, default) in service.items() if value != default]
    if given:
        raise ValueError(
            f"{host} makes the worker a host, which has no {', no '.join(given)}: these shape a worker service. "
            f"Leave them out, or leave out {host}"
        )


def check_cloud_id(name: str, value: str) -> None:
    """Check an account's or workspace's id in Prefect Cloud.

    :raises ValueError: Not a UUID.
    """
    if not _UUID.fullmatch(value):
        raise ValueError(
            f"{name} must be a UUID such as 01234567-89ab-cdef-0123-456789abcdef; got {value!r}. "
            "It is in the address bar of the Prefect Cloud UI: app.prefect.cloud/account/…/workspace/…"
        )


def check_parameter_name(parameter_name: str) -> None:
    """Check the name of an SSM parameter.

    :raises ValueError: Not a name that SSM takes.
    """
    if not _PARAMETER_NAME.fullmatch(parameter_name):
        raise ValueError(
            f"{parameter_name!r} is not an SSM parameter name; use letters, digits and . - _ /, "
            "such as /prefect/api-key"
        )


def check_api_url(url: str) -> None:
    """Check the URL of a self-hosted Prefect API.

    :raises ValueError: As :meth:`~cdk_prefect_ecs.PrefectApi.self_hosted` documents.
    """
    parts = urlsplit(url.rstrip("/"))
    if parts.username or parts.password:
        raise ValueError(
            "the URL of the Prefect API must not hold a credential, which would end up in the template; "
            "pass auth_string=PrefectApi.ssm_secure_string(…)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "the URL of the Prefect API must be http:// or https:// with a host, such as "
            f"https://prefect.example.com/api; got {url!r}"
        )
    if parts.query or parts.fragment:
        raise ValueError("the URL of the Prefect API must not have a query or fragment, such as …/api?key=… or …/api#…")
    if not parts.path.endswith("/api"):
        raise ValueError(
            f"the URL of a self-hosted Prefect API ends in /api, such as https://prefect.example.com/api; got {url!r}"
        )


def check_role_path(path: str) -> None:
    """Check the path of roles.

    :raises ValueError: Not a path that IAM takes.
    """
    if not isinstance(path, str) or not _ROLE_PATH.fullmatch(path) or len(path) > _MAX_ROLE_PATH:
        raise ValueError(
            f"a role path begins and ends with a slash, has no spaces and up to {_MAX_ROLE_PATH} characters, such as "
            f"/data-platform/; got {path!r}"
        )


def check_permissions_boundary(policy: str) -> str | None:
    """Check the policy that bounds what roles may do: its name, or its ARN.

    :return: The account that an ARN names; None for a name, and for a policy of AWS.
    :raises ValueError: Neither a name nor an ARN of a policy.
    """
    if isinstance(policy, str):
        if _POLICY_NAME.fullmatch(policy):
            return None
        if arn := _POLICY_ARN.fullmatch(policy):
            return None if arn[1] == "aws" else arn[1]
    raise ValueError(
        "a permissions boundary is the name of a managed policy of the account, such as team-boundary or "
        f"path/team-boundary, or the ARN of a managed policy; got {policy!r}"
    )


def check_key_arn(arn: str) -> tuple[str, str]:
    """Check the ARN of a KMS key.

    :return: Its region and account.
    :raises ValueError: Not the ARN of a key: a key's id alone does not say where it is, and an alias may change.
    """
    if not isinstance(arn, str) or not (found := _KEY_ARN.fullmatch(arn)):
        raise ValueError(
            "a KMS key is named by the ARN of the key, not of an alias, such as "
            f"arn:aws:kms:eu-west-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef; got {arn!r}"
        )
    return found[1], found[2]


def check_cpu_architecture(cpu_architecture: str) -> None:
    """Check the name of an architecture.

    :raises ValueError: Not one that Fargate offers.
    """
    if cpu_architecture not in CPU_ARCHITECTURES:
        raise ValueError(f"cpu_architecture must be {' or '.join(CPU_ARCHITECTURES)}; got {cpu_architecture!r}")


def _check_secret_names(names: Collection[str], environment: Mapping[str, str] | None) -> None:
    for name in names:
        if name in _CREDENTIALS:
            raise ValueError(f"secrets must not hold {name}: the pool injects the credential of its api by itself")
        if name in (environment or {}):
            raise ValueError(f"{name} is in environment and in secrets, which ECS refuses; leave one of them out")


def _check_tags(tags: Mapping[str, str] | None) -> None:
    tags = tags or {}
    if len(tags) > _MAX_TAGS:
        raise ValueError(
            f"a task has at most 50 tags and Prefect sets some of them; give up to {_MAX_TAGS}; got {len(tags)}"
        )
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or key.lower().startswith("aws:") or len(value) > 256:
            raise ValueError(
                f"tag {key!r} = {value!r} cannot be: a key has 1 to 128 characters and does not begin with aws:, "
                "a value has up to 256"
            )


def check_image_reference(reference: str) -> None:
    """Check that a reference pins an image.

    :raises ValueError: As :meth:`~cdk_prefect_ecs.FlowImage.from_registry` documents.
    """
    name, _, digest = reference.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not reference or (not tag and not digest) or (tag == "latest" and not digest):
        raise ValueError(
            f"image {reference!r} is not pinned; add a tag other than latest, or a digest, "
            "such as ghcr.io/acme/flows:1.4.2"
        )


def check_writable_paths(paths: Sequence[str]) -> None:
    """Check the paths that an image writes to.

    :raises ValueError: None at all, a path that is not absolute or is the root, or one inside another.
    """
    if isinstance(paths, str) or not paths:
        raise ValueError(f"writable_paths must name at least one path, such as ['/tmp']; got {paths!r}")
    for path in paths:
        if not re.fullmatch(r"(/[^/:]+)+", path) or ".." in path.split("/"):
            raise ValueError(f"writable path {path!r} must be an absolute path below /, such as /tmp")
    for path in paths:
        around = [other for other in paths if PurePosixPath(path).is_relative_to(other)]
        if len(around) > 1:
            raise ValueError(f"writable paths {' and '.join(sorted(around))} overlap; leave out the inner one")


def _check_environment(environment: Mapping[str, str] | None) -> None:
    for name, value in (environment or {}).items():
        if name in _CREDENTIALS:
            raise ValueError(
                f"environment must not hold {name}: it would be readable in the template and in Prefect's API; "
                "pass it as the api's ssm_secure_string or secrets_manager secret"
            )
        if not isinstance(value, str):
            raise ValueError(f"environment variable {name} must be a string; got {value!r}")


def check_lazarus_settings(spot_attempts: int, max_reschedules: int, patience_seconds: float) -> None:
    """Check what Lazarus is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.Lazarus` documents.
    """
    for name, value in (("spot_attempts", spot_attempts), ("max_reschedules", max_reschedules)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number; got {value!r}")
    if spot_attempts < 1:
        raise ValueError(
            f"spot_attempts must be 1 or more; got {spot_attempts}. For no Spot at all use SpotPolicy.ON_DEMAND"
        )
    if max_reschedules < 0:
        raise ValueError(f"max_reschedules must be 0 or more; got {max_reschedules}")
    if patience_seconds < 10:
        raise ValueError(
            "patience must be at least 10 seconds, or runs whose task is just starting would be rescheduled; "
            f"got {patience_seconds:g} seconds"
        )


def check_dask_settings(
    scheduler_size: tuple[int, int], worker_size: tuple[int, int], cpu_architecture: str, idle_seconds: float
) -> None:
    """Check what access to Dask clusters is made with; a size is CPU units and MiB.

    :raises ValueError: As :class:`~cdk_prefect_ecs.DaskAccess` documents.
    """
    for role, (cpu, memory_mib) in (("scheduler", scheduler_size), ("worker", worker_size)):
        try:
            check_fargate_size(cpu, memory_mib)
        except ValueError as error:
            raise ValueError(f"Dask {role}: {error}") from None
    check_cpu_architecture(cpu_architecture)
    if idle_seconds < 60:
        raise ValueError(
            "idle_timeout must be at least 60 seconds, or a scheduler would end while its workers are starting; "
            f"got {idle_seconds:g} seconds"
        )
