"""The grant against what dask-cloudprovider really calls: recorded, and judged by an evaluator of IAM."""

import inspect
import json
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from dask_cloudprovider.aws import ecs as provider
from dask_fakes import Call, FakeFargate
from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document

from cdk_prefect_ecs import DaskAccess, FlowCluster, FlowNetwork
from dask_cluster import DaskCluster
from embedded.emulator.authorization import Check, required

ACCOUNT, REGION = "111122223333", "us-east-1"
ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Granted:
    """A role with the grant, as CloudFormation would make it."""

    access: DaskAccess
    policy: list[dict[str, Any]]
    variables: Mapping[str, str]

    @property
    def families(self) -> tuple[str, str]:
        return str(self.access.scheduler_task_definition.family), str(self.access.worker_task_definition.family)


@dataclass(frozen=True)
class Question:
    """What AWS asks IAM about one call."""

    action: str
    resource: str
    context: Mapping[str, Any]


def concrete(value: Any) -> Any:
    """A piece of a template with its references resolved: a logical id stands for the id that AWS would give."""
    if isinstance(value, list):
        return [concrete(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"}:
        return "aws" if value["Ref"] == "AWS::Partition" else value["Ref"]
    if set(value) == {"Fn::GetAtt"}:
        name, attribute = value["Fn::GetAtt"]
        if attribute != "Arn":
            return name
        kind = "cluster" if "Cluster" in name else "role" if "Role" in name else "log-group"
        return f"{ECS}:cluster/{name}" if kind == "cluster" else f"arn:aws:iam::{ACCOUNT}:{kind}/{name}"
    if set(value) == {"Fn::Join"}:
        separator, items = value["Fn::Join"]
        return separator.join(concrete(items))
    return {key: concrete(item) for key, item in value.items()}


@pytest.fixture(scope="module")
def granted() -> Iterator[Granted]:
    with tempfile.TemporaryDirectory() as out:
        context = json.loads((ROOT / "cdk.json").read_text())["context"]
        app = cdk.App(context=context, analytics_reporting=False, builtin_cloud_formation_validation=False, outdir=out)
        stack = cdk.Stack(app, "Test", env=cdk.Environment(account=ACCOUNT, region=REGION))
        network = FlowNetwork(stack, "Network")
        access = DaskAccess(stack, "Dask", cluster=FlowCluster(stack, "Cluster", vpc=network.vpc), network=network)
        role = iam.Role(stack, "FlowRole", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
        access.grant_run_clusters(role)
        variables = {name: concrete(stack.resolve(value)) for name, value in access.environment.items()}
        template = json.loads((Path(app.synth().directory) / "Test.template.json").read_text())
        policies = [
            found["Properties"]
            for found in template["Resources"].values()
            if found["Type"] == "AWS::IAM::Policy" and "FlowRole" in json.dumps(found["Properties"]["Roles"])
        ]
        statements = [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
        yield Granted(access, concrete(statements), variables)


@pytest.fixture(scope="module")
def questions(granted: Granted) -> list[Question]:
    """What AWS asks IAM while a flow opens a cluster, computes, loses a worker and closes the cluster."""
    fargate = FakeFargate()
    with fargate.serve(granted.variables), DaskCluster(2) as cluster, cluster.get_client() as client:
        client.wait_for_workers(2)
        cluster.sync(fargate.take_away, fargate.running()[1])
        assert client.submit(abs, -1).result() == 1
    assert len(fargate.made("run_task")) >= 3
    assert fargate.running() == []
    return [question for call in fargate.calls for question in asked(call, granted)]


def asked(call: Call, granted: Granted) -> Iterator[Question]:
    operation = "".join(word.capitalize() for word in call.operation.split("_"))
    if call.service != "ecs":
        yield Question(f"{call.service}:{operation}", "*", {})
        return
    family = call.arguments.get("taskDefinition")
    definition = family and {
        "taskDefinitionArn": f"{ECS}:task-definition/{family}:1",
        "executionRoleArn": granted.variables["DASK_CLOUDPROVIDER__ECS__EXECUTION_ROLE_ARN"],
        "taskRoleArn": granted.variables["DASK_CLOUDPROVIDER__ECS__TASK_ROLE_ARN"],
    }
    tags = {tag["key"]: tag["value"] for tag in call.arguments.get("tags", [])}
    for check in required(operation, dict(call.arguments), account=ACCOUNT, region=REGION, definition=definition):
        yield Question(check.action, check.resource, with_tags(check, tags))


def with_tags(check: Check, requested: Mapping[str, str]) -> dict[str, Any]:
    # Every task that is described or stopped here was started with the tags of the access.
    tags = {f"aws:RequestTag/{name}": value for name, value in requested.items()}
    if check.action in ("ecs:DescribeTasks", "ecs:StopTask"):
        tags["aws:ResourceTag/dask-access"] = "Test-Dask"
    return {**check.context, **tags}


def allowed(policy: list[dict[str, Any]], action: str, resource: str, context: Mapping[str, Any]) -> bool:
    request = EvalContext(
        principal_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/FlowRole/run",
        principal_type="AssumedRole",
        principal_account=ACCOUNT,
        action=action,
        resource_arn=resource,
        region=REGION,
        service_context={key.lower(): value for key, value in context.items()},
    )
    statements = parse_policy_document({"Version": "2012-10-17", "Statement": policy})
    return bool(evaluate(request, [statements]).decision == "Allow")


def test_nothing_is_missing(granted: Granted, questions: list[Question]) -> None:
    denied = [found for found in questions if not allowed(granted.policy, found.action, found.resource, found.context)]
    assert denied == []


def test_no_action_is_granted_that_is_not_used(granted: Granted, questions: list[Question]) -> None:
    actions = {
        action for s in granted.policy for action in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }
    assert actions == {question.action for question in questions}


def test_no_resource_is_granted_that_is_not_used(granted: Granted, questions: list[Question]) -> None:
    for statement in granted.policy:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for resource in resources:
            alone = [{**statement, "Resource": resource}]
            assert any(allowed(alone, q.action, q.resource, q.context) for q in questions), resource


def test_star_is_granted_only_where_no_resource_is_supported(granted: Granted) -> None:
    assert {action for s in granted.policy if s["Resource"] == "*" for action in s["Action"]} == {
        "ecs:ListAccountSettings",
        "ec2:DescribeNetworkInterfaces",
    }


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("ecs:RunTask", {"resource": f"{ECS}:task-definition/Test-etl:1"}),
        ("ecs:RunTask", {"ecs:cluster": f"{ECS}:cluster/other"}),
        ("ecs:RunTask", {"aws:RequestTag/dask-access": "of-another"}),
        ("ecs:StopTask", {"aws:ResourceTag/dask-access": "of-another"}),
        ("ecs:StopTask", {"aws:ResourceTag/dask-access": None}),
        ("ecs:StopTask", {"ecs:cluster": f"{ECS}:cluster/other"}),
        ("ecs:DescribeTasks", {"aws:ResourceTag/dask-access": None}),
        ("ecs:TagResource", {"ecs:CreateAction": None}),
        ("ecs:DescribeClusters", {"resource": f"{ECS}:cluster/other"}),
        ("iam:PassRole", {"resource": f"arn:aws:iam::{ACCOUNT}:role/Admin"}),
        ("iam:PassRole", {"iam:PassedToService": "lambda.amazonaws.com"}),
    ],
)
def test_what_is_others_is_out_of_reach(
    granted: Granted, questions: list[Question], action: str, change: dict[str, str | None]
) -> None:
    question = next(found for found in questions if found.action == action)
    resource = change.get("resource") or question.resource
    context = {key: value for key, value in {**question.context, **change}.items() if value and key != "resource"}
    assert allowed(granted.policy, action, question.resource, question.context)
    assert not allowed(granted.policy, action, resource, context)


@pytest.mark.parametrize(
    "action",
    [
        "iam:CreateRole",
        "ecs:CreateCluster",
        "ecs:DeleteCluster",
        "ec2:CreateSecurityGroup",
        "ec2:AuthorizeSecurityGroupIngress",
        "ecs:RegisterTaskDefinition",
        "ecs:DeregisterTaskDefinition",
        "logs:CreateLogGroup",
    ],
)
def test_nothing_can_be_created_or_deleted(granted: Granted, action: str) -> None:
    assert not allowed(granted.policy, action, "*", {})


def test_the_provider_tries_nothing_else_by_its_source(granted: Granted) -> None:
    """A setting that it reads and that is not handed to it would be looked up or created."""
    source = inspect.getsource(provider)
    creators = set(re.findall(r'self\.config\.get\("(\w+)"\)\s*or await self\._create_', source))
    assert creators == {
        "cluster_arn",
        "execution_role_arn",
        "task_role_arn",
        "cloudwatch_logs_group",
        "security_groups",
    }
    given = {name.removeprefix("DASK_CLOUDPROVIDER__ECS__").lower() for name in granted.variables}
    assert creators | {"vpc", "subnets", "skip_cleanup"} <= given


def test_one_version_is_installed_recommended_and_in_the_image() -> None:
    pinned = f"dask-cloudprovider[aws]=={version('dask-cloudprovider')}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = (ROOT / "docker" / "flow" / "requirements.in").read_text().splitlines()
    assert set(extras["dask"]) <= {line.partition("#")[0].strip() for line in wanted}
    assert pinned in extras["dask"]
