"""What the functions of this library have in common."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_prefect_ecs.encryption import grant_key_use
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.required_policy import grantees

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

    @checked_construct
    def __init__(self, scope: Construct, construct_id: str, *, log_group: logs.ILogGroup, in_vpc: bool) -> None:
        super().__init__(scope, construct_id, assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        grant_function(self, log_group=log_group, in_vpc=in_vpc)


def function_runtime() -> lambda_.Runtime:
    """What the functions run on: the newest Python that Lambda has."""
    return lambda_.Runtime.PYTHON_3_14


def grant_function(grantee: iam.IGrantable, *, log_group: logs.ILogGroup, in_vpc: bool) -> None:
    """Grant what every function needs: its log and, in a VPC, its network interfaces."""
    log_group.grant_write(grantee)
    if not in_vpc:
        return
    iam.Grant.add_to_principal(grantee=grantee, actions=_VPC_ACTIONS, resource_arns=["*"])
    # That is for Lambda itself and not for the function's code, whose calls carry the function's ARN. Source:
    # "Giving Lambda functions access to resources in an Amazon VPC", AWS Lambda Developer Guide.
    function_arns = cdk.Stack.of(log_group).format_arn(
        service="lambda", resource="function", resource_name="*", arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
    )
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            effect=iam.Effect.DENY,
            actions=_VPC_ACTIONS,
            resources=["*"],
            conditions={"ArnLike": {"lambda:SourceFunctionArn": function_arns}},
        )
    )


def function_role(scope: Construct, given: iam.IRole | None, *, log_group: logs.ILogGroup, in_vpc: bool) -> iam.IRole:
    """The role of a function: a new one, or one that was given and gets what every function needs."""
    if given is None:
        return FunctionRole(scope, "Role", log_group=log_group, in_vpc=in_vpc)
    for grantee in grantees(scope, given):
        grant_function(grantee, log_group=log_group, in_vpc=in_vpc)
    return given


def wake_by_queue(function: lambda_.Function, queue: sqs.IQueue, readers: Iterable[iam.IGrantable]) -> None:
    """Invoke a function for messages of a queue, ten at a time. Its role may do what Lambda does to read them.

    :param readers: The function's role, and what keeps record of it.
    """
    # The mapping that add_event_source would make, under its id, without the two rights too many that come with it.
    function.add_event_source_mapping(
        f"SqsEventSource:{cdk.Names.node_unique_id(queue.node)}", event_source_arn=queue.queue_arn, batch_size=10
    )
    for reader in readers:
        # Source: "Configuring a queue to trigger a Lambda function", Amazon SQS Developer Guide.
        iam.Grant.add_to_principal(
            grantee=reader,
            actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
            resource_arns=[queue.queue_arn],
        )
        if queue.encryption_master_key is not None:
            grant_key_use(queue.encryption_master_key, reader, function, service="sqs")


def functions_code() -> lambda_.Code:
    """The code of this library's functions: plain Python, so the asset is the folder ``functions`` as it is."""
    return lambda_.Code.from_asset(_readable_copy().name)


@functools.cache
def _readable_copy() -> tempfile.TemporaryDirectory[str]:
    """A copy of the code that everybody may read, until Python ends; the CDK has its own by then.

    The CDK CLI packs files with their permissions, and Lambda runs code as a user of its own. Where the umask is 077,
    the installed files are their owner's alone; the hash of the asset does not tell.
    """
    folder = tempfile.TemporaryDirectory(prefix="cdk-prefect-ecs-")
    functions = Path(folder.name, "functions")
    functions.mkdir()
    for source in Path(__file__).with_name("functions").glob("*.py"):
        copy = functions / source.name
        copy.write_bytes(source.read_bytes())
        copy.chmod(0o644)
    return folder
