"""Who deploys an environment from CI: the roles that workflows take, without access keys."""

from __future__ import annotations

from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_prefect_ecs import DeployRole, PrefectExecutionLayer
from stacks.config import BUILT_IMAGES, EnvironmentConfig, GitHubConfig

#: A deployment waits for workers that become steady, and builds an image where there is one.
SESSION_HOURS: Final = 2


class DeliveryStack(cdk.Stack):
    """The roles of the workflows that deploy an environment and its flows, and that show what would change."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        config: EnvironmentConfig,
        deployed_by: GitHubConfig,
        layer: PrefectExecutionLayer,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        trust = deployed_by.deployments
        provider = None if deployed_by.makes_provider else self._provider_of_the_account(trust.provider_name)
        self.deploy = DeployRole(
            self,
            "Deploy",
            trust=trust,
            provider=provider,
            publishes_images=config.image in BUILT_IMAGES,
            max_session_duration=cdk.Duration.hours(SESSION_HOURS),
        )
        layer.grant_deploy_flows(self.deploy)
        self.diff = (
            DeployRole(self, "Diff", trust=deployed_by.pull_requests, provider=self.deploy.provider, read_only=True)
            if deployed_by.diff_on_pull_requests
            else None
        )

        cdk.CfnOutput(
            self,
            "DeployRoleArn",
            value=self.deploy.role_arn,
            description=f"Role of the jobs {trust.subject}: the variable DEPLOY_ROLE_ARN of that environment on GitHub",
        )
        if self.diff is not None:
            cdk.CfnOutput(
                self,
                "DiffRoleArn",
                value=self.diff.role_arn,
                description=f"Role of the jobs {self.diff.trust.subject}: the variable DIFF_ROLE_ARN of the repository",
            )

    def _provider_of_the_account(self, name: str) -> iam.IOpenIdConnectProvider:
        arn = self.format_arn(service="iam", region="", resource="oidc-provider", resource_name=name)
        return iam.OpenIdConnectProvider.from_open_id_connect_provider_arn(self, "Provider", arn)
