"""The monitoring as a template: with nothing on and with everything on, alone and in the app."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from cdk_nag import AwsSolutionsChecks, NIST80053R5Checks
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import CONTEXT, acknowledgements, checked_app, findings, new_assembly
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension
from test_cfn_lint import IGNORED
from test_snapshots import normalised

from cdk_prefect_ecs import ExecutionMonitoring, PrefectApi, PrefectExecutionLayer, SpotPolicy
from cdk_prefect_ecs.runbook import ADVICE
from stacks.config import MonitoringConfig
from stacks.environments import environment
from stacks.policy import acknowledge

NOTHING: dict[str, Any] = {"dashboard": False, "leave_out": tuple(ADVICE)}
EVERYTHING: dict[str, Any] = {
    "alarm_email": "on-call@example.com",
    "longest_wait": cdk.Duration.minutes(5),
    "shortage": 2,
    "runbook_url": "https://wiki.example.com/prefect",
}
TOPIC = "arn:aws:sns:us-east-1:123456789012:on-call"


@functools.cache
def synthesised_monitoring(*, everything: bool) -> Path:
    """The assembly of an app that cdk-nag looks at."""
    out = new_assembly()
    app = cdk.App(context=CONTEXT, analytics_reporting=False, outdir=str(out))
    stack = cdk.Stack(app, "Watched", description="A layer that is watched")
    api = PrefectApi.self_hosted(
        "https://prefect.example.com/api", auth_string=PrefectApi.ssm_secure_string("/prefect/auth-string")
    )
    layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=api)
    ExecutionMonitoring(stack, "Watch", layer=layer, **(EVERYTHING if everything else NOTHING))
    layer.add_work_pool("night shift", spot_policy=SpotPolicy.SPOT, worker_instance_type=ec2.InstanceType("t4g.micro"))
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app), NIST80053R5Checks(app))
    with pytest.raises(RuntimeError, match="ValidationFailed"):  # of the other parts; see stacks/policy.py
        app.synth()
    return out


def template(*, everything: bool) -> dict[str, Any]:
    return dict(json.loads((synthesised_monitoring(everything=everything) / "Watched.template.json").read_text()))


@pytest.mark.parametrize("everything", [False, True], ids=["nothing", "everything"])
def test_in_a_snapshot(everything: bool, snapshot: SnapshotAssertion) -> None:
    resources = normalised({"Description": "", "Outputs": {}, **template(everything=everything)})["Resources"]
    found = {
        name: each
        for name, each in resources.items()
        if name.startswith("Watch") or each["Type"] == "AWS::CloudWatch::Alarm"
    }
    # Dashboard, key, topic, its policy and subscription; four alarms for each of two pools.
    assert len(found) == (5 + 5 + 2 * 4 if everything else 5)
    assert found == snapshot(extension_class=JSONSnapshotExtension)


def test_cdk_nag_finds_nothing_where_there_is_somebody_to_tell() -> None:
    found = {(path, rule) for path, rule in findings(synthesised_monitoring(everything=True))}
    assert found  # of the rest
    assert {path for path, _ in found if path.startswith("Watched/Watch")} == set()
    assert {rule for _, rule in found if "Alarm" in rule} == set()


@pytest.mark.parametrize("everything", [False, True])
def test_cfn_lint_has_nothing_to_say(everything: bool) -> None:
    matches = lint(json.dumps(template(everything=everything)), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in matches if match.rule.id not in IGNORED] == []


def test_dashboard_is_one_that_cloudwatch_takes() -> None:
    """Its limits: 500 widgets, of 500 metrics each. Source: PutDashboard and "CloudWatch service quotas"."""
    (dashboard,) = (
        each for each in template(everything=True)["Resources"].values() if each["Type"] == "AWS::CloudWatch::Dashboard"
    )
    body = dashboard["Properties"]["DashboardBody"]
    pieces = body["Fn::Join"][1]
    widgets = json.loads("".join(piece if isinstance(piece, str) else "reference" for piece in pieces))["widgets"]
    assert 10 < len(widgets) <= 500
    assert all(len(each["properties"].get("metrics", [])) <= 500 for each in widgets)


@pytest.mark.parametrize(
    ("monitoring", "key"),
    [
        (MonitoringConfig(), None),
        (MonitoringConfig(alarm_email="on-call@example.com"), None),
        (MonitoringConfig(alarm_email="on-call@example.com"), "own"),
        (MonitoringConfig(alarm_topic_arn=TOPIC, dashboard=False, leave_out=("Throttles",)), None),
    ],
    ids=["silent", "email", "email-own-key", "topic"],
)
def test_every_finding_in_the_app_is_acknowledged_and_nothing_else(
    monitoring: MonitoringConfig, key: str | None, tmp_path: Path
) -> None:
    config = dataclasses.replace(environment("dev"), monitoring=monitoring, encryption_key=key)
    app, stage = checked_app(tmp_path, config)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    acknowledge(stage)
    acknowledged = acknowledgements(stage)
    assert sorted(acknowledged) == sorted(set(findings(tmp_path)))
    silent = {path.rpartition("/")[0].rpartition("/")[2] for path, rule in acknowledged if "AlarmAction" in rule}
    told = monitoring.alarm_email or monitoring.alarm_topic_arn
    assert silent == ({*monitoring.leave_out} if told else {*ADVICE})
