"""Findings of both policy packs at a Prefect server of the environment's own, and its database, that we accept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cdk_prefect_ecs import PrefectServer
from stacks.accepting import accept

_NIST: Final = "NIST.800.53.R5-"
_NOT_ROTATED: Final = "Server, worker and functions are told it when they start; it is changed as docs/server.md says."

DATABASE: Final[Mapping[str, str]] = {
    "AwsSolutions-RDS3": "One zone by default, as the server is in one at a time; multi_az=True has two.",
    f"{_NIST}RDSMultiAZSupport": "One zone by default, as the server is; multi_az=True has two.",
    "AwsSolutions-RDS11": "Another port would hide nothing: its security group lets in the server only.",
    f"{_NIST}RDSInBackupPlan": "RDS backs it up daily, with every moment in between, for backup_retention.",
    **dict.fromkeys(
        (f"{_NIST}RDSLoggingEnabled[LogExport::{log}]" for log in ("postgresql", "upgrade")),
        "Its log is on the instance for three days; RDS would export it to a group that it makes itself, and in which "
        "it is kept for ever.",
    ),
    f"{_NIST}RDSEnhancedMonitoringEnabled": "CloudWatch has CPU, memory and storage by the minute; more is billed as "
    "logs, and turned on at ServerDatabase.instance.",
}
#: Where it may be deleted: keep_data=False in the app.
UNPROTECTED: Final[Mapping[str, str]] = dict.fromkeys(
    ("AwsSolutions-RDS10", f"{_NIST}RDSInstanceDeletionProtectionEnabled"),
    "What this environment keeps goes with it (EnvironmentConfig.keep_data).",
)
SECRET: Final[Mapping[str, str]] = {
    "AwsSolutions-SMG4": _NOT_ROTATED,
    f"{_NIST}SecretsManagerRotationEnabled": _NOT_ROTATED,
}
#: Without an encryption_key.
SECRET_WITHOUT_KEY: Final[Mapping[str, str]] = {
    f"{_NIST}SecretsManagerUsingKMSKey": "Encrypted with a key of AWS; encryption_key has one of the account."
}
TASK_DEFINITION: Final[Mapping[str, str]] = {
    "AwsSolutions-ECS2": "The variables are addresses, names and settings; what is secret is injected from Secrets "
    "Manager."
}


def acknowledge_server(server: PrefectServer, *, keeps_data: bool, has_key: bool) -> None:
    """Acknowledge the findings at a server and its database that are as they should be."""
    instance = server.database.instance
    if instance is not None:
        accept(instance, DATABASE if keeps_data else {**DATABASE, **UNPROTECTED})
    for secret in (server.database.secret, server.auth_secret):
        if secret is not None:
            accept(secret, SECRET if has_key else {**SECRET, **SECRET_WITHOUT_KEY})
    accept(server.task_definition, TASK_DEFINITION)
