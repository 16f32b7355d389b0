"""Every statement of every template against AWS's Service Authorization Reference: its parts exist and go together."""

import dataclasses
import functools
import json
from pathlib import Path

import aws_cdk as cdk
import pytest
import test_capacity_template
import test_delivery_policy
import test_monitoring_template
import test_network_policy
import test_worker_host_policy
from policy_helpers import CONTEXT, new_assembly, synthesised

from stacks.config import OWN_KEY
from stacks.environments import ENVIRONMENTS, environment
from stacks.stage import PrefectStage
from tools.permissions.example import example
from tools.permissions.fitting import misfits, open_actions
from tools.permissions.policies import Role, Statement, Templates

#: The apps of this folder, and the one of the tests of permissions, which has everything turned on.
APPS = [*ENVIRONMENTS, "own key", "capacity", "networks", "host", "delivery", "monitoring", "everything"]

#: Actions that a role has on everything though AWS lets a statement name resources, each with the reason.
OPEN = {
    "ecs:ListTasks": "Without a container instance it is asked on everything; the condition ecs:cluster limits it.",
    "ec2:AssignPrivateIpAddresses": "Lambda makes the interface of a function; nobody knows its id before.",
    "ec2:CreateNetworkInterface": "Lambda makes the interface of a function; nobody knows its id before.",
    "ec2:DeleteNetworkInterface": "Lambda makes the interface of a function; nobody knows its id before.",
    "ec2:UnassignPrivateIpAddresses": "Lambda makes the interface of a function; nobody knows its id before.",
    "ssm:UpdateInstanceInformation": "A host is replaced every week; nobody knows the id of the next one.",
}


#: What does not fit by the reference and is there all the same, each with the reason.
AS_DOCUMENTED = {
    "kms:DescribeKey does not come with kms:EncryptionContext:aws:logs:arn": "It is in the key policy that the guide "
    "of CloudWatch Logs gives, under this condition, where it allows nothing by the reference.",
}


@functools.cache
def templates(app: str) -> Templates:
    if app in ENVIRONMENTS:
        return Templates.read(synthesised(app).out)
    if app == "own key":
        return Templates.read(synthesised_with_own_key())
    if app == "capacity":
        return Templates({"Capacity": json.loads(test_capacity_template.synthesised())})
    if app == "networks":
        return Templates.read(test_network_policy.synthesised_networks().out)
    if app == "delivery":
        return Templates.read(test_delivery_policy.synthesised_delivery())
    if app == "host":
        return Templates.read(test_worker_host_policy.synthesised_host())
    if app == "monitoring":
        return Templates.read(test_monitoring_template.synthesised_monitoring(everything=True))
    return example().templates


def synthesised_with_own_key() -> Path:
    """The app with a key for its data, access logs, a private API, and roles that have a path and a boundary."""
    out = new_assembly()
    config = environment("embedded")
    config = dataclasses.replace(
        config,
        network="nat",
        api=dataclasses.replace(config.api, private=True),
        image="build",
        encryption_key=OWN_KEY,
        access_logs=True,
        flow_logs=True,
        permissions_boundary="team-boundary",
        role_path="/team/",
    )
    app = cdk.App(context=CONTEXT, analytics_reporting=False, builtin_cloud_formation_validation=False, outdir=str(out))
    PrefectStage(app, config.stage_name, config=config)
    app.synth()
    return out


@pytest.mark.parametrize("app", APPS)
def test_every_statement_fits(app: str) -> None:
    found = templates(app).statements()
    assert len(found) > 15
    wrong = {(statement.source, what) for statement in found for what in misfits(statement)}
    assert {(source, what) for source, what in wrong if what not in AS_DOCUMENTED} == set()


@pytest.mark.parametrize("app", APPS)
def test_no_role_has_more_resources_than_it_must(app: str) -> None:
    found = {action: s.source for s in templates(app).statements() for action in open_actions(s)}
    assert {action: source for action, source in found.items() if action not in OPEN} == {}


