"""The worker: an always-on ECS service that polls Prefect and starts flow runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.capacity import FARGATE
from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.container import start_worker
from cdk_prefect_ecs.durations import seconds_of
from cdk_prefect_ecs.functions.credential import CredentialReference
from cdk_prefect_ecs.image import FlowImage
from cdk_prefect_ecs.network import FlowNetwork, add_service_endpoints, start_calls
from cdk_prefect_ecs.network_reach import worker_calls
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.required_policy import as_it_is, grantees, records
from cdk_prefect_ecs.settings import check_worker_settings
from cdk_prefect_ecs.task_definitions import mount_writable_paths, runtime_platform
from cdk_prefect_ecs.work_pool import WorkPool
from cdk_prefect_ecs.worker_environment import DEFAULT_POLL_SECONDS, worker_environment

# Python, because not every image has curl. The port is the worker's own setting, 8080 unless the environment says
# otherwise. Answers 503 when the worker has not polled for a while.
HEALTH_CHECK: Final = (
    "import os, urllib.request as r; "
    "r.urlopen('http://127.0.0.1:' + os.environ.get('PREFECT_WORKER_WEBSERVER_PORT', '8080') + '/health', timeout=4)"
)
# Handed over in the command, as the image may be any.
_START: Final = Path(start_worker.__file__)

# These support no resource. Source: "Permissions required for ECS Exec", Amazon ECS Developer Guide.
_EXECUTE_COMMAND_ACTIONS: Final = [
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
]


@jsii.implements(ec2.IConnectable, iam.IGrantable)
class WorkerService(Construct):
    """Define the always-on Prefect worker as an ECS service.

    Creates a task definition, a security group without ingress and a service on on-demand Fargate (0.5 vCPU and 1 GB
    around the clock: about $18 a month in us-east-1). A failing deployment is rolled back by the circuit breaker. A
    credential that is empty or rejected is named in the worker's log; docs/secrets.md has how to change one.

    :param work_pool: The pool to serve; the worker's role is granted to run its flow runs.
    :param api: The Prefect API to poll.
    :param cluster: Cluster of the service.
    :param network: Network of the service.
    :param log_group: Log group of the worker; streams begin with ``worker/``.
    :param execution_role: Role with which the ECS agent starts the worker.
    :param worker_role: Role of the worker.
    :param image: Image with Prefect and prefect-aws. Default: the official one with the tested versions.
    :param cpu: CPU units of a worker. Default: 512.
    :param memory_mib: Memory of a worker in MiB. Default: 1024.
    :param cpu_architecture: Architecture of the image. Default: X86_64.
    :param desired_count: Workers to run. One is enough for hundreds of runs; two survive the loss of a zone.
        Default: 1.
    :param max_count: Workers at most: the service adds one when their CPU is above 60 % on average for some minutes,
        and takes them away again, down to ``desired_count``. A worker that is stopped leaves its runs alone.
        Default: the number of workers does not change.
    :param poll_interval: How often the worker asks for runs that are due. Default: 5 seconds.
    :param enable_execute_command: Allow ``aws ecs execute-command`` into the worker; grants its role the four
        ``ssmmessages`` actions, and keeps the container's root writable, which its agent needs. Default: False.
    :param environment: More environment variables of the worker; no secrets. Default: none.
    :raises ValueError: A size that Fargate does not offer, ``desired_count`` below 0, ``poll_interval`` below a second,
        an image that is built for another architecture, a network from which the API or the image cannot be reached.
    """

    service: ecs.FargateService
    """The ECS service."""
    task_definition: ecs.FargateTaskDefinition
    """The worker's task definition."""
    security_group: ec2.SecurityGroup
    """The worker's security group: no ingress."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        work_pool: WorkPool,
        api: PrefectApi,
        cluster: FlowCluster,
        network: FlowNetwork,
        log_group: logs.ILogGroup,
        execution_role: iam.IRole,
        worker_role: iam.IRole,
        image: FlowImage | None = None,
        cpu: int = 512,
        memory_mib: int = 1024,
        cpu_architecture: str = "X86_64",
        desired_count: int = 1,
        max_count: int | None = None,
        poll_interval: cdk.Duration | None = None,
        enable_execute_command: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        poll_interval = poll_interval or cdk.Duration.seconds(DEFAULT_POLL_SECONDS)
        check_worker_settings(
            cpu,
            memory_mib,
            cpu_architecture,
            desired_count,
            seconds_of("poll_interval", poll_interval),
            environment,
            max_count=max_count,
        )
        image = image or FlowImage.default()
        image.check_runs_on(cpu_architecture)
        network.check_reach(api=api, image=image)
        super().__init__(scope, construct_id)

        self._role = worker_role
        self.task_definition = ecs.FargateTaskDefinition(
            self,
            "TaskDefinition",
            cpu=cpu,
            memory_limit_mib=memory_mib,
            execution_role=as_it_is(self, execution_role),
            task_role=worker_role,
            runtime_platform=runtime_platform(cpu_architecture),
        )
        # The agent of ECS Exec writes into the container's root.
        read_only = image.writable_paths is not None and not enable_execute_command
        container = self.task_definition.add_container(
            "worker",
            image=image.container_image(),
            command=self._command(api, work_pool.work_pool_name),
            environment={
                **worker_environment(api=api, work_pool=work_pool, poll_interval=poll_interval),
                **network.environment,
                **(environment or {}),
            },
            secrets=api.ecs_secrets(self),
            logging=ecs.LogDrivers.aws_logs(stream_prefix="worker", log_group=log_group),
            health_check=ecs.HealthCheck(
                command=["CMD", "python", "-c", HEALTH_CHECK],
                interval=cdk.Duration.seconds(15),
                timeout=cdk.Duration.seconds(5),
                retries=3,
                start_period=cdk.Duration.seconds(60),
            ),
            stop_timeout=cdk.Duration.seconds(30),
            readonly_root_filesystem=True if read_only else None,
        )
        if read_only:
            mount_writable_paths(self.task_definition, container, image)
        self.security_group = ec2.SecurityGroup(
            self, "SecurityGroup", vpc=network.vpc, description="Prefect worker: no ingress"
        )
        self.service = ecs.FargateService(
            self,
            "Service",
            cluster=cluster.cluster,
            task_definition=self.task_definition,
            desired_count=desired_count,
            # Never on Spot: while the worker is away, nothing is started. In a cluster with capacity providers this
            # must be said, or the cluster's default strategy would decide.
            capacity_provider_strategies=[ecs.CapacityProviderStrategy(capacity_provider=FARGATE, weight=1)]
            if cluster.capacity_providers
            else None,
            vpc_subnets=ec2.SubnetSelection(subnets=list(network.subnets)),
            security_groups=[self.security_group],
            assign_public_ip=network.assign_public_ip,
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            # Two workers at once do no harm, none at all does: the new one starts before the old one stops.
            min_healthy_percent=100,
            max_healthy_percent=200,
            enable_execute_command=enable_execute_command,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            enable_ecs_managed_tags=True,
        )
        if max_count is not None:
            self._scale(desired_count, max_count)
        add_service_endpoints(
            network,
            self.security_group,
            [*start_calls(image, api), *worker_calls(enable_execute_command=enable_execute_command)],
        )
        for grantee in grantees(self, worker_role):
            work_pool.grant_run(grantee)
        if enable_execute_command:  # the CDK grants it to the role itself
            for record in records(self, worker_role):
                iam.Grant.add_to_principal(grantee=record, actions=_EXECUTE_COMMAND_ACTIONS, resource_arns=["*"])
        # A wrong key or URL fails at the pool, in seconds, before a worker would crash over it again and again.
        # Without its execution role's permissions a worker cannot start, and the circuit breaker would count that.
        # Nor without a way to its image.
        self.service.node.add_dependency(work_pool.resource, execution_role, network.connectivity)
        api.let_in(self, self.security_group, waiting=self.service)

    def _command(self, api: PrefectApi, pool: str) -> list[str]:
        command = ["prefect", "worker", "start", "--type", "ecs", "--pool", pool, "--with-healthcheck"]
        reference = api.function_reference(self)
        if reference is None:
            return command
        program, source = _START.read_text(encoding="utf-8"), CredentialReference.parse(reference).source
        return ["python", "-c", program, source, pool, *command]

    def _scale(self, minimum: int, maximum: int) -> None:
        scaling = self.service.auto_scale_task_count(min_capacity=minimum, max_capacity=maximum)
        scaling.scale_on_cpu_utilization(
            "Cpu",
            target_utilization_percent=60,
            scale_in_cooldown=cdk.Duration.minutes(10),
            scale_out_cooldown=cdk.Duration.minutes(1),
        )

    @property
    def connections(self) -> ec2.Connections:
        """The worker's connections."""
        return self.service.connections

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The worker's role."""
        return self._role.grant_principal
