"""Where the Prefect API is, and the credential for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from cdk_prefect_ecs.arguments import checked, checked_fields
from cdk_prefect_ecs.encryption import grant_key_use
from cdk_prefect_ecs.secret_references import check_secret_field
from cdk_prefect_ecs.security_groups import open_port
from cdk_prefect_ecs.settings import PREFECT_CLOUD_URL, check_api_url, check_cloud_id, check_parameter_name
from cdk_prefect_ecs.subnets import select_subnets

#: The same over PrivateLink. Source: "How to secure access over PrivateLink", Prefect documentation.
PRIVATE_PREFECT_CLOUD_URL: Final = "https://api.private.prefect.cloud/api"


class ApiSecret(Protocol):
    """A secret that the user stored and we only refer to: its value passes through no template.

    Made by :meth:`PrefectApi.ssm_secure_string` or :meth:`PrefectApi.secrets_manager`.
    """

    def value_from(self, scope: Construct) -> str:
        """What an ECS task definition names in ``secrets[].valueFrom``."""

    def ecs_secret(self, scope: Construct) -> ecs.Secret:
        """The secret for a container that CDK defines."""

    def grant(self, scope: Construct, grantee: iam.IGrantable, *, to_ecs_agent: bool) -> iam.Grant:
        """Grant reading this one secret: to the ECS agent, which injects it, or to a function."""

    def reference(self, scope: Construct) -> dict[str, str]:
        """How the functions of this library find the secret."""

    @property
    def service(self) -> str:
        """The AWS service that keeps it: ``ssm`` or ``secretsmanager``."""


@dataclass(frozen=True)
class _SsmSecureString:
    parameter_name: str
    encryption_key: kms.IKey | None

    def value_from(self, scope: Construct) -> str:
        return cdk.Stack.of(scope).format_arn(
            service="ssm", resource="parameter", resource_name=self.parameter_name.lstrip("/")
        )

    def ecs_secret(self, scope: Construct) -> ecs.Secret:
        return ecs.Secret.from_ssm_parameter(
            ssm.StringParameter.from_secure_string_parameter_attributes(
                scope,
                "ApiSecret",
                parameter_name=self.parameter_name,
                simple_name=not self.parameter_name.startswith("/"),
            )
        )

    def grant(self, scope: Construct, grantee: iam.IGrantable, *, to_ecs_agent: bool) -> iam.Grant:
        granted = iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["ssm:GetParameters" if to_ecs_agent else "ssm:GetParameter"],
            resource_arns=[self.value_from(scope)],
        )
        # The AWS-managed key aws/ssm needs no grant: its key policy lets SSM use it for every principal of the account.
        if self.encryption_key is None:
            return granted
        return granted.combine(grant_key_use(self.encryption_key, grantee, scope, service="ssm"))

    def reference(self, scope: Construct) -> dict[str, str]:
        return {"Kind": "SsmParameter", "Id": self.parameter_name}

    @property
    def service(self) -> str:
        return "ssm"


@dataclass(frozen=True)
class _SecretsManagerSecret:
    secret: secretsmanager.ISecret
    field: str | None

    def value_from(self, scope: Construct) -> str:
        return f"{self.secret.secret_arn}:{self.field}::" if self.field else self.secret.secret_arn

    def ecs_secret(self, scope: Construct) -> ecs.Secret:
        return ecs.Secret.from_secrets_manager(self._without_key(scope), self.field)

    def _without_key(self, scope: Construct) -> secretsmanager.ISecret:
        """To a secret with its key the CDK grants by the key's policy, whose stack would then depend on the role's."""
        if self.secret.encryption_key is None:
            return self.secret
        construct_id = f"Secret{self.secret.node.addr[-8:]}"
        made = scope.node.try_find_child(construct_id)
        if made is not None:
            return cast(secretsmanager.ISecret, made)
        return secretsmanager.Secret.from_secret_complete_arn(scope, construct_id, self.secret.secret_arn)

    def grant(self, scope: Construct, grantee: iam.IGrantable, *, to_ecs_agent: bool) -> iam.Grant:
        # Not grant_read, which adds DescribeSecret: neither the agent nor our functions call it.
        granted = iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["secretsmanager:GetSecretValue"],
            resource_arns=[self.secret.secret_arn],
        )
        if self.secret.encryption_key is None:
            return granted
        return granted.combine(grant_key_use(self.secret.encryption_key, grantee, scope, service="secretsmanager"))

    def reference(self, scope: Construct) -> dict[str, str]:
        reference = {"Kind": "SecretsManager", "Id": self.secret.secret_arn}
        return {**reference, "Field": self.field} if self.field else reference

    @property
    def service(self) -> str:
        return "secretsmanager"


@checked_fields
@dataclass(frozen=True)
class PrefectApi:
    """The Prefect API that the worker, flow runs and functions talk to.

    Make one with :meth:`cloud` or :meth:`self_hosted`.
    """

    url: str
    """URL of the API; ends in ``/api`` or, for Prefect Cloud, in the workspace."""
    secret: ApiSecret | None
    """The credential, by reference."""
    scheme: Literal["Bearer", "Basic"]
    """``Bearer`` for a Prefect Cloud API key, ``Basic`` for a server's ``user:password`` auth string."""
    vpc: ec2.IVpc | None = None
    """VPC from which the API can be reached, when it cannot be reached from everywhere."""
    vpc_subnets: ec2.SubnetSelection | None = None
    server: ec2.IConnectable | None = None
    """The server behind the API, when it is of this app: whoever calls the API is let in, and nobody else."""

    @staticmethod
    @checked
    def cloud(
        *,
        account_id: str,
        workspace_id: str,
        api_key: ApiSecret,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
    ) -> PrefectApi:
        """Use Prefect Cloud.

        :param account_id: Id of the Prefect Cloud account, a UUID; ``prefect cloud workspace ls`` and the address bar
            of the UI show it.
        :param workspace_id: Id of the workspace, a UUID.
        :param api_key: An API key, best of a service account, as :meth:`ssm_secure_string` or :meth:`secrets_manager`.
        :param vpc: VPC with an endpoint of Prefect Cloud's PrivateLink, which some plans have. Prefect Cloud is then
            ``api.private.prefect.cloud``, and the functions that call it are placed in the VPC, see
            :meth:`self_hosted`. Default: Prefect Cloud is reached over the internet.
        :param vpc_subnets: Subnets for these functions. Default: the VPC's private subnets.
        :raises ValueError: An id that is not a UUID; ``vpc_subnets`` without ``vpc``, or a selection without private
            subnets.
        """
        _check_subnets(vpc, vpc_subnets)
        for name, value in (("account_id", account_id), ("workspace_id", workspace_id)):
            if not cdk.Token.is_unresolved(value):
                check_cloud_id(name, value)
        base = PRIVATE_PREFECT_CLOUD_URL if vpc else PREFECT_CLOUD_URL
        url = f"{base}/accounts/{account_id}/workspaces/{workspace_id}"
        return PrefectApi(url, api_key, "Bearer", vpc, vpc_subnets)

    @staticmethod
    @checked
    def self_hosted(
        url: str,
        *,
        auth_string: ApiSecret | None = None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        server: ec2.IConnectable | None = None,
    ) -> PrefectApi:
        """Use a Prefect server of your own. One that this library makes brings its API along:
        :attr:`PrefectServer.api <cdk_prefect_ecs.PrefectServer.api>`.

        :param url: URL of its API, such as ``https://prefect.example.com/api``.
        :param auth_string: The server's ``PREFECT_SERVER_API_AUTH_STRING`` (``user:password``), as
            :meth:`ssm_secure_string` or :meth:`secrets_manager`. Default: the server asks for none.
        :param vpc: VPC from which a private server can be reached. The functions that call the API are placed in it;
            its subnets need a way, by NAT or endpoints, to SSM or Secrets Manager, S3 and, for Lazarus, ECS and
            CloudWatch Logs. In a :class:`~cdk_prefect_ecs.FlowNetwork` of the modes ``nat`` and ``endpoints`` they have
            it. Default: the functions reach the API over the internet.
        :param vpc_subnets: Subnets for these functions. Default: the VPC's private subnets.
        :param server: What answers at the URL, such as a load balancer of this app in ``vpc``: its security groups let
            in the worker, flow runs and functions at its default port. Default: it lets them in without this app.
        :raises ValueError: Not an http(s) URL that ends in ``/api``; a credential inside the URL; ``vpc_subnets``
            without ``vpc``, or a selection without private subnets; a ``server`` without ``vpc``, or one that has no
            default port.
        """
        _check_subnets(vpc, vpc_subnets)
        if not cdk.Token.is_unresolved(url):
            url = url.rstrip("/")
            check_api_url(url)
        if server is not None and vpc is None:
            raise ValueError("server lets in functions that are in its VPC; pass vpc too, or leave it out")
        if server is not None and server.connections.default_port is None:
            raise ValueError(
                "server has no default port at which callers could be let in; pass what has one, such as a listener or "
                "ec2.Connections(security_groups=[…], default_port=ec2.Port.tcp(4200))"
            )
        return PrefectApi(url, auth_string, "Basic", vpc, vpc_subnets, server)

    @staticmethod
    @checked
    def ssm_secure_string(parameter_name: str, *, encryption_key: kms.IKey | None = None) -> ApiSecret:
        """A secret in an SSM SecureString parameter, which you create yourself: CloudFormation cannot.

        ``aws ssm put-parameter --type SecureString --name NAME --value file://key.txt``, where ``key.txt`` has no line
        break at its end. Standard parameters are free.

        :param parameter_name: Name of the parameter, such as ``/prefect/api-key``.
        :param encryption_key: The key it is encrypted with, when it is not ``alias/aws/ssm``; those that read the
            parameter, and nobody else, are granted to decrypt with it, through SSM only.
        :raises ValueError: Not a valid parameter name, or one that is not known at synth.
        """
        if cdk.Token.is_unresolved(parameter_name):
            raise ValueError(
                "parameter_name must be known at synth: of a token nobody can tell whether the name begins with a "
                "slash, which its ARN leaves out; pass a plain string such as /prefect/api-key"
            )
        check_parameter_name(parameter_name)
        return _SsmSecureString(parameter_name, encryption_key)

    @staticmethod
    @checked
    def secrets_manager(secret: secretsmanager.ISecret, *, field: str | None = None) -> ApiSecret:
        """A secret in Secrets Manager ($0.40 a month each at list price).

        :param secret: The secret; import it by its complete ARN, the one that ends in six random characters.
        :param field: Field of a JSON secret. Default: the whole secret string.
        :raises ValueError: A secret that was imported by its name or a partial ARN, of which ECS finds no field and
            IAM no secret; a field without a name or with a colon in it.
        """
        if field is not None:
            check_secret_field(field)
        if secret.secret_full_arn is None:
            raise ValueError(
                f"secret {secret.secret_name!r} must be imported by its complete ARN, which ends in six random "
                "characters: secretsmanager.Secret.from_secret_complete_arn(…), or from_secret_attributes(…) if it has "
                "a key of its own"
            )
        return _SecretsManagerSecret(secret, field)

    @property
    def is_cloud(self) -> bool:
        """Whether this is Prefect Cloud."""
        return self.scheme == "Bearer"

    @property
    def secret_service(self) -> str | None:
        """The AWS service that keeps the credential; None without one."""
        return self.secret.service if self.secret else None

    @property
    def secret_variable(self) -> str:
        """The environment variable through which Prefect reads the secret."""
        return "PREFECT_API_KEY" if self.scheme == "Bearer" else "PREFECT_API_AUTH_STRING"

    def ecs_secrets(self, scope: Construct) -> dict[str, ecs.Secret]:
        """The secrets of a container that CDK defines."""
        return {self.secret_variable: self.secret.ecs_secret(scope)} if self.secret else {}

    def grant_inject_secret(self, scope: Construct, execution_role: iam.IGrantable) -> iam.Grant:
        """Grant the ECS agent's role injecting the credential into tasks."""
        return self._grant(scope, execution_role, to_ecs_agent=True)

    def grant_read_secret(self, scope: Construct, grantee: iam.IGrantable) -> iam.Grant:
        """Grant a function reading the credential."""
        return self._grant(scope, grantee, to_ecs_agent=False)

    def _grant(self, scope: Construct, grantee: iam.IGrantable, *, to_ecs_agent: bool) -> iam.Grant:
        if self.secret is None:
            return iam.Grant.drop(grantee, "the API asks for no credential")
        return self.secret.grant(scope, grantee, to_ecs_agent=to_ecs_agent)

    @checked
    def let_in(self, scope: Construct, caller: ec2.IConnectable, *, waiting: Construct | None = None) -> None:
        """Let somebody reach the server of this app that the API is; what this library makes does it by itself.

        :param scope: The construct that calls, or makes what calls.
        :param caller: Whose security groups are let in.
        :param waiting: What is not to be deployed before the server answers, and lets the caller in.
        """
        if self.server is None:
            return
        groups = caller.connections.security_groups
        for group in groups:
            # A caller's own stack depends on the server's, so the rule is made there. What callers and server share,
            # such as the network, was there before the server, whose stack depends on it.
            open_port(self.server, [group], "Prefect API", by_callers_stack=cdk.Stack.of(group) is cdk.Stack.of(scope))
        if waiting is not None:
            servers = [self.server] if isinstance(self.server, Construct) else []
            waiting.node.add_dependency(*servers, *groups)

    def function_reference(self, scope: Construct) -> dict[str, str] | None:
        """How the functions of this library find the credential; None without one."""
        return {**self.secret.reference(scope), "Scheme": self.scheme} if self.secret else None

    def key(self, scope: Construct) -> str:
        """Equal for two APIs that share URL and credential: what functions are shared by."""
        reference = cdk.Stack.of(scope).resolve([self.url, self.function_reference(scope)])
        return json.dumps(reference, sort_keys=True)


def _check_subnets(vpc: ec2.IVpc | None, vpc_subnets: ec2.SubnetSelection | None) -> None:
    if vpc is None:
        if vpc_subnets is not None:
            raise ValueError("vpc_subnets selects subnets of a VPC; pass vpc too, or leave it out")
        return
    if vpc_subnets is None and not (vpc.private_subnets or vpc.isolated_subnets):
        raise ValueError(
            "the functions that call the Prefect API are placed in private subnets of vpc, and it has none; a function "
            "in a public subnet reaches nothing outside its VPC. Use a FlowNetwork of mode 'nat' or 'endpoints', or "
            "leave out vpc if the API can be reached from the internet"
        )
    selected = select_subnets(vpc, vpc_subnets or ec2.SubnetSelection())
    if not selected.subnet_ids or selected.has_public:
        raise ValueError(
            "vpc_subnets must select private subnets, as a function in a public one reaches nothing outside its VPC; "
            f"got {'public ones' if selected.has_public else 'none'}"
        )
