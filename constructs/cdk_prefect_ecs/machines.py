"""Machines for flow runs that are not Fargate's: made by :class:`~cdk_prefect_ecs.FlowCluster`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_prefect_ecs.capacity import CapacityKind, FlowCapacity
from cdk_prefect_ecs.instance_types import InstanceKind
from cdk_prefect_ecs.network import FlowNetwork
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.required_policy import as_it_is, grantees

_INSTALLER: Final = "https://amazon-ecs-agent.s3.amazonaws.com/ecs-anywhere-install-latest.sh"


class AutoScalingMachines(Construct):
    """Define EC2 instances in Auto Scaling groups, as :meth:`~cdk_prefect_ecs.FlowCluster.add_auto_scaling_capacity`
    makes them; what that checks is not checked again.

    Creates a role, if it is given none, a launch template, and a group and a capacity provider for each way to buy. An
    instance costs while it runs.

    :param cluster: The cluster that they join.
    :param network: Their subnets and security group.
    :param instance_types: What may be started.
    :param kind: What the instance types have in common.
    :param on_demand: Whether there are on-demand instances.
    :param spot: Whether there are Spot instances.
    :param min_instances: Instances of each group that always run.
    :param max_instances: Instances of each group at most.
    :param disk: Encrypted disk of an instance.
    :param role: Role of the instances. None: a new one.
    """

    capacity: FlowCapacity
    """What a work pool names."""
    on_demand_group: autoscaling.AutoScalingGroup | None
    """The group of on-demand instances, if there are any."""
    spot_group: autoscaling.AutoScalingGroup | None
    """The group of Spot instances, if there are any."""
    role: iam.IRole
    """Role of the instances: of the ECS agent. Flow runs cannot use it."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: ecs.Cluster,
        network: FlowNetwork,
        instance_types: Sequence[ec2.InstanceType],
        kind: InstanceKind,
        on_demand: bool,
        spot: bool,
        min_instances: int,
        max_instances: int,
        disk: cdk.Size,
        role: iam.IRole | None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.role = role or iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            description="ECS agent of instances for Prefect flow runs",
        )
        self._grant_agent(cluster)
        self._network = network
        self._instance_types = instance_types
        self._counts = (min_instances, max_instances)
        self._template = self._launch_template(kind, disk)
        self.on_demand_group = self._group("OnDemand", spot=False) if on_demand else None
        self.spot_group = self._group("Spot", spot=True) if spot else None
        self.capacity = FlowCapacity(
            construct_id,
            CapacityKind.AUTO_SCALING,
            on_demand=self._provider(cluster, self.on_demand_group),
            spot=self._provider(cluster, self.spot_group),
            cpu_architecture=kind.cpu_architecture,
            has_gpu=kind.has_gpu,
        )

    def _grant_agent(self, cluster: ecs.Cluster) -> None:
        """Grant what the ECS agent calls itself, for this cluster. Images are pulled and logs are written with the
        execution role of the task, not with this one."""
        stack = cdk.Stack.of(self)
        instances = stack.format_arn(
            service="ecs", resource="container-instance", resource_name=f"{cluster.cluster_name}/*"
        )
        # Source: AmazonEC2ContainerServiceforEC2Role, AWS Managed Policy Reference. UpdateContainerInstancesState is
        # how the agent drains a Spot instance that is about to go.
        for actions, resource, conditions in (
            (
                [
                    "ecs:RegisterContainerInstance",
                    "ecs:DeregisterContainerInstance",
                    "ecs:SubmitAttachmentStateChanges",
                    "ecs:SubmitContainerStateChange",
                    "ecs:SubmitTaskStateChange",
                ],
                cluster.cluster_arn,
                None,
            ),
            (
                ["ecs:Poll", "ecs:StartTelemetrySession", "ecs:UpdateContainerInstancesState"],
                instances,
                {"ArnEquals": {"ecs:cluster": cluster.cluster_arn}},
            ),
            (["ecs:DiscoverPollEndpoint"], "*", None),  # supports no resource. Source: Service Authorization Reference
        ):
            for grantee in grantees(self, self.role):
                grantee.grant_principal.add_to_principal_policy(
                    iam.PolicyStatement(actions=actions, resources=[resource], conditions=conditions)
                )

    def _launch_template(self, kind: InstanceKind, disk: cdk.Size) -> ec2.LaunchTemplate:
        hardware = (
            ecs.AmiHardwareType.GPU
            if kind.has_gpu
            else ecs.AmiHardwareType.ARM
            if kind.cpu_architecture == "ARM64"
            else ecs.AmiHardwareType.STANDARD
        )
        user_data = ec2.UserData.for_linux()
        user_data.add_commands(
            # No new flow run on a Spot instance that is about to go.
            "echo ECS_ENABLE_SPOT_INSTANCE_DRAINING=true >> /etc/ecs/ecs.config",
            # The log is written with the execution role, as on Fargate, not with the instance's.
            "echo ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE=true >> /etc/ecs/ecs.config",
        )
        return ec2.LaunchTemplate(
            self,
            "LaunchTemplate",
            machine_image=ecs.EcsOptimizedImage.amazon_linux2023(hardware),
            instance_type=self._instance_types[0],
            user_data=user_data,
            role=as_it_is(self, self.role, "Given"),
            security_group=self._network.security_group,
            associate_public_ip_address=True if self._network.assign_public_ip else None,
            require_imdsv2=True,
            # One hop ends at the instance: no container reaches its role.
            http_put_response_hop_limit=1,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(
                        disk.to_gibibytes(), encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3
                    ),
                )
            ],
        )

    def _group(self, construct_id: str, *, spot: bool) -> autoscaling.AutoScalingGroup:
        minimum, maximum = self._counts
        return autoscaling.AutoScalingGroup(
            self,
            construct_id,
            vpc=self._network.vpc,
            vpc_subnets=ec2.SubnetSelection(subnets=list(self._network.subnets)),
            min_capacity=minimum,
            max_capacity=maximum,
            # ECS takes the protection from an instance that has no task left.
            new_instances_protected_from_scale_in=True,
            mixed_instances_policy=autoscaling.MixedInstancesPolicy(
                launch_template=self._template,
                launch_template_overrides=[
                    autoscaling.LaunchTemplateOverrides(instance_type=instance_type)
                    for instance_type in self._instance_types
                ],
                instances_distribution=autoscaling.InstancesDistribution(
                    on_demand_percentage_above_base_capacity=0 if spot else 100,
                    spot_allocation_strategy=autoscaling.SpotAllocationStrategy.PRICE_CAPACITY_OPTIMIZED
                    if spot
                    else None,
                ),
            ),
        )

    def _provider(self, cluster: ecs.Cluster, group: autoscaling.AutoScalingGroup | None) -> str | None:
        if group is None:
            return None
        provider = ecs.AsgCapacityProvider(
            self,
            f"{group.node.id}Provider",
            auto_scaling_group=group,
            enable_managed_scaling=True,
            enable_managed_termination_protection=True,
            enable_managed_draining=True,
        )
        cluster.add_asg_capacity_provider(provider)
        return provider.capacity_provider_name


