"""Dask clusters on Fargate, opened by flow runs that outgrow one task."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.capacity import FARGATE_SPOT
from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.durations import seconds_of
from cdk_prefect_ecs.encryption import new_log_group
from cdk_prefect_ecs.image import FlowImage
from cdk_prefect_ecs.names import task_definition_family
from cdk_prefect_ecs.network import FlowNetwork, add_service_endpoints
from cdk_prefect_ecs.network_reach import dask_calls, task_calls
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.required_policy import as_it_is, grantees
from cdk_prefect_ecs.roles import ecs_tasks, grant_actions, grant_start_tasks
from cdk_prefect_ecs.settings import check_dask_settings
from cdk_prefect_ecs.task_definitions import mount_writable_paths, runtime_platform

#: Where a Dask scheduler listens. Source: Dask.distributed, "dask scheduler".
SCHEDULER_PORT: Final = 8786
#: Tag of the tasks of one access: a flow run may describe and stop these and no others.
ACCESS_TAG: Final = "dask-access"
_STREAM_PREFIX: Final = "dask"
#: Dask gives up a computation whose worker was lost this often while it ran. Its own default of 3 is for machines that
#: do not go away by themselves.
_ALLOWED_FAILURES: Final = 10


@jsii.implements(ec2.IConnectable, iam.IGrantable)
class DaskAccess(Construct):
    """Define what flow runs need to open ``dask_cloudprovider.aws.FargateCluster``, and nothing they could misuse.

    Creates two task definitions, an execution role, a task role, a log group and a security group: scheduler and
    workers talk to each other, flow runs reach the scheduler, and nothing else comes in. Nothing of it costs anything
    until a flow run opens a cluster; then the scheduler (on demand) and the workers (on Spot, where the cluster offers
    it) are billed by the second. A cluster whose flow run is gone ends by itself after ``idle_timeout``.

    Flow runs learn the ids from their environment, as settings of Dask, and start tasks of these two definitions only:
    they cannot create roles, clusters, security groups or task definitions::

        dask = DaskAccess(stack, "Dask", cluster=cluster, network=network)
        layer = PrefectExecutionLayer(…, cluster=cluster, network=network, flow_environment=dask.environment)
        dask.grant_run_clusters(layer.flow_role)
        bucket.grant_read(dask)  # the workers may read it

    As a grantee it stands for the tasks of Dask clusters, and as a connectable too.

    :param cluster: Cluster that runs the tasks.
    :param network: Network of the flow runs; Dask tasks are placed in its subnets.
    :param image: Image of scheduler and workers; they unpickle what the flow run sends, so it needs the same versions
        of Python and packages. Default: the official one, which has no Dask: flow runs and Dask tasks install it when
        they start (``EXTRA_PIP_PACKAGES``).
    :param execution_role: Role with which the ECS agent starts the tasks. Default: a new one; see
        :class:`~cdk_prefect_ecs.RequiredPolicy` for what one of your own needs.
    :param task_role: Role of scheduler and workers. Default: a new one without permissions; grant it what they need.
    :param log_group: Log group of scheduler and workers. Default: a new one that keeps a month and is retained.
    :param encryption_key: Key of the log group that is made. Default: a key of AWS.
    :param scheduler_cpu: CPU units of the scheduler. Default: 1024.
    :param scheduler_memory_mib: Memory of the scheduler in MiB. Default: 4096.
    :param worker_cpu: CPU units of a worker, which runs one thread per vCPU. Default: 4096.
    :param worker_memory_mib: Memory of a worker in MiB. Default: 16384.
    :param cpu_architecture: Architecture of the image. Default: X86_64.
    :param idle_timeout: A scheduler with nothing to do for this long ends, and its workers a minute later. Default: 5
        minutes.
    :raises ValueError: A size that Fargate does not offer, an unknown architecture or one that the image is not built
        for, an ``idle_timeout`` below a minute.
    """

    task_role: iam.IRole
    """Role of scheduler and workers."""
    execution_role: iam.IRole
    """Role with which the ECS agent starts them: pull the image, write the log."""
    security_group: ec2.SecurityGroup
    """Security group of scheduler and workers."""
    log_group: logs.ILogGroup
    """Their log group."""
    scheduler_task_definition: ecs.FargateTaskDefinition
    """Task definition of the scheduler."""
    worker_task_definition: ecs.FargateTaskDefinition
    """Task definition of a worker."""
    environment: Mapping[str, str]
    """Environment variables for the flow runs: pass them to the layer or work pool that may open clusters."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: FlowCluster,
        network: FlowNetwork,
        image: FlowImage | None = None,
        execution_role: iam.IRole | None = None,
        task_role: iam.IRole | None = None,
        log_group: logs.ILogGroup | None = None,
        encryption_key: kms.IKey | None = None,
        scheduler_cpu: int = 1024,
        scheduler_memory_mib: int = 4096,
        worker_cpu: int = 4096,
        worker_memory_mib: int = 16384,
        cpu_architecture: str = "X86_64",
        idle_timeout: cdk.Duration | None = None,
    ) -> None:
        idle_seconds = seconds_of("idle_timeout", idle_timeout or cdk.Duration.minutes(5))
        check_dask_settings(
            (scheduler_cpu, scheduler_memory_mib), (worker_cpu, worker_memory_mib), cpu_architecture, idle_seconds
        )
        image = image or FlowImage.default()
        image.check_runs_on(cpu_architecture)
        super().__init__(scope, construct_id)

        self._cluster = cluster
        self.log_group = log_group or new_log_group(
            self, "LogGroup", encryption_key=encryption_key, removal_policy=cdk.RemovalPolicy.RETAIN
        )
        self.execution_role = execution_role or iam.Role(
            self,
            "ExecutionRole",
            assumed_by=ecs_tasks(self),
            description="ECS agent: starts Dask schedulers and workers",
        )
        for grantee in grantees(self, self.execution_role):
            grant_start_tasks(grantee, self, log_group=self.log_group, api=None, image=image)
        self._agent = as_it_is(self, self.execution_role)
        self.task_role = task_role or iam.Role(
            self, "TaskRole", assumed_by=ecs_tasks(self), description="Dask schedulers and workers"
        )
        self.security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=network.vpc,
            description="Dask: scheduler and workers among each other, flow runs to the scheduler",
        )
        self._connections = ec2.Connections(security_groups=[self.security_group])
        self.security_group.add_ingress_rule(self.security_group, ec2.Port.all_tcp(), "Scheduler and workers")
        self._connections.allow_from(network, ec2.Port.tcp(SCHEDULER_PORT), "Flow runs to the scheduler")

        add_service_endpoints(network, network, dask_calls())
        add_service_endpoints(network, self, task_calls(image_in_ecr=image.repository is not None, secret_service=None))

        self._access = self._name()
        self._families = {role: self._name(role) for role in ("scheduler", "worker")}
        self.scheduler_task_definition = self._task_definition(
            "scheduler", image, scheduler_cpu, scheduler_memory_mib, cpu_architecture
        )
        self.worker_task_definition = self._task_definition(
            "worker", image, worker_cpu, worker_memory_mib, cpu_architecture
        )
        self.environment = {
            f"DASK_CLOUDPROVIDER__ECS__{name.upper()}": value
            for name, value in {
                # What dask-cloudprovider reads by itself
                "region_name": cdk.Stack.of(self).region,
                "cluster_arn": cluster.cluster_arn,
                "execution_role_arn": self.execution_role.role_arn,
                "task_role_arn": self.task_role.role_arn,
                "cloudwatch_logs_group": self.log_group.log_group_name,
                "cloudwatch_logs_stream_prefix": _STREAM_PREFIX,
                "vpc": network.vpc.vpc_id,
                "subnets": str([subnet.subnet_id for subnet in network.subnets]),
                "security_groups": str([self.security_group.security_group_id]),
                "tags": str({ACCESS_TAG: self._access}),
                "environment": str({"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(_ALLOWED_FAILURES)}),
                "fargate_spot": str(FARGATE_SPOT in cluster.capacity_providers),
                "scheduler_timeout": f"{idle_seconds:g} seconds",
                "worker_cpu": str(worker_cpu),
                "worker_mem": str(worker_memory_mib),
                # It would look for clusters, roles and security groups of others to delete, and deregister task
                # definitions that others are using.
                "skip_cleanup": "True",
                # What it takes as arguments only: the flow's own few lines hand these on, see docs/dask.md. Families,
                # not revisions: a cluster that is open while a deployment replaces them can still grow.
                "scheduler_task_definition_arn": self._families["scheduler"],
                "worker_task_definition_arn": self._families["worker"],
                "fargate_use_private_ip": str(not network.assign_public_ip),
            }.items()
        }

    @checked
    def grant_run_clusters(self, grantee: iam.IGrantable) -> iam.Grant:
        """Grant exactly the calls that dask-cloudprovider makes to run clusters of these task definitions.

        The grantee may start scheduler and workers, describe and stop what was started through this access, and hand
        over the two roles. What ECS and EC2 support no resource for is read only.

        :param grantee: The flow runs: ``layer.flow_role``.
        """
        stack = cdk.Stack.of(self)
        tasks = stack.format_arn(service="ecs", resource="task", resource_name=f"{self._cluster.cluster_name}/*")
        in_cluster = {"ArnEquals": {"ecs:cluster": self._cluster.cluster_arn}}
        definitions = [
            stack.format_arn(service="ecs", resource="task-definition", resource_name=f"{family}:*")
            for family in self._families.values()
        ]

        allow = functools.partial(grant_actions, grantee)
        grants = [
            allow(["ecs:DescribeClusters"], [self._cluster.cluster_arn]),
            # These support no resource. Source: Service Authorization Reference
            allow(["ecs:ListAccountSettings", "ec2:DescribeNetworkInterfaces"], ["*"]),
            allow(
                ["ecs:RunTask"],
                definitions,
                {**in_cluster, "StringEquals": {f"aws:RequestTag/{ACCESS_TAG}": self._access}},
            ),
            allow(["ecs:TagResource"], [tasks], {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
            allow(
                ["ecs:DescribeTasks", "ecs:StopTask"],
                [tasks],
                {**in_cluster, "StringEquals": {f"aws:ResourceTag/{ACCESS_TAG}": self._access}},
            ),
            allow(
                ["iam:PassRole"],
                [self.execution_role.role_arn, self.task_role.role_arn],
                {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
        ]
        return functools.reduce(iam.Grant.combine, grants)

    @property
    def connections(self) -> ec2.Connections:
        """The connections of scheduler and workers: ``db.connections.allow_default_port_from(dask)``."""
        return self._connections

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The role of scheduler and workers."""
        return self.task_role.grant_principal

    def _name(self, *parts: str) -> str:
        """A name that is unique in the account and region, as another system has to know it before it is deployed."""
        stack = cdk.Stack.of(self)
        # CloudFormation names a nested stack at deploy.
        if cdk.Token.is_unresolved(stack.stack_name):
            return task_definition_family(cdk.Names.unique_id(self), *parts)
        return task_definition_family(stack.stack_name, self.node.path.removeprefix(f"{stack.node.path}/"), *parts)

    def _task_definition(
        self, role: str, image: FlowImage, cpu: int, memory_mib: int, cpu_architecture: str
    ) -> ecs.FargateTaskDefinition:
        definition = ecs.FargateTaskDefinition(
            self,
            f"{role.capitalize()}TaskDefinition",
            family=self._families[role],
            cpu=cpu,
            memory_limit_mib=memory_mib,
            execution_role=self._agent,
            task_role=self.task_role,
            runtime_platform=runtime_platform(cpu_architecture),
        )
        # dask-cloudprovider finds its containers by these names, and gives each start its own command.
        container = definition.add_container(
            f"dask-{role}",
            image=image.container_image(),
            command=["dask", role],
            readonly_root_filesystem=True if image.writable_paths is not None else None,
            logging=ecs.LogDrivers.aws_logs(stream_prefix=_STREAM_PREFIX, log_group=self.log_group),
        )
        mount_writable_paths(definition, container, image)
        return definition
