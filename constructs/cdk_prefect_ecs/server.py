"""A Prefect server of one's own: the API, its scheduler and the UI, on ECS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

from cdk_prefect_ecs.api import ApiSecret, PrefectApi
from cdk_prefect_ecs.capacity import FARGATE
from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.database import ServerDatabase
from cdk_prefect_ecs.encryption import new_log_group
from cdk_prefect_ecs.image import FlowImage
from cdk_prefect_ecs.names import private_host_name
from cdk_prefect_ecs.network import FlowNetwork, add_service_endpoints, start_calls
from cdk_prefect_ecs.network_reach import secret_calls
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.required_policy import as_it_is, grantees
from cdk_prefect_ecs.roles import ecs_tasks, grant_start_tasks
from cdk_prefect_ecs.security_groups import open_port
from cdk_prefect_ecs.settings import check_server_settings
from cdk_prefect_ecs.task_definitions import mount_writable_paths, runtime_platform

#: Where a Prefect server listens. Source: "Settings reference", Prefect documentation.
DEFAULT_PORT: Final = 4200

# Answers without a credential, once the database has its tables. It does not look at the database again: a server whose
# database is away for a moment is not helped by being replaced. Source: prefect.server.api.server.
HEALTH_CHECK: Final = (
    "import os, urllib.request as r; "
    "r.urlopen('http://{PREFECT_SERVER_API_HOST}:{PREFECT_SERVER_API_PORT}/api/health'.format(**os.environ), timeout=4)"
)


@jsii.implements(ec2.IConnectable)
class PrefectServer(Construct):
    """Define a self-hosted Prefect server: its API, scheduler and UI, as an ECS service with a PostgreSQL database.

    Creates a service of one task on on-demand Fargate, its roles, log group and security group, a private DNS name in
    the VPC and, unless given, the credential and the database. By the month at list price in us-east-1: $18.02 for the
    task, $0.50 for the DNS name, $0.40 for the credential, and the :class:`~cdk_prefect_ecs.ServerDatabase`; in all
    $33.30. docs/server.md has what is in it, how to reach the UI, and upgrades::

        server = PrefectServer(stack, "Server", network=network)
        layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=server.api, network=network)

    Nobody is let in but who is connected. The layer's worker, flow runs and functions connect themselves; others, such
    as a bastion for the UI, are let in by ``server.connections.allow_default_port_from(bastion)``. The name is known in
    the VPC only, over HTTP: traffic inside of a VPC is not seen by others.

    There is one server, never on Spot: two would have to share their events by Redis, which Prefect Cloud or its Helm
    chart are made for. A deployment stops the old one before it starts the new one, as two versions must not write one
    database; workers and flow runs try again for a minute or two, and Lazarus has those go on that gave up.

    :param network: Network of the server, with private subnets: mode ``nat`` or ``endpoints``, or an existing VPC.
    :param database: Its database. Default: a new one in this stack, see :class:`~cdk_prefect_ecs.ServerDatabase`;
        better made in a stack of what is kept.
    :param auth_string: The credential that it asks for, ``user:password``, which you stored, as
        :meth:`PrefectApi.ssm_secure_string <cdk_prefect_ecs.PrefectApi.ssm_secure_string>` or
        :meth:`PrefectApi.secrets_manager <cdk_prefect_ecs.PrefectApi.secrets_manager>`. Default: a password is
        generated in Secrets Manager (:attr:`auth_secret`).
    :param cluster: Cluster of the service. Default: a new one, which costs nothing.
    :param image: Image with Prefect. Default: the official one with the tested version.
    :param execution_role: Role of the ECS agent. Default: a new one; see :class:`~cdk_prefect_ecs.RequiredPolicy` for
        what one of your own needs.
    :param task_role: Role of the server. Default: a new one without permissions, as the server calls nothing of AWS.
    :param log_group: Log group of the server; streams begin with ``server/``. Default: a new one that keeps a month and
        is retained.
    :param encryption_key: Key for what is made of log group, credential and database. Default: keys of AWS.
    :param host_name: Its private name, of which all but the first label becomes a private hosted zone of the VPC.
        Default: ``prefect.STACK-ID.internal``.
    :param port: Its port, 1024 to 65535. Default: 4200.
    :param cpu: CPU units. Default: 512.
    :param memory_mib: Memory in MiB; a server takes some 300 MB and more with many runs. Default: 1024.
    :param cpu_architecture: Architecture of the image; ARM64 costs a fifth less. Default: X86_64.
    :param database_ca_file: Path of RDS's certificate bundle in the image: the server then makes sure that it talks to
        its database. Default: the connection is encrypted, and the database's certificate not checked, as the official
        image does not have the bundle.
    :param environment: More settings of the server; no secrets. Default: none.
    :raises ValueError: A network without private subnets or that does not reach the image, a size that Fargate does not
        offer, a name or port that cannot be, an image of another architecture.
    """

    api: PrefectApi
    """Its API: pass it to the layer, or to each part of it."""
    host_name: str
    """Its name in the VPC."""
    database: ServerDatabase
    """Its database."""
    auth_secret: secretsmanager.Secret | None
    """The secret with the password that was generated; None where ``auth_string`` is given."""
    cluster: FlowCluster
    """Cluster of the service."""
    service: ecs.FargateService
    """The ECS service."""
    task_definition: ecs.FargateTaskDefinition
    """Its task definition."""
    execution_role: iam.IRole
    """Role of the ECS agent."""
    task_role: iam.IRole
    """Role of the server."""
    log_group: logs.ILogGroup
    """Its log group."""
    security_group: ec2.SecurityGroup
    """Its security group: lets in who is connected."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        network: FlowNetwork,
        database: ServerDatabase | None = None,
        auth_string: ApiSecret | None = None,
        cluster: FlowCluster | None = None,
        image: FlowImage | None = None,
        execution_role: iam.IRole | None = None,
        task_role: iam.IRole | None = None,
        log_group: logs.ILogGroup | None = None,
        encryption_key: kms.IKey | None = None,
        host_name: str | None = None,
        port: int = DEFAULT_PORT,
        cpu: int = 512,
        memory_mib: int = 1024,
        cpu_architecture: str = "X86_64",
        database_ca_file: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        check_server_settings(cpu, memory_mib, cpu_architecture, port, host_name, environment, database_ca_file)
        host_name = host_name or _default_host_name(scope, construct_id)
        image = image or FlowImage.default()
        image.check_runs_on(cpu_architecture)
        # Where tasks have private subnets, so have the functions; where they do not, the VPC may have some besides.
        subnets = None if network.assign_public_ip else ec2.SubnetSelection(subnets=list(network.subnets))
        url = f"http://{host_name}:{port}/api"
        network.check_reach(api=PrefectApi.self_hosted(url, vpc=network.vpc, vpc_subnets=subnets), image=image)
        super().__init__(scope, construct_id)

        self.host_name = host_name
        self.database = database or ServerDatabase(self, "Database", network=network, encryption_key=encryption_key)
        self.auth_secret = None
        if auth_string is None:
            self.auth_secret = self._new_auth_secret(encryption_key)
            auth_string = PrefectApi.secrets_manager(self.auth_secret)
        self.security_group = ec2.SecurityGroup(
            self, "SecurityGroup", vpc=network.vpc, description="Prefect server: its API to those that are connected"
        )
        self._connections = ec2.Connections(security_groups=[self.security_group], default_port=ec2.Port.tcp(port))
        self.api = PrefectApi(url, auth_string, "Basic", network.vpc, subnets, server=self)
        self.cluster = cluster or FlowCluster(self, "Cluster", vpc=network.vpc)
        self.log_group = log_group or new_log_group(
            self, "LogGroup", encryption_key=encryption_key, removal_policy=cdk.RemovalPolicy.RETAIN
        )
        self.execution_role = execution_role or iam.Role(
            self, "ExecutionRole", assumed_by=ecs_tasks(self), description="ECS agent: starts a Prefect server"
        )
        self.task_role = task_role or iam.Role(
            self, "TaskRole", assumed_by=ecs_tasks(self), description="Prefect server"
        )
        user, password = (PrefectApi.secrets_manager(self.database.secret, field=f) for f in ("username", "password"))
        for grantee in grantees(self, self.execution_role):
            grant_start_tasks(grantee, self, log_group=self.log_group, api=self.api, image=image)
            password.grant(self, grantee, to_ecs_agent=True)
        self.task_definition = ecs.FargateTaskDefinition(
            self,
            "TaskDefinition",
            cpu=cpu,
            memory_limit_mib=memory_mib,
            execution_role=as_it_is(self, self.execution_role),
            task_role=self.task_role,
            runtime_platform=runtime_platform(cpu_architecture),
        )
        container = self.task_definition.add_container(
            "server",
            image=image.container_image(),
            command=["prefect", "server", "start"],
            environment={
                "PREFECT_SERVER_API_HOST": "0.0.0.0",  # noqa: S104 - the security group lets in who is connected
                "PREFECT_SERVER_API_PORT": str(port),
                # Of the page that the UI is: by whatever name, and through whatever port, somebody came to it.
                "PREFECT_SERVER_UI_API_URL": "/api",
                "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
                "PREFECT_SERVER_DATABASE_HOST": self.database.host,
                "PREFECT_SERVER_DATABASE_PORT": self.database.port,
                "PREFECT_SERVER_DATABASE_NAME": self.database.database_name,
                **_tls_settings(database_ca_file),
                **_writable_settings(image),
                **network.environment,
                **(environment or {}),
            },
            secrets={
                "PREFECT_SERVER_API_AUTH_STRING": auth_string.ecs_secret(self),
                "PREFECT_SERVER_DATABASE_USER": user.ecs_secret(self),
                "PREFECT_SERVER_DATABASE_PASSWORD": password.ecs_secret(self),
            },
            port_mappings=[ecs.PortMapping(container_port=port)],
            logging=ecs.LogDrivers.aws_logs(stream_prefix="server", log_group=self.log_group),
            health_check=ecs.HealthCheck(
                command=["CMD", "python", "-c", HEALTH_CHECK],
                interval=cdk.Duration.seconds(10),
                timeout=cdk.Duration.seconds(5),
                retries=6,
                # It answers once the tables are there: the first start makes them all, and an upgrade may take long.
                start_period=cdk.Duration.seconds(300),
            ),
            stop_timeout=cdk.Duration.seconds(30),
            readonly_root_filesystem=True if image.writable_paths is not None else None,
        )
        mount_writable_paths(self.task_definition, container, image)
        label, _, zone = host_name.partition(".")
        self.service = ecs.FargateService(
            self,
            "Service",
            cluster=self.cluster.cluster,
            task_definition=self.task_definition,
            desired_count=1,
            # Never on Spot. In a cluster with capacity providers this must be said, or its default would decide.
            capacity_provider_strategies=[ecs.CapacityProviderStrategy(capacity_provider=FARGATE, weight=1)]
            if self.cluster.capacity_providers
            else None,
            vpc_subnets=ec2.SubnetSelection(subnets=list(network.subnets)),
            security_groups=[self.security_group],
            assign_public_ip=network.assign_public_ip,
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            # The old server is gone before the new one starts and moves the tables to its version.
            min_healthy_percent=0,
            max_healthy_percent=100,
            cloud_map_options=ecs.CloudMapOptions(
                cloud_map_namespace=servicediscovery.PrivateDnsNamespace(
                    self, "Namespace", name=zone, vpc=network.vpc, description="Name of a Prefect server"
                ),
                name=label,
                dns_record_type=servicediscovery.DnsRecordType.A,
                dns_ttl=cdk.Duration.seconds(10),
            ),
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            enable_ecs_managed_tags=True,
        )
        calls = [*start_calls(image, self.api), *secret_calls("secretsmanager")]
        add_service_endpoints(network, self.security_group, calls)
        open_port(self.database, [self.security_group], "Prefect server", by_callers_stack=True)
        self.service.node.add_dependency(self.execution_role, network.connectivity, self.database, self.security_group)

    @property
    def connections(self) -> ec2.Connections:
        """The server's connections: ``server.connections.allow_default_port_from(bastion)``."""
        return self._connections

    def _new_auth_secret(self, encryption_key: kms.IKey | None) -> secretsmanager.Secret:
        return secretsmanager.Secret(
            self,
            "AuthString",
            description=f"Password of the Prefect server {self.host_name}, without a user name",
            encryption_key=encryption_key,
            generate_secret_string=secretsmanager.SecretStringGenerator(password_length=40, exclude_punctuation=True),
        )


def _default_host_name(scope: Construct, construct_id: str) -> str:
    stack = cdk.Stack.of(scope)
    inside = [node.node.id for node in scope.node.scopes[len(stack.node.scopes) :]]
    # CloudFormation names a nested stack at deploy.
    unnamed = cdk.Token.is_unresolved(stack.stack_name)
    return private_host_name(cdk.Names.unique_id(stack) if unnamed else stack.stack_name, *inside, construct_id)


def _tls_settings(ca_file: str | None) -> dict[str, str]:
    """How the server makes sure of its database. Source: prefect.settings.models.server.database."""
    if ca_file is None:
        return {}
    prefix = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS"
    return {f"{prefix}_ENABLED": "true", f"{prefix}_CA_FILE": ca_file}


def _writable_settings(image: FlowImage) -> dict[str, str]:
    """Where the server may write: it unpacks the UI into its own package, which a read-only root does not let it."""
    if image.writable_paths is None:
        return {}
    return {"PREFECT_SERVER_UI_STATIC_DIRECTORY": f"{image.writable_paths[0].rstrip('/')}/prefect-ui"}
