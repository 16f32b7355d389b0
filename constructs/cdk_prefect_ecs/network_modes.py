"""The ways a new VPC of flow runs reaches the world, and over how many zones. Pure rules: imports no CDK."""

from __future__ import annotations

from typing import Final, Literal, get_args

from cdk_prefect_ecs.arguments import checked

NetworkMode = Literal["public", "nat", "endpoints"]
NETWORK_MODES: Final[tuple[str, ...]] = get_args(NetworkMode)

#: Spot capacity is per zone, and one zone can be without any for hours.
MIN_ZONES: Final = 2
#: No region has more zones; a VPC of /16 splits into as many /20 subnets and more.
MAX_ZONES: Final = 6
_ZONES: Final = 3
#: AWS has at least three zones in each region, but here most accounts are shown two.
#: Source: "Regions and Zones", Amazon EC2 User Guide.
_REGIONS_WITH_TWO_ZONES: Final = frozenset({"us-west-1"})


def default_zone_count(region: str | None) -> int:
    """How many zones a new VPC takes.

    :param region: The region; None when it is not known at synth, where only two zones are certain.
    """
    return MIN_ZONES if region is None or region in _REGIONS_WITH_TWO_ZONES else _ZONES


@checked
def check_network_settings(mode: str, max_azs: int | None, nat_gateways: int | None) -> None:
    """Check what a new VPC is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.FlowNetwork` documents.
    """
    if mode not in NETWORK_MODES:
        raise ValueError(f"network mode must be one of {', '.join(NETWORK_MODES)}; got {mode!r}")
    if max_azs is not None and not MIN_ZONES <= max_azs <= MAX_ZONES:
        raise ValueError(
            f"max_azs must be {MIN_ZONES} to {MAX_ZONES}: Spot capacity is per zone, so one is too few, and no region "
            f"has more; got {max_azs}"
        )
    if nat_gateways is None:
        return
    if mode != "nat":
        raise ValueError(f"nat_gateways goes with mode 'nat'; mode {mode!r} has none. Leave it out or change the mode")
    if nat_gateways < 1:
        raise ValueError(f"nat_gateways must be 1 or more; got {nat_gateways}. For none at all use mode 'public'")
