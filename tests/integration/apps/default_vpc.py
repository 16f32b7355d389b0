"""A layer in the account's default VPC, which the CDK CLI looks up."""

import os

import aws_cdk as cdk

from cdk_prefect_ecs import FlowNetwork, PrefectApi, PrefectExecutionLayer

app = cdk.App()
stack = cdk.Stack(app, "DefaultVpc", env=cdk.Environment(account="000000000000", region="us-east-1"))
PrefectExecutionLayer(
    stack,
    "Prefect",
    work_pool_name="default-vpc",
    api=PrefectApi.self_hosted(os.environ["PREFECT_API_URL"]),
    network=FlowNetwork.from_default_vpc(stack, "Network"),
)
app.synth()
