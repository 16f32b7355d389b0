"""Every kind of network in one stack, with a layer in the one that has no way out. MODE is the first one's."""

import os

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager

from cdk_prefect_ecs import FlowImage, FlowNetwork, FlowStorage, FlowVolume, PrefectApi, PrefectExecutionLayer

app = cdk.App()
stack = cdk.Stack(app, "Networks", env=cdk.Environment(account="000000000000", region="us-east-1"))
networks = {
    "Changing": FlowNetwork(stack, "Changing", mode=os.environ["MODE"]),  # type: ignore[arg-type]
    "Nat": FlowNetwork(stack, "Nat", mode="nat", max_azs=2, flow_log_retention=logs.RetentionDays.ONE_DAY),
    "Endpoints": FlowNetwork(stack, "Endpoints", mode="endpoints"),
    "Default": FlowNetwork.from_default_vpc(stack, "Default"),
}
networks["Existing"] = FlowNetwork(
    stack,
    "Existing",
    vpc=networks["Nat"].vpc,
    vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
)
password = secretsmanager.Secret(stack, "Password")
files = efs.FileSystem(
    stack, "Files", vpc=networks["Endpoints"].vpc, encrypted=True, removal_policy=cdk.RemovalPolicy.DESTROY
)
layer = PrefectExecutionLayer(
    stack,
    "Prefect",
    work_pool_name="networks",
    network=networks["Endpoints"],
    api=PrefectApi.self_hosted(
        os.environ["PREFECT_API_URL"],
        auth_string=PrefectApi.ssm_secure_string("/prefect/embedded/auth-string"),
        vpc=networks["Endpoints"].vpc,
    ),
    image=FlowImage.from_ecr_repository(ecr.Repository.from_repository_name(stack, "Repository", "flows"), "1.0"),
    flow_secrets={"DB_PASSWORD": ecs.Secret.from_secrets_manager(password)},
    flow_volumes=[FlowVolume(files.add_access_point("Data"), "/data")],
    storage=FlowStorage(stack, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY),
    log_group=logs.LogGroup(
        stack, "LogGroup", retention=logs.RetentionDays.ONE_DAY, removal_policy=cdk.RemovalPolicy.DESTROY
    ),
)
for name, network in networks.items():
    cdk.CfnOutput(stack, f"{name}Vpc", value=network.vpc.vpc_id)
    cdk.CfnOutput(stack, f"{name}Subnets", value=",".join(subnet.subnet_id for subnet in network.subnets))
    cdk.CfnOutput(stack, f"{name}Group", value=network.security_group.security_group_id)
cdk.CfnOutput(stack, "WorkerGroup", value=layer.worker.security_group.security_group_id)
app.synth()
