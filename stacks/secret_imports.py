"""The library's and the CDK's view of stored secrets: references, through which no value passes."""

from __future__ import annotations

from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from cdk_prefect_ecs import ApiSecret, PrefectApi
from cdk_prefect_ecs.encryption import grant_key_use
from stacks.config import PoolConfig
from stacks.stored_secrets import ManagedSecret, StoredSecret


def api_secret(scope: Construct, stored: StoredSecret) -> ApiSecret:
    """The credential of the Prefect API."""
    key = _key(scope, "ApiSecretKey", stored)
    if isinstance(stored, ManagedSecret):
        secret = secretsmanager.Secret.from_secret_attributes(
            scope, "ApiSecret", secret_complete_arn=stored.arn, encryption_key=key
        )
        return PrefectApi.secrets_manager(secret, field=stored.field)
    return PrefectApi.ssm_secure_string(stored.parameter, encryption_key=key)


def flow_secrets(scope: Construct, pool: PoolConfig) -> dict[str, ecs.Secret]:
    """What ECS injects into the flow runs of a pool, by variable."""
    return {
        variable: _for_ecs(scope, f"FlowSecret-{pool.name}-{variable}", stored)
        for variable, stored in pool.flow_secrets.items()
    }


def grant_flow_secret_keys(scope: Construct, pool: PoolConfig, execution_role: iam.IRole) -> None:
    """Let ECS decrypt the flow secrets of a pool that have a key of their own; reading them it may."""
    for variable, stored in pool.flow_secrets.items():
        if key := _key(scope, f"FlowSecretKey-{pool.name}-{variable}", stored):
            service = "secretsmanager" if isinstance(stored, ManagedSecret) else "ssm"
            grant_key_use(key, execution_role, scope, service=service)


def _for_ecs(scope: Construct, construct_id: str, stored: StoredSecret) -> ecs.Secret:
    # Without their keys: to one that is imported, the CDK grants too much, or nothing at all.
    if isinstance(stored, ManagedSecret):
        return ecs.Secret.from_secrets_manager(
            secretsmanager.Secret.from_secret_complete_arn(scope, construct_id, stored.arn), stored.field
        )
    return ecs.Secret.from_ssm_parameter(
        ssm.StringParameter.from_secure_string_parameter_attributes(
            scope,
            construct_id,
            parameter_name=stored.parameter,
            simple_name=not stored.parameter.startswith("/"),
        )
    )


def _key(scope: Construct, construct_id: str, stored: StoredSecret) -> kms.IKey | None:
    return kms.Key.from_key_arn(scope, construct_id, stored.key_arn) if stored.key_arn else None
