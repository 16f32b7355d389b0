"""Where constructs cannot be made."""

from collections.abc import Callable

import aws_cdk as cdk
import pytest
from constructs import Construct
from library_helpers import assert_refused, imported_vpc, make_parts, new_app, new_stack

from cdk_prefect_ecs import FlowCluster, FlowImage, FlowNetwork, FlowRole, FlowStorage


@pytest.mark.parametrize(
    ("construct_id", "message"),
    [
        ("", "FlowStorage: construct_id must not be empty; got ''"),
        (" ", "FlowStorage: construct_id must not be empty; got ' '"),
        ("${Token[TOKEN.7]}", "FlowStorage: construct_id must be known at synth"),
        ("Taken", "FlowStorage: Test has a child 'Taken' already; give one of the two another construct_id"),
    ],
)
def test_refuses_ids(construct_id: str, message: str) -> None:
    stack = new_stack()
    Construct(stack, "Taken")
    assert_refused(stack, lambda: FlowStorage(stack, construct_id), message)


@pytest.mark.parametrize("construct_id", ["a/b", "数据", "Default", "Resource", "-", "x" * 300])
def test_takes_odd_ids(construct_id: str) -> None:
    stack = new_stack()
    FlowStorage(stack, construct_id)
    (logical_id,) = cdk.assertions.Template.from_stack(stack).find_resources("AWS::S3::Bucket")
    assert logical_id.isalnum()
    assert logical_id.isascii()


def test_an_id_is_taken_under_the_name_that_the_cdk_gives_it() -> None:
    stack = new_stack()
    FlowStorage(stack, "a/b")
    assert_refused(stack, lambda: FlowStorage(stack, "a--b"), "has a child 'a--b' already")


def test_a_scope_has_to_be_in_a_stack() -> None:
    app = new_app()
    stage = cdk.Stage(app, "Prod")
    for scope, where in ((app, "the app"), (stage, "'Prod'")):
        with pytest.raises(ValueError, match=f"FlowStorage: scope must be a stack, or be in one; got {where}"):
            FlowStorage(scope, "Storage")
        assert [child for child in scope.node.children if child.node.id == "Storage"] == []
    FlowStorage(Construct(cdk.Stack(stage, "Stack"), "Part"), "Storage")


def test_a_scope_has_to_be_a_construct() -> None:
    with pytest.raises(TypeError, match="FlowStorage: scope must be a Construct of constructs; got a string"):
        FlowStorage("stack", "Storage")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="FlowStorage: construct_id must be a string; got 7"):
        FlowStorage(new_stack(), 7)  # type: ignore[arg-type]


MADE_TWICE: dict[str, Callable[[cdk.Stack], object]] = {
    "Storage": lambda stack: FlowStorage(stack, "Storage"),
    "Network": lambda stack: FlowNetwork(stack, "Network", vpc=imported_vpc(stack, construct_id="Other")),
    "Cluster": lambda stack: FlowCluster(stack, "Cluster", vpc=imported_vpc(stack, construct_id="Other")),
    "FlowRole": lambda stack: FlowRole(stack, "FlowRole", storage=stack.node.find_child("Storage")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", MADE_TWICE)
def test_what_is_made_twice_is_made_once(name: str) -> None:
    stack = make_parts().stack
    children = len(stack.node.find_child(name).node.find_all())
    with pytest.raises(ValueError, match=f"has a child '{name}' already"):
        MADE_TWICE[name](stack)
    assert len(stack.node.find_child(name).node.find_all()) == children


def test_what_is_not_a_construct_of_ours_is_checked_before_too(tmp_path: object) -> None:
    stack = new_stack()
    FlowStorage(stack, "Taken")
    here = cdk.Stack(new_app(), "Here", env=cdk.Environment(account="123456789012", region="eu-west-1"))
    FlowStorage(here, "Taken")
    assert_refused(here, lambda: FlowNetwork.from_default_vpc(here, "Taken"), "has a child 'Taken' already")
    assert_refused(
        stack,
        lambda: FlowNetwork.from_default_vpc(stack, "Network"),
        "the default VPC is looked up at synth, which takes an account and a region",
    )
    assert_refused(
        stack,
        lambda: FlowImage.from_asset(stack, "Image", directory="/nowhere"),
        "there is no file '/nowhere/Dockerfile'",
    )
