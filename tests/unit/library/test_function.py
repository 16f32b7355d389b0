"""What is common to the library's functions."""

from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from aws_cdk.assertions import Template
from library_helpers import IN_VPC, allow, in_order, new_app, only, plain, resource, statements

import cdk_prefect_ecs
from cdk_prefect_ecs.function import FunctionRole, function_runtime, functions_code, wake_by_queue

FUNCTIONS = Path(cdk_prefect_ecs.__file__).parent / "functions"
WRITE_LOG = allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<Logs.Arn>")


def role_template(*, in_vpc: bool) -> Template:
    stack = cdk.Stack(new_app(), "Test")
    FunctionRole(stack, "Role", log_group=logs.LogGroup(stack, "Logs"), in_vpc=in_vpc)
    return Template.from_stack(stack)


def test_role_writes_its_own_log_and_nothing_else() -> None:
    template = role_template(in_vpc=False)
    assert statements(template, "Role") == [WRITE_LOG]
    assert resource(template, "Role")["Properties"] == {
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "sts:AssumeRole",
                    "Principal": {"Service": "lambda.amazonaws.com"},
                }
            ],
        }
    }


def test_role_in_a_vpc_lets_lambda_manage_network_interfaces_and_not_its_code() -> None:
    assert statements(role_template(in_vpc=True), "Role") == in_order([WRITE_LOG, *IN_VPC])


def test_a_queue_wakes_a_function_with_the_three_rights_that_lambda_needs() -> None:
    stack = cdk.Stack(new_app(), "Test")
    function = lambda_.Function(
        stack, "Function", runtime=function_runtime(), handler="a.b", code=lambda_.Code.from_inline("pass")
    )
    wake_by_queue(function, sqs.Queue(stack, "Queue"), [function])
    template = Template.from_stack(stack)
    mapping = plain(only(template, "AWS::Lambda::EventSourceMapping"))
    assert mapping == {"BatchSize": 10, "EventSourceArn": "<Queue.Arn>", "FunctionName": "<Function>"}
    (policy,) = template.find_resources("AWS::IAM::Policy").values()
    assert policy["Properties"]["PolicyDocument"]["Statement"][0]["Action"] == [
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:ReceiveMessage",
    ]


def test_the_mapping_has_the_id_that_the_cdk_would_give_it() -> None:
    """Another id would replace it, and Lambda refuses a second mapping of one queue and function."""
    ids = []
    for wake in (
        lambda function, queue: wake_by_queue(function, queue, []),
        lambda function, queue: function.add_event_source(sources.SqsEventSource(queue)),
    ):
        stack = cdk.Stack(new_app(), "Test")
        function = lambda_.Function(
            stack, "Function", runtime=function_runtime(), handler="a.b", code=lambda_.Code.from_inline("pass")
        )
        wake(function, sqs.Queue(stack, "Queue"))
        ids += Template.from_stack(stack).find_resources("AWS::Lambda::EventSourceMapping")
    assert ids[0] == ids[1]


@pytest.fixture(scope="module")
def asset() -> Path:
    """The folder that would be zipped and sent to AWS Lambda."""
    app = new_app()
    stack = cdk.Stack(app, "Test")
    lambda_.Function(
        stack, "Function", runtime=function_runtime(), handler="functions.work_pool_sync.handler", code=functions_code()
    )
    assembly = app.synth()
    folders = [path for path in Path(assembly.directory).glob("asset.*") if path.is_dir()]
    assert len(folders) == 1
    return folders[0]


def test_asset_holds_the_functions_and_nothing_else(asset: Path) -> None:
    shipped = {path.relative_to(asset).as_posix() for path in asset.rglob("*") if path.is_file()}
    assert shipped == {f"functions/{path.name}" for path in FUNCTIONS.glob("*.py")}


def test_asset_has_the_handlers_and_what_they_import(asset: Path) -> None:
    names = {path.name for path in (asset / "functions").iterdir()}
    assert {"__init__.py", "credential.py", "prefect_api.py", "custom_resource.py"} <= names
    assert {"work_pool_sync.py", "typed_properties.py"} <= names
    assert {"lazarus.py", "lazarus_rules.py", "lazarus_world.py"} <= names


def test_runtime() -> None:
    assert function_runtime().name == "python3.14"
