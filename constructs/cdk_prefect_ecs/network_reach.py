"""What tasks have to reach: AWS services, a registry, the Prefect API. Pure rules: imports no CDK."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class ServiceCall:
    """An AWS service that something in the network calls.

    :param service: Name of the service's interface endpoint, without ``com.amazonaws.REGION``.
    :param reason: What it is called for; becomes a tag of the endpoint.
    :param every_zone: Whether the endpoint is in every zone. One is enough for what nothing waits for. Default: True.
    """

    service: str
    reason: str
    every_zone: bool = True


# S3 is not among them: its gateway endpoint is free and always there. STS is not: tasks get their role's credentials
# from the ECS agent. Nor are ecs-agent and ecs-telemetry, which Fargate reaches by itself. Source: "Amazon ECS
# interface VPC endpoints", Amazon ECS Developer Guide.
#
# KMS is not, not even with a key of one's own: SSM and Secrets Manager call it themselves. Sources: "AWS KMS encryption
# for AWS Systems Manager Parameter Store SecureString parameters", AWS Systems Manager User Guide; "Secret encryption
# and decryption in AWS Secrets Manager", AWS Secrets Manager User Guide.
#
# Nor is elasticfilesystem, which serves the API of EFS only. A mount is NFS over TLS to a mount target in the VPC,
# found in the VPC's own DNS; with IAM authorization the client's certificate holds a signature by the task's role,
# which the mount helper makes without a call. It asks the API for an address only where the name is not resolved.
# Sources: "Working with interface VPC endpoints in Amazon EFS", Amazon EFS User Guide; github.com/aws/efs-utils,
# mount_efs/dns_resolver.py and efs_utils_common/certificate_utils.py.
_IMAGE: Final = (
    ServiceCall("ecr.api", "ECS asks where the layers of the image are"),
    ServiceCall("ecr.dkr", "ECS pulls the image"),
)
_LOG: Final = ServiceCall("logs", "ECS writes the log of worker and flow runs")
_SECRETS: Final = {
    "ssm": ServiceCall("ssm", "The credential of the Prefect API is an SSM parameter"),
    "secretsmanager": ServiceCall("secretsmanager", "A credential is in Secrets Manager"),
}
_FLOW_SECRETS: Final = {
    "ssm": ServiceCall("ssm", "A secret of flow runs is an SSM parameter"),
    "secretsmanager": ServiceCall("secretsmanager", "A secret of flow runs is in Secrets Manager"),
}
_ECS: Final = ServiceCall("ecs", "The worker and Lazarus start and stop and look at tasks")
_OBSERVER: Final = ServiceCall(
    "sqs", "The observer of prefect-aws looks once for a queue that does not exist", every_zone=False
)
_CLUSTERS: Final = (
    _ECS,
    ServiceCall("ec2", "Flow runs ask for the addresses of their Dask schedulers"),
)
_EXEC: Final = ServiceCall("ssmmessages", "ECS Exec into the worker")


def task_calls(
    *, image_in_ecr: bool, secret_service: str | None, registry_secret: bool = False
) -> tuple[ServiceCall, ...]:
    """What ECS calls, from within the network, to start any task of ours.

    :param image_in_ecr: Whether the image is in a private ECR repository.
    :param secret_service: ``ssm`` or ``secretsmanager``, where the API's credential is; None without one.
    :param registry_secret: Whether the image's registry asks for a credential. Default: False.
    """
    return (
        *(_IMAGE if image_in_ecr else ()),
        *secret_calls("secretsmanager" if registry_secret else None),
        _LOG,
        *secret_calls(secret_service),
    )


def worker_calls(*, enable_execute_command: bool) -> tuple[ServiceCall, ...]:
    """What a worker calls itself."""
    return (_ECS, _OBSERVER, *((_EXEC,) if enable_execute_command else ()))


def secret_calls(secret_service: str | None) -> tuple[ServiceCall, ...]:
    """What it takes to read the API's credential: all that the function of a work pool calls."""
    return (_SECRETS[secret_service],) if secret_service else ()


def flow_secret_calls(actions: Iterable[str]) -> tuple[ServiceCall, ...]:
    """What ECS calls to inject secrets into flow runs.

    :param actions: What the ECS agent's role is granted to read them, such as ``ssm:GetParameters``.
    """
    services = {action.partition(":")[0] for action in actions}
    return tuple(call for service, call in _FLOW_SECRETS.items() if service in services)


def lazarus_calls(*, secret_service: str | None) -> tuple[ServiceCall, ...]:
    """What Lazarus calls."""
    return (_ECS, _LOG, *secret_calls(secret_service))


def dask_calls() -> tuple[ServiceCall, ...]:
    """What flow runs call to open Dask clusters."""
    return _CLUSTERS


def endpoint_zones(calls: Sequence[ServiceCall], zones: int) -> int:
    """Interface endpoints for these calls, each counted once for every zone it is in: what AWS bills."""
    everywhere = {call.service for call in calls if call.every_zone}
    return zones * len(everywhere) + len({call.service for call in calls} - everywhere)


def check_host_reach(mode: str | None) -> None:
    """Check that a worker host in a network of this mode can be set up.

    :param mode: As :attr:`FlowNetwork.mode <cdk_prefect_ecs.FlowNetwork.mode>`.
    :raises ValueError: ``endpoints``.
    """
    if mode == "endpoints":
        raise ValueError(
            "a worker host installs Prefect from PyPI, which a network in mode 'endpoints' does not reach; "
            "use a worker service there, or mode 'public' or 'nat'"
        )


_PUBLIC_REGISTRIES: Final = (
    "docker.io",
    "public.ecr.aws",
    "ghcr.io",
    "quay.io",
    "registry.gitlab.com",
    "mcr.microsoft.com",
)


def registry_on_the_internet(image: str) -> str | None:
    """The registry of an image when it can be reached over the internet only; None when that cannot be known.

    :param image: Reference of an image that is pulled without credentials, such as ``ghcr.io/acme/flows:1.4.2``.
    """
    host, slash, _ = image.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        return "docker.io"
    return host if host in _PUBLIC_REGISTRIES else None
