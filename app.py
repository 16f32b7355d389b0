#!/usr/bin/env python3
"""The CDK app: one environment, its policy checks, its templates.

cdk deploy '**' -c env=dev
"""

from __future__ import annotations

import os
import sys

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from stacks.environments import environment
from stacks.policy import acknowledge
from stacks.stage import PrefectStage


def main() -> None:
    """Synthesize the environment that ``-c env=NAME`` names."""
    app = cdk.App()
    try:
        name = app.node.try_get_context("env")
        config = environment(name, **(from_outside() if name == "embedded" else {}))
    except ValueError as error:
        sys.exit(f"app.py: {error}")
    stage = PrefectStage(app, config.stage_name, config=config)
    acknowledge(stage)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()


def from_outside() -> dict[str, str | None]:
    """What only the embedded AWS knows; all else is in the code."""
    return {
        # A local Prefect server is on any free port.
        "api_url": os.environ.get("PREFECT_API_URL"),
        # Where tasks are processes, an image would be built for nothing.
        "image": "build" if os.environ.get("EMBEDDED_RUNTIME") == "podman" else None,
    }


if __name__ == "__main__":
    main()
