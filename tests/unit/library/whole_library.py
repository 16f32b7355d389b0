"""A stack with everything of the library that makes a role, for tests that look at all of them."""

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct
from library_helpers import cloud_api

from cdk_prefect_ecs import (
    DaskAccess,
    DeployRole,
    FlowCluster,
    FlowNetwork,
    FlowStorage,
    JobTrust,
    PrefectExecutionLayer,
    PrefectServer,
    WorkerHost,
)


def whole_library(scope: Construct, stack_id: str = "Whole", **layer_settings: Any) -> cdk.Stack:
    """Every kind of machine, Dask, a worker host, a server, flow logs, and the CDK's own custom resources."""
    stack = cdk.Stack(scope, stack_id)
    network = FlowNetwork(stack, "Network", flow_log_retention=logs.RetentionDays.ONE_MONTH)
    cluster = FlowCluster(stack, "Cluster", vpc=network.vpc)
    instances = cluster.add_auto_scaling_capacity(
        "Instances", network=network, instance_types=[ec2.InstanceType("m7g.large")]
    )
    cluster.add_managed_instances_capacity("Managed", network=network, spot=True)
    cluster.add_external_capacity("OnPremises")
    dask = DaskAccess(stack, "Dask", cluster=cluster, network=network)
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=cloud_api(),
        network=network,
        cluster=cluster,
        storage=FlowStorage(stack, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY, auto_delete_objects=True),
        **layer_settings,
    )
    layer.add_work_pool("graviton", capacity=instances.capacity, worker_max_count=2)
    dask.grant_run_clusters(layer.flow_role)
    WorkerHost(stack, "Host", work_pool=layer.work_pool, api=cloud_api(), network=network, log_group=layer.log_group)
    deploy = DeployRole(stack, "Deploy", trust=JobTrust.github("acme/etl", environment="prod"))
    layer.grant_deploy_flows(deploy)
    DeployRole(
        stack,
        "Diff",
        trust=JobTrust.github("acme/etl", pull_requests=True),
        provider=deploy.provider,
        read_only=True,
    )
    PrefectServer(stack, "Server", network=FlowNetwork(stack, "PrivateNetwork", mode="nat"), cluster=cluster)
    return stack
