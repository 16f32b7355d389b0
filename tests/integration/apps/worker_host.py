"""An execution layer whose worker is a host."""

import os

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2

from cdk_prefect_ecs import FlowStorage, PrefectApi, PrefectExecutionLayer

app = cdk.App()
stack = cdk.Stack(app, "Hosted")
layer = PrefectExecutionLayer(
    stack,
    "Prefect",
    work_pool_name="hosted",
    api=PrefectApi.self_hosted(
        os.environ["PREFECT_API_URL"], auth_string=PrefectApi.ssm_secure_string(os.environ["AUTH_PARAMETER"])
    ),
    storage=FlowStorage(stack, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY),
    flow_cpu=512,
    worker_instance_type=ec2.InstanceType(os.environ.get("INSTANCE_TYPE", "t4g.micro")),
    worker_poll_interval=cdk.Duration.seconds(1),
)
cdk.CfnOutput(stack, "WorkPoolName", value=layer.work_pool.work_pool_name)
cdk.CfnOutput(stack, "BucketName", value=layer.storage.bucket_name)
cdk.CfnOutput(stack, "LogGroupName", value=layer.log_group.log_group_name)
cdk.CfnOutput(stack, "WorkerRoleArn", value=layer.worker_role.role_arn)
app.synth()
