"""A layer with several work pools, and one of every machine that flow runs may be placed on."""

import json
import os

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager

from cdk_prefect_ecs import (
    FlowNetwork,
    FlowStorage,
    FlowVolume,
    PrefectApi,
    PrefectExecutionLayer,
    SpotPolicy,
    WorkQueue,
)
from stacks.environments import EMBEDDED_AUTH_PARAMETER

app = cdk.App()
stack = cdk.Stack(app, "Capacity", env=cdk.Environment(account="000000000000", region="us-east-1"))
api = PrefectApi.self_hosted(
    os.environ["PREFECT_API_URL"], auth_string=PrefectApi.ssm_secure_string(EMBEDDED_AUTH_PARAMETER)
)
network = FlowNetwork(stack, "Network", max_azs=2)
storage = FlowStorage(stack, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY, auto_delete_objects=True)
log_group = logs.LogGroup(stack, "Logs", retention=logs.RetentionDays.ONE_DAY, removal_policy=cdk.RemovalPolicy.DESTROY)
file_system = efs.FileSystem(stack, "Files", vpc=network.vpc, encrypted=True, removal_policy=cdk.RemovalPolicy.DESTROY)
password = secretsmanager.Secret(
    stack, "Password", secret_object_value={"password": cdk.SecretValue.unsafe_plain_text("s3cret")}
)

layer = PrefectExecutionLayer(
    stack,
    "Prefect",
    work_pool_name="many",
    api=api,
    network=network,
    storage=storage,
    log_group=log_group,
    flow_cpu=512,
    flow_memory_mib=1024,
    flow_storage_gib=50,
    flow_tags={"CostCenter": "42"},
    flow_secrets={"DB_PASSWORD": ecs.Secret.from_secrets_manager(password, "password")},
    flow_volumes=[FlowVolume(file_system.add_access_point("Data"), "/data")],
    queues=[WorkQueue("urgent", 1, concurrency_limit=2), WorkQueue("default", 2)],
    worker_poll_interval=cdk.Duration.seconds(2),
)
cluster = layer.cluster
gpu = cluster.add_auto_scaling_capacity(
    "Gpu",
    network=network,
    instance_types=[ec2.InstanceType("g5.xlarge"), ec2.InstanceType("g4dn.xlarge")],
    spot=True,
    max_instances=4,
)
arm = cluster.add_auto_scaling_capacity("Arm", network=network, instance_types=[ec2.InstanceType("m7g.large")])
managed = cluster.add_managed_instances_capacity("Managed", network=network, spot=True)
own = cluster.add_external_capacity("Own")
calm = {"worker_count": 0, "flow_cpu": 512, "flow_memory_mib": 1024}
layer.add_work_pool(
    "many-gpu",
    capacity=gpu.capacity,
    flow_gpus=1,
    flow_cpu=512,
    flow_memory_mib=1024,
    flow_tags={"CostCenter": "43"},
    spot_attempts=1,
    worker_max_count=3,
    worker_poll_interval=cdk.Duration.seconds(2),
)
layer.add_work_pool("many-arm", capacity=arm.capacity, spot_policy=SpotPolicy.ON_DEMAND, **calm)
layer.add_work_pool("many-managed", capacity=managed.capacity, **calm)
layer.add_work_pool("many-own", capacity=own.capacity, **calm)

outputs = {
    "Bucket": storage.bucket_name,
    "Cluster": cluster.cluster_name,
    "GpuProviders": stack.to_json_string([gpu.capacity.on_demand, gpu.capacity.spot]),
    "RegistrationRole": own.registration_role.role_name,
    "RegistrationCommand": own.registration_command,
}
for name, value in outputs.items():
    cdk.CfnOutput(stack, name, value=value if isinstance(value, str) else json.dumps(value))
app.synth()
