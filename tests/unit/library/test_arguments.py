"""What is said of arguments of a wrong type, and that nothing right is refused."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import aws_cdk as cdk
import jsii
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from constructs import Construct
from library_helpers import cloud_api, imported_vpc, new_stack

import cdk_prefect_ecs
from cdk_prefect_ecs import FlowCluster, FlowNetwork, PrefectApi, PrefectExecutionLayer
from cdk_prefect_ecs.arguments import checked, checked_fields


class Speaker(Protocol):
    """Whatever can speak."""

    def speak(self) -> str:
        """Speak."""


class Dog:
    def speak(self) -> str:
        return "woof"


class Cat:
    def miaow(self) -> str:
        return "miaow"


@checked
def rule(
    number: int = 1,
    ratio: float = 0.5,
    text: str = "",
    flag: bool = False,
    names: Sequence[str] = (),
    pairs: Mapping[str, int] | None = None,
    size: tuple[int, int] = (1, 2),
    mode: Literal["fast", "slow"] = "fast",
    duration: cdk.Duration | None = None,
    vpc: ec2.IVpc | None = None,
    speaker: Speaker | None = None,
    act: Callable[[str], object] = print,
    anything: Any = None,
) -> str:
    return "made"


@checked_fields
@dataclass(frozen=True)
class Group:
    count: int
    label: str = "x"


def said(function: Any, **arguments: Any) -> str:
    with pytest.raises(TypeError) as error:
        function(**arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": "1024"}, "number must be a whole number; got the string '1024'"),
        ({"number": 1.0}, "number must be a whole number; got 1.0"),
        ({"number": True}, "number must be a whole number; got True"),
        ({"number": None}, "number must be a whole number; got None"),
        ({"number": 2**53}, "number must be a whole number; got a number beyond 2**53"),
        ({"number": -(10**6000)}, "number must be a whole number; got a number beyond 2**53"),
        ({"number": "9" * 100}, f"number must be a whole number; got the string '{'9' * 59}…"),
        ({"ratio": float("nan")}, "ratio must be a number; got nan"),
        ({"ratio": float("-inf")}, "ratio must be a number; got -inf"),
        ({"ratio": False}, "ratio must be a number; got False"),
        ({"text": 5}, "text must be a string; got 5"),
        ({"text": b"x"}, "text must be a string; got a bytes"),
        ({"text": "a\x00b"}, "text must be a string; got one with NUL or half of a character in it"),
        ({"text": "\ud800"}, "text must be a string; got one with NUL or half of a character in it"),
        ({"flag": 1}, "flag must be True or False; got 1"),
        ({"flag": "no"}, "flag must be True or False; got the string 'no'"),
        ({"names": "abc"}, "names must be a list; got a string"),
        ({"names": {"a"}}, "names must be a list; got a set"),
        ({"names": ["a", 2]}, "names[1] must be a string; got 2"),
        ({"pairs": [("a", 1)]}, "pairs must be a mapping or None; got a list"),
        ({"pairs": {"a": "1"}}, "pairs['a'] must be a whole number; got the string '1'"),
        ({"pairs": {1: 1}}, "pairs key must be a string; got 1"),
        ({"size": (1, "2")}, "size[1] must be a whole number; got the string '2'"),
        ({"size": (1, 2, 3)}, "size must be 2 values; got a tuple"),
        ({"mode": 3}, "mode must be a string; got 3"),
        ({"duration": 5}, "duration must be a Duration of aws_cdk or None; got 5"),
        ({"duration": cdk.Duration}, "duration must be a Duration of aws_cdk or None; got the class Duration itself"),
        ({"vpc": "vpc-1"}, "vpc must be an IVpc of aws_cdk.aws_ec2 or None; got a string"),
        ({"vpc": ec2.Vpc}, "vpc must be an IVpc of aws_cdk.aws_ec2 or None; got the class Vpc itself"),
        ({"act": "print"}, "act must be a function; got a string"),
        ({"speaker": Cat()}, "speaker must be a Speaker or None; got a Cat"),
    ],
)
def test_says_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    assert said(rule, **arguments) == message


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"number": -(2**53) + 1, "ratio": 1, "text": "é\n", "flag": True, "mode": "neither, which a rule says"},
        {"names": ["a"], "pairs": {}, "size": (3, 4), "anything": object()},
        {"names": ("a",), "duration": cdk.Duration.days(1), "speaker": Dog(), "act": Dog},
    ],
)
def test_takes_what_is_right(arguments: dict[str, Any]) -> None:
    assert rule(**arguments) == "made"


def test_a_value_that_may_be_a_secret_is_not_shown() -> None:
    key = "pnu_0123456789"
    message = said(PrefectApi.cloud, account_id="a", workspace_id="b", api_key=key)
    assert message == "PrefectApi.cloud: api_key must be an ApiSecret; got a string"
    assert key not in said(PrefectApi.ssm_secure_string, parameter_name=[key])
    assert key not in said(rule, pairs={"a": 1}, names=[["a", key]])


def test_tokens_are_named() -> None:
    number = cdk.Token.as_number({"Ref": "Parameter"})
    text = cdk.Token.as_string({"Ref": "Parameter"})
    for arguments in ({"number": number}, {"number": text}, {"ratio": number}):
        assert said(rule, **arguments).endswith("got a token; it must be known at synth")
    assert rule(text=text) == "made"


def test_wrong_names_are_left_to_python() -> None:
    assert "unexpected keyword argument 'nummer'" in said(rule, nummer=1)
    assert "missing 1 required positional argument: 'count'" in said(Group)


def test_fields_of_a_dataclass() -> None:
    assert Group(3) == Group(3, "x")
    assert said(Group, count="3") == "Group: count must be a whole number; got the string '3'"
    assert said(Group, count=3, label=None) == "Group: label must be a string; got None"


def test_interfaces_are_met_by_what_the_cdk_returns_for_them() -> None:
    stack = new_stack()
    made = ec2.Vpc(stack, "Made")
    assert rule(vpc=imported_vpc(stack)) == rule(vpc=made) == "made"
    # What jsii knows by its interface only is a proxy.
    cluster = ecs.Cluster.from_cluster_attributes(
        stack, "Cluster", cluster_name="c", vpc=made, security_groups=[], has_ec2_capacity=False
    )
    FlowCluster.from_cluster(stack, "Existing", cluster=cluster)
    role = iam.Role.from_role_arn(stack, "Role", "arn:aws:iam::123456789012:role/x").grant_principal
    assert rule_for_grantee(role) == "made"


@checked
def rule_for_grantee(grantee: iam.IGrantable) -> str:
    return "made"


@jsii.implements(ec2.IConnectable)
class Database(Construct):
    """Somebody's own connectable."""

    @property
    def connections(self) -> ec2.Connections:
        return ec2.Connections()


