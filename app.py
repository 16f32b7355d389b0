#!/usr/bin/env python3
"""The CDK app: one environment, its policy checks, its templates.

    cdk deploy --all -c env=dev
"""

from __future__ import annotations

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
        config = environment(app.node.try_get_context("env"), api_url=app.node.try_get_context("apiUrl"))
    except ValueError as error:
        sys.exit(f"app.py: {error}")
    stage = PrefectStage(app, f"Prefect{config.name.capitalize()}", config=config)
    acknowledge(stage)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()


if __name__ == "__main__":
    main()
