"""The database of a Prefect server: all that it remembers."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.network import FlowNetwork
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.settings import check_database_name, check_database_settings

POSTGRES_PORT: Final = 5432
DEFAULT_DATABASE_NAME: Final = "prefect"
DEFAULT_DATABASE_TYPE: Final = "t4g.micro"
_USER: Final = "prefect"


@jsii.implements(ec2.IConnectable)
class ServerDatabase(Construct):
    """Define the PostgreSQL database of a :class:`~cdk_prefect_ecs.PrefectServer`: an RDS instance that belongs into a
    stack of what is kept.

    Creates an instance with encrypted storage that grows, daily backups and protection against deletion, a security
    group that lets in nobody until a server comes, and a user with a generated password in Secrets Manager: no template
    holds it. It has no public address, and refuses connections without TLS (RDS's own default, ``rds.force_ssl``).
    By the month at list price in us-east-1: $11.68 for a db.t4g.micro, $2.30 for 20 GiB, $0.40 for the secret;
    ``multi_az`` doubles all but the secret. Backups as large as the storage are free.

    :param network: Network of the server; the instance is in its subnets.
    :param database_name: Name of the database. Default: prefect.
    :param instance_type: Type of the instance, without ``db.``. Default: t4g.micro (2 vCPU, 1 GiB), enough for some
        thousand task runs an hour.
    :param storage_gib: Storage in GiB, at least 20. Default: 20.
    :param max_storage_gib: The storage grows by itself up to this many GiB, and never shrinks. Default: 100.
    :param multi_az: Keep a standby in a second zone, which takes over within two minutes or so. Default: False; when
        its zone fails the instance is back when the zone is, or from a backup.
    :param backup_retention: Daily backups, and every moment in between, can be restored for this long, 1 to 35 days.
        Default: 7 days.
    :param encryption_key: Key of storage, backups and secret ($1 a month, and calls). Default: keys of AWS, free.
        Another key replaces the instance.
    :param deletion_protection: Whether RDS refuses to delete the instance, whoever asks. Default: True.
    :param removal_policy: What becomes of instance, secret and security group when they leave the stack. Default: they
        are retained. SNAPSHOT keeps a last snapshot of the instance.
    :raises ValueError: A name that PostgreSQL does not take, storage below 20 GiB or above its maximum, a retention
        that is not 1 to 35 whole days, subnets in one zone, or a ``removal_policy`` that deletes what
        ``deletion_protection`` keeps.
    """

    host: str
    """Address of the database."""
    port: str
    """Its port, as the server is told it."""
    database_name: str
    """Name of the database."""
    secret: secretsmanager.ISecret
    """Secret with the fields ``username`` and ``password``."""
    instance: rds.DatabaseInstance | None
    """The instance; None for an existing database."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        network: FlowNetwork,
        database_name: str = DEFAULT_DATABASE_NAME,
        instance_type: ec2.InstanceType | None = None,
        storage_gib: int = 20,
        max_storage_gib: int = 100,
        multi_az: bool = False,
        backup_retention: cdk.Duration | None = None,
        encryption_key: kms.IKey | None = None,
        deletion_protection: bool = True,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        backup_retention = backup_retention or cdk.Duration.days(7)
        if backup_retention.is_unresolved():
            raise ValueError("backup_retention must be known at synth; got a token")
        check_database_settings(
            database_name,
            storage_gib,
            max_storage_gib,
            backup_retention.to_days(integral=False),
            len({subnet.availability_zone for subnet in network.subnets}),
        )
        if deletion_protection and removal_policy in (cdk.RemovalPolicy.DESTROY, cdk.RemovalPolicy.SNAPSHOT):
            raise ValueError(
                f"removal_policy {removal_policy.name} deletes the database, which deletion_protection refuses; set "
                "deletion_protection=False too to lose it with the stack, or neither to keep it"
            )
        super().__init__(scope, construct_id)

        security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=network.vpc,
            description="Database of a Prefect server: the server, and nobody else",
            allow_all_outbound=False,
        )
        self._connections = _connections(security_group)
        self.secret = rds.DatabaseSecret(self, "Secret", username=_USER, encryption_key=encryption_key)
        keeps = removal_policy not in (cdk.RemovalPolicy.DESTROY, cdk.RemovalPolicy.SNAPSHOT)
        # What the instance is kept with: its password, and the group that it is in, which could not be deleted.
        for resource in (self.secret, security_group):
            resource.apply_removal_policy(cdk.RemovalPolicy.RETAIN if keeps else cdk.RemovalPolicy.DESTROY)
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            # Prefect takes PostgreSQL 14.9 and newer. No minor version, as RDS moves on to those by itself. Source:
            # "How to scale self-hosted Prefect", Prefect documentation.
            engine=rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_17),
            instance_type=instance_type or ec2.InstanceType(DEFAULT_DATABASE_TYPE),
            vpc=network.vpc,
            vpc_subnets=ec2.SubnetSelection(subnets=list(network.subnets)),
            publicly_accessible=False,
            security_groups=[security_group],
            credentials=rds.Credentials.from_secret(self.secret, _USER),
            database_name=database_name,
            allocated_storage=storage_gib,
            # RDS takes one that is not larger for a mistake.
            max_allocated_storage=max_storage_gib if max_storage_gib > storage_gib else None,
            storage_type=rds.StorageType.GP3,
            storage_encrypted=True,
            storage_encryption_key=encryption_key,
            multi_az=multi_az,
            backup_retention=backup_retention,
            copy_tags_to_snapshot=True,
            auto_minor_version_upgrade=True,
            deletion_protection=deletion_protection,
            removal_policy=removal_policy,
        )
        self.database_name = database_name
        self.host = self.instance.db_instance_endpoint_address
        self.port = self.instance.db_instance_endpoint_port

    @staticmethod
    @checked
    def from_existing(
        scope: Construct,
        construct_id: str,
        *,
        host: str,
        secret: secretsmanager.ISecret,
        port: int = POSTGRES_PORT,
        database_name: str = DEFAULT_DATABASE_NAME,
        security_group: ec2.ISecurityGroup | None = None,
    ) -> ServerDatabase:
        """Use an existing PostgreSQL database, such as one of Aurora, in this app or not.

        :param host: Address of the database.
        :param secret: Secret with the fields ``username`` and ``password`` of a user who owns the database: the server
            makes its tables, and the extension ``pg_trgm``. Import it by its complete ARN.
        :param port: Port of the database, known at synth. Default: 5432.
        :param database_name: Name of the database, which has to be there. Default: prefect.
        :param security_group: Its security group, which is to let in the server. Default: it lets the server in without
            this app.
        :raises ValueError: A host that is a URL, a name that PostgreSQL does not take without quotes, or a port that
            cannot be.
        """
        if not cdk.Token.is_unresolved(database_name):
            check_database_name(database_name)
        if not host or any(character.isspace() or character in "/@:" for character in host):
            raise ValueError(f"host must be a name or an address by itself, such as db.acme.internal; got {host!r}")
        if not 1 <= port <= 65535:
            raise ValueError(f"port must be from 1 to 65535; got {port}")
        return _ExistingDatabase(
            scope,
            construct_id,
            host=host,
            port=port,
            database_name=database_name,
            secret=secret,
            security_group=security_group,
        )

    @property
    def connections(self) -> ec2.Connections:
        """The database's connections; the server lets itself in."""
        return self._connections


class _ExistingDatabase(ServerDatabase):
    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        host: str,
        port: int,
        database_name: str,
        secret: secretsmanager.ISecret,
        security_group: ec2.ISecurityGroup | None,
    ) -> None:
        Construct.__init__(self, scope, construct_id)
        self._connections = _connections(*([security_group] if security_group else []), port=port)
        self.instance = None
        self.host = host
        self.port = str(port)
        self.database_name = database_name
        self.secret = secret


def _connections(*security_groups: ec2.ISecurityGroup, port: int = POSTGRES_PORT) -> ec2.Connections:
    return ec2.Connections(security_groups=list(security_groups), default_port=ec2.Port.tcp(port))
