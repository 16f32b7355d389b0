"""``secrets`` of a container definition: fetched before the start, with the execution role's rights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from embedded.emulator import credentials
from embedded.emulator.inner import account_and_region, arn_of, kms, secretsmanager, ssm

_SECRET_ARN_PARTS = 7
_AWS_MANAGED_KEYS = ("alias/aws/ssm", "alias/aws/secretsmanager")


class SecretUnavailableError(Exception):
    """The task cannot start; the message is what AWS puts after ``ResourceInitializationError:``."""


@dataclass(frozen=True)
class SecretReference:
    """What ``valueFrom`` points to: an SSM parameter, or a (field of a) Secrets Manager secret."""

    service: str
    identifier: str
    field: str = ""
    stage: str = ""
    version: str = ""


def parse(value_from: str) -> SecretReference:
    """``arn:aws:secretsmanager:…:secret:NAME:field:stage:version``, or a parameter's ARN or name."""
    if not value_from.startswith("arn:aws:secretsmanager:"):
        return SecretReference("ssm", value_from)
    parts = value_from.split(":")
    field, stage, version = (*parts[_SECRET_ARN_PARTS:], "", "", "")[:3]
    return SecretReference("secretsmanager", ":".join(parts[:_SECRET_ARN_PARTS]), field, stage, version)


def fetch(value_from: str, session: credentials.RoleSession) -> str:
    reference = parse(value_from)
    return _from_ssm(reference, session) if reference.service == "ssm" else _from_secrets_manager(reference, session)


def _from_ssm(reference: SecretReference, session: credentials.RoleSession) -> str:
    identifier = reference.identifier
    parameter_arn = (
        identifier if identifier.startswith("arn:") else arn_of("ssm", f"parameter/{identifier.removeprefix('/')}")
    )
    problem = "unable to pull secrets or registry auth: unable to retrieve secrets from ssm"
    _require(session, "ssm:GetParameters", parameter_arn, problem)
    _, record = ssm._lookup_parameter(identifier, allow_arn_region=True, flexible_name=True)
    value = ssm.resolve_parameter_value(identifier, decrypt=True)
    if record is None or value is None:
        raise SecretUnavailableError(f"{problem}: invalid parameters: {identifier}")
    _require_key(session, record.get("KeyId") if record.get("Type") == "SecureString" else None, "ssm", problem)
    return str(value)


def _from_secrets_manager(reference: SecretReference, session: credentials.RoleSession) -> str:
    identifier = reference.identifier
    problem = "unable to pull secrets or registry auth: unable to retrieve secret from asm"
    _, record = secretsmanager._resolve(identifier, use_arn_scope=True)
    # Policies name the full ARN; the reference may lack its random suffix.
    arn = str(record["ARN"]) if record else identifier
    _require(session, "secretsmanager:GetSecretValue", arn, problem)
    value = secretsmanager.resolve_secret_string(identifier, reference.stage or "AWSCURRENT", reference.version or None)
    if record is None or value is None:
        raise SecretUnavailableError(
            f"{problem}: ResourceNotFoundException: Secrets Manager can't find the specified secret {identifier}."
        )
    _require_key(session, record.get("KmsKeyId"), "secretsmanager", problem)
    if not reference.field:
        return str(value)
    try:
        return str(json.loads(value)[reference.field])
    except (ValueError, KeyError, TypeError):
        # The value itself never appears in a message.
        raise SecretUnavailableError(
            f"{problem}: retrieved secret from Secrets Manager did not contain json key {reference.field}"
        ) from None


def _require(
    session: credentials.RoleSession,
    action: str,
    resource: str,
    problem: str,
    conditions: Mapping[str, str] | None = None,
) -> None:
    if why := credentials.denial(session, action, resource, conditions):
        raise SecretUnavailableError(f"{problem}: AccessDeniedException: {why}")


def _require_key(session: credentials.RoleSession, key_id: str | None, service: str, problem: str) -> None:
    """A customer's key needs kms:Decrypt as well; AWS's own keys come with the service."""
    if not key_id or key_id in _AWS_MANAGED_KEYS:
        return
    key = kms._resolve_key(key_id)
    _, region = account_and_region()
    # CDK's grants allow the key only by way of the service.
    conditions = {"kms:ViaService": f"{service}.{region}.amazonaws.com"}
    _require(session, "kms:Decrypt", str(key["Arn"]) if key else key_id, problem, conditions)
