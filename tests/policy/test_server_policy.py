"""A Prefect server with its database: cdk-nag, cfn-lint and a snapshot."""

import functools
import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import CONTEXT, findings, new_assembly
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension
from test_cfn_lint import IGNORED
from test_snapshots import normalised

from cdk_prefect_ecs import FlowNetwork, PrefectExecutionLayer, PrefectServer
from stacks.policy import check_policies
from stacks.policy_server import DATABASE, SECRET, SECRET_WITHOUT_KEY, TASK_DEFINITION

PATH = "Serving/Server"
NIST = "NIST.800.53.R5-"

#: What the packs find at a server with the keys of AWS, and why it is as it should be.
ACCEPTED = {
    **{
        (f"{PATH}/{secret}/Resource", rule): reason
        for secret in ("AuthString", "Database/Secret")
        for rule, reason in {**SECRET, **SECRET_WITHOUT_KEY}.items()
    },
    **{(f"{PATH}/Database/Instance/Resource", rule): reason for rule, reason in DATABASE.items()},
    **{(f"{PATH}/TaskDefinition/Resource", rule): reason for rule, reason in TASK_DEFINITION.items()},
    (f"{PATH}/ExecutionRole/DefaultPolicy/Resource", f"{NIST}IAMNoInlinePolicy"): "A policy of this one role, which "
    "goes with it; as a managed one it could be attached to others.",
    (
        f"{PATH}/LogGroup/Resource",
        f"{NIST}CloudWatchLogGroupEncrypted",
    ): "CloudWatch Logs encrypts it with a key of its own; encryption_key has one of the account.",
}
#: "17" means the newest 17: RDS takes a major version by itself.
OF_THE_DATABASE = "W3691"


@functools.cache
def synthesised_server() -> Path:
    """The assembly of an app that the policy packs look at."""
    out = new_assembly()
    app = cdk.App(context=CONTEXT, analytics_reporting=False, outdir=str(out))
    stack = cdk.Stack(app, "Serving", description="A Prefect server", env=cdk.Environment(region="us-east-1"))
    network = FlowNetwork(stack, "Network", mode="nat", max_azs=2)
    server = PrefectServer(stack, "Server", network=network)
    PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=server.api, network=network)
    cdk.CfnOutput(stack, "ApiUrl", value=server.api.url)
    check_policies(app)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    return out


@pytest.fixture(scope="module")
def out() -> Path:
    return synthesised_server()


@pytest.fixture(scope="module")
def template(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "Serving.template.json").read_text()))


def test_policies_find_at_the_server_what_is_accepted_and_nothing_else(out: Path) -> None:
    found = {(path, rule) for path, rule in findings(out) if path.startswith(f"{PATH}/")}
    assert found == set(ACCEPTED)
    assert all(reason.endswith(".") for reason in ACCEPTED.values())


def test_cfn_lint_has_nothing_to_say(template: dict[str, Any]) -> None:
    matches = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in matches if match.rule.id not in {*IGNORED, OF_THE_DATABASE}] == []


def test_server_in_a_snapshot(template: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    resources = {
        logical_id: resource
        for logical_id, resource in normalised(template)["Resources"].items()
        if logical_id.startswith("Server")
    }
    assert len(resources) == 22
    assert resources == snapshot(extension_class=JSONSnapshotExtension)
