"""An app with all that the others leave out: every kind of machine and network, a worker host, Dask, and CI."""

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs

from cdk_prefect_ecs import (
    DaskAccess,
    DeployRole,
    ExecutionMonitoring,
    FlowNetwork,
    JobTrust,
    PrefectApi,
    PrefectExecutionLayer,
    WorkerHost,
)

app = cdk.App()
stack = cdk.Stack(app, "ConsumerMachines")
api = PrefectApi.cloud(
    account_id="01234567-89ab-cdef-0123-456789abcdef",
    workspace_id="89abcdef-0123-4567-89ab-cdef01234567",
    api_key=PrefectApi.ssm_secure_string("/consumer/api-key"),
)
FlowNetwork(stack, "Isolated", mode="endpoints")
network = FlowNetwork(stack, "Network", mode="nat", flow_log_retention=logs.RetentionDays.ONE_MONTH)
layer = PrefectExecutionLayer(
    stack,
    "Prefect",
    work_pool_name="consumer-machines",
    api=api,
    network=network,
    cpu_architecture="ARM64",
    flow_storage_gib=100,
    worker_count=2,
    worker_max_count=4,
)
spot = layer.cluster.add_auto_scaling_capacity(
    "Instances",
    network=network,
    instance_types=[ec2.InstanceType("m7g.large"), ec2.InstanceType("m6g.large")],
    spot=True,
)
managed = layer.cluster.add_managed_instances_capacity("Managed", network=network, spot=True)
ExecutionMonitoring(stack, "Monitoring", layer=layer, alarm_email="on-call@example.com")
own = layer.cluster.add_external_capacity("OnPremises")
for name, machines in (("instances", spot), ("managed", managed), ("own", own)):
    layer.add_work_pool(f"consumer-{name}", capacity=machines.capacity)
WorkerHost(stack, "Host", work_pool=layer.work_pool, api=api, network=network, log_group=layer.log_group)
dask = DaskAccess(stack, "Dask", cluster=layer.cluster, network=network)
dask.grant_run_clusters(layer.flow_role)
deploy = DeployRole(stack, "Deploy", trust=JobTrust.github("acme/etl", branch="main"), publishes_images=True)
layer.grant_deploy_flows(deploy)
pull_requests = JobTrust.github("acme/etl", pull_requests=True)
DeployRole(stack, "Diff", trust=pull_requests, provider=deploy.provider, read_only=True)
app.synth()
