"""CloudFormation types that MiniStack lacks, or whose properties it drops.

Custom resources need nothing from here: MiniStack invokes their function directly, turns every scalar of
ResourceProperties into a string as AWS does ("true", "30"), honours ServiceTimeout and fails the stack with the Reason
that the function gives.
"""

from embedded.emulator.cloudformation import (
    bucket_type,
    ecs_types,
    lambda_type,
    network_types,
    other_types,
    role_type,
    secret_type,
)
from embedded.emulator.services import ServiceScheduler


def install(scheduler: ServiceScheduler) -> None:
    ecs_types.install(scheduler)
    network_types.install()
    bucket_type.install()
    role_type.install()
    secret_type.install()
    lambda_type.install()
    other_types.install()
