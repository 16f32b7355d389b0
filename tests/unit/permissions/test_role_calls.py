"""What the code of each role calls, found in its source, against what the role may do: nothing missing, or extra."""

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from prefect_aws.workers import ecs_worker

import cdk_prefect_ecs
from cdk_prefect_ecs.image import DEFAULT_IMAGE
from tools.permissions.catalogue import (
    FLOWS,
    KINDS,
    OTHERS,
    Kind,
    result_storage_methods,
    steps,
    worker_calls,
)
from tools.permissions.example import example
from tools.permissions.operations import actions
from tools.permissions.reference import find_action

PACKAGE = Path(cdk_prefect_ecs.__file__).parent
ROLES = {"Role", "ExecutionRole", "FlowRole", "WorkerRole", "FunctionRole"}
BY_CODE = ["worker", "worker-host", "flow", "lazarus", "work-pool-sync", "deploy"]


def needed(kind: Kind) -> set[str]:
    """The actions that the code takes, and those that AWS takes with the role."""
    return {action for call in kind.made() for action in actions(call.service, call.method)} | set(kind.by_aws)


def granted(name: str) -> set[str]:
    return {action for role in example().roles[name] for action in role.actions}


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_missing(name: str) -> None:
    assert needed(KINDS[name]) - granted(name) == set()


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_extra(name: str) -> None:
    assert granted(name) - needed(KINDS[name]) == set()


@pytest.mark.parametrize("name", BY_CODE)
def test_the_code_of_a_role_is_read(name: str) -> None:
    assert KINDS[name].made() != set()


@pytest.mark.parametrize("name", KINDS)
def test_what_aws_does_is_not_what_the_code_does(name: str) -> None:
    """An action that code takes needs no other reason: the list of AWS's own could hide that the code lost it."""
    kind = KINDS[name]
    by_code = {action for call in kind.made() for action in actions(call.service, call.method)}
    assert by_code & set(kind.by_aws) == set()


@pytest.mark.parametrize("name", KINDS)
def test_every_call_that_is_not_made_is_in_the_code_and_says_why(name: str) -> None:
    kind = KINDS[name]
    named = kind.named()
    for reason in kind.not_made:
        assert reason.why.endswith(".")
        for pattern in reason.calls:
            one = type(reason)(reason.why, (pattern,))
            assert any(one.covers(call) for call in named), f"{pattern} covers nothing any more"


@pytest.mark.parametrize("name", KINDS)
def test_every_action_exists(name: str) -> None:
    for action in needed(KINDS[name]):
        assert find_action(action).name == action


def test_the_worker_that_is_read_is_the_one_that_runs() -> None:
    """The source is that of the installed prefect-aws, which is the one in the default image."""
    assert f"prefect-aws:{version('prefect-aws')}-" in DEFAULT_IMAGE
    assert {call.module for call in worker_calls()} >= {ecs_worker.__name__, "prefect_aws.observers.ecs"}


def test_all_that_uses_boto3_in_the_worker_is_read() -> None:
    """Whatever mentions a client of boto3 or aiobotocore in the worker's own two modules is a known call."""
    text = inspect.getsource(ecs_worker)
    used = {call.method for call in worker_calls() if call.module == ecs_worker.__name__}
    for line in text.splitlines():
        if "_client." in line and "(" in line and "exceptions" not in line:
            assert any(f"_client.{method}(" in line for method in used), line


def test_who_starts_tasks_passes_roles() -> None:
    assert "iam:PassRole" in find_action("ecs:RunTask").dependent_actions
    for name, kind in KINDS.items():
        starts = any(call.method == "run_task" for call in kind.made())
        assert starts == ("iam:PassRole" in granted(name)) == ("ecs:TagResource" in granted(name)), name


def test_flow_runs_use_of_their_storage_what_prefect_calls() -> None:
    assert result_storage_methods() == {"read_path", "aread_path", "write_path", "awrite_path"}
    assert steps("pull") == {"pull_from_s3"}
    assert steps("push") == {"push_to_s3"}


def test_every_flow_is_read() -> None:
    entries = [path.stem for path in FLOWS.glob("*.py")]
    assert {"flights", "files", "training", "airports", "bootstrap", "storage", "dask_cluster"} <= set(entries)
    assert {call.module for call in KINDS["flow"].made()} == {
        "storage",
        "prefect_aws.s3",
        "prefect_aws.deployments.steps",
        "dask_cloudprovider.aws.ecs",
    }


def test_every_role_of_the_example_is_accounted_for() -> None:
    known = {(role.stack, role.logical_id) for roles in example().roles.values() for role in roles}
    others = [role for role in example().templates.roles() if (role.stack, role.logical_id) not in known]
    assert set(example().roles) == set(KINDS)
    assert {prefix for role in others for prefix in OTHERS if role.logical_id.startswith(prefix)} == set(OTHERS)
    assert [role.logical_id for role in others if not role.logical_id.startswith(tuple(OTHERS))] == []


def test_every_module_that_makes_a_role_is_in_the_example() -> None:
    """A new one has to be added to the example and to the catalogue."""
    made = {
        path.stem
        for path in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ROLES
    }
    assert made == {"dask", "execution_layer", "function", "machines", "pipeline", "server", "worker_host"}
