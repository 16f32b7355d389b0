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
    CapacityKind,
    ExecutionMonitoring,
    FlowCapacity,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    FlowStorage,
    FlowVolume,
    PrefectApi,
    PrefectExecutionLayer,
    WorkerRole,
    WorkerService,
    WorkPool,
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
access_point = file_system.add_access_point("Data")
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
    flow_environment={"MODE": "thorough"},
    flow_secrets={"DB_PASSWORD": ecs.Secret.from_secrets_manager(password, "password")},
    flow_volumes=[FlowVolume(access_point, "/data")],
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
small = {"flow_cpu": 512, "flow_memory_mib": 1024, "worker_poll_interval": cdk.Duration.seconds(2)}
layer.add_work_pool(
    "many-gpu",
    capacity=gpu.capacity,
    flow_gpus=1,
    flow_tags={"CostCenter": "43"},
    spot_attempts=1,
    worker_count=2,
    worker_max_count=3,
    worker_memory_mib=2048,
    **small,
)
monitoring = ExecutionMonitoring(stack, "Monitoring", layer=layer)  # also of the pools that are added from here on
layer.add_work_pool("many-graviton", cpu_architecture="ARM64", **small)
layer.add_work_pool("many-managed", capacity=managed.capacity, spot_attempts=1, **small)
layer.add_work_pool("many-own", capacity=own.capacity, **small)

# The same from its parts, in the cluster as one that was there before: its providers are known by name only.
existing = FlowCluster.from_cluster(
    stack,
    "Existing",
    cluster=ecs.Cluster.from_cluster_attributes(
        stack, "ExistingCluster", cluster_name=cluster.cluster_name, vpc=network.vpc
    ),
    capacity_providers=cluster.capacity_providers,
)
shared = {"api": api, "cluster": existing, "network": network, "log_group": log_group}
# What a task runs in here has no images.
by_digest = FlowImage.from_registry("ghcr.io/acme/flows@sha256:" + "0123456789abcdef" * 4, cpu_architecture="ARM64")
arm_pool = WorkPool(
    stack,
    "ArmPool",
    work_pool_name="many-arm",
    capacity=FlowCapacity("arm", CapacityKind.AUTO_SCALING, on_demand=arm.capacity.on_demand, cpu_architecture="ARM64"),
    storage=storage,
    execution_role=layer.execution_role,
    flow_role=layer.flow_role,
    image=by_digest,
    cpu=512,
    memory_mib=1024,
    tags={"CostCenter": "44"},
    **shared,
)
arm_worker = WorkerService(
    stack,
    "ArmWorker",
    work_pool=arm_pool,
    execution_role=layer.execution_role,
    worker_role=WorkerRole(stack, "ArmWorkerRole"),
    image=by_digest,
    cpu=256,
    memory_mib=512,
    cpu_architecture="ARM64",
    poll_interval=cdk.Duration.seconds(2),
    **shared,
)
layer.lazarus.add_work_pool(arm_pool)
monitoring.add_work_pool(arm_pool, worker=arm_worker)
cdk.Tags.of(stack).add("Project", "prefect")

outputs = {
    "Bucket": storage.bucket_name,
    "Cluster": cluster.cluster_name,
    "Providers": stack.to_json_string(
        {
            pool: {"on-demand": machines.capacity.on_demand, "spot": machines.capacity.spot}
            for pool, machines in (("many-gpu", gpu), ("many-arm", arm), ("many-managed", managed))
        }
    ),
    "AccessPoint": access_point.access_point_id,
    "RegistrationRole": own.registration_role.role_name,
    "RegistrationCommand": own.registration_command,
    "Dashboard": monitoring.dashboard.ref,
}
for name, value in outputs.items():
    cdk.CfnOutput(stack, name, value=value if isinstance(value, str) else json.dumps(value))
app.synth()
