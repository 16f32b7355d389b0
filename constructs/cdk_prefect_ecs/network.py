"""The network that flow runs and the worker live in."""

from __future__ import annotations

from collections.abc import Sequence

import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct


@jsii.implements(ec2.IConnectable)
class FlowNetwork(Construct):
    """Define the network of flow runs: subnets and a security group without ingress.

    With nothing given, a VPC with public subnets and no NAT gateway is created: tasks have a public address of their
    own and reach the Prefect API, ECR and S3 through the internet gateway. Such a VPC costs nothing by itself; each
    running task pays for its public IPv4 address ($0.005 an hour at list price). S3 traffic goes through a gateway
    endpoint, which is free.

    :param vpc: An existing VPC. Default: a new VPC is created.
    :param vpc_subnets: Which subnets of an existing VPC. More zones mean more Spot capacity. Default: its private
        subnets with a way out if there are some, else its public ones.
    :param security_group: Security group of flow runs. Default: one without ingress, open to the outside, is created.
    :param max_azs: Zones of a new VPC. Default: 3, or as many as the stack knows.
    :param flow_log_retention: Keep VPC flow logs of a new VPC for this long; CloudWatch Logs bills them by the
        gigabyte. Default: no flow logs.
    :raises ValueError: ``vpc_subnets`` without ``vpc``; ``max_azs`` or ``flow_log_retention`` with ``vpc``.
    """

    vpc: ec2.IVpc
    """The VPC."""
    subnets: Sequence[ec2.ISubnet]
    """The subnets of flow runs and worker."""
    security_group: ec2.ISecurityGroup
    """The security group of flow runs."""
    assign_public_ip: bool
    """Whether tasks need a public address to reach anything: true in public subnets."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_group: ec2.ISecurityGroup | None = None,
        max_azs: int | None = None,
        flow_log_retention: logs.RetentionDays | None = None,
    ) -> None:
        if vpc is None and vpc_subnets is not None:
            raise ValueError("vpc_subnets selects subnets of an existing VPC; pass vpc too, or leave it out")
        if vpc is not None and (max_azs is not None or flow_log_retention is not None):
            raise ValueError("max_azs and flow_log_retention shape a new VPC; leave them out when passing vpc")
        if max_azs is not None and max_azs < 1:
            raise ValueError(f"max_azs must be 1 or more; got {max_azs}")
        selected = _select(vpc, vpc_subnets) if vpc else None
        if selected is not None and not selected.subnets:
            raise ValueError(
                f"{scope.node.path}/{construct_id}: no subnet of the VPC matches vpc_subnets; "
                "select at least one subnet"
            )
        super().__init__(scope, construct_id)

        self.vpc = vpc or self._new_vpc(max_azs or 3, flow_log_retention)
        selected = selected or _select(self.vpc, None)
        self.subnets = selected.subnets
        self.assign_public_ip = selected.has_public
        self.security_group = security_group or ec2.SecurityGroup(
            self, "SecurityGroup", vpc=self.vpc, description="Prefect flow runs: no ingress"
        )
        self._connections = ec2.Connections(security_groups=[self.security_group])

    @staticmethod
    def from_default_vpc(scope: Construct, construct_id: str) -> FlowNetwork:
        """Use the account's default VPC, looked up at synth.

        The stack needs an explicit account and region; the CDK CLI keeps the answer in ``cdk.context.json``.
        """
        vpc = ec2.Vpc.from_lookup(scope, f"{construct_id}DefaultVpc", is_default=True)
        return FlowNetwork(scope, construct_id, vpc=vpc)

    @property
    def connections(self) -> ec2.Connections:
        """Allow flow runs to reach something: ``db.connections.allow_default_port_from(network)``."""
        return self._connections

    def _new_vpc(self, max_azs: int, flow_log_retention: logs.RetentionDays | None) -> ec2.Vpc:
        vpc = ec2.Vpc(
            self,
            "Vpc",
            max_azs=max_azs,
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(name="Public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=20)
            ],
        )
        vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        if flow_log_retention is not None:
            vpc.add_flow_log(
                "FlowLog",
                destination=ec2.FlowLogDestination.to_cloud_watch_logs(
                    logs.LogGroup(self, "FlowLogGroup", retention=flow_log_retention)
                ),
            )
        return vpc


def _select(vpc: ec2.IVpc, vpc_subnets: ec2.SubnetSelection | None) -> ec2.SelectedSubnets:
    if vpc_subnets is None:
        subnet_type = ec2.SubnetType.PRIVATE_WITH_EGRESS if vpc.private_subnets else ec2.SubnetType.PUBLIC
        return vpc.select_subnets(subnet_type=subnet_type)
    return vpc.select_subnets(
        subnets=vpc_subnets.subnets,
        subnet_type=vpc_subnets.subnet_type,
        subnet_group_name=vpc_subnets.subnet_group_name,
        availability_zones=vpc_subnets.availability_zones,
        subnet_filters=vpc_subnets.subnet_filters,
        one_per_az=vpc_subnets.one_per_az,
    )
