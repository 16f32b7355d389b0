"""Which capacity provider each task of one call, or of one service, is placed on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# CreateCapacityProviderStrategy: "A capacity provider strategy can contain a maximum of 20 capacity providers."
MAX_PROVIDERS = 20
FARGATE_PROVIDERS = ("FARGATE", "FARGATE_SPOT")


@dataclass(frozen=True)
class Share:
    """One item of a capacity provider strategy."""

    provider: str
    weight: int = 0
    base: int = 0


def strategy_from(items: Iterable[Mapping[str, Any]]) -> tuple[Share, ...]:
    return tuple(
        # Providers may be given by name or by ARN.
        Share(
            str(item["capacityProvider"]).rsplit("/", 1)[-1], int(item.get("weight") or 0), int(item.get("base") or 0)
        )
        for item in items
    )


def problem(strategy: Sequence[Share], associated: Iterable[str]) -> str | None:
    """Why ECS would refuse this strategy on a cluster with these providers, or None."""
    associated = set(associated)
    if len(strategy) > MAX_PROVIDERS:
        return f"The strategy contains {len(strategy)} capacity providers; the maximum is {MAX_PROVIDERS}."
    for share in strategy:
        if share.provider not in associated:
            return (
                f"The specified capacity provider '{share.provider}' is not associated with the cluster; "
                f"associated are: {', '.join(sorted(associated)) or 'none'}."
            )
        if not 0 <= share.weight <= 1000:
            return f"The weight of '{share.provider}' is {share.weight}; it must be between 0 and 1000."
    fargate = {share.provider for share in strategy if share.provider in FARGATE_PROVIDERS}
    if fargate and len(fargate) != len({share.provider for share in strategy}):
        return (
            "The specified capacity provider strategy cannot contain a mix of capacity providers using Auto Scaling "
            "groups and Fargate. Specify one or the other and try again."
        )
    if sum(share.base > 0 for share in strategy) > 1:
        return "Only one capacity provider in a strategy can have a base defined."
    # The API reference says so of "multiple capacity providers": for one alone, the weight means nothing.
    if len(strategy) > 1 and not any(share.weight for share in strategy):
        return "Specify a capacity provider with a weight value greater than 0 and try again."
    return None


def place(strategy: Sequence[Share], count: int, running: Mapping[str, int] | None = None) -> list[str]:
    """The provider of each of ``count`` new tasks, beside those that run already.

    First the base, then always the provider that is furthest below its weight. AWS documents base and weight for the
    tasks of one RunTask call or of one service, so ``running`` is empty for RunTask and the service's own for services.
    """
    placed = dict(running or {})
    order: list[str] = []
    for _ in range(count):
        below_base = [share for share in strategy if placed.get(share.provider, 0) < share.base]
        if below_base:
            choice = below_base[0]
        else:
            weighted = [share for share in strategy if share.weight] or [Share(strategy[0].provider, weight=1)]
            # The task that would be added is counted, so that equal fill levels go to the heavier provider.
            choice = min(weighted, key=lambda s: (placed.get(s.provider, 0) - s.base + 1) / s.weight)
        placed[choice.provider] = placed.get(choice.provider, 0) + 1
        order.append(choice.provider)
    return order
