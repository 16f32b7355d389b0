"""One environment: a stateful stack, a stateless one on top of it, and who may deploy them from CI."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import Construct

from cdk_prefect_ecs import RolePath
from stacks.config import EnvironmentConfig
from stacks.delivery import DeliveryStack
from stacks.execution import ExecutionStack
from stacks.foundation import FoundationStack


class PrefectStage(cdk.Stage):
    """Everything that one environment deploys."""

    def __init__(self, scope: Construct, construct_id: str, *, config: EnvironmentConfig) -> None:
        super().__init__(
            scope,
            construct_id,
            env=cdk.Environment(account=config.account, region=config.region),
            permissions_boundary=_boundary(config.permissions_boundary),
        )
        self.config = config
        self.foundation = FoundationStack(
            self,
            "Foundation",
            config=config,
            description=f"Prefect on ECS, {config.name}: network, bucket and log group (stateful)",
        )
        self.execution = ExecutionStack(
            self,
            "Execution",
            config=config,
            foundation=self.foundation,
            description=f"Prefect on ECS, {config.name}: cluster, work pool and worker (stateless)",
        )
        self.delivery = (
            DeliveryStack(
                self,
                "Delivery",
                config=config,
                deployed_by=config.deployed_by,
                layer=self.execution.layer,
                description=f"Prefect on ECS, {config.name}: roles of the workflows that deploy it (stateless)",
            )
            if config.deployed_by
            else None
        )
        for key, value in config.tags.items():
            cdk.Tags.of(self).add(key, value)
        if config.role_path:
            RolePath.of(self).apply(config.role_path)


def _boundary(policy: str | None) -> cdk.PermissionsBoundary | None:
    if policy is None:
        return None
    return (cdk.PermissionsBoundary.from_arn if policy.startswith("arn:") else cdk.PermissionsBoundary.from_name)(
        policy
    )
