"""A company's app: several pools, each with secrets and a key of its own, and the API's credential under another."""

import os

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_ssm as ssm

from cdk_prefect_ecs import FlowStorage, PrefectApi, PrefectExecutionLayer, SpotPolicy, WorkQueue

app = cdk.App()
stack = cdk.Stack(app, "ConsumerPools")
api_key = kms.Key.from_key_arn(
    stack,
    "ApiKey",
    os.environ.get("API_KEY_ARN", "arn:aws:kms:us-east-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"),
)
layer = PrefectExecutionLayer(
    stack,
    "Prefect",
    work_pool_name="consumer-main",
    api=PrefectApi.self_hosted(
        os.environ.get("PREFECT_API_URL", "https://prefect.example.com/api"),
        auth_string=PrefectApi.ssm_secure_string("/consumer/own-key/auth-string", encryption_key=api_key),
    ),
    storage=FlowStorage(stack, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY, auto_delete_objects=True),
)
for team, policy in (("sales", SpotPolicy.ON_DEMAND), ("research", SpotPolicy.weights(spot=3, on_demand=1))):
    key = kms.Key(stack, f"{team}-key", enable_key_rotation=True, removal_policy=cdk.RemovalPolicy.DESTROY)
    password = secretsmanager.Secret(stack, f"{team}-password", encryption_key=key)
    token = ssm.StringParameter.from_secure_string_parameter_attributes(
        stack, f"{team}-token", parameter_name=f"/consumer/{team}/token"
    )
    layer.add_work_pool(
        f"consumer-{team}",
        spot_policy=policy,
        flow_secrets={
            "DB_PASSWORD": ecs.Secret.from_secrets_manager(password),
            "TOKEN": ecs.Secret.from_ssm_parameter(token),
        },
        flow_tags={"Team": team},
        queues=[WorkQueue("urgent", 1), WorkQueue("default", 2)],
    )
gpu = layer.cluster.add_auto_scaling_capacity(
    "Gpu", network=layer.network, instance_types=[ec2.InstanceType("g5.xlarge")], spot=True
)
layer.add_work_pool("consumer-gpu", capacity=gpu.capacity, flow_gpus=1, worker_count=0)
cdk.CfnOutput(stack, "Bucket", value=layer.storage.bucket_name)
app.synth()
