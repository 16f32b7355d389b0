#!/usr/bin/env python3
"""The CDK app: one environment, its policy checks, its templates.

cdk deploy '**' -c env=dev
"""

from __future__ import annotations

from stacks.head_start import validation  # first: see there

# isort: split
import gc
import os
import sys

import aws_cdk as cdk

from stacks.config import EnvironmentConfig
from stacks.environments import environment
from stacks.policy import acknowledge, check_policies
from stacks.stage import PrefectStage

VALIDATION = validation()


def main() -> None:
    """Synthesize the environment that ``-c env=NAME`` names."""
    app = cdk.App()
    try:
        name = app.node.try_get_context("env")
        config = environment(name, **(from_outside() if name == "embedded" else {}))
    except (TypeError, ValueError) as error:
        sys.exit(f"app.py: {error}")
    synthesize(app, config)
    gc.freeze()  # or Python would look for garbage once more when it ends


def synthesize(app: cdk.App, *environments: EnvironmentConfig, policy_checks: bool = True) -> None:
    """Write the templates of these environments, and fail if a policy check finds what nobody acknowledged."""
    # The CDK would add the same by itself, a second later. It is first, as V8 then compiles it while the others run.
    if os.environ.get("CDK_VALIDATION") != "false":  # cdk synth --no-validation
        cdk.Validations.of(app).add_plugins(VALIDATION)
    for config in environments:
        stage = PrefectStage(app, config.stage_name, config=config)
        if policy_checks:
            acknowledge(stage)
    if policy_checks:
        check_policies(app)
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
