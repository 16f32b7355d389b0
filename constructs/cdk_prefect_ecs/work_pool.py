"""The work pool: its base job template is infrastructure, rendered at synth and synced at deploy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.capacity import (
    CapacityKind,
    FlowCapacity,
    SpotPolicy,
    check_architecture,
    default_spot_policy,
    flow_run_strategy,
)
from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.encryption import new_log_group
from cdk_prefect_ecs.function import function_role, function_runtime, functions_code
from cdk_prefect_ecs.functions.typed_properties import encode
from cdk_prefect_ecs.image import FlowImage
from cdk_prefect_ecs.injection import grant_injection
from cdk_prefect_ecs.job_template import RELINQUISH, SIGTERM_BEHAVIOR, JobTemplate
from cdk_prefect_ecs.names import block_name, task_definition_family
from cdk_prefect_ecs.network import FlowNetwork, add_service_endpoints, is_inside, start_calls, warn_of_api
from cdk_prefect_ecs.network_reach import flow_secret_calls, secret_calls
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.queues import WorkQueue
from cdk_prefect_ecs.required_policy import grantees
from cdk_prefect_ecs.roles import grant_run_flows, granted_actions
from cdk_prefect_ecs.settings import check_work_pool_settings
from cdk_prefect_ecs.storage import RESULTS_PREFIX, FlowStorage
from cdk_prefect_ecs.volumes import FlowVolume, check_volumes


class WorkPool(Construct):
    """Define a Prefect work pool whose flow runs are ECS tasks of one cluster.

    The pool's base job template is rendered from the other constructs, shows up in ``cdk diff`` and is created or
    updated through Prefect's API at deploy, together with the S3 block that keeps task results. A missing secret, a
    wrong key or an API out of reach fails the deployment within a minute and says so. When the pool leaves the stack it
    is deleted, unless deployments still use it.

    Creates a custom resource and, once per stack and API, its function (ARM, a few seconds of run time a deployment).

    :param work_pool_name: Name of the pool in Prefect.
    :param api: The Prefect API to create it through.
    :param cluster: Cluster of the flow runs.
    :param network: Network of the flow runs.
    :param storage: Bucket of code and results.
    :param log_group: Log group of the flow runs; streams begin with ``flow-run/``.
    :param execution_role: Role with which the ECS agent starts flow runs.
    :param flow_role: Role of the flow runs.
    :param image: Image of the flow runs; a deployment or run may set another, which then writes only where this one
        does. Default: the official image with the tested Prefect version.
    :param capacity: The machines of the flow runs; what one of the cluster's ``add_…_capacity`` methods made. Default:
        the cluster's ``fargate``.
    :param spot_policy: How flow runs use Spot. Default: Spot with fallback; on-demand where there is no Spot.
    :param cpu: CPU units of a flow run; a deployment or run may set others. On Fargate a pair of CPU and memory that
        does not exist is refused by the pool's schema, before a run starts. Default: 1024.
    :param memory_mib: Memory of a flow run in MiB, likewise. Default: 2048.
    :param cpu_architecture: Architecture of the image; ARM64 costs a fifth less. Default: that of the capacity; on
        Fargate, X86_64.
    :param gpus: GPUs of a flow run, out of those of its machine. Default: 0.
    :param ephemeral_storage_gib: Scratch disk of a flow run on Fargate, 21 to 200 GiB; what is above 20 costs $0.08 a
        GiB and month at list price. A deployment or run may set another. Default: 20.
    :param volumes: EFS file systems that flow runs mount; the flow role is granted to. Default: none.
    :param concurrency_limit: How many flow runs of the pool may run at once. Default: no limit.
    :param queues: Queues of the pool. One that is removed here is removed from Prefect too, unless it was there before
        this stack, deployments use it or runs wait in it. Default: Prefect's own, named ``default``.
    :param secrets: Environment variables of flow runs that ECS injects from SSM or Secrets Manager; the execution role
        is granted to read them. Default: none.
    :param tags: Tags of every task, besides those of deployments, runs and Prefect; also for cost allocation.
        Default: none.
    :param environment: More environment variables of flow runs; no secrets, they are readable in Prefect's API.
        Default: none.
    :param description: Description of the pool in Prefect. Default: names this library.
    :param delete_with_deployments: Delete the pool with the stack even if deployments still use it; they then have no
        pool. Default: False, such a pool is left.
    :param sync_role: Role of the function behind the pool, assumed by Lambda; the first pool of an API in the stack
        decides it. Default: a new one; see :class:`~cdk_prefect_ecs.RequiredPolicy` for what one of your own needs.
    :param sync_encryption_key: Key of the log of that function, likewise. Default: a key of AWS.
    :raises ValueError: A name that Prefect refuses, a size that Fargate does not offer, a Spot policy that the cluster
        cannot serve, a concurrency limit below 0, a GPU on machines without one, a capacity of another cluster, EFS
        on machines of your own, an image that is built for another architecture, a network from which the API or the
        image cannot be reached.
    """

    work_pool_name: str
    """Name of the pool in Prefect."""
    family: str
    """Family of the flow runs' task definitions."""
    job_template: dict[str, Any]
    """The base job template; may hold tokens."""
    capacity: FlowCapacity
    """The machines of the flow runs."""
    spot_policy: SpotPolicy
    """How flow runs use Spot."""
    network: FlowNetwork
    """Network of the flow runs."""
    resource: cdk.CustomResource
    """The custom resource: depend on it for everything that needs the pool to exist."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        work_pool_name: str,
        api: PrefectApi,
        cluster: FlowCluster,
        network: FlowNetwork,
        storage: FlowStorage,
        log_group: logs.ILogGroup,
        execution_role: iam.IRole,
        flow_role: iam.IRole,
        image: FlowImage | None = None,
        capacity: FlowCapacity | None = None,
        spot_policy: SpotPolicy | None = None,
        cpu: int = 1024,
        memory_mib: int = 2048,
        cpu_architecture: str | None = None,
        gpus: int = 0,
        ephemeral_storage_gib: int | None = None,
        volumes: Sequence[FlowVolume] = (),
        concurrency_limit: int | None = None,
        queues: Sequence[WorkQueue] = (),
        secrets: Mapping[str, ecs.Secret] | None = None,
        tags: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        description: str | None = None,
        delete_with_deployments: bool = False,
        sync_role: iam.IRole | None = None,
        sync_encryption_key: kms.IKey | None = None,
    ) -> None:
        capacity = capacity or cluster.fargate
        secrets = secrets or {}
        check_work_pool_settings(
            work_pool_name,
            cpu,
            memory_mib,
            cpu_architecture,
            concurrency_limit,
            environment,
            capacity=capacity,
            gpus=gpus,
            ephemeral_storage_gib=ephemeral_storage_gib,
            queues=queues,
            secret_names=secrets,
            tags=tags,
        )
        if volumes and capacity.kind is CapacityKind.EXTERNAL:
            raise ValueError(
                f"volumes cannot be mounted on capacity {capacity.name!r}: ECS mounts EFS on machines of AWS only; "
                "leave them out"
            )
        architecture = check_architecture(cpu_architecture, capacity)
        spot_policy = spot_policy or default_spot_policy(capacity)
        strategy = flow_run_strategy(spot_policy, capacity, cluster.capacity_providers)
        image = image or FlowImage.default()
        image.check_runs_on(architecture)
        check_volumes(volumes, image.writable_paths or ())
        network.check_reach(api=api, image=image)
        shared = WorkPoolSync.find(scope, api)
        if shared is not None and work_pool_name in shared.work_pool_names:
            raise ValueError(
                f"the stack has a work pool {work_pool_name!r} at this API already; give one of the two another name"
            )
        super().__init__(scope, construct_id)

        stack = cdk.Stack.of(self)
        self.work_pool_name = work_pool_name
        self.capacity = capacity
        self.spot_policy = spot_policy
        self.network = network
        # CloudFormation names a nested stack at deploy; the family must be known now.
        unnamed = cdk.Token.is_unresolved(stack.stack_name)
        self.family = task_definition_family(
            cdk.Names.unique_id(stack) if unnamed else stack.stack_name, work_pool_name
        )
        self._execution_role = execution_role
        self._flow_role = flow_role
        self._cluster = cluster
        self._own_sigterm_behavior = SIGTERM_BEHAVIOR in (environment or {})
        result_block = block_name(work_pool_name)
        self.job_template = JobTemplate(
            family=self.family,
            image=image.reference,
            cpu=cpu,
            memory_mib=memory_mib,
            cpu_architecture=architecture,
            cluster_arn=cluster.cluster_arn,
            capacity=capacity,
            strategy=strategy,
            vpc_id=network.vpc.vpc_id,
            subnet_ids=[subnet.subnet_id for subnet in network.subnets],
            security_group_ids=[network.security_group.security_group_id],
            assign_public_ip=network.assign_public_ip,
            execution_role_arn=execution_role.role_arn,
            flow_role_arn=flow_role.role_arn,
            log_group_name=log_group.log_group_name,
            region=stack.region,
            result_block=result_block,
            api_secret_variable=api.secret_variable if api.secret else None,
            api_secret_arn=api.secret.value_from(self) if api.secret else None,
            environment={**network.environment, **(environment or {})},
            secrets={name: secret.arn for name, secret in secrets.items()},
            gpus=gpus,
            ephemeral_storage_gib=ephemeral_storage_gib,
            mounts=[volume.mount() for volume in volumes],
            tags=tags or {},
            registry_secret_arn=image.credentials.secret_arn if image.credentials else None,
            writable_volumes=image.writable_volumes,
        ).render()
        agents = grantees(self, execution_role)
        reads = [grant_injection(secret, agent) for secret in secrets.values() for agent in agents]
        for volume in volumes:
            for grantee in grantees(self, flow_role):
                volume.grant(grantee, network)
        add_service_endpoints(network, network, [*start_calls(image, api), *flow_secret_calls(granted_actions(reads))])
        warn_of_api(network, api, self)

        sync = WorkPoolSync.of(self, api, role=sync_role, encryption_key=sync_encryption_key)
        sync.work_pool_names.append(work_pool_name)
        properties: dict[str, Any] = {
            "ApiUrl": api.url,
            "Name": work_pool_name,
            "Description": encode(description or f"Flow runs on Amazon ECS ({spot_policy.name}), by cdk-prefect-ecs"),
            "ConcurrencyLimit": encode(concurrency_limit),
            "BaseJobTemplate": encode(self.job_template),
            "ResultStorage": {
                "BlockName": result_block,
                "BucketName": storage.bucket_name,
                "Folder": RESULTS_PREFIX.rstrip("/"),
            },
            "Owner": f"{stack.account}/{stack.region}/{stack.stack_name}",
            "DeleteWithDeployments": encode(delete_with_deployments),
        }
        if queues:
            properties["WorkQueues"] = [
                {
                    "Name": queue.name,
                    "Priority": encode(queue.priority),
                    "ConcurrencyLimit": encode(queue.concurrency_limit),
                }
                for queue in queues
            ]
        credential = api.function_reference(self)
        if credential is not None:
            properties["Credential"] = credential
        self.resource = cdk.CustomResource(
            self,
            "Resource",
            resource_type="Custom::PrefectWorkPool",
            service_token=sync.function.function_arn,
            service_timeout=cdk.Duration.seconds(60),
            properties=properties,
        )
        if is_inside(network, api):
            add_service_endpoints(network, sync.function, secret_calls(api.secret_service))
            self.resource.node.add_dependency(network.connectivity)
        if api.server is not None:
            for caller in (sync.function, network):
                api.let_in(self, caller, waiting=self.resource)

    @checked
    def grant_run(self, worker_role: iam.IGrantable) -> iam.Grant:
        """Grant a worker's role what it takes to run this pool's flow runs; see
        :func:`~cdk_prefect_ecs.roles.grant_run_flows`."""
        return grant_run_flows(
            worker_role,
            self,
            cluster=self._cluster,
            family=self.family,
            task_roles=[self._execution_role, self._flow_role],
            observer_queue_name=self.observer_queue_name,
        )

    def guard(self) -> None:
        """Leave rescheduling to somebody who watches the pool's tasks; called by :class:`~cdk_prefect_ecs.Lazarus`.

        A SIGTERM behaviour that the pool was given in ``environment`` stays.
        """
        if self._own_sigterm_behavior:
            return
        self.job_template["variables"]["properties"]["env"]["default"][SIGTERM_BEHAVIOR] = RELINQUISH
        resource = self.resource.node.default_child
        assert isinstance(resource, cdk.CfnResource)
        resource.add_property_override(
            f"BaseJobTemplate.variables.properties.env.default.{SIGTERM_BEHAVIOR}", RELINQUISH
        )

    @property
    def observer_queue_name(self) -> str:
        """A queue that does not exist. prefect-aws's own crash observer cannot be turned off; pointed here it finds
        nothing, says so once and ends."""
        return f"{self.family[:60]}-no-observer"


class WorkPoolSync(Construct):
    """The function behind ``Custom::PrefectWorkPool``; one per stack and API."""

    function: lambda_.Function
    """The function."""
    work_pool_names: list[str]
    """The pools that it looks after."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        api: PrefectApi,
        role: iam.IRole | None = None,
        encryption_key: kms.IKey | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.work_pool_names = []
        log_group = new_log_group(
            self, "LogGroup", encryption_key=encryption_key, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        role = function_role(self, role, log_group=log_group, in_vpc=api.vpc is not None)
        self.function = lambda_.Function(
            self,
            "Function",
            description="Creates, updates and deletes a Prefect work pool for CloudFormation",
            runtime=function_runtime(),
            architecture=lambda_.Architecture.ARM_64,
            handler="functions.work_pool_sync.handler",
            code=functions_code(),
            memory_size=256,
            timeout=cdk.Duration.seconds(50),
            role=role,
            log_group=log_group,
            vpc=api.vpc,
            vpc_subnets=api.vpc_subnets,
        )
        for grantee in grantees(self, role):
            api.grant_read_secret(self, grantee)

    @staticmethod
    def of(
        scope: Construct,
        api: PrefectApi,
        *,
        role: iam.IRole | None = None,
        encryption_key: kms.IKey | None = None,
    ) -> WorkPoolSync:
        """The function that serves this API in the stack of ``scope``, made with this when there is none yet."""
        return WorkPoolSync.find(scope, api) or WorkPoolSync(
            cdk.Stack.of(scope), _sync_id(scope, api), api=api, role=role, encryption_key=encryption_key
        )

    @staticmethod
    def find(scope: Construct, api: PrefectApi) -> WorkPoolSync | None:
        """The function that serves this API in the stack of ``scope``, if there is one."""
        existing = cdk.Stack.of(scope).node.try_find_child(_sync_id(scope, api))
        return existing if isinstance(existing, WorkPoolSync) else None


def _sync_id(scope: Construct, api: PrefectApi) -> str:
    return f"WorkPoolSync{hashlib.sha256(api.key(scope).encode()).hexdigest()[:8].upper()}"
