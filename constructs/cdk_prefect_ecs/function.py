"""What the functions of this library have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs.place import checked_construct

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

    @checked_construct
    def __init__(self, scope: Construct, construct_id: str, *, log_group: logs.ILogGroup, in_vpc: bool) -> None:
        super().__init__(scope, construct_id, assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group.grant_write(self)
        if in_vpc:
            self.add_to_policy(iam.PolicyStatement(actions=_VPC_ACTIONS, resources=["*"]))


def functions_code() -> lambda_.Code:
    """The code of this library's functions: plain Python, so the asset is the folder as it is."""
    return lambda_.Code.from_asset(
        str(Path(__file__).parent),
        exclude=["*", "!functions", "!functions/*.py"],
        ignore_mode=cdk.IgnoreMode.GIT,
    )
