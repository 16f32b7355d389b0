"""Our app with more pools or environments than it has: `python -m bench.synth_app POOLS ENVIRONMENTS [checks]`."""

from __future__ import annotations

import dataclasses
import gc
import sys

from app import synthesize  # first: it gives synthesis its head start

import aws_cdk as cdk

from stacks.config import EnvironmentConfig, PoolConfig
from stacks.environments import environment


def main(pools: int, environments: int, policy_checks: bool) -> None:
    """Synthesize so many environments with so many work pools each."""
    names = [f"dev{number or ''}" for number in range(environments)]
    synthesize(cdk.App(), *(of_size(pools, name) for name in names), policy_checks=policy_checks)
    gc.freeze()


def of_size(pools: int, name: str) -> EnvironmentConfig:
    """Environment dev with so many work pools."""
    dev = environment("dev")
    more = tuple(PoolConfig(name=f"{dev.pool.name}-{number}") for number in range(2, pools + 1))
    return dataclasses.replace(dev, name=name, more_pools=more)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), "checks" in sys.argv[3:])
