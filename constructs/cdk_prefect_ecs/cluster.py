"""The ECS cluster."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.capacity import (
    DEFAULT_CLUSTER_STRATEGY,
    FARGATE,
    FARGATE_SPOT,
    CapacityKind,
    CapacityWeight,
    FlowCapacity,
    check_provider_count,
    check_provider_names,
    check_strategy,
)
from cdk_prefect_ecs.instance_types import check_disk, check_instance_counts, check_instance_types
from cdk_prefect_ecs.machines import AutoScalingMachines, ExternalMachines, ManagedMachines
from cdk_prefect_ecs.network import FlowNetwork
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.settings import check_cpu_architecture


class FlowCluster(Construct):
    """Define the ECS cluster that runs flow runs and their worker.

    Creates a cluster with the FARGATE and FARGATE_SPOT capacity providers. A cluster costs nothing by itself; Container
    Insights bills its metrics by the task. The ``add_…_capacity`` methods add other machines, at no cost while no flow
    run needs them; a work pool names the capacity of its flow runs.

    :param vpc: The VPC of the cluster.
    :param spot: Whether the cluster offers FARGATE_SPOT. False gives a plain on-demand cluster without Fargate capacity
        providers: its tasks use the FARGATE launch type. Default: True.
    :param default_strategy: Capacity provider strategy of services and tasks that bring none of their own. Flow runs do
        bring their own, see :class:`~cdk_prefect_ecs.SpotPolicy`. Default: FARGATE base 1 weight 2, FARGATE_SPOT
        weight 3; none when ``spot`` is False.
    :param container_insights: Level of Container Insights. Default: enabled.
    :raises ValueError: A strategy that ECS would refuse, or one for a cluster with ``spot=False``.
    """

    cluster: ecs.ICluster
    """The CDK cluster."""
    fargate: FlowCapacity
    """Fargate, which every cluster has."""

    @checked_construct
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

        self._providers: list[str] = [FARGATE, FARGATE_SPOT] if spot else []
        self.fargate = fargate_capacity(self._providers)
        self._own = ecs.Cluster(
            self,
            "Cluster",
            vpc=vpc,
            container_insights_v2=container_insights,
            enable_fargate_capacity_providers=spot,
        )
        self.cluster = self._own
        if spot:
            self._own.add_default_capacity_provider_strategy(
                [
                    ecs.CapacityProviderStrategy(
                        capacity_provider=item.capacity_provider,
                        weight=item.weight,
                        base=item.base or None,
                    )
                    for item in strategy
                ]
            )

    @staticmethod
    @checked
    def from_cluster(
        scope: Construct,
        construct_id: str,
        *,
        cluster: ecs.ICluster,
        capacity_providers: Sequence[str] = (FARGATE, FARGATE_SPOT),
    ) -> FlowCluster:
        """Use an existing cluster. Nothing about it is changed, so capacity is added where the cluster is defined.

        :param cluster: The cluster; of this app, or imported with ``ecs.Cluster.from_cluster_attributes``.
        :param capacity_providers: Names of the providers that it has. For others than Fargate's, make a
            :class:`~cdk_prefect_ecs.FlowCapacity` that names them. Default: FARGATE and FARGATE_SPOT.
        :raises ValueError: More than 20 providers, one named twice, FARGATE_SPOT without FARGATE.
        """
        check_provider_count(len(capacity_providers))
        check_provider_names(capacity_providers)
        if FARGATE_SPOT in capacity_providers and FARGATE not in capacity_providers:
            raise ValueError(
                "capacity_providers has FARGATE_SPOT without FARGATE, which the worker and the fallback need; "
                "associate both with the cluster"
            )
        return _ExistingCluster(scope, construct_id, cluster=cluster, capacity_providers=capacity_providers)

    @property
    def capacity_providers(self) -> tuple[str, ...]:
        """Names of the capacity providers that the cluster offers; empty for a plain on-demand cluster."""
        return tuple(self._providers)

    @checked
    def add_auto_scaling_capacity(
        self,
        construct_id: str,
        *,
        network: FlowNetwork,
        instance_types: Sequence[ec2.InstanceType],
        on_demand: bool = True,
        spot: bool = False,
        min_instances: int = 0,
        max_instances: int = 10,
        disk: cdk.Size | None = None,
        role: iam.IRole | None = None,
    ) -> AutoScalingMachines:
        """Add EC2 instances in Auto Scaling groups, which ECS starts when flow runs need them and ends when not.

        Creates an Auto Scaling group and a capacity provider for on-demand instances, for Spot instances or for each.
        The image is the ECS-optimized one on Amazon Linux 2023 that goes with the instance types: with NVIDIA drivers
        for GPU instances, for ARM on Graviton. An instance runs for some minutes longer than its last flow run and is
        billed by the second; a flow run waits some minutes for a new one. Flow runs share the address and the security
        group of their instance, and its network: in public subnets it has a public address.

        :param network: Network of the instances; its security group is theirs.
        :param instance_types: What may be started: several, for Spot, so that there is always one; of one architecture,
            all with GPUs or none.
        :param on_demand: Whether there are on-demand instances. Default: True.
        :param spot: Whether there are Spot instances. With both, the pool's Spot policy decides, and Lazarus falls back
            from Spot to on-demand. Default: False.
        :param min_instances: Instances of each group that always run, and always cost. Default: 0.
        :param max_instances: Instances of each group at most. Default: 10.
        :param disk: Encrypted disk of an instance; images and scratch space of all its flow runs. Default: 50 GiB.
        :param role: Role of the instances, assumed by EC2: what the ECS agent calls, for this cluster. Default: a new
            one; see :class:`~cdk_prefect_ecs.RequiredPolicy` for what yours has to be allowed.
        :raises ValueError: Neither on-demand nor Spot, instance types that do not go together, counts that make no
            sense, a 21st capacity provider, an existing cluster.
        """
        disk = disk or cdk.Size.gibibytes(50)
        kind = check_instance_types([instance_type.to_string() for instance_type in instance_types])
        check_instance_counts(min_instances, max_instances, _gibibytes(disk))
        own = self._check_addition(construct_id, network, on_demand=on_demand, spot=spot)
        machines = AutoScalingMachines(
            self,
            construct_id,
            cluster=own,
            network=network,
            instance_types=instance_types,
            kind=kind,
            on_demand=on_demand,
            spot=spot,
            min_instances=min_instances,
            max_instances=max_instances,
            disk=disk,
            role=role,
        )
        self._providers += machines.capacity.capacity_providers
        return machines

    @checked
    def add_managed_instances_capacity(
        self,
        construct_id: str,
        *,
        network: FlowNetwork,
        on_demand: bool = True,
        spot: bool = False,
        instance_requirements: ec2.InstanceRequirementsConfig | None = None,
        cpu_architecture: str = "X86_64",
        has_gpu: bool = False,
        disk: cdk.Size | None = None,
        infrastructure_role: iam.IRole | None = None,
        instance_role: iam.IRole | None = None,
    ) -> ManagedMachines:
        """Add ECS Managed Instances: EC2 instances that AWS chooses, starts, patches and ends.

        Creates a capacity provider for on-demand instances, for Spot instances or for each, with the roles that ECS and
        the instances need. Nothing runs, and nothing costs, while no flow run needs it; then EC2's price and a fee for
        the management are billed by the second.

        :param network: Network of the instances; its security group is theirs.
        :param on_demand: Whether there are on-demand instances. Default: True.
        :param spot: Whether there are Spot instances. Default: False.
        :param instance_requirements: What instances may be chosen. Default: what ECS thinks cheapest for the task.
        :param cpu_architecture: Architecture of the instances that the requirements allow. Default: X86_64.
        :param has_gpu: Whether the requirements ask for GPUs. Default: False.
        :param disk: Data disk of an instance. Default: 80 GiB, by ECS.
        :param infrastructure_role: Role with which ECS starts and ends the instances, assumed by ``ecs.amazonaws.com``.
            It needs AWS's managed policy ``AmazonECSInfrastructureRolePolicyForManagedInstances``, and to pass the role
            of the instances, which :class:`~cdk_prefect_ecs.RequiredPolicy` spells out. Default: a new one for each way
            to buy.
        :param instance_role: Role of the instances, assumed by EC2. It needs AWS's managed policy
            ``AmazonECSInstanceRolePolicyForManagedInstances``, and nothing more: flow runs in public subnets
            can use it. Default: a new one for each way to buy.
        :raises ValueError: Neither on-demand nor Spot, GPUs without requirements that ask for them, a 21st capacity
            provider, an existing cluster.
        """
        if has_gpu and instance_requirements is None:
            raise ValueError("has_gpu needs instance_requirements that ask for accelerators; got none")
        check_cpu_architecture(cpu_architecture)
        if disk is not None:
            check_disk(_gibibytes(disk))
        own = self._check_addition(construct_id, network, on_demand=on_demand, spot=spot)
        machines = ManagedMachines(
            self,
            construct_id,
            cluster=own,
            network=network,
            on_demand=on_demand,
            spot=spot,
            instance_requirements=instance_requirements,
            cpu_architecture=cpu_architecture,
            has_gpu=has_gpu,
            disk=disk,
            infrastructure_role=infrastructure_role,
            instance_role=instance_role,
        )
        self._providers += machines.capacity.capacity_providers
        return machines

    @checked
    def add_external_capacity(
        self,
        construct_id: str,
        *,
        cpu_architecture: str = "X86_64",
        has_gpu: bool = False,
        registration_role: iam.IRole | None = None,
    ) -> ExternalMachines:
        """Add machines of your own (ECS Anywhere): flow runs next to the data that may not leave the house.

        Creates the role with which a machine registers itself. See
        :attr:`~cdk_prefect_ecs.machines.ExternalMachines.registration_command` for what to run on it. AWS bills each
        registered machine by the hour ($0.01025 at list price).

        :param cpu_architecture: Architecture of the machines. Default: X86_64.
        :param has_gpu: Whether the machines have NVIDIA GPUs; register them with ``--enable-gpu``. Default: False.
        :param registration_role: Role that a machine gets, assumed by ``ssm.amazonaws.com``. It needs AWS's managed
            policies ``AmazonSSMManagedInstanceCore`` and ``service-role/AmazonEC2ContainerServiceforEC2Role``. Default:
            a new one.
        """
        check_cpu_architecture(cpu_architecture)
        return ExternalMachines(
            self,
            construct_id,
            cluster=self.cluster,
            cpu_architecture=cpu_architecture,
            has_gpu=has_gpu,
            registration_role=registration_role,
        )

    def _check_addition(self, construct_id: str, network: FlowNetwork, *, on_demand: bool, spot: bool) -> ecs.Cluster:
        if not isinstance(self.cluster, ecs.Cluster) or isinstance(self, _ExistingCluster):
            raise ValueError(
                f"capacity {construct_id!r} cannot be added to an existing cluster from here; add its providers "
                "where the cluster is defined and name them in from_cluster(capacity_providers=…) and in a FlowCapacity"
            )
        if not on_demand and not spot:
            raise ValueError(f"capacity {construct_id!r} needs on_demand=True, spot=True or both; got neither")
        check_provider_count(len(self._providers) + on_demand + spot)
        if network.mode == "endpoints":
            raise ValueError(
                f"capacity {construct_id!r}: the ECS agent has no way to ECS in network mode 'endpoints'; "
                "use mode 'nat' or 'public'"
            )
        return self.cluster

    @property
    def cluster_arn(self) -> str:
        """ARN of the cluster."""
        return self.cluster.cluster_arn

    @property
    def cluster_name(self) -> str:
        """Name of the cluster."""
        return self.cluster.cluster_name


class _ExistingCluster(FlowCluster):
    @checked_construct
    def __init__(
        self, scope: Construct, construct_id: str, *, cluster: ecs.ICluster, capacity_providers: Sequence[str]
    ) -> None:
        Construct.__init__(self, scope, construct_id)
        self._providers = list(capacity_providers)
        self.fargate = fargate_capacity(self._providers)
        self.cluster = cluster


def fargate_capacity(capacity_providers: Sequence[str]) -> FlowCapacity:
    """Fargate, in a cluster with these capacity providers."""
    return FlowCapacity(
        "Fargate",
        CapacityKind.FARGATE,
        on_demand=FARGATE if FARGATE in capacity_providers else None,
        spot=FARGATE_SPOT if FARGATE_SPOT in capacity_providers else None,
    )


def _gibibytes(disk: cdk.Size) -> float:
    if disk.is_unresolved():
        raise ValueError("disk must be known at synth; got a token")
    return disk.to_gibibytes(rounding=cdk.SizeRoundingBehavior.NONE)
