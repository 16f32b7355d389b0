"""What is common to the library's functions."""

from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Template
from library_helpers import allow, in_order, new_app, resource, statements

import cdk_prefect_ecs
from cdk_prefect_ecs.function import FUNCTION_RUNTIME, FunctionRole, functions_code

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


def test_role_in_a_vpc_manages_network_interfaces_too() -> None:
    assert statements(role_template(in_vpc=True), "Role") == in_order(
        [
            WRITE_LOG,
            allow(
                [
                    "ec2:AssignPrivateIpAddresses",
                    "ec2:CreateNetworkInterface",
                    "ec2:DeleteNetworkInterface",
                    "ec2:DescribeNetworkInterfaces",
                    "ec2:DescribeSubnets",
                    "ec2:UnassignPrivateIpAddresses",
                ],
                "*",
            ),
        ]
    )


@pytest.fixture(scope="module")
def asset() -> Path:
    """The folder that would be zipped and sent to AWS Lambda."""
    app = new_app()
    stack = cdk.Stack(app, "Test")
    lambda_.Function(
        stack, "Function", runtime=FUNCTION_RUNTIME, handler="functions.work_pool_sync.handler", code=functions_code()
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
    assert FUNCTION_RUNTIME.name == "python3.14"
