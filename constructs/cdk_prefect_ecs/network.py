"""The network that flow runs and the worker live in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct, DependencyGroup

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.encryption import new_log_group
from cdk_prefect_ecs.image import FlowImage
from cdk_prefect_ecs.network_modes import (
    MIN_ZONES,
    NetworkMode,
    check_network_settings,
    default_zone_count,
)
from cdk_prefect_ecs.network_reach import ServiceCall, registry_on_the_internet, task_calls
from cdk_prefect_ecs.place import check_place, checked_construct
from cdk_prefect_ecs.required_policy import records
from cdk_prefect_ecs.security_groups import open_port
from cdk_prefect_ecs.subnets import select_subnets

_SERVICE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")
# What every AWS service takes as the value of a tag.
_TAG_VALUE: Final = re.compile(r"[\w +\-=.:/@]{1,256}")

_FLOW_LOG_ACTIONS: Final = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]


@jsii.implements(ec2.IConnectable)
class FlowNetwork(Construct):
    """Define the network of flow runs: subnets and a security group without ingress.

    A new VPC reaches the world in one of three modes. Prices are by the month, at list in us-east-1, with one worker
    and three zones; docs/network.md says which to take.

    - ``public`` (default): public subnets, no NAT gateway. Each task has a public address, and nothing can connect to
      it. $3.65 for the worker's address, $0.005 an hour for that of each running flow run.
    - ``nat``: private subnets, a NAT gateway in each zone. $109.50, and $0.045/GB.
    - ``endpoints``: private subnets without a way out. AWS services are reached through interface endpoints: exactly
      those that worker, flow runs and Lazarus call, each tagged with its reason. $116.80 for the six of an image in ECR
      and a credential in SSM, and $0.01/GB. The Prefect API has to be reachable privately: a server of your own, or
      Prefect Cloud over PrivateLink.

    S3 goes through a gateway endpoint, which is free. Subnets keep their place in all modes, so a network can go from
    ``public`` to ``nat`` to ``endpoints`` without being replaced.

    :param mode: How tasks in a new VPC reach the world. Default: ``public``.
    :param vpc: An existing VPC. Default: a new VPC is created.
    :param vpc_subnets: Which subnets of an existing VPC. More zones mean more Spot capacity. Default: its private
        subnets with a way out if there are some, else its public ones.
    :param security_group: Security group of flow runs. Default: one without ingress, open to the outside, is created.
    :param max_azs: Zones of a new VPC, at least 2. Default: 3 where the region has them; 2 in a stack without a region.
    :param nat_gateways: NAT gateways of the mode ``nat``. Fewer than zones are cheaper ($36.50 a month for one), but a
        zone that fails takes others along, and traffic between zones is billed. Default: one per zone.
    :param flow_log_retention: Keep VPC flow logs of a new VPC for this long; CloudWatch Logs bills them by the
        gigabyte. Default: no flow logs.
    :param flow_log_role: Role with which they are written, assumed by ``vpc-flow-logs.amazonaws.com``. Default: a new
        one; see :class:`~cdk_prefect_ecs.RequiredPolicy` for what one of your own needs.
    :param flow_log_encryption_key: Key of the flow logs. Default: a key of AWS.
    :raises ValueError: An unknown mode, ``max_azs`` below 2, ``nat_gateways`` in another mode or above the zones;
        ``vpc_subnets`` without ``vpc``, or a selection without a subnet; what shapes a new VPC together with ``vpc``.
    """

    vpc: ec2.IVpc
    """The VPC."""
    subnets: Sequence[ec2.ISubnet]
    """The subnets of flow runs and worker."""
    security_group: ec2.ISecurityGroup
    """The security group of flow runs."""
    assign_public_ip: bool
    """Whether tasks need a public address to reach anything: true in public subnets."""
    mode: NetworkMode | None
    """How tasks reach the world; None in an existing VPC, which only you know."""
    connectivity: DependencyGroup
    """Routes and endpoints: what calls something from within this network when it is deployed depends on this."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        mode: NetworkMode | None = None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_group: ec2.ISecurityGroup | None = None,
        max_azs: int | None = None,
        nat_gateways: int | None = None,
        flow_log_retention: logs.RetentionDays | None = None,
        flow_log_role: iam.IRole | None = None,
        flow_log_encryption_key: kms.IKey | None = None,
    ) -> None:
        if vpc is None and vpc_subnets is not None:
            raise ValueError("vpc_subnets selects subnets of an existing VPC; pass vpc too, or leave it out")
        if vpc is not None and any(
            setting is not None
            for setting in (
                *(mode, max_azs, nat_gateways),
                *(flow_log_retention, flow_log_role, flow_log_encryption_key),
            )
        ):
            raise ValueError(
                "mode, max_azs, nat_gateways and flow logs (flow_log_retention, flow_log_role, "
                "flow_log_encryption_key) shape a new VPC; leave them out when passing vpc"
            )
        if flow_log_retention is None and (flow_log_role is not None or flow_log_encryption_key is not None):
            raise ValueError(
                "flow_log_role and flow_log_encryption_key are for flow logs, which are off; set flow_log_retention too"
            )
        if vpc is None:
            check_network_settings(mode or "public", max_azs, nat_gateways)
        selected = _select(vpc, vpc_subnets) if vpc else None
        if selected is not None and not selected.subnets:
            raise ValueError(
                f"{scope.node.path}/{construct_id}: no subnet of the VPC matches vpc_subnets; "
                "select at least one subnet"
            )
        zones = _zones(scope, max_azs) if vpc is None else []
        if nat_gateways is not None and nat_gateways > len(zones):
            raise ValueError(f"nat_gateways must be at most one per zone, here {len(zones)}; got {nat_gateways}")
        super().__init__(scope, construct_id)

        self.mode = None if vpc else mode or "public"
        self.connectivity = DependencyGroup()
        self.vpc = vpc or self._new_vpc(zones, nat_gateways)
        if isinstance(self.vpc, ec2.Vpc) and flow_log_retention is not None:
            self._log_flows(self.vpc, flow_log_retention, flow_log_role, flow_log_encryption_key)
        selected = selected or _select(self.vpc, None)
        self.subnets = selected.subnets
        self.assign_public_ip = selected.has_public
        self.connectivity.add(*(subnet.internet_connectivity_established for subnet in self.subnets))
        if len(set(selected.availability_zones)) < MIN_ZONES:
            cdk.Annotations.of(self).add_warning_v2(
                "cdk-prefect-ecs:oneZone",
                "all subnets are in one zone, and Spot capacity is per zone: while it has none, no flow run starts on "
                "Spot; select subnets in at least two zones",
            )
        self.security_group = security_group or ec2.SecurityGroup(
            self, "SecurityGroup", vpc=self.vpc, description="Prefect flow runs: no ingress"
        )
        self._connections = ec2.Connections(security_groups=[self.security_group])
        self._endpoints_security_group: ec2.SecurityGroup | None = None
        self._endpoints: dict[str, ec2.InterfaceVpcEndpoint] = {}

    @staticmethod
    @checked
    def from_default_vpc(scope: Construct, construct_id: str) -> FlowNetwork:
        """Use the account's default VPC, looked up at synth: public subnets, at the price of the mode ``public``.

        The stack needs an explicit account and region; the CDK CLI keeps the answer in ``cdk.context.json``.

        :raises ValueError: A stack without an account or region.
        """
        stack = cdk.Stack.of(scope)
        if cdk.Token.is_unresolved(stack.account) or cdk.Token.is_unresolved(stack.region):
            raise ValueError(
                f"{scope.node.path}: the default VPC is looked up at synth, which takes an account and a region; give "
                "the stack env=cdk.Environment(account=…, region=…)"
            )
        check_place(scope, construct_id, "FlowNetwork.from_default_vpc")
        vpc = ec2.Vpc.from_lookup(scope, f"{construct_id}DefaultVpc", is_default=True)
        return FlowNetwork(scope, construct_id, vpc=vpc)

    @property
    def connections(self) -> ec2.Connections:
        """Allow flow runs to reach something: ``db.connections.allow_default_port_from(network)``."""
        return self._connections

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that tasks need because of this network."""
        # Prefect's SDK reports its use over the internet; without a way there a run would wait for it as it ends.
        return {"DO_NOT_TRACK": "1"} if self.mode == "endpoints" else {}

    @checked
    def add_service_endpoint(
        self, service: str, *, used_by: ec2.IConnectable, reason: str, every_zone: bool = True
    ) -> None:
        """Let something in this network call an AWS service.

        In the mode ``endpoints`` an interface endpoint is made, once for each service ($7.30 a month and zone at list
        price), which lets ``used_by`` in on port 443 and nobody else. In the other modes nothing is made, as there is a
        way out. What this library's constructs call, they add themselves; a flow that uses Athena takes::

            layer.network.add_service_endpoint("athena", used_by=layer, reason="Flows query Athena")

        :param service: Name of the endpoint service without ``com.amazonaws.REGION``, such as ``athena``.
        :param used_by: What calls it; a layer or network stands for the flow runs.
        :param reason: What it is for; a tag of the endpoint says so. Of several reasons the first stays.
        :param every_zone: Whether it is in every zone. In one only it is cheaper, and gone with that zone; one user who
            wants it in every zone is enough. Default: True.
        :raises ValueError: Not the name of a service, or a reason that is not the value of a tag.
        """
        if not _SERVICE.fullmatch(service) or service.startswith("com."):
            raise ValueError(f"service must be a name such as athena, without com.amazonaws.REGION; got {service!r}")
        if not _TAG_VALUE.fullmatch(reason):
            raise ValueError(
                f"reason becomes a tag: use up to 256 letters, digits, spaces and + - = . _ : / @; got {reason!r}"
            )
        if self.mode != "endpoints":
            return
        group = self._endpoints_security_group or ec2.SecurityGroup(
            self,
            "EndpointsSecurityGroup",
            vpc=self.vpc,
            description="Interface endpoints: HTTPS from those that use them",
            allow_all_outbound=False,
        )
        self._endpoints_security_group = group
        https = ec2.Connections(security_groups=[group], default_port=ec2.Port.HTTPS)
        open_port(https, used_by.connections.security_groups, "AWS services", by_callers_stack=True)
        endpoint = self._endpoints.get(service)
        if endpoint is None:
            endpoint = self._endpoints[service] = ec2.InterfaceVpcEndpoint(
                self,
                "".join(part.capitalize() for part in re.split(r"[.-]", service)),
                vpc=self.vpc,
                service=ec2.InterfaceVpcEndpointAwsService(service),
                subnets=ec2.SubnetSelection(subnets=list(self.subnets if every_zone else self.subnets[:1])),
                security_groups=[group],
                open=False,
            )
            cdk.Tags.of(endpoint).add("Reason", reason)
            self.connectivity.add(endpoint, group)
        elif every_zone:
            resource = endpoint.node.default_child
            assert isinstance(resource, ec2.CfnVPCEndpoint)
            resource.subnet_ids = [subnet.subnet_id for subnet in self.subnets]

    @checked
    def check_reach(self, *, api: PrefectApi, image: FlowImage) -> None:
        """Check that tasks in this network can pull their image and reach the Prefect API, as far as can be known.

        :raises ValueError: A server of this app in another VPC; in the mode ``endpoints``, Prefect Cloud without
            PrivateLink or an image that is not in ECR.
        """
        if api.server is not None and not is_inside(self, api):
            raise ValueError(
                f"the Prefect server at {api.url} can be reached from its own VPC only, and this network is in "
                "another; use the network of the server"
            )
        if self.mode != "endpoints":
            return
        if api.is_cloud and api.vpc is None:
            raise ValueError(
                "in network mode 'endpoints' nothing reaches Prefect Cloud; use mode 'nat' or 'public', or, if your "
                "Prefect Cloud account has PrivateLink, pass vpc to PrefectApi.cloud"
            )
        registry = None if image.repository else registry_on_the_internet(image.reference)
        if registry is not None and not cdk.Token.is_unresolved(image.reference):
            raise ValueError(
                f"in network mode 'endpoints' nothing reaches {registry}, where the image {image.reference} is; use "
                "one in ECR, by FlowImage.from_asset or FlowImage.from_ecr_repository, or mode 'nat'"
            )

    def _new_vpc(self, zones: Sequence[str], nat_gateways: int | None) -> ec2.Vpc:
        # The same subnets in the same places, whatever the mode: a change of mode adds or removes some, and never gives
        # one the addresses of another, which AWS would refuse.
        subnets = [
            ec2.SubnetConfiguration(
                name="Public",
                subnet_type=ec2.SubnetType.PUBLIC,
                cidr_mask=20,
                reserved=self.mode == "endpoints",
                # Beside NAT gateways nothing is placed in them. Managed Instances have no other way to an address.
                map_public_ip_on_launch=None if self.mode == "public" else False,
            )
        ]
        if self.mode != "public":
            private = ec2.SubnetType.PRIVATE_WITH_EGRESS if self.mode == "nat" else ec2.SubnetType.PRIVATE_ISOLATED
            subnets.append(ec2.SubnetConfiguration(name="Private", subnet_type=private, cidr_mask=20))
        vpc = ec2.Vpc(
            self,
            "Vpc",
            availability_zones=list(zones),
            nat_gateways=(nat_gateways or len(zones)) if self.mode == "nat" else 0,
            subnet_configuration=subnets,
        )
        s3 = vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        cdk.Tags.of(s3).add("Reason", "Flow code and results and layers of images in ECR")
        if self.mode == "endpoints":
            self.connectivity.add(s3)  # the layers of an image in ECR are in S3
        return vpc

    def _log_flows(
        self,
        vpc: ec2.Vpc,
        retention: logs.RetentionDays,
        role: iam.IRole | None,
        encryption_key: kms.IKey | None,
    ) -> None:
        log_group = new_log_group(
            self,
            "FlowLogGroup",
            retention=retention,
            removal_policy=cdk.RemovalPolicy.RETAIN,
            encryption_key=encryption_key,
        )
        vpc.add_flow_log("FlowLog", destination=ec2.FlowLogDestination.to_cloud_watch_logs(log_group, role))
        for record in records(self, role) if role else ():  # the CDK grants it to the role itself
            iam.Grant.add_to_principal(
                grantee=record, actions=_FLOW_LOG_ACTIONS, resource_arns=[log_group.log_group_arn]
            )


def _zones(scope: Construct, max_azs: int | None) -> list[str]:
    """The zones of a new VPC."""
    stack = cdk.Stack.of(scope)
    region = None if cdk.Token.is_unresolved(stack.region) else stack.region
    wanted = max_azs or default_zone_count(region)
    zones = stack.availability_zones[:wanted]
    if len(zones) < wanted and region is not None and cdk.Token.is_unresolved(stack.account):
        # The CDK takes two where it cannot look them up. CloudFormation knows them in any case.
        zones = [cdk.Fn.select(index, cdk.Fn.get_azs()) for index in range(wanted)]
    if len(zones) < MIN_ZONES:
        raise ValueError(
            f"{scope.node.path}: {stack.region} offers this account {len(zones)} zone; a network needs {MIN_ZONES}, as "
            "Spot capacity is per zone. Use another region, or pass the vpc that you have"
        )
    return zones


def _select(vpc: ec2.IVpc, vpc_subnets: ec2.SubnetSelection | None) -> ec2.SelectedSubnets:
    if vpc_subnets is None:
        for subnets, subnet_type in (
            (vpc.private_subnets, ec2.SubnetType.PRIVATE_WITH_EGRESS),
            (vpc.public_subnets, ec2.SubnetType.PUBLIC),
        ):
            if subnets:
                return vpc.select_subnets(subnet_type=subnet_type)
        return vpc.select_subnets(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
    return select_subnets(vpc, vpc_subnets)


def add_service_endpoints(network: FlowNetwork, used_by: ec2.IConnectable, calls: Iterable[ServiceCall]) -> None:
    """Let one of this library's constructs call what it calls; see :meth:`FlowNetwork.add_service_endpoint`."""
    for call in calls:
        network.add_service_endpoint(call.service, used_by=used_by, reason=call.reason, every_zone=call.every_zone)


def start_calls(image: FlowImage, api: PrefectApi) -> tuple[ServiceCall, ...]:
    """What ECS calls to start a task with this image."""
    return task_calls(
        image_in_ecr=image.repository is not None,
        secret_service=api.secret_service,
        registry_secret=image.credentials is not None,
    )


def is_inside(network: FlowNetwork, api: PrefectApi) -> bool:
    """Whether the functions that call the API are placed in this network's VPC."""
    return api.vpc is not None and api.vpc.vpc_id == network.vpc.vpc_id


def warn_of_api(network: FlowNetwork, api: PrefectApi, scope: Construct) -> None:
    """Warn of an API that is said to be on the internet, in a network without a way there."""
    if network.mode == "endpoints" and api.vpc is None:
        cdk.Annotations.of(scope).add_warning_v2(
            "cdk-prefect-ecs:apiOutOfReach",
            "network mode 'endpoints' has no way to the internet, over which the functions call the Prefect API at "
            f"{api.url}; pass vpc to PrefectApi.self_hosted if it is private, or acknowledge this if tasks reach it "
            "privately under the same name",
        )
