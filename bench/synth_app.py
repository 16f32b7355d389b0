"""Our app with more pools or more environments than it ships with: `python -m bench.synth_app POOLS ENVIRONMENTS [checks]`."""

from __future__ import annotations

import dataclasses
import sys

import aws_cdk as cdk

from stacks.config import EnvironmentConfig, PoolConfig
from stacks.environments import environment
from stacks.stage import PrefectStage


def main(pools: int, environments: int, checks: bool) -> None:
    """Synthesize so many environments with so many work pools each."""
    app = cdk.App()
    for number in range(environments):
        config = of_size(pools, f"dev{number}" if number else "dev")
        stage = PrefectStage(app, config.stage_name, config=config)
        if checks:
            from stacks.policy import acknowledge

            acknowledge(stage)
    if checks:
        from cdk_nag import AwsSolutionsChecks

        cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()


def of_size(pools: int, name: str) -> EnvironmentConfig:
    """Environment dev with so many work pools."""
    dev = environment("dev")
    more = tuple(PoolConfig(name=f"{dev.pool.name}-{number}") for number in range(2, pools + 1))
    return dataclasses.replace(dev, name=name, more_pools=more)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), "checks" in sys.argv[3:])
