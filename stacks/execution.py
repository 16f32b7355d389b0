"""What can be replaced at any time: cluster, roles, work pool, worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from cdk_prefect_ecs import (
    DaskAccess,
    ExecutionMonitoring,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    PrefectApi,
    PrefectExecutionLayer,
    PrefectServer,
    WorkerHost,
)
from stacks.config import (
    BUILT_IMAGES,
    SERVER_PORT,
    CloudApi,
    DaskConfig,
    EnvironmentConfig,
    MonitoringConfig,
    OwnServer,
    PoolConfig,
    SelfHostedApi,
    WorkerConfig,
)
from stacks.foundation import FoundationStack
from stacks.secret_imports import api_secret, flow_secrets, grant_flow_secret_keys

ROOT: Final = Path(__file__).resolve().parent.parent
#: The VOLUMEs of docker/flow/Dockerfile.
WRITABLE_PATHS: Final = ("/home/prefect", "/tmp")  # noqa: S108 - in the container


class ExecutionStack(cdk.Stack):
    """The stateless half of an environment."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        config: EnvironmentConfig,
        foundation: FoundationStack,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self.cluster = FlowCluster(
            self,
            "Cluster",
            vpc=foundation.network.vpc,
            container_insights=ecs.ContainerInsights.ENABLED
            if config.container_insights
            else ecs.ContainerInsights.DISABLED,
        )
        image = flow_image(self, config.image)
        self.dask = self._dask_access(config.dask, foundation, image) if config.dask else None
        self.server = None
        if isinstance(config.api, OwnServer):
            self.server = self._server(config.api, foundation, image)
            api = self.server.api
        else:
            api = prefect_api(self, config.api, foundation.network)
        worker = config.worker_of(config.pool)
        self.layer = PrefectExecutionLayer(
            self,
            "Prefect",
            work_pool_name=config.pool.name,
            api=api,
            network=foundation.network,
            cluster=self.cluster,
            storage=foundation.storage,
            log_group=foundation.log_group,
            encryption_key=foundation.key,
            image=image,
            spot_policy=config.pool.spot_policy,
            flow_cpu=config.pool.cpu,
            flow_memory_mib=config.pool.memory_mib,
            flow_storage_gib=config.pool.storage_gib,
            flow_environment=self.dask.environment if self.dask else None,
            flow_secrets=flow_secrets(self, config.pool),
            flow_tags=config.tags,
            concurrency_limit=config.pool.concurrency_limit,
            queues=config.pool.queues,
            worker_cpu=worker.cpu,
            worker_memory_mib=worker.memory_mib,
            worker_count=worker.count,
            worker_max_count=worker.max_count,
            worker_poll_interval=cdk.Duration.seconds(worker.poll_seconds),
            worker_instance_type=instance_type(worker),
            enable_execute_command=config.execute_command and worker.host is None,
            spot_attempts=config.pool.spot_attempts,
            max_reschedules=config.pool.max_reschedules,
            patience=cdk.Duration.seconds(config.pool.patience_seconds),
            lazarus_reserved_concurrency=config.pool.reserved_concurrency,
        )
        if self.dask:
            self.dask.grant_run_clusters(self.layer.flow_role)
        self.monitoring = self._monitoring(config.monitoring, foundation.key) if config.monitoring else None
        for pool in config.more_pools:
            self._add_work_pool(pool, config)
        for pool in config.pools:
            grant_flow_secret_keys(self, pool, self.layer.execution_role)
        if config.api.is_placeholder:
            cdk.Annotations.of(self).add_warning_v2(
                "cdk-prefect-ecs:placeholderWorkspace",
                f"environment {config.name} still names the placeholder workspace; put your Prefect Cloud account_id "
                "and workspace_id into stacks/environments.py before you deploy",
            )

        cdk.CfnOutput(
            self,
            "WorkPoolName",
            value=config.pool.name,
            description="Prefect work pool: give it to `prefect deploy --pool`",
        )
        cdk.CfnOutput(
            self,
            "ClusterName",
            value=self.cluster.cluster_name,
            description="ECS cluster of worker and flow runs",
        )
        self._worker_output()
        cdk.CfnOutput(
            self,
            "FlowRoleArn",
            value=self.layer.flow_role.role_arn,
            description="Role of flow runs: what your flows may use is granted to it",
        )

    def _worker_output(self) -> None:
        """Where to look for the worker of the first pool."""
        worker = self.layer.worker
        if isinstance(worker, WorkerHost):
            cdk.CfnOutput(
                self,
                "WorkerGroupName",
                value=worker.group.auto_scaling_group_name,
                description="Auto Scaling group of the Prefect worker's host: names the instance for "
                "`aws ssm start-session --target`",
            )
        else:
            cdk.CfnOutput(
                self,
                "WorkerServiceName",
                value=worker.service.service_name,
                description="ECS service of the Prefect worker",
            )

    def _server(self, config: OwnServer, foundation: FoundationStack, image: FlowImage) -> PrefectServer:
        """The environment's own Prefect server, and how to get there."""
        server = PrefectServer(
            self,
            "Server",
            network=foundation.network,
            database=foundation.database,
            cluster=self.cluster,
            image=image,
            log_group=foundation.log_group,
            encryption_key=foundation.key,
            port=SERVER_PORT,
            cpu=config.cpu,
            memory_mib=config.memory_mib,
        )
        assert server.auth_secret is not None  # the environment names no secret for it
        cdk.CfnOutput(
            self,
            "ApiUrl",
            value=server.api.url,
            description="Prefect API, within the VPC: docs/server.md says how to reach it from elsewhere",
        )
        cdk.CfnOutput(
            self,
            "AuthSecretArn",
            value=server.auth_secret.secret_arn,
            description="Secret with the password of the Prefect API and its UI",
        )
        return server

    def _monitoring(self, config: MonitoringConfig, key: kms.IKey | None) -> ExecutionMonitoring:
        """Alarms and dashboard, and where to find them."""
        topic = config.alarm_topic_arn
        monitoring = ExecutionMonitoring(
            self,
            "Monitoring",
            layer=self.layer,
            alarm_topic=sns.Topic.from_topic_arn(self, "AlarmTopic", topic) if topic else None,
            alarm_email=config.alarm_email,
            encryption_key=key if config.alarm_email else None,
            dashboard=config.dashboard,
            longest_wait=cdk.Duration.minutes(config.longest_wait_minutes),
            shortage=config.shortage,
            leave_out=config.leave_out,
            runbook_url=config.runbook_url,
        )
        if monitoring.dashboard is not None:
            cdk.CfnOutput(
                self,
                "DashboardName",
                value=monitoring.dashboard.ref,
                description="CloudWatch dashboard: look here first",
            )
        if monitoring.alarm_topic is not None:
            cdk.CfnOutput(
                self,
                "AlarmTopicArn",
                value=monitoring.alarm_topic.topic_arn,
                description="SNS topic that every alarm is told to",
            )
        return monitoring

    def _dask_access(self, config: DaskConfig, foundation: FoundationStack, image: FlowImage) -> DaskAccess:
        """What flow runs need to open Dask clusters, whose tasks may use the bucket as flow runs may."""
        dask = DaskAccess(
            self,
            "Dask",
            cluster=self.cluster,
            network=foundation.network,
            image=image,
            log_group=foundation.log_group,
            scheduler_cpu=config.scheduler_cpu,
            scheduler_memory_mib=config.scheduler_memory_mib,
            worker_cpu=config.worker_cpu,
            worker_memory_mib=config.worker_memory_mib,
            idle_timeout=cdk.Duration.seconds(config.idle_seconds),
        )
        foundation.storage.grant_flow_access(dask)
        return dask

    def _add_work_pool(self, pool: PoolConfig, config: EnvironmentConfig) -> None:
        worker = config.worker_of(pool)
        self.layer.add_work_pool(
            pool.name,
            spot_policy=pool.spot_policy,
            flow_cpu=pool.cpu,
            flow_memory_mib=pool.memory_mib,
            flow_storage_gib=pool.storage_gib,
            flow_environment=self.dask.environment if self.dask else None,
            flow_secrets=flow_secrets(self, pool),
            flow_tags=config.tags,
            concurrency_limit=pool.concurrency_limit,
            queues=pool.queues,
            worker_cpu=worker.cpu,
            worker_memory_mib=worker.memory_mib,
            worker_count=worker.count,
            worker_max_count=worker.max_count,
            worker_poll_interval=cdk.Duration.seconds(worker.poll_seconds),
            worker_instance_type=instance_type(worker),
            enable_execute_command=config.execute_command and worker.host is None,
            spot_attempts=pool.spot_attempts,
            max_reschedules=pool.max_reschedules,
            patience=cdk.Duration.seconds(pool.patience_seconds),
        )


def instance_type(worker: WorkerConfig) -> ec2.InstanceType | None:
    """The library's view of a configured host; None where the worker is a service."""
    return None if worker.host is None else ec2.InstanceType(worker.host)


def flow_image(scope: Construct, image: str | None) -> FlowImage:
    """The library's view of a configured image."""
    if image is None:
        return FlowImage.default()
    if image not in BUILT_IMAGES:
        return FlowImage.from_registry(image)
    return FlowImage.from_asset(
        scope,
        "FlowImage",
        directory=str(ROOT),
        file="docker/flow/Dockerfile",
        target=BUILT_IMAGES[image],
        writable_paths=WRITABLE_PATHS,
    )


def prefect_api(scope: Construct, api: CloudApi | SelfHostedApi, network: FlowNetwork) -> PrefectApi:
    """The library's view of a configured API; a private one is called from within the network."""
    secret = api_secret(scope, api.credential) if api.credential else None
    if isinstance(api, CloudApi):
        assert secret is not None  # the configuration wants one
        return PrefectApi.cloud(account_id=api.account_id, workspace_id=api.workspace_id, api_key=secret)
    return PrefectApi.self_hosted(api.url, auth_string=secret, vpc=network.vpc if api.private else None)
