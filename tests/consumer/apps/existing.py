"""A platform team's app: VPC, cluster and roles are there, and every role that is made has the company's boundary."""

import os

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs

from cdk_prefect_ecs import FlowCluster, FlowNetwork, FlowStorage, PrefectApi, PrefectExecutionLayer

app = cdk.App()
account = os.environ.get("CDK_DEFAULT_ACCOUNT", "123456789012")
stack = cdk.Stack(app, "ConsumerExisting", env=cdk.Environment(account=account, region="us-east-1"))
iam.PermissionsBoundary.of(stack).apply(
    iam.ManagedPolicy.from_managed_policy_name(stack, "Boundary", "company-boundary")
)


def existing_role(name: str) -> iam.IRole:
    return iam.Role.from_role_arn(stack, name, f"arn:aws:iam::{account}:role/company/{name}")


subnets = os.environ.get("SUBNET_IDS", "subnet-0123456789abcdef0,subnet-0123456789abcdef1").split(",")
vpc = ec2.Vpc.from_vpc_attributes(
    stack,
    "Vpc",
    vpc_id=os.environ.get("VPC_ID", "vpc-0123456789abcdef0"),
    availability_zones=[f"us-east-1{letter}" for letter in "abcdef"[: len(subnets)]],
    public_subnet_ids=subnets,
)
cluster = FlowCluster.from_cluster(
    stack,
    "Cluster",
    cluster=ecs.Cluster.from_cluster_attributes(stack, "Existing", cluster_name="company", vpc=vpc, security_groups=[]),
)
layer = PrefectExecutionLayer(
    stack,
    "Prefect",
    work_pool_name="consumer-existing",
    api=PrefectApi.self_hosted(
        os.environ.get("PREFECT_API_URL", "https://prefect.example.com/api"),
        auth_string=PrefectApi.ssm_secure_string("/consumer/auth-string"),
    ),
    cluster=cluster,
    network=FlowNetwork(stack, "Network", vpc=vpc),
    storage=FlowStorage(stack, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY, auto_delete_objects=True),
    log_group=logs.LogGroup(stack, "Logs", removal_policy=cdk.RemovalPolicy.DESTROY),
    execution_role=existing_role("prefect-execution"),
    worker_role=existing_role("prefect-worker"),
    flow_role=existing_role("prefect-flows"),
)
cdk.CfnOutput(stack, "Bucket", value=layer.storage.bucket_name)
app.synth()
