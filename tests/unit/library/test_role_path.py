"""Where an organisation lets a team create roles: below a path, with a boundary. Every role has to follow."""

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk.assertions import Template
from library_helpers import assert_refused, new_app, new_stack, plain
from whole_library import whole_library

from cdk_prefect_ecs import FlowCluster, FlowNetwork, RolePath

BOUNDARY = "arn:aws:iam::123456789012:policy/team-boundary"


@pytest.fixture(scope="module")
def bounded() -> Template:
    stack = whole_library(new_app())
    RolePath.of(stack).apply("/data-platform/")
    policy = iam.ManagedPolicy.from_managed_policy_arn(stack, "Boundary", BOUNDARY)
    iam.PermissionsBoundary.of(stack).apply(policy)
    return Template.from_stack(stack)


def test_every_role_has_the_path_and_the_boundary(bounded: Template) -> None:
    roles = bounded.find_resources("AWS::IAM::Role")
    of_the_cdk = [logical_id for logical_id in roles if logical_id.startswith("Custom")]
    assert len(of_the_cdk) == 2  # of the default security group and of emptying the bucket
    assert len(roles) == 22
    for logical_id, role in roles.items():
        assert role["Properties"].get("Path") == "/data-platform/", logical_id
        assert role["Properties"].get("PermissionsBoundary") == BOUNDARY, logical_id


def test_every_role_has_the_boundary_of_the_context_too() -> None:
    app = new_app()
    app.node.set_context("@aws-cdk/core:permissionsBoundary", {"name": "team-boundary"})
    roles = Template.from_stack(whole_library(app)).find_resources("AWS::IAM::Role")
    assert len(roles) == 22
    for logical_id, role in roles.items():
        assert str(plain(role["Properties"].get("PermissionsBoundary"))).endswith(":policy/team-boundary"), logical_id


def test_instance_profiles_are_where_their_roles_are(bounded: Template) -> None:
    profiles = bounded.find_resources("AWS::IAM::InstanceProfile")
    assert len(profiles) == 4
    assert {profile["Properties"].get("Path") for profile in profiles.values()} == {"/data-platform/"}


def test_nothing_names_a_role_of_the_app_without_its_path(bounded: Template) -> None:
    """A policy that says role/NAME would not match role/data-platform/NAME."""
    others = (":role/aws-service-role/", ":role/cdk-hnb659fds-")  # of AWS, and of the bootstrap, which has no path
    named = [value for value in _strings(plain(bounded.to_json())) if ":role/" in value]
    said = [value for value in named if not any(other in value for other in others)]
    assert said == []


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for item in items for found in _strings(item)]


def test_ecs_may_pass_the_role_of_managed_instances_wherever_it_is() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network")
    FlowCluster(stack, "Cluster", vpc=network.vpc).add_managed_instances_capacity("Managed", network=network)
    policies = Template.from_stack(stack).find_resources("AWS::IAM::Policy")
    passed = [
        plain(statement)
        for policy in policies.values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Action"] == "iam:PassRole"
    ]
    assert passed == [
        {
            "Action": "iam:PassRole",
            "Effect": "Allow",
            "Resource": "<ClusterManagedOnDemandProviderInstanceRole.Arn>",
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        }
    ]


def test_roles_that_are_added_later_follow() -> None:
    stack = new_stack()
    RolePath.of(stack).apply("/team/")
    iam.Role(stack, "Later", assumed_by=iam.AccountRootPrincipal())
    Template.from_stack(stack).has_resource_properties("AWS::IAM::Role", {"Path": "/team/"})


def test_roles_outside_the_scope_stay() -> None:
    stack = new_stack()
    inside = cdk.Stack(stack.node.root, "Inside")  # type: ignore[arg-type]
    for each in (stack, inside):
        iam.Role(each, "Role", assumed_by=iam.AccountRootPrincipal())
    RolePath.of(inside).apply("/team/")
    (role,) = Template.from_stack(stack).find_resources("AWS::IAM::Role").values()
    assert "Path" not in role["Properties"]


def test_roles_of_a_nested_stack_follow() -> None:
    stack = new_stack()
    nested = cdk.NestedStack(stack, "Nested")
    iam.Role(nested, "Role", assumed_by=iam.AccountRootPrincipal())
    RolePath.of(stack).apply("/team/")
    Template.from_stack(nested).has_resource_properties("AWS::IAM::Role", {"Path": "/team/"})


def test_roles_of_a_stage_follow() -> None:
    app = new_app()
    stage = cdk.Stage(app, "Stage")
    stack = cdk.Stack(stage, "Stack")
    iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    RolePath.of(stage).apply("/team/")
    app.synth()
    Template.from_stack(stack).has_resource_properties("AWS::IAM::Role", {"Path": "/team/"})


def test_an_app_with_stages_is_refused_as_the_roles_would_stay_where_they_are() -> None:
    app = new_app()
    stack = cdk.Stack(cdk.Stage(app, "Stage"), "Stack")
    iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    RolePath.of(app).apply("/team/")
    with pytest.raises(RuntimeError, match="does not reach Stage/Stack/Role/Resource, which is in a stage; use"):
        app.synth()


@pytest.mark.parametrize(
    "path", ["", "team", "/team", "team/", "/a team/", "//", "/team//etl/", f"/{'x' * 511}/", "/täm/"]
)
def test_refuses_what_iam_would(path: str) -> None:
    stack = new_stack()
    assert_refused(
        stack, lambda: RolePath.of(stack).apply(path), "begins and ends with a slash", "/data-platform/", repr(path)
    )


def test_refuses_a_second_path() -> None:
    stack = new_stack()
    RolePath.of(stack).apply("/team/")
    assert_refused(stack, lambda: RolePath.of(stack).apply("/other/"), "Test has a role path already")