class ManagedMachines(Construct):
    """Define ECS Managed Instances, as :meth:`~cdk_prefect_ecs.FlowCluster.add_managed_instances_capacity` makes them.

    Creates a capacity provider for each way to buy, with the roles of ECS and of the instances that it is not given. An
    instance costs while it runs.

    :param cluster: The cluster that they belong to.
    :param network: Their subnets and security group.
    :param on_demand: Whether there are on-demand instances.
    :param spot: Whether there are Spot instances.
    :param instance_requirements: What instances may be chosen. None: ECS chooses.
    :param cpu_architecture: Architecture of what may be chosen.
    :param has_gpu: Whether all of it has GPUs.
    :param disk: Data disk of an instance. None: 80 GiB, by ECS.
    :param infrastructure_role: Role with which ECS starts and ends the instances. None: a new one.
    :param instance_role: Role of the instances. None: a new one.
    """

    capacity: FlowCapacity
    """What a work pool names."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: ecs.Cluster,
        network: FlowNetwork,
        on_demand: bool,
        spot: bool,
        instance_requirements: ec2.InstanceRequirementsConfig | None,
        cpu_architecture: str,
        has_gpu: bool,
        disk: cdk.Size | None,
        infrastructure_role: iam.IRole | None,
        instance_role: iam.IRole | None,
    ) -> None:
        super().__init__(scope, construct_id)
        profile = iam.InstanceProfile(self, "InstanceProfile", role=instance_role) if instance_role else None

        def provider(wanted: bool, purchase: ecs.CapacityOptionType, provider_id: str) -> str | None:
            if not wanted:
                return None
            made = ecs.ManagedInstancesCapacityProvider(
                self,
                provider_id,
                subnets=list(network.subnets),
                security_groups=[network.security_group],
                capacity_option_type=purchase,
                instance_requirements=instance_requirements,
                task_volume_storage=disk,
                propagate_tags=ecs.PropagateManagedInstancesTags.CAPACITY_PROVIDER,
                infrastructure_role=infrastructure_role,
                ec2_instance_profile=profile,
            )
            cluster.add_managed_instances_capacity_provider(made)
            # AWS's own policy lets ECS pass roles named ecsInstanceRole… without a path; this is the one role, wherever
            # it is. Source: AmazonECSInfrastructureRolePolicyForManagedInstances, AWS Managed Policy Reference.
            passed = instance_role or made.ec2_instance_profile.role
            assert passed is not None
            own = (made.infrastructure_role,)
            for grantee in grantees(self, infrastructure_role) if infrastructure_role else own:
                grantee.grant_principal.add_to_principal_policy(
                    iam.PolicyStatement(
                        actions=["iam:PassRole"],
                        resources=[passed.role_arn],
                        conditions={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
                    )
                )
            return made.capacity_provider_name

        self.capacity = FlowCapacity(
            construct_id,
            CapacityKind.MANAGED_INSTANCES,
            on_demand=provider(on_demand, ecs.CapacityOptionType.ON_DEMAND, "OnDemandProvider"),
            spot=provider(spot, ecs.CapacityOptionType.SPOT, "SpotProvider"),
            cpu_architecture=cpu_architecture,
            has_gpu=has_gpu,
        )


class ExternalMachines(Construct):
    """Define what machines of your own need to join a cluster, as
    :meth:`~cdk_prefect_ecs.FlowCluster.add_external_capacity` makes it.

    Creates the role of the machines, if it is given none. AWS bills each registered machine by the hour.

    :param cluster: The cluster that they join.
    :param cpu_architecture: Architecture of the machines.
    :param has_gpu: Whether the machines have NVIDIA GPUs.
    :param registration_role: Role that a machine gets. None: a new one.
    """

    capacity: FlowCapacity
    """What a work pool names."""
    registration_role: iam.IRole
    """Role that a machine gets when it registers itself."""
    activation_command: str
    """Run it with credentials of the account: answers the activation's id and code, good for one machine and a day."""
    registration_command: str
    """Run it on the machine, with ``ACTIVATION_ID`` and ``ACTIVATION_CODE`` in the environment."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: ecs.ICluster,
        cpu_architecture: str,
        has_gpu: bool,
        registration_role: iam.IRole | None,
    ) -> None:
        super().__init__(scope, construct_id)
        stack = cdk.Stack.of(self)
        # Source: "Creating an IAM role for external instances", Amazon ECS Developer Guide.
        self.registration_role = registration_role or iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal(
                "ssm.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": stack.account}}
            ),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("AmazonSSMManagedInstanceCore"),
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonEC2ContainerServiceforEC2Role"),
            ],
            description="Machines of your own that run Prefect flow runs",
        )
        # SSM takes the name with the path, if the role has one; the role's own name is without.
        role = cdk.Fn.select(1, cdk.Fn.split(":role/", self.registration_role.role_arn))
        # The activation's code is a secret that is shown once, so no template may hold it.
        self.activation_command = (
            f"aws ssm create-activation --iam-role {role} --registration-limit 1 --region {stack.region}"
        )
        gpu = " --enable-gpu" if has_gpu else ""
        self.registration_command = (
            f"curl --fail --proto https -o ecs-anywhere-install.sh {_INSTALLER} && "
            f"sudo bash ecs-anywhere-install.sh --region {stack.region} --cluster {cluster.cluster_name} "
            f'--activation-id "$ACTIVATION_ID" --activation-code "$ACTIVATION_CODE"{gpu}'
        )
        self.capacity = FlowCapacity(
            construct_id, CapacityKind.EXTERNAL, cpu_architecture=cpu_architecture, has_gpu=has_gpu
        )
