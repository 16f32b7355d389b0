"""The stack with the roles of workflows that deploy an environment: policy packs, cfn-lint, and its template."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import ROOT, acknowledgements, checked_app, findings, new_assembly
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension
from test_snapshots import normalised

from stacks.config import OWN_KEY, EnvironmentConfig, GitHubConfig
from stacks.environments import ENVIRONMENTS, environment
from stacks.policy import acknowledge

GITHUB = GitHubConfig("acme/etl", "prod", makes_provider=True)


def delivered(name: str = "prod", *, github: GitHubConfig = GITHUB, **changes: Any) -> EnvironmentConfig:
    return dataclasses.replace(environment(name), deployed_by=github, **changes)


@functools.cache
def synthesised_delivery() -> Path:
    """The assembly of prod with everything on that a security team asks for."""
    out = new_assembly()
    app, stage = checked_app(out, delivered(encryption_key=OWN_KEY, permissions_boundary="team", role_path="/team/"))
    acknowledge(stage)
    app.synth()
    return out


def template() -> str:
    (file,) = synthesised_delivery().glob("assembly-*/*Delivery*.template.json")
    return file.read_text()


def test_nothing_is_found_that_is_not_acknowledged() -> None:
    assert findings(synthesised_delivery()) == []


@pytest.mark.parametrize(
    "config",
    [
        delivered("dev", github=GitHubConfig("acme/etl", "dev", diff_on_pull_requests=False)),
        delivered("prod", account="123456789012", encryption_key=OWN_KEY),
    ],
    ids=["dev", "prod"],
)
def test_every_acknowledgement_is_of_a_finding(config: EnvironmentConfig, tmp_path: Path) -> None:
    app, stage = checked_app(tmp_path, config)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    acknowledge(stage)
    assert sorted(acknowledgements(stage)) == sorted(set(findings(tmp_path)))


def test_cfn_lint_says_nothing() -> None:
    matches = lint(template(), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in matches if match.rule.id != "W3005"] == []  # see test_cfn_lint.py


def test_template(snapshot: SnapshotAssertion) -> None:
    assert normalised(json.loads(template())) == snapshot(extension_class=JSONSnapshotExtension)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_environment_is_delivered_unless_it_says_by_whom(name: str) -> None:
    assert environment(name).deployed_by is None


# What `cdk bootstrap` of the pinned CLI makes


@functools.cache
def bootstrap_roles() -> dict[str, dict[str, Any]]:
    file = ROOT / "node_modules" / "aws-cdk" / "lib" / "api" / "bootstrap" / "bootstrap-template.yaml"
    resources = yaml.safe_load(file.read_text())["Resources"].values()
    roles = [resource["Properties"] for resource in resources if resource["Type"] == "AWS::IAM::Role"]
    return {role["RoleName"]["Fn::Sub"]: role for role in roles}


def test_the_roles_that_are_taken_are_those_of_the_bootstrap() -> None:
    named = re.findall(r"role/(cdk-[\w-]*)", template())
    assert len(named) == 5
    made = {name.partition("${AWS::AccountId}")[0].replace("${Qualifier}", "hnb659fds") for name in bootstrap_roles()}
    assert set(named) < made
    assert not any("Path" in role for role in bootstrap_roles().values())


def test_who_looks_things_up_may_not_decrypt() -> None:
    """docs/pipeline.md says so: what has a key of its own stays closed to jobs of pull requests."""
    (lookup,) = (role for name, role in bootstrap_roles().items() if "-lookup-role-" in name)
    (policy,) = lookup["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Action"], statement["Resource"]) == ("Deny", ["kms:Decrypt"], "*")
    assert "ReadOnlyAccess" in json.dumps(lookup["ManagedPolicyArns"])
