"""Rules for the settings of work pools, workers and APIs. Pure rules: imports no CDK."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from cdk_prefect_ecs.arguments import checked, shown
from cdk_prefect_ecs.capacity import CPU_ARCHITECTURES, CapacityKind, FlowCapacity, check_gpus
from cdk_prefect_ecs.fargate import check_ephemeral_storage, check_fargate_size
from cdk_prefect_ecs.instance_types import check_instance_size
from cdk_prefect_ecs.names import check_work_pool_name
from cdk_prefect_ecs.queues import WorkQueue, check_concurrency_limit, check_queues

PREFECT_CLOUD_URL: Final = "https://api.prefect.cloud/api"
#: How long a run may be without a task: a worker's retries of registering and starting one take well under a minute.
DEFAULT_PATIENCE_SECONDS: Final = 90
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Parameter names: letters, digits and . - _ / . Source: PutParameter, AWS Systems Manager API Reference.
_PARAMETER_NAME: Final = re.compile(r"/?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
#: A task has 50 at most; prefect-aws sets up to ten. Source: Tagging, Amazon ECS Developer Guide.
_MAX_TAGS: Final = 40
# What ECS takes in keys and values of tags. Source: Tag, Amazon ECS API Reference.
_TAG: Final = re.compile(r"[\w +\-=.:/@]*")
#: Tasks of one service. Source: Amazon ECS service quotas.
_MAX_WORKERS: Final = 5000
#: What RunTask overrides of a task definition has at most 8192 characters of JSON; a quarter of them is for what
#: Prefect adds. Source: TaskOverride, Amazon ECS API Reference.
_MAX_OVERRIDES: Final = 6000
# Printable ASCII without the equals sign: what a process can be started with everywhere.
_VARIABLE: Final = re.compile(r"[!-<>-~]+")
# References as the registries know them. Source: "reference.go" of the CNCF Distribution project.
_PATH_PART: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST: Final = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,}"
_IMAGE: Final = re.compile(
    rf"(?:(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?{_PATH_PART}(?:/{_PATH_PART})*(?::{_TAG_NAME})?(?:@{_DIGEST})?"
)
_TAG_OR_DIGEST: Final = re.compile(rf"{_TAG_NAME}|{_DIGEST}")
#: Source: PutParameter, AWS Systems Manager API Reference.
_MAX_PARAMETER_NAME: Final = 1011
#: Longest time that SQS hides a message. Source: Amazon SQS message quotas.
_MAX_VISIBILITY_SECONDS: Final = 12 * 3600
#: What S3 and ECR count days with.
_MAX_DAYS: Final = 2**31 - 1
_CREDENTIALS: Final = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
#: What a Prefect server is told by its construct. Source: prefect.settings.models.server.
_SERVER_VARIABLES: Final = (
    *(f"PREFECT_SERVER_DATABASE_{name}" for name in ("DRIVER", "HOST", "PORT", "NAME", "USER", "PASSWORD")),
    *(f"PREFECT_SERVER_API_{name}" for name in ("AUTH_STRING", "HOST", "PORT")),
)
# A name that resolvers and certificates take: labels of letters, digits and hyphens. Source: RFC 1123, section 2.1.
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_MAX_HOST_NAME: Final = 253
#: PostgreSQL's names without quotes, as RDS takes them. Source: "CreateDBInstance", Amazon RDS API Reference.
_DATABASE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
#: What gp3 storage of RDS for PostgreSQL has at least and at most. Source: "Amazon RDS DB instance storage", Amazon RDS
#: User Guide.
_MIN_DATABASE_GIB: Final = 20
_MAX_DATABASE_GIB: Final = 65536
#: Source: "Backup retention period", Amazon RDS User Guide. 0 would turn backups off.
_MAX_BACKUP_DAYS: Final = 35
# Source: CreateRole and CreatePolicy, AWS Identity and Access Management API Reference.
_ROLE_PATH: Final = re.compile(r"/([\x21-\x2e\x30-\x7e]+/)*")
_MAX_ROLE_PATH: Final = 512
_POLICY_NAME: Final = re.compile(r"([\w+=,.@-]+/)*[\w+=,.@-]{1,128}", re.ASCII)
_POLICY_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/([\w+=,.@-]+/)*[\w+=,.@-]{1,128}", re.ASCII)
_KEY_ARN: Final = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):(\d{12}):key/[\w-]+", re.ASCII)


@checked
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
    check_concurrency_limit("concurrency_limit", concurrency_limit)
    _check_environment(environment)
    _check_overrides(environment)


@checked
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
    if not 0 <= desired_count <= _MAX_WORKERS:
        raise ValueError(f"the number of workers must be 0 to {_MAX_WORKERS}; got {desired_count}")
    if max_count is not None and not 1 <= desired_count <= max_count <= _MAX_WORKERS:
        raise ValueError(
            f"workers scale from desired_count, at least 1, up to max_count, at most {_MAX_WORKERS}; "
            f"got {desired_count} and {max_count}"
        )
    check_host_settings(poll_seconds, environment)


@checked
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


@checked
def check_cloud_id(name: str, value: str) -> None:
    """Check an account's or workspace's id in Prefect Cloud.

    :raises ValueError: Not a UUID.
    """
    if not _UUID.fullmatch(value):
        raise ValueError(
            f"{name} must be a UUID such as 01234567-89ab-cdef-0123-456789abcdef; got {shown(value)}. "
            "It is in the address bar of the Prefect Cloud UI: app.prefect.cloud/account/…/workspace/…"
        )


@checked
def check_parameter_name(parameter_name: str) -> None:
    """Check the name of an SSM parameter.

    :raises ValueError: Not a name that SSM takes, or one that it keeps for itself.
    """
    if not _PARAMETER_NAME.fullmatch(parameter_name) or len(parameter_name) > _MAX_PARAMETER_NAME:
        raise ValueError(
            f"{parameter_name!r} is not an SSM parameter name; use letters, digits and . - _ /, "
            "such as /prefect/api-key"
        )
    if parameter_name.lstrip("/").lower().startswith(("aws", "ssm")):
        raise ValueError(f"{parameter_name!r} begins with aws or ssm, which SSM keeps for itself; use another name")


@checked
def check_api_url(url: str) -> None:
    """Check the URL of a self-hosted Prefect API.

    :raises ValueError: As :meth:`~cdk_prefect_ecs.PrefectApi.self_hosted` documents.
    """
    try:
        parts = urlsplit(url.rstrip("/"))
        well_formed = url.isprintable() and " " not in url and parts.port != 0
    except ValueError:  # of the standard library, for a host or port that cannot be
        well_formed = False
    if not well_formed:
        # The URL is not shown: what stands in the place of the port may be a password.
        raise ValueError(
            "the URL of the Prefect API has a host or port that cannot be, or a space; use one such as "
            "https://prefect.example.com/api"
        )
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


@checked
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
        _check_variable_name(name)


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
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            raise ValueError(f"tag {key!r} = {value!r} cannot be: use letters, digits, spaces and + - = . _ : / @")


@checked
def check_image_reference(reference: str) -> None:
    """Check that a reference pins an image.

    :raises ValueError: As :meth:`~cdk_prefect_ecs.FlowImage.from_registry` documents.
    """
    name, _, digest = reference.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if reference and not _IMAGE.fullmatch(reference):
        raise ValueError(f"{reference!r} is not a reference of an image; use one such as ghcr.io/acme/flows:1.4.2")
    if (not tag and not digest) or (tag == "latest" and not digest):
        raise ValueError(
            f"image {reference!r} is not pinned; add a tag other than latest, or a digest, "
            "such as ghcr.io/acme/flows:1.4.2"
        )


@checked
def check_tag_or_digest(tag_or_digest: str) -> None:
    """Check what pins an image in its repository.

    :raises ValueError: As :meth:`~cdk_prefect_ecs.FlowImage.from_ecr_repository` documents.
    """
    if tag_or_digest in ("", "latest"):
        raise ValueError(f"tag_or_digest must pin an image; got {tag_or_digest!r}")
    if not _TAG_OR_DIGEST.fullmatch(tag_or_digest):
        raise ValueError(
            f"tag_or_digest must be a tag such as 1.4.2 or a digest such as sha256:0123…; got {tag_or_digest!r}"
        )


@checked
def check_writable_paths(paths: Sequence[str]) -> None:
    """Check the paths that an image writes to.

    :raises ValueError: None at all, one inside another; else as :func:`check_container_path`.
    """
    if not paths:
        raise ValueError("writable_paths must name at least one path, such as ['/tmp']; got none")
    for path in paths:
        check_container_path("writable path", path)
    for path in paths:
        around = [other for other in paths if PurePosixPath(path).is_relative_to(other)]
        if len(around) > 1:
            raise ValueError(f"writable paths {' and '.join(sorted(around))} overlap; leave out the inner one")


@checked
def check_container_path(what: str, path: str) -> None:
    """Check a path inside a container.

    :param what: What is there, for the message.
    :raises ValueError: Not absolute, the root, with a colon, or with what cannot be printed.
    """
    if not re.fullmatch(r"(/[^/:]+)+", path) or {".", ".."} & {*path.split("/")} or not path.isprintable():
        raise ValueError(f"{what} must be an absolute path below /, without : and .., such as /data; got {path!r}")


def _check_environment(environment: Mapping[str, str] | None) -> None:
    for name in environment or {}:
        if name in _CREDENTIALS:
            raise ValueError(
                f"environment must not hold {name}: it would be readable in the template and in Prefect's API; "
                "pass it as the api's ssm_secure_string or secrets_manager secret"
            )
        _check_variable_name(name)


def _check_variable_name(name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of an environment variable; use letters, digits and _, such as LOG_LEVEL"
        )


def _check_overrides(environment: Mapping[str, str] | None) -> None:
    size = len(json.dumps([{"name": name, "value": value} for name, value in (environment or {}).items()]))
    if size > _MAX_OVERRIDES:
        raise ValueError(
            f"environment takes {size} characters; a run is started with it, and ECS allows 8192 for that, of which "
            f"Prefect needs some: keep it below {_MAX_OVERRIDES}, and put the rest into the image or the bucket"
        )


@checked
def check_lazarus_settings(
    spot_attempts: int, max_reschedules: int, patience_seconds: float, reserved_concurrency: int | None = None
) -> None:
    """Check what Lazarus is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.Lazarus` documents.
    """
    if reserved_concurrency is not None and reserved_concurrency < 1:
        raise ValueError(
            f"reserved_concurrency must be 1 or more, as with 0 Lambda would never run Lazarus; got "
            f"{reserved_concurrency}. For none reserved use None"
        )
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


@checked
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


@checked
def check_server_settings(
    cpu: int,
    memory_mib: int,
    cpu_architecture: str,
    port: int,
    host_name: str | None,
    environment: Mapping[str, str] | None,
    database_ca_file: str | None = None,
) -> None:
    """Check what a Prefect server is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.PrefectServer` documents.
    """
    check_fargate_size(cpu, memory_mib)
    check_cpu_architecture(cpu_architecture)
    if not 1024 <= port <= 65535:
        raise ValueError(f"port must be from 1024 to 65535, such as Prefect's own 4200; got {port}")
    if host_name is not None and (not _HOST_NAME.fullmatch(host_name) or len(host_name) > _MAX_HOST_NAME):
        raise ValueError(
            "host_name must be two or more labels of lower-case letters, digits and hyphens, such as "
            f"prefect.acme.internal; got {host_name!r}"
        )
    for name in environment or {}:
        if name in _SERVER_VARIABLES:
            raise ValueError(
                f"environment must not hold {name}, which the server is given by database, auth_string or port: "
                "pass that instead"
            )
    _check_environment(environment)
    if database_ca_file is not None:
        check_container_path("database_ca_file", database_ca_file)


@checked
def check_database_settings(
    database_name: str, storage_gib: int, max_storage_gib: int, backup_days: float, zones: int
) -> None:
    """Check what the database of a Prefect server is made with.

    :param zones: Zones that its subnets are in.
    :raises ValueError: As :class:`~cdk_prefect_ecs.ServerDatabase` documents.
    """
    check_database_name(database_name)
    if not _MIN_DATABASE_GIB <= storage_gib <= max_storage_gib <= _MAX_DATABASE_GIB:
        raise ValueError(
            f"a database grows from storage_gib, at least {_MIN_DATABASE_GIB}, up to max_storage_gib, at most "
            f"{_MAX_DATABASE_GIB}; got {storage_gib} and {max_storage_gib}"
        )
    if not 1 <= backup_days <= _MAX_BACKUP_DAYS or backup_days % 1:
        raise ValueError(f"backup_retention must be whole days from 1 to {_MAX_BACKUP_DAYS}; got {backup_days:g} days")
    if zones < 2:
        raise ValueError(
            f"RDS takes subnets in at least two zones, also for a database in one; the network has {zones}"
        )


@checked
def check_database_name(database_name: str) -> None:
    """Check the name of a database.

    :raises ValueError: Not one that PostgreSQL takes without quotes.
    """
    if not _DATABASE_NAME.fullmatch(database_name):
        raise ValueError(
            "database_name must begin with a letter and have up to 63 letters, digits and _, such as prefect; "
            f"got {database_name!r}"
        )


@checked
def check_task_events_settings(visibility_seconds: float | None, oldest_seconds: float | None) -> None:
    """Check what the queue of task events is made with; None for a time that is known only at deploy.

    :raises ValueError: As :class:`~cdk_prefect_ecs.TaskEvents` documents.
    """
    if visibility_seconds is not None and (
        not 60 <= visibility_seconds <= _MAX_VISIBILITY_SECONDS or visibility_seconds % 1
    ):
        raise ValueError(
            "visibility_timeout must be whole seconds, at least a minute, which is the time-out of the function that "
            f"reads the queue, and at most 12 hours; got {visibility_seconds:g} seconds"
        )
    if oldest_seconds is not None and (oldest_seconds <= (visibility_seconds or 0) or oldest_seconds % 1):
        raise ValueError(
            "oldest_message_alarm must be whole seconds and longer than visibility_timeout, or one failed reading "
            f"would raise it; got {oldest_seconds:g} seconds"
        )


@checked
def check_days(name: str, days: float) -> None:
    """Check a time that S3 or ECR counts in days.

    :raises ValueError: Not whole days, fewer than one, or more than they count to.
    """
    if not 1 <= days <= _MAX_DAYS or days % 1:
        raise ValueError(
            f"{name} must be a whole number of days, 1 to {_MAX_DAYS}, as AWS counts in days; got {days:g} days"
        )
