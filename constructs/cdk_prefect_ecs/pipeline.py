"""Deployments from CI without access keys: a role that named jobs take with a token that their CI system signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_prefect_ecs.durations import seconds_of
from cdk_prefect_ecs.job_trust import JobTrust, check_deploy_settings, check_provider
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.roles import grant_actions

#: The roles of ``cdk bootstrap`` by what the CLI takes them for. Source: the CDK's bootstrap template.
_LOOKUP: Final = "lookup-role"
_DEPLOY: Final = "deploy-role"
_PUBLISH_FILES: Final = "file-publishing-role"
_PUBLISH_IMAGES: Final = "image-publishing-role"


@jsii.implements(iam.IGrantable)
class DeployRole(Construct):
    """Define the role with which jobs of a CI system run ``cdk deploy``, or ``cdk diff`` and nothing else.

    Creates a role that may take the roles that ``cdk bootstrap`` made, and nothing else, and the OIDC provider whose
    tokens it trusts; both are free. Who may take it is said by name: by issuer, audience and subject of a token that is
    good for one job. No access key is stored anywhere::

        deploy = DeployRole(
            stack,
            "Deploy",
            trust=JobTrust.github("acme/etl", environment="prod"),
            publishes_images=True,
        )
        DeployRole(
            stack,
            "Diff",
            trust=JobTrust.github("acme/etl", pull_requests=True),
            provider=deploy.provider,
            read_only=True,
        )

    Whoever deploys with the CDK has CloudFormation do whatever the bootstrap lets it do, which is everything unless it
    was given ``--cloudformation-execution-policies``: trust only jobs that run reviewed code. Whoever may look things
    up reads what AWS's ``ReadOnlyAccess`` reads, objects in buckets included, but nothing that KMS has to decrypt.

    As a grantee it stands for the jobs: :meth:`~cdk_prefect_ecs.PrefectExecutionLayer.grant_deploy_flows`.

    :param trust: The jobs that may take the role.
    :param provider: Provider of the issuer in this account, of which there can be one only: that of another
        ``DeployRole``, or an imported one, ``iam.OpenIdConnectProvider.from_open_id_connect_provider_arn(…)``. It has
        to list the audience. Default: one is made; a second one for the same issuer fails at deploy.
    :param account: Account that is deployed to. Another one than the stack's has to be bootstrapped with ``--trust``.
        Default: the stack's.
    :param regions: Regions that are deployed to. Default: the stack's.
    :param qualifier: Qualifier that they were bootstrapped with. Default: that of the app, ``hnb659fds`` unless its
        context says otherwise.
    :param read_only: Only look things up: ``cdk diff --method=template``, and ``cdk synth`` with lookups. Without
        ``--method=template`` a diff has CloudFormation make a change set, which takes the right to deploy; the CLI says
        so and falls back. Default: False.
    :param publishes_images: Whether images are built and pushed to ECR too, as those of ``FlowImage.from_asset`` are.
        Default: False.
    :param max_session_duration: How long one job may keep the role, 1 to 12 hours. The roles that it takes last an hour
        at most, as all that are taken by a role. Default: an hour.
    :raises ValueError: Jobs of pull requests without ``read_only``; ``publishes_images`` with ``read_only``; a provider
        of another issuer; an account, a region or a qualifier that cannot be one; no qualifier where the stack or the
        app was given a synthesizer; a duration that IAM does not take.
    """

    role: iam.Role
    """The role: its ARN is what the workflow names."""
    provider: iam.IOpenIdConnectProvider
    """Provider of the issuer, for further roles."""
    trust: JobTrust
    """The jobs that may take the role."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        trust: JobTrust,
        provider: iam.IOpenIdConnectProvider | None = None,
        account: str | None = None,
        regions: Sequence[str] | None = None,
        qualifier: str | None = None,
        read_only: bool = False,
        publishes_images: bool = False,
        max_session_duration: cdk.Duration | None = None,
    ) -> None:
        stack = cdk.Stack.of(scope)
        max_session_duration = max_session_duration or cdk.Duration.hours(1)
        account = stack.account if account is None else account
        regions = [stack.region] if regions is None else regions
        qualifier = stack.synthesizer.bootstrap_qualifier if qualifier is None else qualifier
        if qualifier is None:
            raise ValueError(
                "qualifier must be given where the stack or the app was given a synthesizer: nobody can read it there; "
                f"pass the one of cdk bootstrap, such as {cdk.DefaultStackSynthesizer.DEFAULT_QUALIFIER}"
            )
        check_deploy_settings(
            trust,
            account=account,
            regions=regions,
            qualifier=qualifier,
            read_only=read_only,
            publishes_images=publishes_images,
            session_seconds=seconds_of("max_session_duration", max_session_duration),
        )
        if provider is not None:
            check_provider(trust, provider.open_id_connect_provider_issuer)
        super().__init__(scope, construct_id)

        self.trust = trust
        self.provider = provider or iam.OidcProviderNative(
            self, "Provider", url=trust.issuer, client_ids=[trust.audience]
        )
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.WebIdentityPrincipal(self.provider.open_id_connect_provider_arn, trust.conditions),
            description="CI: cdk diff" if read_only else "CI: cdk deploy",
            max_session_duration=max_session_duration,
        )
        taken = [_LOOKUP]
        if not read_only:
            taken += [_DEPLOY, _PUBLISH_FILES, *([_PUBLISH_IMAGES] if publishes_images else [])]
        grant_actions(
            self.role,
            ["sts:AssumeRole"],
            [
                stack.format_arn(
                    service="iam",
                    region="",
                    account=account,
                    resource="role",
                    resource_name=f"cdk-{qualifier}-{name}-{account}-{region}",
                )
                for region in regions
                for name in taken
            ],
        )

    @property
    def role_arn(self) -> str:
        """ARN of the role."""
        return self.role.role_arn

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The role."""
        return self.role.grant_principal
