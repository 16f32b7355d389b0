import pytest

from cdk_prefect_ecs.network_modes import NETWORK_MODES, check_network_settings, default_zone_count


@pytest.mark.parametrize(("region", "zones"), [("us-east-1", 3), ("eu-central-1", 3), ("us-west-1", 2), (None, 2)])
def test_three_zones_where_there_are(region: str | None, zones: int) -> None:
    assert default_zone_count(region) == zones


@pytest.mark.parametrize("mode", NETWORK_MODES)
def test_modes_take_two_to_six_zones(mode: str) -> None:
    for zones in (None, 2, 3, 6):
        check_network_settings(mode, zones, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("Public", None, None), "network mode must be one of public, nat, endpoints; got 'Public'"),
        (
            ("public", 1, None),
            "max_azs must be 2 to 6: Spot capacity is per zone, so one is too few, and no",
        ),
        (("public", 7, None), "no region has more; got 7"),
        (("nat", None, 0), "nat_gateways must be 1 or more; got 0. For none at all use mode 'public'"),
        (("public", None, 1), "nat_gateways goes with mode 'nat'; mode 'public' has none"),
        (("endpoints", None, 1), "nat_gateways goes with mode 'nat'; mode 'endpoints' has none"),
    ],
)
def test_refuses(settings: tuple[str, int | None, int | None], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        check_network_settings(*settings)
    assert message in str(error.value)
