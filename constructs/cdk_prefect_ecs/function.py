"""What the functions of this library have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs.required_policy import grantees

FUNCTION_RUNTIME: Final = lambda_.Runtime.PYTHON_3_14

# Network interfaces of a function in a VPC; these actions support no resource. Source: AWSLambdaVPCAccessExecutionRole,
# AWS Managed Policy Reference.
_VPC_ACTIONS: Final = [
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
]


class FunctionRole(iam.Role):
    """Define the role of a function: it may write its own log and nothing else, instead of every log of the account as
    the managed policy AWSLambdaBasicExecutionRole has it.

    :param log_group: The function's log group.
    :param in_vpc: Whether the function is placed in a VPC.
    """

    def __init__(self, scope: Construct, construct_id: str, *, log_group: logs.ILogGroup, in_vpc: bool) -> None:
        super().__init__(scope, construct_id, assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        grant_function(self, log_group=log_group, in_vpc=in_vpc)


def grant_function(grantee: iam.IGrantable, *, log_group: logs.ILogGroup, in_vpc: bool) -> None:
    """Grant what every function needs: its log and, in a VPC, its network interfaces."""
    log_group.grant_write(grantee)
    if in_vpc:
        iam.Grant.add_to_principal(grantee=grantee, actions=_VPC_ACTIONS, resource_arns=["*"])


def function_role(scope: Construct, given: iam.IRole | None, *, log_group: logs.ILogGroup, in_vpc: bool) -> iam.IRole:
    """The role of a function: a new one, or one that was given and gets what every function needs."""
    if given is None:
        return FunctionRole(scope, "Role", log_group=log_group, in_vpc=in_vpc)
    for grantee in grantees(scope, given):
        grant_function(grantee, log_group=log_group, in_vpc=in_vpc)
    return given


def functions_code() -> lambda_.Code:
    """The code of this library's functions: plain Python, so the asset is the folder as it is."""
    return lambda_.Code.from_asset(
        str(Path(__file__).parent),
        exclude=["*", "!functions", "!functions/*.py"],
        ignore_mode=cdk.IgnoreMode.GIT,
    )
