"""A layer whose worker is a host: cdk-nag, cfn-lint and a snapshot; and the app with one."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from cdk_nag import AwsSolutionsChecks
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import CONTEXT, acknowledgements, checked_app, findings, new_assembly
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension
from test_cfn_lint import IGNORED
from test_snapshots import normalised

from cdk_prefect_ecs import PrefectApi, PrefectExecutionLayer
from stacks.config import EnvironmentConfig, PoolConfig, WorkerConfig
from stacks.environments import environment
from stacks.policy import acknowledge

PATH = "Hosted/Prefect/WorkerHost"

#: What AwsSolutions finds at a host, and why it is as it should be.
ACCEPTED = {
    (f"{PATH}/Group/ASG", "AwsSolutions-AS3"): "A worker that does not come online fails the deployment; a topic for "
    "one change of host a week would tell nobody anything. Who wants one adds it to WorkerHost.group.",
    (
        f"{PATH}/Role/DefaultPolicy/Resource",
        "AwsSolutions-IAM5",
    ): "ecs:DescribeTaskDefinition and the actions of Session "
    "Manager support no resource that is known before the host runs; the others name one family, cluster and group.",
}


@functools.cache
def synthesised_host() -> Path:
    """The assembly of an app that cdk-nag looks at."""
    out = new_assembly()
    app = cdk.App(context=CONTEXT, analytics_reporting=False, outdir=str(out))
    stack = cdk.Stack(app, "Hosted", description="A worker host")
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=PrefectApi.self_hosted(
            "https://prefect.example.com/api", auth_string=PrefectApi.ssm_secure_string("/prefect/auth-string")
        ),
        worker_instance_type=ec2.InstanceType("t4g.micro"),
    )
    cdk.CfnOutput(stack, "Group", value=layer.worker.node.path)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    return out


@pytest.fixture(scope="module")
def out() -> Path:
    return synthesised_host()


@pytest.fixture(scope="module")
def template(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "Hosted.template.json").read_text()))


def test_cdk_nag_finds_at_the_host_what_is_accepted_and_nothing_else(out: Path) -> None:
    found = {(path, rule.partition("[")[0]) for path, rule in findings(out) if path.startswith(PATH)}
    assert found == set(ACCEPTED)
    assert all(reason.endswith(".") for reason in ACCEPTED.values())


def test_cfn_lint_has_nothing_to_say(template: dict[str, Any]) -> None:
    matches = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in matches if match.rule.id not in IGNORED] == []


def test_host_in_a_snapshot(template: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    resources = {
        logical_id: resource
        for logical_id, resource in normalised(template)["Resources"].items()
        if logical_id.startswith("PrefectWorkerHost")
    }
    assert len(resources) == 6
    assert resources == snapshot(extension_class=JSONSnapshotExtension)


# The app

HOST = WorkerConfig(host="t4g.micro")


def hosted(name: str) -> EnvironmentConfig:
    """An environment with hosts for its first pool and a further one, and a service, that scales, for another."""
    more = (PoolConfig("night shift"), PoolConfig("ml", worker=WorkerConfig(max_count=3)))
    return dataclasses.replace(environment(name), worker=HOST, more_pools=more)


@pytest.mark.parametrize("name", ["dev", "staging", "embedded"])
def test_every_finding_in_the_app_is_acknowledged_and_nothing_else(name: str, tmp_path: Path) -> None:
    app, stage = checked_app(tmp_path, hosted(name))
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    acknowledge(stage)
    acknowledged = acknowledgements(stage)
    assert sorted(acknowledged) == sorted(set(findings(tmp_path)))
    assert {rule.partition("[")[0] for path, rule in acknowledged if path.endswith("WorkerHost/Group/ASG")} == {
        "AwsSolutions-AS3"
    }


def test_the_app_with_hosts_passes_its_checks_and_cfn_lint(tmp_path: Path) -> None:
    app, stage = checked_app(tmp_path, hosted("staging"))
    acknowledge(stage)
    app.synth()
    assert findings(tmp_path) == []
    (template,) = tmp_path.glob("assembly-*/*Execution*.template.json")
    matches = lint(template.read_text(), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in matches if match.rule.id not in IGNORED] == []