def test_every_exception_is_met_and_says_why() -> None:
    met = {action for s in templates("everything").statements() for action in open_actions(s)}
    assert met == set(OPEN)
    assert {what for s in templates("own key").statements() for what in misfits(s)} == set(AS_DOCUMENTED)
    assert all(reason.endswith(".") for reason in [*OPEN.values(), *AS_DOCUMENTED.values()])


@pytest.mark.parametrize("app", APPS)
def test_who_may_take_a_role_is_said_by_name(app: str) -> None:
    """No role is open to another account or to everybody."""
    for role in templates(app).roles():
        assert role.trusted
        named = [service for service in role.trusted if service.endswith(".amazonaws.com")]
        assert [*named, *federated(role)] == list(role.trusted), role.logical_id


def federated(role: Role) -> list[str]:
    """The issuers whose tokens take a role: none without an audience and a subject, each by its full name."""
    for statement in role.trust:
        assert statement.actions in (("sts:AssumeRole",), ("sts:AssumeRoleWithWebIdentity",)), role.logical_id
        if statement.actions == ("sts:AssumeRoleWithWebIdentity",):
            (equal,) = statement.conditions.values()
            assert set(statement.conditions) == {"StringEquals"}
            assert [key.rpartition(":")[2] for key in sorted(equal)] == ["aud", "sub"]
            assert not any(set(value) & set("*?") for value in equal.values())
    return list(role.issuers)


def statement(action: str, resource: str, condition: str | None = None, effect: str = "Allow") -> Statement:
    conditions = {"StringEquals": {condition: "x"}} if condition else {}
    return Statement("Stack.Policy", "identity", effect, (action,), (resource,), conditions)


@pytest.mark.parametrize(
    ("action", "resource", "condition", "said"),
    [
        ("ecs:Fly", "*", None, "there is no action ecs:Fly"),
        ("ecs:Fly*", "*", None, "there is no action ecs:Fly*"),
        ("ecs:DescribeTaskDefinition", "arn:aws:ecs:us-east-1:1:task-definition/a:1", None, "is taken on none of"),
        ("s3:GetObject", "arn:aws:s3:::bucket", None, "is taken on none of arn:aws:s3:::bucket"),
        ("s3:ListBucket", "arn:aws:s3:::bucket/*", None, "is taken on none of arn:aws:s3:::bucket/*"),
        ("ecs:RunTask", "*", "ecs:CreateAction", "does not come with ecs:CreateAction"),
        ("sts:AssumeRole", "arn:aws:iam::1:role/a", "gitlab.com:sub", "does not come with gitlab.com:sub"),
        ("sqs:GetQueueUrl", "*", "aws:ResourceTag/team", "does not come with aws:ResourceTag/team"),
    ],
)
def test_what_does_not_fit_is_seen(action: str, resource: str, condition: str | None, said: str) -> None:
    assert said in " ".join(misfits(statement(action, resource, condition)))


def test_what_fits_is_left_alone() -> None:
    for one in (
        statement("ecs:Submit*", "arn:aws:ecs:us-east-1:1:cluster/a"),
        statement("s3:*", "arn:aws:s3:::bucket/*", "aws:SecureTransport", "Deny"),
        statement("logs:PutLogEvents", "arn:aws:logs:us-east-1:1:log-group:a:*"),
        statement("ecs:StopTask", "arn:aws:ecs:us-east-1:1:task/a/*", "aws:ResourceTag/dask-access"),
    ):
        assert misfits(one) == []


def test_an_open_statement_is_seen() -> None:
    assert open_actions(statement("ecs:StopTask", "*")) == {"ecs:StopTask"}
    assert open_actions(statement("ecs:StopTask", "*", effect="Deny")) == set()
    assert open_actions(statement("ecs:DescribeTaskDefinition", "*")) == set()
