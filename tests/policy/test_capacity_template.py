"""Several pools on every kind of machine, as a template: of the app that test_many_pools.py deploys."""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import CONTEXT, ROOT
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension
from test_cfn_lint import IGNORED

APP = ROOT / "tests" / "integration" / "apps" / "capacity.py"
#: Hashes of assets.
VOLATILE = re.compile(r"[0-9a-f]{64}")
#: What this is about; everything else is in the other snapshots.
KINDS = (
    "AWS::AutoScaling::AutoScalingGroup",
    "AWS::EC2::LaunchTemplate",
    "AWS::ECS::CapacityProvider",
    "AWS::ECS::ClusterCapacityProviderAssociations",
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "Custom::PrefectWorkPool",
    "AWS::IAM::Role",
    "AWS::Lambda::Function",
)


@functools.cache
def synthesised() -> str:
    with tempfile.TemporaryDirectory(prefix="policy-tests-") as out:
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("CDK_", "PREFECT_"))}
        variables |= {
            "CDK_CONTEXT_JSON": json.dumps(CONTEXT),
            "CDK_OUTDIR": out,
            "PREFECT_API_URL": "http://127.0.0.1:4200/api",
            "PYTHONPATH": str(ROOT),
        }
        subprocess.run([sys.executable, str(APP)], env=variables, cwd=ROOT, capture_output=True, check=True)
        return (Path(out) / "Capacity.template.json").read_text()


def test_template(snapshot: SnapshotAssertion) -> None:
    template: dict[str, Any] = json.loads(VOLATILE.sub("HASH", synthesised()))
    found = {key: value for key, value in template["Resources"].items() if value["Type"] in KINDS}
    assert {value["Type"] for value in found.values()} == set(KINDS)
    assert found == snapshot(extension_class=JSONSnapshotExtension)


def test_template_is_right() -> None:
    # The zones are stand-ins: no zone is looked up at synth.
    ignored = {*IGNORED, "W3010"}
    matches = lint(synthesised(), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in matches if match.rule.id not in ignored] == []
