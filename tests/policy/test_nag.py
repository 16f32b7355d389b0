"""cdk-nag's packs AwsSolutions and NIST 800-53 r5, as app.py applies them."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from aws_cdk import aws_s3 as s3
from policy_helpers import PACKS, acknowledgements, checked_app, findings, synthesised

from stacks.config import OWN_KEY, OwnServer, PoolConfig
from stacks.environments import ENVIRONMENTS, environment
from stacks.policy import acknowledge


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_nothing_is_found_that_is_not_acknowledged(name: str) -> None:
    done = synthesised(name)
    assert done.findings() == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_acknowledgement_is_of_a_finding_and_says_why(name: str, tmp_path: Path) -> None:
    app, stage = checked_app(tmp_path, environment(name))
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    acknowledge(stage)
    acknowledged = acknowledgements(stage)
    assert sorted(acknowledged) == sorted(set(findings(tmp_path)))
    for finding, reason in acknowledged.items():
        assert re.fullmatch(r"\S+( \S+){4,}\.", reason), f"{finding}: not a sentence: {reason!r}"


@pytest.mark.parametrize("name", ["dev", "embedded"])
@pytest.mark.parametrize("network", ["public", "nat"])
def test_every_acknowledgement_is_of_a_finding_with_everything_on(name: str, network: str, tmp_path: Path) -> None:
    config = dataclasses.replace(
        environment(name),
        network=network,
        image="build",
        encryption_key=OWN_KEY,
        access_logs=True,
        flow_logs=True,
        permissions_boundary="team-boundary",
        role_path="/team/",
        pool=dataclasses.replace(environment(name).pool, reserved_concurrency=None),
    )
    app, stage = checked_app(tmp_path, config)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    acknowledge(stage)
    assert sorted(acknowledgements(stage)) == sorted(set(findings(tmp_path)))
    report = json.loads((tmp_path / "validation-report.json").read_text())
    of_the_cdk = [plugin for plugin in report["pluginReports"] if plugin["pluginName"] not in PACKS]
    said = [violation["ruleName"] for plugin in of_the_cdk for violation in plugin["violations"]]
    assert [rule for rule in said if "placeholderWorkspace" not in rule] == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dev", {"network": "nat"}),
        ("staging", {"network": "endpoints", "encryption_key": OWN_KEY}),
    ],
)
def test_every_acknowledgement_is_of_a_finding_at_a_server_of_its_own(
    name: str, changes: dict[str, str], tmp_path: Path
) -> None:
    app, stage = checked_app(tmp_path, dataclasses.replace(environment(name), api=OwnServer(), **changes))
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    acknowledge(stage)
    assert sorted(acknowledgements(stage)) == sorted(set(findings(tmp_path)))


def test_nothing_is_found_in_further_pools(tmp_path: Path) -> None:
    config = dataclasses.replace(environment("staging"), more_pools=(PoolConfig("ml"), PoolConfig("night shift")))
    app, stage = checked_app(tmp_path, config)
    acknowledge(stage)
    app.synth()
    assert findings(tmp_path) == []


def test_an_offending_resource_fails_the_app(tmp_path: Path) -> None:
    app, stage = checked_app(tmp_path, environment("dev"))
    acknowledge(stage)
    s3.Bucket(stage.execution, "Careless")
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    assert {path for path, _ in findings(tmp_path)} == {"PrefectDev/Execution/Careless/Resource"}
    assert {"AwsSolutions-S1", "AwsSolutions-S10", "NIST.800.53.R5-S3BucketVersioningEnabled"} <= {
        rule for _, rule in findings(tmp_path)
    }


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_cdk_itself_has_nothing_to_say_but_the_placeholder(name: str) -> None:
    said = re.findall(r"^(?:WARNING|ERROR) (.*)$", synthesised(name).stderr, re.MULTILINE)
    expected = 1 if environment(name).api.is_placeholder else 0
    assert len(said) == expected
    assert all("placeholder workspace" in line for line in said)
