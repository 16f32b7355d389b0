"""All of it, with good defaults, in one construct."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aws_cdk as cdk
import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.capacity import (
    FARGATE,
    FARGATE_SPOT,
    FlowCapacity,
    SpotPolicy,
    check_architecture,
    default_spot_policy,
    flow_run_strategy,
)
from cdk_prefect_ecs.cluster import FlowCluster, fargate_capacity
from cdk_prefect_ecs.durations import seconds_of
from cdk_prefect_ecs.encryption import new_log_group
from cdk_prefect_ecs.image import FlowImage
from cdk_prefect_ecs.instance_types import check_host_type
from cdk_prefect_ecs.lazarus import Lazarus
from cdk_prefect_ecs.network import FlowNetwork
from cdk_prefect_ecs.network_reach import check_host_reach
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.queues import WorkQueue
from cdk_prefect_ecs.required_policy import grantees
from cdk_prefect_ecs.roles import ExecutionRole, FlowRole, WorkerRole, grant_actions, grant_start_tasks
from cdk_prefect_ecs.settings import (
    DEFAULT_PATIENCE_SECONDS,
    check_lazarus_settings,
    check_no_service_settings,
    check_work_pool_settings,
    check_worker_settings,
)
from cdk_prefect_ecs.storage import FlowStorage
from cdk_prefect_ecs.volumes import FlowVolume, check_volumes
from cdk_prefect_ecs.work_pool import WorkPool
from cdk_prefect_ecs.worker_host import WorkerHost
from cdk_prefect_ecs.worker_service import WorkerService


@dataclass(frozen=True)
class LayerPool:
    """A work pool that was added to a layer, and who serves it."""

    work_pool: WorkPool
    worker: WorkerService | WorkerHost
    """A service, or a host where ``worker_instance_type`` was given."""
    worker_role: iam.IRole


@dataclass(frozen=True)
class _Worker:
    """What the worker of one pool is made with."""

    cpu: int
    memory_mib: int
    count: int
    max_count: int | None
    poll_interval: cdk.Duration
    instance_type: ec2.InstanceType | None
    enable_execute_command: bool

    def check(self, cpu_architecture: str, network: FlowNetwork | None) -> None:
        """Check all of it before anything is made.

        :param network: Where it is to run. None: a new one, which a host can be set up in.
        """
        if self.instance_type is not None:
            check_no_service_settings(
                "worker_instance_type",
                {
                    "worker_cpu": (self.cpu, 512),
                    "worker_memory_mib": (self.memory_mib, 1024),
                    "worker_count": (self.count, 1),
                    "worker_max_count": (self.max_count, None),
                    "enable_execute_command": (self.enable_execute_command, False),
                },
            )
            check_host_type(self.instance_type.to_string())
            check_host_reach(network.mode if network else None)
        check_worker_settings(
            self.cpu,
            self.memory_mib,
            cpu_architecture,
            self.count,
            seconds_of("worker_poll_interval", self.poll_interval),
            None,
            max_count=self.max_count,
        )


@jsii.implements(ec2.IConnectable, iam.IGrantable)
class PrefectExecutionLayer(Construct):
    """Define a complete execution layer for Prefect: a work pool, its worker, and all that flow runs need on ECS.

    Creates, unless given: a VPC with public subnets and no NAT, a cluster with Fargate Spot, an encrypted bucket, a log
    group, three least-privilege roles, the work pool and an always-on worker service. At rest it costs the worker,
    about $18 a month in us-east-1; flow runs on Spot cost about a third of the on-demand price.

    As a grantee and connectable it stands for the flow runs::

        bucket.grant_read(layer.flow_role)
        db.connections.allow_default_port_from(layer)

    :param work_pool_name: Name of the work pool in Prefect.
    :param api: The Prefect API.
    :param network: Network of worker and flow runs; of a server of this app, the server's. Default: a new VPC, see
        :class:`~cdk_prefect_ecs.FlowNetwork`.
    :param cluster: Cluster of worker and flow runs. Default: a new one, see :class:`~cdk_prefect_ecs.FlowCluster`.
    :param storage: Bucket of flow code, results and data. Default: a new one, retained when it leaves the stack.
    :param log_group: Log group of worker and flow runs. Default: a new one that keeps a month and is retained.
    :param execution_role: Role of the ECS agent, assumed by ``ecs-tasks.amazonaws.com`` like the next two. Default: a
        new one, as for each of these roles; :class:`~cdk_prefect_ecs.RequiredPolicy` says what one of your own needs.
    :param worker_role: Role of the worker; of a worker on an instance, assumed by ``ec2.amazonaws.com``.
    :param flow_role: Role of the flow runs.
    :param lazarus_role: Role of Lazarus's function, assumed by ``lambda.amazonaws.com`` like the next one.
    :param sync_role: Role of the function behind the work pool; see :class:`~cdk_prefect_ecs.WorkPool`.
    :param encryption_key: Key for what is made of bucket, log groups and queues ($1 a month, and calls); each role may
        use it as far as it needs, and services as docs/security.md says, which the policy of an imported key has to
        allow itself. Default: keys of AWS, free.
    :param spot_policy: How flow runs use Spot. Default: Spot with fallback to on-demand.
    :param image: Image of worker and flow runs: so both sides always have the same versions. Default: the official one
        with the tested Prefect version.
    :param flow_cpu: CPU units of a flow run. Default: 1024.
    :param flow_memory_mib: Memory of a flow run in MiB. Default: 2048.
    :param flow_environment: More environment variables of flow runs; no secrets. Default: none.
    :param flow_secrets: Environment variables of flow runs that ECS injects from SSM or Secrets Manager. Default: none.
    :param flow_storage_gib: Scratch disk of a flow run, 21 to 200 GiB. Default: 20.
    :param flow_volumes: EFS file systems that flow runs mount. Default: none.
    :param flow_tags: Tags of every flow run's task. Default: none.
    :param concurrency_limit: How many flow runs may run at once. Default: no limit.
    :param queues: Queues of the work pool. Default: Prefect's own.
    :param worker_cpu: CPU units of a worker. Default: 512.
    :param worker_memory_mib: Memory of a worker in MiB. Default: 1024.
    :param worker_count: Workers to run. Default: 1.
    :param worker_max_count: Workers at most; see :class:`~cdk_prefect_ecs.WorkerService`. Default: no scaling.
    :param worker_poll_interval: How often the worker asks for runs that are due. Default: 5 seconds.
    :param worker_instance_type: Run the worker on one EC2 instance of this type, such as a t4g.micro, in place of the
        service: about $11 a month cheaper, see :class:`~cdk_prefect_ecs.WorkerHost`. Default: it is an ECS service.
    :param enable_execute_command: Allow ``aws ecs execute-command`` into the worker. Default: False.
    :param cpu_architecture: Architecture of the image; ARM64 costs a fifth less. Default: X86_64.
    :param lazarus: Whether :class:`~cdk_prefect_ecs.Lazarus` guards the pool. Without it, a run that is interrupted
        with notice reschedules itself; one whose task is killed, or never starts, is lost. Default: True.
    :param spot_attempts: Interruptions and capacity failures of one run before it is switched to on-demand. Default: 2.
    :param max_reschedules: How often one run is rescheduled for other failures of its infrastructure. Default: 3.
    :param patience: How long a run may be without a task before it is rescheduled. Default: 90 seconds.
    :param lazarus_reserved_concurrency: Concurrent executions to reserve for Lazarus. None where the account's quota
        is too small to reserve any, as in new accounts. Default: 1.
    :param delete_pool_with_deployments: Delete the pool with the stack even if deployments still use it.
        Default: False, such a pool is left.
    :raises ValueError: As the parts do; ``worker_instance_type`` together with what shapes the service. Nothing is made
        then.
    """

    network: FlowNetwork
    """Network of worker and flow runs."""
    cluster: FlowCluster
    """Cluster of worker and flow runs."""
    storage: FlowStorage
    """Bucket of flow code, results and data."""
    log_group: logs.ILogGroup
    """Log group of worker and flow runs."""
    execution_role: iam.IRole
    """Role of the ECS agent."""
    worker_role: iam.IRole
    """Role of the worker."""
    flow_role: iam.IRole
    """Role of the flow runs: grant it what your flows need."""
    work_pool: WorkPool
    """The work pool; of several, the first."""
    worker: WorkerService | WorkerHost
    """The worker of that pool: a service, or a host where ``worker_instance_type`` is given."""
    pools: dict[str, LayerPool]
    """The pools that :meth:`add_work_pool` has added, by name."""
    lazarus: Lazarus | None
    """The guard of all pools; None without one."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        work_pool_name: str,
        api: PrefectApi,
        network: FlowNetwork | None = None,
        cluster: FlowCluster | None = None,
        storage: FlowStorage | None = None,
        log_group: logs.ILogGroup | None = None,
        execution_role: iam.IRole | None = None,
        worker_role: iam.IRole | None = None,
        flow_role: iam.IRole | None = None,
        lazarus_role: iam.IRole | None = None,
        sync_role: iam.IRole | None = None,
        encryption_key: kms.IKey | None = None,
        spot_policy: SpotPolicy | None = None,
        image: FlowImage | None = None,
        flow_cpu: int = 1024,
        flow_memory_mib: int = 2048,
        flow_environment: Mapping[str, str] | None = None,
        flow_secrets: Mapping[str, ecs.Secret] | None = None,
        flow_storage_gib: int | None = None,
        flow_volumes: Sequence[FlowVolume] = (),
        flow_tags: Mapping[str, str] | None = None,
        concurrency_limit: int | None = None,
        queues: Sequence[WorkQueue] = (),
        worker_cpu: int = 512,
        worker_memory_mib: int = 1024,
        worker_count: int = 1,
        worker_max_count: int | None = None,
        worker_poll_interval: cdk.Duration | None = None,
        worker_instance_type: ec2.InstanceType | None = None,
        enable_execute_command: bool = False,
        cpu_architecture: str = "X86_64",
        lazarus: bool = True,
        spot_attempts: int = 2,
        max_reschedules: int = 3,
        patience: cdk.Duration | None = None,
        lazarus_reserved_concurrency: int | None = 1,
        delete_pool_with_deployments: bool = False,
    ) -> None:
        # What the parts check, checked before any of them is made: an error leaves no half-built tree.
        check_work_pool_settings(
            work_pool_name,
            flow_cpu,
            flow_memory_mib,
            cpu_architecture,
            concurrency_limit,
            flow_environment,
            ephemeral_storage_gib=flow_storage_gib,
            queues=queues,
            secret_names=flow_secrets or {},
            tags=flow_tags,
        )
        worker = _Worker(
            cpu=worker_cpu,
            memory_mib=worker_memory_mib,
            count=worker_count,
            max_count=worker_max_count,
            poll_interval=worker_poll_interval or cdk.Duration.seconds(5),
            instance_type=worker_instance_type,
            enable_execute_command=enable_execute_command,
        )
        worker.check(cpu_architecture, network)
        patience = patience or cdk.Duration.seconds(DEFAULT_PATIENCE_SECONDS)
        check_lazarus_settings(
            spot_attempts, max_reschedules, seconds_of("patience", patience), lazarus_reserved_concurrency
        )
        providers = cluster.capacity_providers if cluster else (FARGATE, FARGATE_SPOT)
        capacity = cluster.fargate if cluster else fargate_capacity(providers)
        flow_run_strategy(spot_policy or default_spot_policy(capacity), capacity, providers)
        image = image or FlowImage.default()
        image.check_runs_on(cpu_architecture)
        check_volumes(flow_volumes, image.writable_paths or ())
        if network is not None:
            network.check_reach(api=api, image=image)
        elif api.server is not None:
            raise ValueError(
                f"the Prefect server at {api.url} can be reached from its own VPC only; pass the network of the server"
            )
        super().__init__(scope, construct_id)

        self._api = api
        self._image = image
        self._cpu_architecture = cpu_architecture
        self._delete_pools_with_deployments = delete_pool_with_deployments
        self.pools = {}
        self._for_each_pool: list[Callable[[LayerPool], object]] = []
        self.network = network or FlowNetwork(self, "Network")
        self.cluster = cluster or FlowCluster(self, "Cluster", vpc=self.network.vpc)
        self.storage = storage or FlowStorage(self, "Storage", encryption_key=encryption_key)
        self.log_group = log_group or new_log_group(
            self, "LogGroup", encryption_key=encryption_key, removal_policy=cdk.RemovalPolicy.RETAIN
        )
        self.execution_role = execution_role or ExecutionRole(
            self, "ExecutionRole", log_group=self.log_group, api=api, image=image
        )
        self.flow_role = flow_role or FlowRole(self, "FlowRole", storage=self.storage)
        self._grant_given(execution_role, flow_role)
        self.work_pool = WorkPool(
            self,
            "WorkPool",
            work_pool_name=work_pool_name,
            api=api,
            cluster=self.cluster,
            network=self.network,
            storage=self.storage,
            log_group=self.log_group,
            execution_role=self.execution_role,
            flow_role=self.flow_role,
            image=image,
            spot_policy=spot_policy,
            cpu=flow_cpu,
            memory_mib=flow_memory_mib,
            cpu_architecture=cpu_architecture,
            ephemeral_storage_gib=flow_storage_gib,
            volumes=flow_volumes,
            concurrency_limit=concurrency_limit,
            queues=queues,
            environment=flow_environment,
            secrets=flow_secrets,
            tags=flow_tags,
            delete_with_deployments=delete_pool_with_deployments,
            sync_role=sync_role,
            sync_encryption_key=encryption_key,
        )
        self.worker, self.worker_role = self._make_worker(self, self.work_pool, worker, worker_role)

        self.lazarus = (
            Lazarus(
                self,
                "Lazarus",
                cluster=self.cluster,
                api=api,
                work_pool=self.work_pool,
                log_group=self.log_group,
                spot_attempts=spot_attempts,
                max_reschedules=max_reschedules,
                patience=patience,
                reserved_concurrency=lazarus_reserved_concurrency,
                role=lazarus_role,
                encryption_key=encryption_key,
            )
            if lazarus
            else None
        )

    @checked
    def add_work_pool(
        self,
        work_pool_name: str,
        *,
        capacity: FlowCapacity | None = None,
        spot_policy: SpotPolicy | None = None,
        image: FlowImage | None = None,
        cpu_architecture: str | None = None,
        flow_cpu: int = 1024,
        flow_memory_mib: int = 2048,
        flow_gpus: int = 0,
        flow_environment: Mapping[str, str] | None = None,
        flow_secrets: Mapping[str, ecs.Secret] | None = None,
        flow_storage_gib: int | None = None,
        flow_volumes: Sequence[FlowVolume] = (),
        flow_tags: Mapping[str, str] | None = None,
        concurrency_limit: int | None = None,
        queues: Sequence[WorkQueue] = (),
        worker_role: iam.IRole | None = None,
        worker_cpu: int = 512,
        worker_memory_mib: int = 1024,
        worker_count: int = 1,
        worker_max_count: int | None = None,
        worker_poll_interval: cdk.Duration | None = None,
        worker_instance_type: ec2.InstanceType | None = None,
        enable_execute_command: bool = False,
        spot_attempts: int | None = None,
        max_reschedules: int | None = None,
        patience: cdk.Duration | None = None,
    ) -> LayerPool:
        """Add a work pool, with workers of its own, to this layer.

        It shares the cluster, network, bucket, log group, flow role and Lazarus with the other pools; its workers have
        a role of their own, which can start this pool's flow runs only. At rest it costs its workers, each about $18 a
        month in us-east-1.

        :param work_pool_name: Name of the work pool in Prefect.
        :param capacity: The machines of its flow runs: what one of ``cluster.add_…_capacity`` made. Default: Fargate.
        :param spot_policy: How its flow runs use Spot. Default: Spot with fallback to on-demand; where the capacity has
            one of them only, that.
        :param image: Image of its flow runs; the workers keep the layer's. Default: the layer's.
        :param cpu_architecture: Architecture of the image. Default: that of the capacity; on Fargate, the layer's.
        :param flow_cpu: CPU units of a flow run. Default: 1024.
        :param flow_memory_mib: Memory of a flow run in MiB. Default: 2048.
        :param flow_gpus: GPUs of a flow run. Default: 0.
        :param flow_environment: More environment variables of flow runs; no secrets. Default: none.
        :param flow_secrets: Environment variables that ECS injects from SSM or Secrets Manager. Default: none.
        :param flow_storage_gib: Scratch disk of a flow run on Fargate, 21 to 200 GiB. Default: 20.
        :param flow_volumes: EFS file systems that flow runs mount. Default: none.
        :param flow_tags: Tags of every flow run's task. Default: none.
        :param concurrency_limit: How many flow runs of the pool may run at once. Default: no limit.
        :param queues: Queues of the work pool. Default: Prefect's own.
        :param worker_role: Role of its workers. Default: a new one.
        :param worker_cpu: CPU units of a worker. Default: 512.
        :param worker_memory_mib: Memory of a worker in MiB. Default: 1024.
        :param worker_count: Workers to run; two survive the loss of a zone. Default: 1.
        :param worker_max_count: Workers at most; see :class:`~cdk_prefect_ecs.WorkerService`. Default: no scaling.
        :param worker_poll_interval: How often a worker asks for runs that are due. Default: 5 seconds.
        :param worker_instance_type: Run the pool's worker on an EC2 instance of its own, of this type, in place of the
            service; see :class:`~cdk_prefect_ecs.WorkerHost`. Default: it is an ECS service.
        :param enable_execute_command: Allow ``aws ecs execute-command`` into the workers. Default: False.
        :param spot_attempts: Spot attempts of one run before Lazarus falls back. Default: as the layer.
        :param max_reschedules: Reschedules of one run for other failures. Default: as the layer.
        :param patience: How long a run may be without a task. Default: as the layer.
        :raises ValueError: As the parts do; nothing is made then.
        """
        capacity = capacity or self.cluster.fargate
        own_default = self._cpu_architecture if capacity.cpu_architecture is None else None
        architecture = check_architecture(cpu_architecture or own_default, capacity)
        flow_image = image or self._image
        flow_image.check_runs_on(architecture)
        self.network.check_reach(api=self._api, image=flow_image)
        check_volumes(flow_volumes, flow_image.writable_paths or ())
        check_work_pool_settings(
            work_pool_name,
            flow_cpu,
            flow_memory_mib,
            architecture,
            concurrency_limit,
            flow_environment,
            capacity=capacity,
            gpus=flow_gpus,
            ephemeral_storage_gib=flow_storage_gib,
            queues=queues,
            secret_names=flow_secrets or {},
            tags=flow_tags,
        )
        worker = _Worker(
            cpu=worker_cpu,
            memory_mib=worker_memory_mib,
            count=worker_count,
            max_count=worker_max_count,
            poll_interval=worker_poll_interval or cdk.Duration.seconds(5),
            instance_type=worker_instance_type,
            enable_execute_command=enable_execute_command,
        )
        worker.check(self._cpu_architecture, self.network)
        flow_run_strategy(spot_policy or default_spot_policy(capacity), capacity, self.cluster.capacity_providers)
        if self.lazarus is not None:
            self.lazarus.check_addition(spot_attempts, max_reschedules, patience)
        if work_pool_name in (self.work_pool.work_pool_name, *self.pools):
            raise ValueError(f"this layer has a work pool {work_pool_name!r} already; give one of the two another name")

        made = Construct(self, f"Pool-{work_pool_name}")
        if image is not None:
            for grantee in grantees(made, self.execution_role):
                image.grant_pull(grantee)
        work_pool = WorkPool(
            made,
            "WorkPool",
            work_pool_name=work_pool_name,
            api=self._api,
            cluster=self.cluster,
            network=self.network,
            storage=self.storage,
            log_group=self.log_group,
            execution_role=self.execution_role,
            flow_role=self.flow_role,
            image=image or self._image,
            capacity=capacity,
            spot_policy=spot_policy,
            cpu=flow_cpu,
            memory_mib=flow_memory_mib,
            cpu_architecture=architecture,
            gpus=flow_gpus,
            ephemeral_storage_gib=flow_storage_gib,
            volumes=flow_volumes,
            concurrency_limit=concurrency_limit,
            queues=queues,
            environment=flow_environment,
            secrets=flow_secrets,
            tags=flow_tags,
            delete_with_deployments=self._delete_pools_with_deployments,
        )
        made_worker, made_role = self._make_worker(made, work_pool, worker, worker_role)
        if self.lazarus is not None:
            self.lazarus.add_work_pool(
                work_pool, spot_attempts=spot_attempts, max_reschedules=max_reschedules, patience=patience
            )
        pool = self.pools[work_pool_name] = LayerPool(work_pool, made_worker, made_role)
        for do in self._for_each_pool:
            do(pool)
        return pool

    @checked
    def for_each_pool(self, do: Callable[[LayerPool], object]) -> None:
        """Call a function for every pool: the first, those that were added, and each that is added after this.

        :param do: Called with the pool and its worker, once for each.
        """
        self._for_each_pool.append(do)
        for pool in (LayerPool(self.work_pool, self.worker, self.worker_role), *self.pools.values()):
            do(pool)

    @checked
    def grant_deploy_flows(self, grantee: iam.IGrantable) -> iam.Grant:
        """Grant what it takes to deploy flows, as ``make flows`` does it: read the outputs of the layer's stack and of
        that of its bucket, write flow code, and read the credential of the Prefect API.

        Flow runs execute what is deployed, with the flow role: whoever has this can have them do what that role may.

        :param grantee: Who deploys, such as a :class:`~cdk_prefect_ecs.DeployRole`.
        """
        names = {_outermost(cdk.Stack.of(construct)).stack_name: None for construct in (self.storage, self)}
        outputs = [
            cdk.Stack.of(self).format_arn(service="cloudformation", resource="stack", resource_name=f"{name}/*")
            for name in names
        ]
        granted = grant_actions(grantee, ["cloudformation:DescribeStacks"], outputs)
        granted = granted.combine(self.storage.grant_deploy_code(grantee))
        return granted.combine(self._api.grant_read_secret(self, grantee)) if self._api.secret else granted

    def _make_worker(
        self, scope: Construct, work_pool: WorkPool, settings: _Worker, role: iam.IRole | None
    ) -> tuple[WorkerService | WorkerHost, iam.IRole]:
        """The worker of a pool, and its role."""
        if settings.instance_type is not None:
            host = WorkerHost(
                scope,
                "WorkerHost",
                work_pool=work_pool,
                api=self._api,
                network=self.network,
                log_group=self.log_group,
                role=role,
                instance_type=settings.instance_type,
                poll_interval=settings.poll_interval,
            )
            return host, host.role
        role = role or WorkerRole(scope, "WorkerRole")
        service = WorkerService(
            scope,
            "Worker",
            work_pool=work_pool,
            api=self._api,
            cluster=self.cluster,
            network=self.network,
            log_group=self.log_group,
            execution_role=self.execution_role,
            worker_role=role,
            image=self._image,
            cpu=settings.cpu,
            memory_mib=settings.memory_mib,
            cpu_architecture=self._cpu_architecture,
            desired_count=settings.count,
            max_count=settings.max_count,
            poll_interval=settings.poll_interval,
            enable_execute_command=settings.enable_execute_command,
        )
        return service, role

    def _grant_given(self, execution_role: iam.IRole | None, flow_role: iam.IRole | None) -> None:
        """Grant roles that were given what new ones get when they are made."""
        for agent in grantees(self, execution_role) if execution_role else ():
            grant_start_tasks(agent, self, log_group=self.log_group, api=self._api, image=self._image)
        for grantee in grantees(self, flow_role) if flow_role else ():
            self.storage.grant_flow_access(grantee)

    @property
    def connections(self) -> ec2.Connections:
        """The flow runs' connections."""
        return self.network.connections

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The flow runs' role."""
        return self.flow_role.grant_principal


def _outermost(stack: cdk.Stack) -> cdk.Stack:
    """The stack that has a name of its own: a nested one is deployed by the one around it."""
    return _outermost(stack.nested_stack_parent) if stack.nested_stack_parent else stack
