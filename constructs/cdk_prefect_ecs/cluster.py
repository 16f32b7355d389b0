"""The ECS cluster."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from cdk_prefect_ecs.capacity import (
    DEFAULT_CLUSTER_STRATEGY,
    FARGATE,
    FARGATE_SPOT,
    CapacityWeight,
    check_strategy,
)


class FlowCluster(Construct):
    """Define the ECS cluster that runs flow runs and their worker.

    Creates a cluster with the FARGATE and FARGATE_SPOT capacity providers. A cluster costs nothing by itself; Container
    Insights bills its metrics by the task.

    :param vpc: The VPC of the cluster.
    :param spot: Whether the cluster offers FARGATE_SPOT. False gives a plain on-demand cluster without capacity
        providers: its tasks use the FARGATE launch type. Default: True.
    :param default_strategy: Capacity provider strategy of services and tasks that bring none of their own. Flow runs do
        bring their own, see :class:`~cdk_prefect_ecs.SpotPolicy`. Default: FARGATE base 1 weight 2, FARGATE_SPOT
        weight 3; none when ``spot`` is False.
    :param container_insights: Level of Container Insights. Default: enabled.
    :raises ValueError: A strategy that ECS would refuse, or one for a cluster with ``spot=False``.
    """

    cluster: ecs.Cluster
    """The CDK cluster."""
    capacity_providers: tuple[str, ...]
    """Names of the capacity providers that the cluster offers; empty for a plain on-demand cluster."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        vpc: ec2.IVpc,
        spot: bool = True,
        default_strategy: Sequence[CapacityWeight] | None = None,
        container_insights: ecs.ContainerInsights = ecs.ContainerInsights.ENABLED,
    ) -> None:
        if default_strategy is not None and not spot:
            raise ValueError(
                "a cluster with spot=False has no capacity providers; leave out default_strategy or set spot=True"
            )
        strategy = tuple(DEFAULT_CLUSTER_STRATEGY if default_strategy is None else default_strategy)
        check_strategy(strategy, known=(FARGATE, FARGATE_SPOT))
        super().__init__(scope, construct_id)

        self.capacity_providers = (FARGATE, FARGATE_SPOT) if spot else ()
        self.cluster = ecs.Cluster(
            self,
            "Cluster",
            vpc=vpc,
            container_insights_v2=container_insights,
            enable_fargate_capacity_providers=spot,
        )
        if spot:
            self.cluster.add_default_capacity_provider_strategy(
                [
                    ecs.CapacityProviderStrategy(
                        capacity_provider=item.capacity_provider,
                        weight=item.weight,
                        base=item.base or None,
                    )
                    for item in strategy
                ]
            )

    @property
    def cluster_arn(self) -> str:
        """ARN of the cluster."""
        return self.cluster.cluster_arn

    @property
    def cluster_name(self) -> str:
        """Name of the cluster."""
        return self.cluster.cluster_name
