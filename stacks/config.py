"""What an environment is made from: frozen, validated values. Imports no CDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cdk_prefect_ecs.capacity import SpotPolicy
from cdk_prefect_ecs.instance_types import check_host_type
from cdk_prefect_ecs.job_trust import JobTrust
from cdk_prefect_ecs.network_modes import MAX_ZONES, MIN_ZONES, NETWORK_MODES, default_zone_count
from cdk_prefect_ecs.network_reach import check_host_reach, registry_on_the_internet
from cdk_prefect_ecs.queues import WorkQueue
from cdk_prefect_ecs.runbook import check_monitoring_settings
from cdk_prefect_ecs.settings import (
    DEFAULT_PATIENCE_SECONDS,
    PREFECT_CLOUD_URL,
    check_api_url,
    check_cloud_id,
    check_dask_settings,
    check_image_reference,
    check_key_arn,
    check_lazarus_settings,
    check_no_service_settings,
    check_permissions_boundary,
    check_role_path,
    check_server_settings,
    check_work_pool_settings,
    check_worker_settings,
)
from stacks.stored_secrets import ManagedSecret, SecureString, StoredSecret, check_flow_secrets

_NAME = re.compile(r"[a-z][a-z0-9]*")
_ACCOUNT = re.compile(r"\d{12}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_TOPIC_ARN = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")
_VPC_ID = re.compile(r"vpc-[0-9a-f]{8,17}")

#: Where a server of the environment's own listens.
SERVER_PORT = 4200

#: The setting `network` for the account's default VPC.
DEFAULT_VPC = "default-vpc"

#: Images that are built from docker/flow when an environment is deployed: the stage of the Dockerfile.
BUILT_IMAGES = {"build": "default", "build-with-flows": "baked"}

#: The setting `encryption_key` for a key that is made with the environment.
OWN_KEY = "own"

#: What the environments ship with until somebody puts in their own.
PLACEHOLDER_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class CloudApi:
    """A workspace in Prefect Cloud."""

    account_id: str
    workspace_id: str
    api_key_parameter: str | None = None
    """SSM SecureString with the API key."""
    parameter_key_arn: str | None = None
    """KMS key of that parameter; None when it is ``alias/aws/ssm``."""
    api_key_secret: ManagedSecret | None = None
    """The same in Secrets Manager, in place of ``api_key_parameter``."""

    def __post_init__(self) -> None:
        check_cloud_id("account_id", self.account_id)
        check_cloud_id("workspace_id", self.workspace_id)
        if self.credential is None:
            raise ValueError("Prefect Cloud wants an API key: name its api_key_parameter or its api_key_secret")

    @property
    def url(self) -> str:
        """URL of the workspace in the API."""
        return f"{PREFECT_CLOUD_URL}/accounts/{self.account_id}/workspaces/{self.workspace_id}"

    @property
    def credential(self) -> StoredSecret | None:
        """Where the API key is stored."""
        return _credential("api_key", self.api_key_parameter, self.parameter_key_arn, self.api_key_secret)

    @property
    def is_placeholder(self) -> bool:
        """Whether nobody has put in their own workspace yet."""
        return PLACEHOLDER_ID in (self.account_id, self.workspace_id)


@dataclass(frozen=True)
class SelfHostedApi:
    """A Prefect server of your own."""

    url: str
    auth_string_parameter: str | None = None
    """SSM SecureString with ``user:password``; None when the server asks for none."""
    private: bool = False
    """Whether it can be reached from within the VPC only: the functions that call it are then placed there."""
    parameter_key_arn: str | None = None
    """KMS key of that parameter; None when it is ``alias/aws/ssm``."""
    auth_string_secret: ManagedSecret | None = None
    """The same in Secrets Manager, in place of ``auth_string_parameter``."""

    is_placeholder: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_api_url(self.url)
        _credential("auth_string", self.auth_string_parameter, self.parameter_key_arn, self.auth_string_secret)

    @property
    def credential(self) -> StoredSecret | None:
        """Where the auth string is stored; None without one."""
        return _credential("auth_string", self.auth_string_parameter, self.parameter_key_arn, self.auth_string_secret)


@dataclass(frozen=True)
class OwnServer:
    """A Prefect server that is made with the environment, in its network; its database is with what is kept. A password
    is generated. docs/server.md has what it costs, and how people get there."""

    cpu: int = 512
    memory_mib: int = 1024
    multi_az: bool = False
    """Whether the database has a second instance, in another zone, for twice its price."""

    credential: None = field(default=None, init=False)
    is_placeholder: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_server_settings(self.cpu, self.memory_mib, "X86_64", SERVER_PORT, None, None)


def _credential(
    name: str, parameter: str | None, key_arn: str | None, secret: ManagedSecret | None
) -> StoredSecret | None:
    if parameter is not None and secret is not None:
        raise ValueError(f"{name}_parameter and {name}_secret are two places for one credential; leave one of them out")
    if parameter is not None:
        return SecureString(parameter, key_arn)
    if key_arn is not None:
        raise ValueError(f"parameter_key_arn is the key of {name}_parameter; set that too")
    return secret


@dataclass(frozen=True)
class WorkerConfig:
    """The workers of a pool: an ECS service, or one small EC2 instance."""

    count: int = 1
    max_count: int | None = None
    """Workers at most: the service adds some while they are busy. None: their number does not change."""
    cpu: int = 512
    memory_mib: int = 1024
    poll_seconds: int = 5
    host: str | None = None
    """Type of an EC2 instance, such as ``t4g.micro``, on which the one worker runs in place of the service; what shapes
    the service is left out then. docs/worker-host.md has prices and says which to take. None: an ECS service."""

    def __post_init__(self) -> None:
        if self.host is not None:
            of_a_service = ("count", "max_count", "cpu", "memory_mib")
            check_no_service_settings(
                "host", {name: (getattr(self, name), getattr(WorkerConfig, name)) for name in of_a_service}
            )
            check_host_type(self.host)
        check_worker_settings(
            self.cpu, self.memory_mib, "X86_64", self.count, self.poll_seconds, None, max_count=self.max_count
        )


@dataclass(frozen=True)
class DaskConfig:
    """Dask clusters that flow runs may open: the sizes of their tasks. docs/dask.md says what they cost."""

    scheduler_cpu: int = 1024
    scheduler_memory_mib: int = 4096
    worker_cpu: int = 4096
    worker_memory_mib: int = 16384
    idle_seconds: int = 300
    """A cluster with nothing to do for this long ends by itself."""

    def __post_init__(self) -> None:
        check_dask_settings(
            (self.scheduler_cpu, self.scheduler_memory_mib),
            (self.worker_cpu, self.worker_memory_mib),
            "X86_64",
            self.idle_seconds,
        )


@dataclass(frozen=True)
class MonitoringConfig:
    """What watches the environment: alarms, and a dashboard. docs/monitoring.md has what each alarm means and costs."""

    alarm_email: str | None = None
    """Address that alarms are told to, by a topic that is made for it; it is asked first."""
    alarm_topic_arn: str | None = None
    """An SNS topic of the environment's region in place of that, which lets CloudWatch publish. With neither, alarms
    only show in CloudWatch."""
    dashboard: bool = True
    longest_wait_minutes: int = 30
    """How long a run may be due without a worker taking it."""
    shortage: int = 10
    """Flow runs of a pool in an hour that are switched to on-demand, or find no machine, before that is an alarm."""
    leave_out: tuple[str, ...] = ()
    """Alarms to leave out, by their names in docs/monitoring.md."""
    runbook_url: str | None = None
    """Where your team has docs/monitoring.md: alarms and dashboard then lead there."""

    def __post_init__(self) -> None:
        check_monitoring_settings(
            self.alarm_email,
            has_topic=self.alarm_topic_arn is not None,
            has_key=False,
            leave_out=self.leave_out,
            shortage=self.shortage,
            wait_seconds=self.longest_wait_minutes * 60,
        )
        if self.alarm_topic_arn is not None and not _TOPIC_ARN.fullmatch(self.alarm_topic_arn):
            raise ValueError(
                "alarm_topic_arn must be the ARN of an SNS topic that is not FIFO, such as "
                f"arn:aws:sns:us-east-1:123456789012:on-call; got {self.alarm_topic_arn!r}"
            )

    @property
    def topic_region(self) -> str | None:
        """Region of the topic that is named."""
        return self.alarm_topic_arn.split(":")[3] if self.alarm_topic_arn else None


@dataclass(frozen=True)
class PoolConfig:
    """A work pool and the sizes of its flow runs."""

    name: str
    spot_policy: SpotPolicy = SpotPolicy.SPOT_WITH_FALLBACK
    cpu: int = 1024
    memory_mib: int = 2048
    storage_gib: int | None = None
    """Scratch disk of a flow run, 21 to 200 GiB; None: 20, which cost nothing."""
    concurrency_limit: int | None = None
    queues: tuple[WorkQueue, ...] = ()
    """Queues by priority; Prefect's own, named default, when there are none."""
    worker: WorkerConfig | None = None
    """Workers of this pool; None: as the environment's."""
    flow_secrets: Mapping[str, StoredSecret] = field(default_factory=lambda: MappingProxyType({}))
    """Variables that ECS injects into flow runs, and where their values are stored. docs/secrets.md."""
    spot_attempts: int = 2
    max_reschedules: int = 3
    patience_seconds: int = DEFAULT_PATIENCE_SECONDS
    """How long a run may be without a task before it is rescheduled."""
    reserved_concurrency: int | None = 1
    """Concurrent executions to reserve for Lazarus; None where the account's quota is too small, as in new accounts.
    That of the first pool counts: one Lazarus guards them all."""

    def __post_init__(self) -> None:
        check_lazarus_settings(self.spot_attempts, self.max_reschedules, self.patience_seconds)
        check_flow_secrets(self.flow_secrets)
        check_work_pool_settings(
            self.name,
            self.cpu,
            self.memory_mib,
            "X86_64",
            self.concurrency_limit,
            None,
            ephemeral_storage_gib=self.storage_gib,
            queues=self.queues,
            secret_names=self.flow_secrets,
        )


