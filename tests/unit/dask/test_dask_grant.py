"""The grant against what dask-cloudprovider really calls: recorded, and asked as AWS asks IAM.

What else flow runs may and may not is in tests/unit/permissions, and so is what the provider's source names.
"""

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from dask_cloudprovider.aws import ecs as provider
from dask_fakes import Call, FakeFargate

from dask_cluster import DaskCluster
from embedded.emulator.authorization import required
from tools.permissions.catalogue import KINDS
from tools.permissions.evaluation import Request, allowed
from tools.permissions.example import SERVICE, example
from tools.permissions.policies import ACCOUNT, REGION, Statement

ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
ROOT = Path(__file__).parents[3]


def statements() -> list[Statement]:
    """What flow runs are granted for Dask: all that is not about their storage."""
    return [s for s in example().role("flow").statements if not s.actions[0].startswith(("s3:", "elasticfilesystem:"))]


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """What AWS asks IAM while a flow opens a cluster, computes, loses a worker and closes the cluster."""
    fargate = FakeFargate()
    with fargate.serve(example().environment), DaskCluster(2) as cluster, cluster.get_client() as client:
        client.wait_for_workers(2)
        cluster.sync(fargate.take_away, fargate.running()[1])
        assert client.submit(abs, -1).result() == 1
    assert len(fargate.made("run_task")) >= 3
    assert fargate.running() == []
    return list({repr(request): request for call in fargate.calls for request in asked(call)}.values())


def asked(call: Call) -> Iterator[Request]:
    operation = "".join(word.capitalize() for word in call.operation.split("_"))
    if call.service != "ecs":
        yield Request(f"{call.service}:{operation}", "*")
        return
    variables = example().environment
    family = call.arguments.get("taskDefinition")
    definition = family and {
        "taskDefinitionArn": f"{ECS}:task-definition/{family}:1",
        "executionRoleArn": variables["DASK_CLOUDPROVIDER__ECS__EXECUTION_ROLE_ARN"],
        "taskRoleArn": variables["DASK_CLOUDPROVIDER__ECS__TASK_ROLE_ARN"],
    }
    tags = {f"aws:RequestTag/{tag['key']}": tag["value"] for tag in call.arguments.get("tags", [])}
    for check in required(operation, dict(call.arguments), account=ACCOUNT, region=REGION, definition=definition):
        context = dict(check.context)
        if check.action in ("ecs:RunTask", "ecs:TagResource"):
            context |= tags
        if check.action in ("ecs:DescribeTasks", "ecs:StopTask"):
            # Every task that is described or stopped here was started with the tags of the access.
            context["aws:ResourceTag/dask-access"] = f"{SERVICE}-Dask"
        yield Request(check.action, check.resource, context)


def test_nothing_is_missing(requests: list[Request]) -> None:
    answers = allowed([(statements(), request) for request in requests])
    assert [request for request, answer in zip(requests, answers, strict=True) if not answer] == []


def test_no_action_is_granted_that_is_not_used(requests: list[Request]) -> None:
    assert {action for s in statements() for action in s.actions} == {request.action for request in requests}


def test_no_resource_is_granted_that_is_not_used(requests: list[Request]) -> None:
    alone = [dataclasses.replace(s, resources=(resource,)) for s in statements() for resource in s.resources]
    pairs = [(one, request) for one in alone for request in requests if request.action in one.actions]
    answers = allowed([([one], request) for one, request in pairs])
    used = [one for (one, _), answer in zip(pairs, answers, strict=True) if answer]
    assert [one.document() for one in alone if one not in used] == []


def test_star_is_granted_only_where_no_resource_is_supported() -> None:
    assert {action for s in statements() if "*" in s.resources for action in s.actions} == {
        "ecs:ListAccountSettings",
        "ec2:DescribeNetworkInterfaces",
    }


def test_the_calls_are_those_of_the_source(requests: list[Request]) -> None:
    named = {
        call.method.replace("_", "") for call in KINDS["flow"].made() if call.module.startswith("dask_cloudprovider.")
    }
    called = {request.action.partition(":")[2].lower() for request in requests}
    assert called - {"passrole", "tagresource"} == named


def test_the_provider_tries_nothing_else_by_its_source() -> None:
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
    given = {name.removeprefix("DASK_CLOUDPROVIDER__ECS__").lower() for name in example().environment}
    assert creators | {"vpc", "subnets", "skip_cleanup"} <= given


def test_one_version_is_installed_recommended_and_in_the_image() -> None:
    pinned = f"dask-cloudprovider[aws]=={version('dask-cloudprovider')}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = (ROOT / "docker" / "flow" / "requirements.in").read_text().splitlines()
    assert set(extras["dask"]) <= {line.partition("#")[0].strip() for line in wanted}
    assert pinned in extras["dask"]
