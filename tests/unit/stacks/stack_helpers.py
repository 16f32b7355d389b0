"""What the tests of the stacks share."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aws_cdk as cdk

from stacks.config import EnvironmentConfig
from stacks.stage import PrefectStage

ROOT = Path(__file__).parents[3]
CONTEXT = json.loads((ROOT / "cdk.json").read_text())["context"]

_OUT = tempfile.TemporaryDirectory(prefix="stacks-tests-")


def new_stage(config: EnvironmentConfig, context: Mapping[str, Any] | None = None) -> PrefectStage:
    """The stage as app.py makes it, without its policy checks (tests/policy).

    :param context: What the CDK CLI has looked up. Default: nothing.
    """
    app = cdk.App(
        context={**CONTEXT, **(context or {})},
        analytics_reporting=False,
        builtin_cloud_formation_validation=False,
        outdir=tempfile.mkdtemp(dir=_OUT.name),
    )
    return PrefectStage(app, f"Prefect{config.name.capitalize()}", config=config)
