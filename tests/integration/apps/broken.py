"""Stacks that cannot work, each for another reason."""

import os

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_secretsmanager as secretsmanager

from cdk_prefect_ecs import ApiSecret, FlowNetwork, PrefectApi, PrefectExecutionLayer

app = cdk.App()
url = os.environ["PREFECT_API_URL"]
RIGHT = "/prefect/embedded/auth-string"


def field(stack: cdk.Stack, name: str) -> ApiSecret:
    """A field of the secret that the test stored."""
    secret = secretsmanager.Secret.from_secret_complete_arn(stack, "Secret", os.environ["SECRET_ARN"])
    return PrefectApi.secrets_manager(secret, field=name)


for name, api_url, credential in (
    (
        "Unreachable",
        os.environ["DEAD_API_URL"],
        lambda _: PrefectApi.ssm_secure_string(RIGHT),
    ),
    ("WrongKey", url, lambda _: PrefectApi.ssm_secure_string("/prefect/wrong")),
    ("MissingParameter", url, lambda _: PrefectApi.ssm_secure_string("/prefect/missing")),
    ("EmptyField", url, lambda stack: field(stack, "empty")),
    ("LineBreak", url, lambda stack: field(stack, "line")),
):
    stack = cdk.Stack(app, name, env=cdk.Environment(account="000000000000", region="us-east-1"))
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id=os.environ["VPC_ID"],
        availability_zones=["us-east-1a"],
        public_subnet_ids=[os.environ["SUBNET_ID"]],
    )
    PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name=name.lower(),
        api=PrefectApi.self_hosted(api_url, auth_string=credential(stack)),
        network=FlowNetwork(stack, "Network", vpc=vpc),
    )
app.synth()