@dataclass(frozen=True)
class GitHubConfig:
    """A repository on GitHub whose workflows deploy an environment. docs/pipeline.md has the workflow."""

    repository: str
    """``OWNER/NAME`` as GitHub writes it; ``OWNER@ID/NAME@ID`` where subject claims are immutable."""
    environment: str
    """Environment on GitHub whose jobs deploy."""
    makes_provider: bool = False
    """Whether this environment makes GitHub's OIDC provider in its account. An account has one: of several environments
    in it the first makes it, and is the last to be destroyed."""
    diff_on_pull_requests: bool = True
    """Whether jobs of pull requests may take a role that reads, for ``cdk diff``."""

    def __post_init__(self) -> None:
        JobTrust.github(self.repository, environment=self.environment)

    @property
    def deployments(self) -> JobTrust:
        """The jobs that deploy."""
        return JobTrust.github(self.repository, environment=self.environment)

    @property
    def pull_requests(self) -> JobTrust:
        """The jobs of pull requests."""
        return JobTrust.github(self.repository, pull_requests=True)


@dataclass(frozen=True)
class EnvironmentConfig:
    """One environment.

    :param pool: The work pool.
    :param more_pools: Further work pools in the same cluster, each with workers of its own: a service or a host.
    :param worker: Workers of each pool that says nothing else; with a ``host``, each of these pools has one of its own.
    :param name: Short name, as in ``-c env=NAME``; lower-case letters and digits.
    :param region: AWS region.
    :param image: Image of worker and flow runs. None: the official one, pinned, which needs no builder. ``"build"``:
        docker/flow, built and published at deploy. ``"build-with-flows"``: the same with flows/ in it. Else a pinned
        reference of an image that can be pulled without credentials.
    :param network: How worker and flow runs reach the world: ``public``, ``nat`` or ``endpoints`` for a new VPC,
        ``default-vpc`` or the id of a VPC for an existing one. docs/network.md has prices and says which to take.
    :param zone_count: Zones of a new VPC. Spot capacity is per zone, so more are better. None: 3, or 2 where the region
        has no more.
    :param dask: Dask clusters that flow runs may open. None: they may not.
    :param monitoring: The alarms and the dashboard of the environment. None: Lazarus has its own alarms, and they
        only show in CloudWatch.
    :param account: AWS account id. None: the account of the credentials that deploy, so a slip of the profile deploys
        there; pin it for production.
    :param keep_data: Whether bucket and log group outlive their stack.
    :param termination_protection: Whether the foundation stack refuses to be deleted.
    :param log_retention_days: How long logs are kept.
    :param flow_logs: Whether a new VPC keeps flow logs.
    :param container_insights: Whether the cluster sends Container Insights metrics.
    :param execute_command: Whether ``aws ecs execute-command`` works into the workers that are ECS services. A host
        has Session Manager in any case.
    :param encryption_key: KMS key of bucket, logs and queues. ``"own"``: one that is made with the foundation, rotated
        every year, for $1 a month. The ARN of a key: that one, whose policy has to let in the services that
        docs/security.md names. None: the keys of AWS, which are free.
    :param access_logs: Whether S3 keeps a log of who did what with the bucket, in a second bucket.
    :param permissions_boundary: Managed policy that bounds what every role may do, by its name or ARN. None: no
        boundary.
    :param role_path: Path of every role, such as ``/data-platform/``. None: ``/``. docs/security.md has both.
    :param deployed_by: Workflows on GitHub that deploy this environment, without access keys: a third stack has their
        roles. None: nobody but who has credentials of the account.
    :param tags: Tags of everything.
    :raises ValueError: A value that cannot work; says which are allowed.
    """

    name: str
    region: str
    api: CloudApi | SelfHostedApi | OwnServer
    pool: PoolConfig
    more_pools: tuple[PoolConfig, ...] = ()
    worker: WorkerConfig = WorkerConfig()
    dask: DaskConfig | None = None
    monitoring: MonitoringConfig | None = None
    account: str | None = None
    image: str | None = None
    network: str = "public"
    zone_count: int | None = None
    keep_data: bool = True
    termination_protection: bool = False
    log_retention_days: int = 30
    flow_logs: bool = False
    container_insights: bool = True
    execute_command: bool = False
    encryption_key: str | None = None
    access_logs: bool = False
    permissions_boundary: str | None = None
    role_path: str | None = None
    deployed_by: GitHubConfig | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"environment name {self.name!r} must begin with a lower-case letter and hold only a-z and 0-9"
            )
        if not _REGION.fullmatch(self.region):
            raise ValueError(f"environment {self.name}: {self.region!r} is not a region; use one such as eu-west-1")
        if self.account is not None and not _ACCOUNT.fullmatch(self.account):
            raise ValueError(
                f"environment {self.name}: account {self.account!r} must be the 12 digits of an AWS account, or None"
            )
        if self.image is not None and self.image not in BUILT_IMAGES:
            try:
                check_image_reference(self.image)
            except ValueError as error:
                raise ValueError(
                    f"environment {self.name}: {error}; or use {', '.join(map(repr, BUILT_IMAGES))} or None"
                ) from error
        if not MIN_ZONES <= self.zones <= MAX_ZONES:
            raise ValueError(
                f"environment {self.name}: zone_count must be {MIN_ZONES} to {MAX_ZONES}, as Spot capacity is per "
                f"zone; got {self.zone_count}"
            )
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise ValueError(f"environment {self.name}: each pool has a name of its own; got {', '.join(names)}")
        self._check_network()
        self._check_hosts()
        if self.monitoring is not None and self.monitoring.topic_region not in (None, self.region):
            raise ValueError(
                f"environment {self.name}: alarms are told to topics of their own region, here {self.region}; got "
                f"{self.monitoring.alarm_topic_arn}"
            )
        if self.log_retention_days not in LOG_RETENTION_DAYS:
            raise ValueError(
                f"environment {self.name}: log_retention_days {self.log_retention_days} is not one that "
                f"CloudWatch Logs offers; use one of {', '.join(map(str, LOG_RETENTION_DAYS))}"
            )
        self._check_trust()
        if self.termination_protection and not self.keep_data:
            raise ValueError(
                f"environment {self.name}: termination_protection with keep_data=False contradicts itself; "
                "protect the stack and keep the data, or neither"
            )

    @property
    def pools(self) -> tuple[PoolConfig, ...]:
        """All work pools."""
        return (self.pool, *self.more_pools)

    def worker_of(self, pool: PoolConfig) -> WorkerConfig:
        """The workers of a pool: its own, or those of the environment."""
        return pool.worker or self.worker

    @property
    def stage_name(self) -> str:
        """What the names of its stacks begin with."""
        return f"Prefect{self.name.capitalize()}"

    @property
    def stack_names(self) -> tuple[str, str]:
        """Names of the stateful and the stateless stack."""
        return f"{self.stage_name}-Foundation", f"{self.stage_name}-Execution"

    def _check_trust(self) -> None:
        try:
            boundary_account = (
                check_permissions_boundary(self.permissions_boundary) if self.permissions_boundary else None
            )
            if self.role_path is not None:
                check_role_path(self.role_path)
            secrets = [self.api.credential, *(stored for pool in self.pools for stored in pool.flow_secrets.values())]
            for key in (self.encryption_key, *(stored.key_arn for stored in secrets if stored)):
                if key not in (None, OWN_KEY) and check_key_arn(key)[0] != self.region:
                    raise ValueError(f"a KMS key works in its own region only, here {self.region}; got {key}")
        except ValueError as error:
            raise ValueError(f"environment {self.name}: {error}") from None
        if None not in (self.account, boundary_account) and boundary_account != self.account:
            raise ValueError(
                f"environment {self.name}: a permissions boundary is a policy of the account {self.account} or of AWS; "
                f"got {self.permissions_boundary}"
            )

    def _check_network(self) -> None:
        where, network = f"environment {self.name}", self.network
        if network not in NETWORK_MODES:
            if network != DEFAULT_VPC and not _VPC_ID.fullmatch(network):
                raise ValueError(
                    f"{where}: network must be one of {', '.join(NETWORK_MODES)}, {DEFAULT_VPC} or the id of a VPC "
                    f"such as vpc-0123456789abcdef0; got {network!r}"
                )
            if self.account is None:
                raise ValueError(f"{where}: network {network} is looked up, which takes an account; set account too")
            if self.zone_count is not None or self.flow_logs:
                raise ValueError(f"{where}: zone_count and flow_logs are of a new VPC; network {network} has its own")
        if network == "endpoints" and isinstance(self.api, CloudApi):
            raise ValueError(
                f"{where}: network endpoints has no way to Prefect Cloud; use nat or public, or a server of your own"
            )
        if network == "endpoints" and self.image not in BUILT_IMAGES:
            registry = "docker.io" if self.image is None else registry_on_the_internet(self.image)
            if registry is not None:
                raise ValueError(
                    f"{where}: network endpoints has no way to {registry}, where the image is; use image='build', "
                    "which goes to ECR, or network nat"
                )
        private = isinstance(self.api, OwnServer) or (isinstance(self.api, SelfHostedApi) and self.api.private)
        if private and network in ("public", DEFAULT_VPC):
            raise ValueError(
                f"{where}: a private API is called by functions in the VPC, which reach no AWS service from the public "
                f"subnets of network {network}; use nat, endpoints or the id of a VPC"
            )

    def _check_hosts(self) -> None:
        where = f"environment {self.name}"
        hosted = [pool.name for pool in self.pools if self.worker_of(pool).host is not None]
        if not hosted:
            return
        try:
            check_host_reach(self.network)
        except ValueError as error:
            raise ValueError(f"{where}, pool {', '.join(hosted)}: {error}") from error
        if self.execute_command and len(hosted) == len(self.pools):
            raise ValueError(
                f"{where}: execute_command goes into ECS services, and every worker is a host; leave it out: "
                "Session Manager works (docs/worker-host.md)"
            )

    @property
    def zones(self) -> int:
        """Zones of a new VPC."""
        return default_zone_count(self.region) if self.zone_count is None else self.zone_count


#: Source: PutRetentionPolicy, Amazon CloudWatch Logs API Reference.
LOG_RETENTION_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)
