import pytest
from aws_cdk import aws_ecs as ecs
from aws_cdk.assertions import Template
from library_helpers import assert_refused, imported_vpc, new_stack, only, plain

from cdk_prefect_ecs import CapacityWeight, FlowCluster

ASSOCIATIONS = "AWS::ECS::ClusterCapacityProviderAssociations"


@pytest.fixture(scope="module")
def template() -> Template:
    stack = new_stack()
    FlowCluster(stack, "Cluster", vpc=imported_vpc(stack))
    return Template.from_stack(stack)


def test_default_offers_spot_beside_on_demand(template: Template) -> None:
    assert plain(only(template, ASSOCIATIONS)) == {
        "Cluster": "<Cluster>",
        "CapacityProviders": ["FARGATE", "FARGATE_SPOT"],
        "DefaultCapacityProviderStrategy": [
            {"CapacityProvider": "FARGATE", "Base": 1, "Weight": 2},
            {"CapacityProvider": "FARGATE_SPOT", "Weight": 3},
        ],
    }


def test_default_has_container_insights_and_no_name(template: Template) -> None:
    assert only(template, "AWS::ECS::Cluster") == {
        "ClusterSettings": [{"Name": "containerInsights", "Value": "enabled"}]
    }


def test_default_makes_nothing_else(template: Template) -> None:
    assert len(template.to_json()["Resources"]) == 2


def test_everything_set() -> None:
    stack = new_stack()
    cluster = FlowCluster(
        stack,
        "Cluster",
        vpc=imported_vpc(stack),
        default_strategy=[CapacityWeight("FARGATE_SPOT", weight=5)],
        container_insights=ecs.ContainerInsights.ENHANCED,
    )
    template = Template.from_stack(stack)
    assert only(template, ASSOCIATIONS)["DefaultCapacityProviderStrategy"] == [
        {"CapacityProvider": "FARGATE_SPOT", "Weight": 5}
    ]
    assert only(template, "AWS::ECS::Cluster")["ClusterSettings"][0]["Value"] == "enhanced"
    assert cluster.capacity_providers == ("FARGATE", "FARGATE_SPOT")
    assert plain(stack.resolve([cluster.cluster_name, cluster.cluster_arn])) == [
        "<Cluster>",
        "<Cluster.Arn>",
    ]


def test_without_spot_it_has_no_capacity_providers() -> None:
    stack = new_stack()
    cluster = FlowCluster(stack, "Cluster", vpc=imported_vpc(stack), spot=False)
    template = Template.from_stack(stack)
    assert cluster.capacity_providers == ()
    template.resource_count_is(ASSOCIATIONS, 0)
    assert "CapacityProviders" not in only(template, "AWS::ECS::Cluster")


def test_refuses_a_strategy_that_ecs_would_refuse() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    for strategy, words in (
        ([], ("at least one item",)),
        ([CapacityWeight("FARGATE_SPOTS", 1)], ("'FARGATE_SPOTS'", "FARGATE, FARGATE_SPOT")),
        ([CapacityWeight("FARGATE", 1001)], ("0 to 1000", "1001")),
    ):
        assert_refused(
            stack,
            lambda strategy=strategy: FlowCluster(stack, "Cluster", vpc=vpc, default_strategy=strategy),  # type: ignore[misc]
            *words,
        )


def test_refuses_a_strategy_without_capacity_providers() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    assert_refused(
        stack,
        lambda: FlowCluster(stack, "Cluster", vpc=vpc, spot=False, default_strategy=[CapacityWeight("FARGATE", 1)]),
        "spot=False",
        "leave out default_strategy",
    )


def test_two_in_one_stack() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    FlowCluster(stack, "One", vpc=vpc)
    FlowCluster(stack, "Two", vpc=vpc, spot=False)
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::ECS::Cluster", 2)
    template.resource_count_is(ASSOCIATIONS, 1)
