"""What a network costs by the month. Pure rules: imports no CDK."""

from __future__ import annotations

from typing import Final

from cdk_prefect_ecs.network_modes import NetworkMode

# List prices in us-east-1, US dollars, June 2026. Sources: Amazon VPC Pricing, https://aws.amazon.com/vpc/pricing/, and
# AWS PrivateLink Pricing, https://aws.amazon.com/privatelink/pricing/.
PUBLIC_ADDRESS_HOUR: Final = 0.005
NAT_GATEWAY_HOUR: Final = 0.045
NAT_GATEWAY_GB: Final = 0.045
ENDPOINT_ZONE_HOUR: Final = 0.01
"""An interface endpoint, for each zone that it is in."""
ENDPOINT_GB: Final = 0.01

HOURS_PER_MONTH: Final = 730


def monthly_network_price(
    mode: NetworkMode,
    *,
    nat_gateways: int = 0,
    endpoint_zones: int = 0,
    running_tasks: float = 1,
    gigabytes: float = 0,
) -> float:
    """What a new network costs a month, in US dollars at us-east-1 list prices.

    :param mode: How tasks reach the world.
    :param nat_gateways: NAT gateways of the mode ``nat``; each has a public address.
    :param endpoint_zones: Interface endpoints of the mode ``endpoints``, each counted once for every zone it is in.
    :param running_tasks: Tasks that run on average: in mode ``public`` each has a public address. Default: a worker.
    :param gigabytes: Traffic that leaves a task, S3 not counted: its gateway endpoint is free. Default: 0.
    """
    if mode == "public":
        return running_tasks * PUBLIC_ADDRESS_HOUR * HOURS_PER_MONTH
    if mode == "nat":
        return nat_gateways * (NAT_GATEWAY_HOUR + PUBLIC_ADDRESS_HOUR) * HOURS_PER_MONTH + gigabytes * NAT_GATEWAY_GB
    return endpoint_zones * ENDPOINT_ZONE_HOUR * HOURS_PER_MONTH + gigabytes * ENDPOINT_GB
