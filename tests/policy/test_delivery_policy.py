"""The stack with the roles of workflows that deploy an environment: policy packs, cfn-lint, and its template."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import acknowledgements, checked_app, findings, new_assembly
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
