"""The network in each of its modes, as nothing else in the app has them: policies, cfn-lint, snapshots."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import CONTEXT, acknowledgements, checked_app, findings, new_assembly
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from cdk_prefect_ecs import FlowImage, FlowNetwork, PrefectApi, PrefectExecutionLayer
from stacks.config import SelfHostedApi
from stacks.environments import environment
from stacks.policy import acknowledge, check_policies

REGION = "us-east-1"


@dataclasses.dataclass(frozen=True)
class Networks:
    """Stacks that hold a network each, written by one synthesis with the checks on."""

    out: Path

    def template(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.out / f"{name}.template.json").read_text()))

    def network(self, name: str) -> dict[str, Any]:
        """The resources of EC2: a layer in the stack is somebody else's business."""
        resources = self.template(name)["Resources"]
        return {key: value for key, value in resources.items() if value["Type"].startswith("AWS::EC2::")}


@functools.cache
def synthesised_networks() -> Networks:
    out = new_assembly()
    app = cdk.App(context=CONTEXT, analytics_reporting=False, outdir=str(out))
    nothing, nat, everything = (
        cdk.Stack(app, name, env=cdk.Environment(region=REGION)) for name in ("NothingOn", "Nat", "EverythingOn")
    )
    FlowNetwork(nothing, "Network")
    FlowNetwork(nat, "Network", mode="nat", max_azs=2)
    network = FlowNetwork(everything, "Network", mode="endpoints", flow_log_retention=logs.RetentionDays.ONE_MONTH)
    repository = ecr.Repository.from_repository_name(everything, "Repository", "flows")
    password = secretsmanager.Secret.from_secret_name_v2(everything, "Password", "db")
    PrefectExecutionLayer(
        everything,
        "Prefect",
        work_pool_name="etl",
        network=network,
        api=PrefectApi.self_hosted(
            "https://prefect.internal/api",
            auth_string=PrefectApi.ssm_secure_string("/prefect/auth-string"),
            vpc=network.vpc,
        ),
        image=FlowImage.from_ecr_repository(repository, "1.0"),
        flow_secrets={"DB_PASSWORD": ecs.Secret.from_secrets_manager(password)},
        enable_execute_command=True,
    )
    check_policies(app)
    with pytest.raises(RuntimeError, match="ValidationFailed"):  # the networks without flow logs
        app.synth()
    return Networks(out)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return synthesised_networks()


STACKS = ["NothingOn", "Nat", "EverythingOn"]


@pytest.mark.parametrize("name", STACKS)
def test_snapshot(networks: Networks, name: str, snapshot: SnapshotAssertion) -> None:
    assert networks.network(name) == snapshot(extension_class=JSONSnapshotExtension)


def test_policies_ask_for_flow_logs_and_for_networks_without_a_way_out(networks: Networks) -> None:
    found = {(path, rule) for path, rule in findings(networks.out) if "/Network/" in path}
    no_flow_logs = {
        (f"{stack}/Network/Vpc/Resource", rule)
        for stack in ("NothingOn", "Nat")
        for rule in ("AwsSolutions-VPC7", "NIST.800.53.R5-VPCFlowLogsEnabled")
    }
    subnets = [f"NothingOn/Network/Vpc/PublicSubnet{number}" for number in (1, 2, 3)]
    routes = [*subnets, *(f"Nat/Network/Vpc/PublicSubnet{number}" for number in (1, 2))]
    assert found == {
        *no_flow_logs,
        *((f"{subnet}/Subnet", "NIST.800.53.R5-VPCSubnetAutoAssignPublicIpDisabled") for subnet in subnets),
        *((f"{subnet}/DefaultRoute", "NIST.800.53.R5-VPCNoUnrestrictedRouteToIGW") for subnet in routes),
        # Of the flow logs that are on: a policy of their role, and a log group with a key of CloudWatch Logs.
        (
            "EverythingOn/Network/Vpc/FlowLog/IAMRole/DefaultPolicy/Resource",
            "NIST.800.53.R5-IAMNoInlinePolicy",
        ),
        ("EverythingOn/Network/FlowLogGroup/Resource", "NIST.800.53.R5-CloudWatchLogGroupEncrypted"),
    }


@pytest.mark.parametrize("name", STACKS)
def test_cfn_lint_has_nothing_to_say(networks: Networks, name: str) -> None:
    matches = lint(json.dumps(networks.template(name)), config=ManualArgs(regions=[REGION]))
    # W3005: see test_cfn_lint.py
    assert [str(match) for match in matches if match.rule.id != "W3005"] == []


@pytest.mark.parametrize("mode", ["nat", "endpoints"])
def test_acknowledged_in_the_app_with_a_private_api(mode: str, tmp_path: Path) -> None:
    api = SelfHostedApi("https://prefect.internal/api", "/prefect/auth-string", private=True)
    config = dataclasses.replace(environment("staging"), network=mode, api=api, image="build")
    app, stage = checked_app(tmp_path, config)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    acknowledge(stage)
    assert sorted(acknowledgements(stage)) == sorted(set(findings(tmp_path)))
