"""What the functions of this library have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

FUNCTION_RUNTIME: Final = lambda_.Runtime.PYTHON_3_14

# Network interfaces of a function in a VPC. Lambda makes them with the function's role, before anyone knows their ids.
# Source: AWSLambdaVPCAccessExecutionRole, AWS Managed Policy Reference.
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
        log_group.grant_write(self)
        if in_vpc:
            self.add_to_policy(iam.PolicyStatement(actions=_VPC_ACTIONS, resources=["*"]))
            # That is for Lambda itself and not for the function's code, whose calls carry the function's ARN. Source:
            # "Giving Lambda functions access to resources in an Amazon VPC", AWS Lambda Developer Guide.
            self.add_to_policy(
                iam.PolicyStatement(
                    effect=iam.Effect.DENY,
                    actions=_VPC_ACTIONS,
                    resources=["*"],
                    conditions={
                        "ArnLike": {
                            "lambda:SourceFunctionArn": cdk.Stack.of(self).format_arn(
                                service="lambda",
                                resource="function",
                                resource_name="*",
                                arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
                            )
                        }
                    },
                )
            )


def wake_by_queue(function: lambda_.Function, queue: sqs.IQueue) -> None:
    """Invoke a function for messages of a queue, ten at a time. Its role may do what Lambda does to read them."""
    # The mapping that add_event_source would make, under its id, without the two rights too many that come with it.
    function.add_event_source_mapping(
        f"SqsEventSource:{cdk.Names.node_unique_id(queue.node)}", event_source_arn=queue.queue_arn, batch_size=10
    )
    # Source: "Configuring a queue to trigger a Lambda function", Amazon SQS Developer Guide.
    iam.Grant.add_to_principal(
        grantee=function,
        actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
        resource_arns=[queue.queue_arn],
    )


def functions_code() -> lambda_.Code:
    """The code of this library's functions: plain Python, so the asset is the folder as it is."""
    return lambda_.Code.from_asset(
        str(Path(__file__).parent),
        exclude=["*", "!functions", "!functions/*.py"],
        ignore_mode=cdk.IgnoreMode.GIT,
    )
