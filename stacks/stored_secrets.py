"""Where a secret is stored. What it is, no configuration says. Imports no CDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cdk_prefect_ecs.secret_references import check_secret_arn, check_secret_field
from cdk_prefect_ecs.settings import check_key_arn, check_parameter_name


@dataclass(frozen=True)
class SecureString:
    """A SecureString parameter in SSM; a standard one is free."""

    parameter: str
    key_arn: str | None = None
    """KMS key that it is encrypted with; None when it is ``alias/aws/ssm``."""

    def __post_init__(self) -> None:
        check_parameter_name(self.parameter)
        if self.key_arn is not None:
            check_key_arn(self.key_arn)


@dataclass(frozen=True)
class ManagedSecret:
    """A secret in Secrets Manager, or one field of it; $0.40 a month each at list price."""

    arn: str
    """The complete ARN, which ends in six random characters."""
    field: str | None = None
    """Field of a JSON secret; None for the whole secret."""
    key_arn: str | None = None
    """KMS key that it is encrypted with; None when it is ``aws/secretsmanager``."""

    def __post_init__(self) -> None:
        check_secret_arn(self.arn)
        if self.field is not None:
            check_secret_field(self.field)
        if self.key_arn is not None:
            check_key_arn(self.key_arn)


StoredSecret: TypeAlias = SecureString | ManagedSecret


def check_flow_secrets(secrets: Mapping[str, object]) -> None:
    """Check that variables name where their values are stored.

    :raises ValueError: Something else is there, such as a value. It is not shown.
    """
    for variable, stored in secrets.items():
        if not isinstance(stored, SecureString | ManagedSecret):
            raise ValueError(
                f"flow_secrets: {variable} must say where its value is stored, as SecureString('/…') or "
                "ManagedSecret('arn:…'), and never be the value itself"
            )
