"""What the documentation says a network costs is what the rules compute."""

from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template
from library_helpers import new_stack, only

from cdk_prefect_ecs import FlowNetwork
from cdk_prefect_ecs.network_modes import NetworkMode
from cdk_prefect_ecs.network_prices import (
    ENDPOINT_GB,
    ENDPOINT_ZONE_HOUR,
    HOURS_PER_MONTH,
    NAT_GATEWAY_GB,
    PUBLIC_ADDRESS_HOUR,
    monthly_network_price,
)
from cdk_prefect_ecs.network_reach import endpoint_zones, lazarus_calls, task_calls, worker_calls

PAGE = (Path(__file__).parents[3] / "docs" / "network.md").read_text()

#: An image in ECR and a credential in SSM.
CALLS = [
    *task_calls(image_in_ecr=True, secret_service="ssm"),
    *worker_calls(enable_execute_command=False),
    *lazarus_calls(secret_service="ssm"),
]


def price(mode: NetworkMode, zones: int = 3, nat_gateways: int | None = None, **more: float) -> float:
    return monthly_network_price(
        mode,
        nat_gateways=nat_gateways or zones if mode == "nat" else 0,
        endpoint_zones=endpoint_zones(CALLS, zones) if mode == "endpoints" else 0,
        **more,
    )


def row(name: str) -> list[str]:
    """Cells of a row of the page's table."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_by_hand() -> None:
    assert monthly_network_price("public") == pytest.approx(0.005 * 730)
    assert monthly_network_price("public", running_tasks=11) == pytest.approx(11 * 0.005 * 730)
    assert monthly_network_price("nat", nat_gateways=3) == pytest.approx(3 * (0.045 + 0.005) * 730)
    assert monthly_network_price("nat", nat_gateways=1, gigabytes=1000) == pytest.approx(0.05 * 730 + 45)
    assert monthly_network_price("endpoints", endpoint_zones=16) == pytest.approx(16 * 0.01 * 730)
    assert monthly_network_price("endpoints", gigabytes=1000) == pytest.approx(10)


def test_only_public_pays_by_the_task_and_only_the_others_by_the_gigabyte() -> None:
    assert price("public", running_tasks=2, gigabytes=100) == 2 * price("public")
    for mode in ("nat", "endpoints"):
        assert price(mode, running_tasks=100) == price(mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["public", "nat", "endpoints"])
def test_docstring(mode: NetworkMode) -> None:
    documentation = " ".join((FlowNetwork.__doc__ or "").split())
    (entry,) = [part for part in documentation.split(" - ") if part.startswith(f"``{mode}``")]
    assert f"${price(mode):.2f}" in entry
    rate = {
        "public": f"${PUBLIC_ADDRESS_HOUR} an hour",
        "nat": f"${NAT_GATEWAY_GB}/GB",
        "endpoints": f"${ENDPOINT_GB}/GB",
    }[mode]
    assert rate in entry


def test_docstring_of_a_single_gateway_and_of_an_endpoint() -> None:
    assert f"(${price('nat', nat_gateways=1):.2f} a month for one)" in (FlowNetwork.__doc__ or "")
    assert f"(${ENDPOINT_ZONE_HOUR * HOURS_PER_MONTH:.2f} a month and zone at list" in (
        FlowNetwork.add_service_endpoint.__doc__ or ""
    )


@pytest.mark.parametrize(
    ("name", "mode", "gateways"),
    [
        ("`public`", "public", None),
        ("`nat`", "nat", None),
        ("`nat`, one gateway", "nat", 1),
        ("`endpoints`", "endpoints", None),
    ],
)
def test_table(name: str, mode: NetworkMode, gateways: int | None) -> None:
    _, two, three, each_gb, *_ = row(name)
    assert two == f"${price(mode, 2, gateways):.2f}"
    assert three == f"${price(mode, 3, gateways):.2f}"
    by_gb = price(mode, gigabytes=1) - price(mode)
    assert each_gb == (f"${by_gb:.3f}".rstrip("0").rstrip("."))


def test_list_of_endpoints() -> None:
    for call in CALLS:
        cells = row(f"`{call.service}`")
        assert cells[1] == call.reason
        assert cells[2] == f"${ENDPOINT_ZONE_HOUR * HOURS_PER_MONTH * (3 if call.every_zone else 1):.2f}"


def test_gateway_endpoint_is_listed_with_its_reason() -> None:
    template = Template.from_stack(cdk.Stack.of(FlowNetwork(new_stack(), "Network")))
    assert {"Key": "Reason", "Value": row("`s3`, a gateway")[1]} in only(template, "AWS::EC2::VPCEndpoint")["Tags"]


def test_public_is_the_cheapest_for_as_long_as_the_page_says() -> None:
    assert "until ten tasks" in PAGE
    for tasks, cheapest in ((9, True), (11, False)):
        cheap = price("public", running_tasks=tasks)
        assert (cheap < min(price("nat", nat_gateways=1), price("nat"), price("endpoints"))) == cheapest


@pytest.mark.parametrize(("mode", "gateways"), [("public", 0), ("nat", 2), ("endpoints", 0)])
def test_what_is_billed_is_what_is_made(mode: NetworkMode, gateways: int) -> None:
    stack = new_stack()
    FlowNetwork(stack, "Network", mode=mode)
    template = Template.from_stack(stack)
    for resource_type in ("AWS::EC2::NatGateway", "AWS::EC2::EIP"):
        template.resource_count_is(resource_type, gateways)
