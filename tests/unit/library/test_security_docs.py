"""docs/security.md: its examples run, and the policy that it asks of a key is the one that our own key has."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template
from library_helpers import cloud_api, new_stack, only

import cdk_prefect_ecs
from cdk_prefect_ecs import ExecutionMonitoring, PrefectExecutionLayer

TEXT = (Path(__file__).parents[3] / "docs" / "security.md").read_text()


def example(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[number]


def test_roles_of_your_own_as_in_the_example(capsys: Any) -> None:
    stack = new_stack()
    names = {name: getattr(cdk_prefect_ecs, name) for name in cdk_prefect_ecs.__all__}
    names |= {"stack": stack, "api": cloud_api(), "iam": iam, "json": json}
    exec(compile(example("python", 1), "docs/security.md", "exec"), names)  # noqa: S102 - our own example
    printed = capsys.readouterr().out
    for role in ("agent", "worker", "flows", "lazarus"):
        assert f"role/team/prefect-{role}" in printed
    assert "prefect-sync" not in printed  # of the stack
    assert '"ecs:RunTask"' in printed


def test_every_argument_that_takes_a_role_is_named_and_no_other() -> None:
    takers = [getattr(cdk_prefect_ecs, name).__init__ for name in cdk_prefect_ecs.__all__ if name != "RequiredPolicy"]
    takers.append(PrefectExecutionLayer.add_work_pool)
    taken = {each for taker in takers for each in inspect.signature(taker).parameters if re.search("role$", each)}
    assert {each for each in taken if f"`{each}`" not in TEXT} == set()
    assert set(re.findall(r"`(\w+_role)`", TEXT)) <= taken


def test_policy_of_an_existing_key_is_that_of_our_own() -> None:
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    key = kms.Key(stack, "Key")
    layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api(), encryption_key=key)
    ExecutionMonitoring(stack, "Monitoring", layer=layer, alarm_email="on-call@example.com", encryption_key=key)
    _, *services = only(Template.from_stack(stack), "AWS::KMS::Key")["KeyPolicy"]["Statement"]
    assert services == json.loads(example("json"))
