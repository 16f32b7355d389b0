"""Three stacks that cannot work, each for another reason."""

import os

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2

from cdk_prefect_ecs import FlowNetwork, PrefectApi, PrefectExecutionLayer

app = cdk.App()
url = os.environ["PREFECT_API_URL"]
for name, api in {
    "Unreachable": PrefectApi.self_hosted(
        os.environ["DEAD_API_URL"], auth_string=PrefectApi.ssm_secure_string("/prefect/embedded/auth-string")
    ),
    "WrongKey": PrefectApi.self_hosted(url, auth_string=PrefectApi.ssm_secure_string("/prefect/wrong")),
    "MissingParameter": PrefectApi.self_hosted(url, auth_string=PrefectApi.ssm_secure_string("/prefect/missing")),
}.items():
    stack = cdk.Stack(app, name, env=cdk.Environment(account="000000000000", region="us-east-1"))
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id=os.environ["VPC_ID"],
        availability_zones=["us-east-1a"],
        public_subnet_ids=[os.environ["SUBNET_ID"]],
    )
    PrefectExecutionLayer(
        stack, "Prefect", work_pool_name=name.lower(), api=api, network=FlowNetwork(stack, "Network", vpc=vpc)
    )
app.synth()
