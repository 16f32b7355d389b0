"""The app, of which the environment embedded has a Prefect server of its own."""

import dataclasses

import aws_cdk as cdk

from app import synthesize
from stacks.config import EnvironmentConfig, OwnServer
from stacks.environments import environment


def own_environment() -> EnvironmentConfig:
    return dataclasses.replace(environment("embedded"), api=OwnServer(), network="nat", zone_count=2)


if __name__ == "__main__":
    synthesize(cdk.App(), own_environment())
