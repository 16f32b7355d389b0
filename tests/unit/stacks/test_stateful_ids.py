"""Logical ids of what holds data: documented, and the same as ever."""

import re
from dataclasses import replace

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template
from stack_helpers import CONTEXT, ROOT, new_stage

from cdk_prefect_ecs import (
    FlowCluster,
    FlowNetwork,
    FlowStorage,
    PrefectApi,
    PrefectExecutionLayer,
    PrefectServer,
    ServerDatabase,
)
from stacks.config import GitHubConfig
from stacks.environments import ENVIRONMENTS, environment

PAGE = ROOT / "docs" / "compatibility.md"
#: Without a deletion policy of their own, but what is in them goes with them, or a second one cannot be made.
STATEFUL = {"AWS::EC2::VPC", "AWS::ECS::Cluster", "AWS::IAM::OIDCProvider", "AWS::KMS::Key", "AWS::S3::Bucket"}
CHANGED = (
    "A new logical id replaces the resource. If that is what you want, correct docs/compatibility.md, and list the old "
    "id, the new one and how to keep the data in CHANGELOG.md"
)


def documented() -> tuple[list[str], list[str]]:
    """The logical ids of the table: of a layer, and in the app."""
    table = PAGE.read_text().partition("## Resources whose logical ids are kept")[2]
    rows = re.findall(r"^\| [^|]+ \| (?:`(\w+)`|\W+) \| `(\w+)` \|$", table, re.M)
    return sorted(of_layer for of_layer, _ in rows if of_layer), sorted(in_app for _, in_app in rows)


def stateful(*stacks: cdk.Stack) -> list[str]:
    """What holds something: by its type, or because somebody has it kept."""
    return sorted(
        logical_id
        for stack in stacks
        for logical_id, resource in Template.from_stack(stack).to_json()["Resources"].items()
        if resource["Type"] in STATEFUL or resource.get("DeletionPolicy") == "Retain"
    )


def a_stack() -> cdk.Stack:
    return cdk.Stack(cdk.App(context=CONTEXT, analytics_reporting=False), "Test")


def test_of_the_app_with_everything_that_may_hold_data() -> None:
    github = GitHubConfig("acme/etl", "prod", makes_provider=True)
    stage = new_stage(replace(environment("prod"), encryption_key="own", deployed_by=github))
    assert stage.delivery is not None
    assert stateful(stage.foundation, stage.execution, stage.delivery) == documented()[1], CHANGED


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_of_every_environment(name: str) -> None:
    stage = new_stage(environment(name))
    assert set(stateful(stage.foundation, stage.execution)) <= set(documented()[1]), CHANGED


def test_of_a_layer() -> None:
    stack = a_stack()
    api = PrefectApi.self_hosted("https://prefect.example.com/api")
    PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=api)
    assert stateful(stack) == documented()[0], CHANGED


def test_of_constructs_by_themselves() -> None:
    stack = a_stack()
    network = FlowNetwork(stack, "Network")
    FlowCluster(stack, "Cluster", vpc=network.vpc)
    FlowStorage(stack, "Storage", access_logs=True)
    found = stateful(stack)
    assert len(found) == 4
    assert set(found) <= set(documented()[1]), CHANGED


def test_of_a_server_and_of_a_database() -> None:
    stack = a_stack()
    network = FlowNetwork(stack, "Network", mode="nat", max_azs=2)
    ServerDatabase(stack, "Database", network=network)
    PrefectServer(stack, "Server", network=network, cluster=FlowCluster(stack, "Cluster", vpc=network.vpc))
    # The groups hold nothing.
    found = [
        name
        for name in stateful(stack)
        if not re.search("SubnetGroup|SecurityGroup", name) and not name.startswith(("Network", "Cluster"))
    ]
    assert len(found) == 5
    said = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(found) <= said, CHANGED
