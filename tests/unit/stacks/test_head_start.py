"""The head start of synthesis: what it rests on, and that it changes nothing but the time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stack_helpers import CONTEXT, ROOT

INVALID = """
from app import synthesize
import aws_cdk as cdk

app = cdk.App()
cdk.CfnResource(cdk.Stack(app, "Stack"), "Queue", type="AWS::SQS::Queue", properties={"Fifo": 5})
synthesize(app, policy_checks=False)
"""


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CDK_", "JSII_"))}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def asked_of_node(program: str) -> set[str]:
    """The kinds of requests that a program makes of the CDK's process of Node.js."""
    done = run(program, JSII_DEBUG="1")
    assert done.returncode == 0, done.stderr
    requests = [json.loads(line[2:]) for line in done.stderr.splitlines() if line.startswith("> {")]
    return {request["api"] for request in requests if "api" in request}


@pytest.mark.parametrize("modules", ["cdk_prefect_ecs", "stacks.environments, stacks.policy, stacks.stage"])
def test_importing_asks_nothing_of_the_cdk(modules: str) -> None:
    assert asked_of_node(f"import {modules}") == {"load"}


def test_what_the_cdk_is_asked_is_seen() -> None:
    assert asked_of_node("import aws_cdk; aws_cdk.Duration.days(1)") == {"load", "sinvoke"}


def validated(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(INVALID, CDK_CONTEXT_JSON=json.dumps(CONTEXT), CDK_OUTDIR=str(out), **variables)


def test_the_cdk_validates_our_templates_as_it_does_by_itself(tmp_path: Path) -> None:
    done = validated(tmp_path)
    assert done.returncode != 0
    assert "CloudFormation-Validate::F3002" in done.stderr


def test_validation_can_be_turned_off_as_the_cdk_cli_does(tmp_path: Path) -> None:
    done = validated(tmp_path, CDK_VALIDATION="false")
    assert done.returncode == 0, done.stderr
    assert "F3002" not in done.stderr
    assert (tmp_path / "Stack.template.json").exists()


def test_options_of_node_are_kept() -> None:
    program = "import os; import app; print(os.environ['NODE_OPTIONS'])"
    done = run(program, NODE_OPTIONS="--max-old-space-size=4000")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "--max-old-space-size=4000"
