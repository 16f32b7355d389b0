"""What the machines of a capacity provider are: Fargate's, EC2's or AWS's own choice, on Spot or on demand."""

import uuid

from embedded.emulator.inner import Json, ecs
from embedded.emulator.placement import FARGATE_PROVIDERS

_SPOT = "FARGATE_SPOT"


def launch_type(provider: str) -> str:
    """What DescribeTasks calls the machines of a provider."""
    if provider in FARGATE_PROVIDERS:
        return "FARGATE"
    return "MANAGED_INSTANCES" if "managedInstancesProvider" in _record(provider) else "EC2"


def is_spot(provider: str | None) -> bool:
    """Whether Spot may take the machines of this provider away."""
    if provider is None or provider in FARGATE_PROVIDERS:
        return provider == _SPOT
    return bool(_record(provider).get("_spot"))


def loss(provider: str | None) -> tuple[str, str] | None:
    """Reason and stop code of a task whose EC2 instance goes; None on Fargate, which has words of its own."""
    if provider is None or launch_type(provider) == "FARGATE":
        return None
    return f"Host EC2 (instance i-{uuid.uuid4().hex[:17]}) terminated.", "TerminationNotice"


def _record(provider: str) -> Json:
    found: Json = ecs._capacity_providers.get(provider) or {}
    return found
