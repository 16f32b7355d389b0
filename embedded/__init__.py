"""Embedded AWS: the whole app on one machine, without an account and without a Docker daemon.

``EmbeddedAws`` is an AWS for development whose ECS tasks are local processes or, with podman, containers,
``PrefectServer`` a real Prefect server, ``run_cdk`` the pinned CDK CLI pointed at them. ``python -m embedded up``
starts both by hand.
"""

from embedded.aws import EmbeddedAws, Task
from embedded.cdk import run_cdk
from embedded.errors import EmbeddedError
from embedded.prefect_server import PrefectServer

__all__ = ["EmbeddedAws", "EmbeddedError", "PrefectServer", "Task", "run_cdk"]