def test_interfaces_are_met_by_what_users_implement() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    network.add_service_endpoint("athena", used_by=Database(stack, "Db"), reason="Flows query Athena")


def test_the_signature_and_the_documentation_stay() -> None:
    assert list(inspect.signature(rule).parameters)[:2] == ["number", "ratio"]
    assert list(inspect.signature(Group).parameters) == ["count", "label"]
    parameters = inspect.signature(PrefectExecutionLayer.__init__).parameters
    assert parameters["flow_cpu"].default == 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow_cpu": "1024"}, "PrefectExecutionLayer: flow_cpu must be a whole number; got the string '1024'"),
        ({"api": "https://prefect.example.com/api"}, "PrefectExecutionLayer: api must be a PrefectApi; got a string"),
        ({"patience": 90}, "PrefectExecutionLayer: patience must be a Duration of aws_cdk or None; got 90"),
        ({"worker_count": cdk.Token.as_number({"Ref": "Count"})}, "worker_count must be a whole number; got a token"),
        ({"flow_environment": {"A": 1}}, "flow_environment['A'] must be a string; got 1"),
        ({"queues": ["urgent"]}, "queues[0] must be a WorkQueue; got a string"),
        ({"worker_instance_type": "t4g.micro"}, "an InstanceType of aws_cdk.aws_ec2 or None; got a string"),
    ],
)
def test_a_layer_says_it_in_the_words_of_its_own_parameters(change: dict[str, Any], message: str) -> None:
    stack = new_stack()
    given: dict[str, Any] = {"work_pool_name": "etl", "api": cloud_api()}
    with pytest.raises(TypeError) as error:
        PrefectExecutionLayer(stack, "Prefect", **(given | change))
    assert message in str(error.value)
    assert stack.node.children == []


def public_callables() -> list[tuple[str, Any]]:
    """What users call: constructors, and methods and factories that take arguments."""
    found = []
    for name in cdk_prefect_ecs.__all__:
        cls = getattr(cdk_prefect_ecs, name)
        for attribute, value in vars(cls).items():
            function = value.__func__ if isinstance(value, staticmethod) else value
            if inspect.isfunction(function) and (attribute == "__init__" or not attribute.startswith("_")):
                found.append((f"{name}.{attribute}", function))
    return found


#: Called by this library only, with what was checked before.
OURS = {
    *(f"ApiSecret.{name}" for name in ("__init__", "value_from", "ecs_secret", "grant", "reference")),
    *(f"PrefectApi.{name}" for name in ("ecs_secrets", "grant_inject_secret", "grant_read_secret")),
    *("PrefectApi.function_reference", "PrefectApi.key", "FlowImage.grant_pull", "FlowVolume.grant"),
    *("LayerPool.__init__", "SpotPolicy.strategy", "RolePath.__init__"),
    *(f"RequiredPolicy.{name}" for name in ("__init__", "add_to_policy", "add_to_principal_policy")),
}


def test_everything_that_users_call_checks_its_arguments() -> None:
    unchecked = {
        name
        for name, function in public_callables()
        if set(inspect.signature(function).parameters) - {"self"} and not is_checked(function)
    }
    assert unchecked == OURS


def is_checked(function: Any) -> bool:
    own = Path(cdk_prefect_ecs.__file__).parent / "arguments.py"
    return function.__code__.co_filename == str(own)
