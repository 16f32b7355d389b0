from functools import cache
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Annotations, Match, Template
from library_helpers import (
    assert_no_ingress,
    assert_refused,
    imported_vpc,
    new_stack,
    only,
    plain,
    resource,
)

from cdk_prefect_ecs import FlowNetwork
from cdk_prefect_ecs.network_modes import NETWORK_MODES, NetworkMode

REAL = cdk.Environment(account="123456789012", region="us-east-1")


def subnet_ids(network: FlowNetwork) -> list[str]:
    return [subnet.subnet_id for subnet in network.subnets]


@pytest.fixture(scope="module")
def network() -> FlowNetwork:
    return FlowNetwork(new_stack(), "Network")


@pytest.fixture(scope="module")
def template(network: FlowNetwork) -> Template:
    return Template.from_stack(cdk.Stack.of(network))


def test_default_is_public_without_nat(network: FlowNetwork, template: Template) -> None:
    template.resource_count_is("AWS::EC2::NatGateway", 0)
    template.resource_count_is("AWS::EC2::EIP", 0)
    template.resource_count_is("AWS::EC2::Subnet", len(network.subnets))
    template.all_resources_properties("AWS::EC2::Subnet", {"MapPublicIpOnLaunch": True})
    assert network.assign_public_ip


def test_default_reaches_s3_through_the_free_endpoint(template: Template) -> None:
    endpoint = only(template, "AWS::EC2::VPCEndpoint")
    assert endpoint["VpcEndpointType"] == "Gateway"
    assert plain(endpoint["ServiceName"]) == "com.amazonaws.<AWS::Region>.s3"
    assert len(endpoint["RouteTableIds"]) == len(template.find_resources("AWS::EC2::RouteTable"))


def test_default_lets_nothing_in(template: Template) -> None:
    assert_no_ingress(template)
    assert only(template, "AWS::EC2::SecurityGroup")["SecurityGroupEgress"] == [
        {"CidrIp": "0.0.0.0/0", "IpProtocol": "-1", "Description": "Allow all outbound traffic by default"}
    ]
    # and the VPC's default security group is emptied
    template.resource_count_is("Custom::VpcRestrictDefaultSG", 1)


def test_default_keeps_no_flow_logs(template: Template) -> None:
    template.resource_count_is("AWS::EC2::FlowLog", 0)
    template.resource_count_is("AWS::Logs::LogGroup", 0)


def test_everything_set_for_a_new_vpc() -> None:
    stack = new_stack(env=REAL)
    stack.node.set_context(
        "availability-zones:account=123456789012:region=us-east-1",
        ["us-east-1a", "us-east-1b", "us-east-1c", "us-east-1d", "us-east-1e"],
    )
    network = FlowNetwork(stack, "Network", max_azs=4, flow_log_retention=logs.RetentionDays.ONE_WEEK)
    template = Template.from_stack(stack)
    assert len(network.subnets) == 4
    assert only(template, "AWS::Logs::LogGroup")["RetentionInDays"] == 7
    flow_log = plain(only(template, "AWS::EC2::FlowLog"))
    assert (flow_log["TrafficType"], flow_log["LogGroupName"]) == ("ALL", "<NetworkFlowLogGroup>")


# Modes


@cache
def in_mode(mode: NetworkMode, **settings: Any) -> tuple[FlowNetwork, Template]:
    stack = new_stack(env=cdk.Environment(region="us-east-1"))
    network = FlowNetwork(stack, "Network", mode=mode, **settings)
    return network, Template.from_stack(stack)


def subnets(template: Template) -> dict[str, str]:
    """Logical id and addresses."""
    return {
        key: subnet["Properties"]["CidrBlock"] for key, subnet in template.find_resources("AWS::EC2::Subnet").items()
    }


def default_routes(template: Template) -> list[str]:
    """Where each subnet's traffic to the world goes."""
    routes = [route["Properties"] for route in template.find_resources("AWS::EC2::Route").values()]
    assert {route["DestinationCidrBlock"] for route in routes} <= {"0.0.0.0/0"}
    return sorted("nat" if "NatGatewayId" in route else "internet gateway" for route in routes)


def test_public_is_the_default_mode() -> None:
    network, template = in_mode("public")
    default = FlowNetwork(new_stack(env=cdk.Environment(region="us-east-1")), "Network")
    assert (default.mode, network.mode) == ("public", "public")
    assert Template.from_stack(cdk.Stack.of(default)).to_json() == template.to_json()
    assert default_routes(template) == ["internet gateway"] * 3


def test_nat_has_private_subnets_and_a_gateway_in_each_zone() -> None:
    network, template = in_mode("nat")
    assert not network.assign_public_ip
    assert len(network.subnets) == 3
    assert {subnet.node.id for subnet in network.subnets} == {f"PrivateSubnet{number}" for number in (1, 2, 3)}
    gateways = template.find_resources("AWS::EC2::NatGateway").values()
    zones = {plain(gateway["Properties"]["SubnetId"]) for gateway in gateways}
    assert zones == {f"<NetworkVpcPublicSubnet{number}Subnet>" for number in (1, 2, 3)}
    assert default_routes(template) == ["internet gateway"] * 3 + ["nat"] * 3
    endpoint = only(template, "AWS::EC2::VPCEndpoint")
    assert endpoint["VpcEndpointType"] == "Gateway"
    assert len(endpoint["RouteTableIds"]) == 6
    assert_no_ingress(template)


def test_nat_with_a_single_gateway() -> None:
    _, template = in_mode("nat", nat_gateways=1)
    template.resource_count_is("AWS::EC2::NatGateway", 1)
    template.resource_count_is("AWS::EC2::EIP", 1)
    assert default_routes(template) == ["internet gateway"] * 3 + ["nat"] * 3


def test_endpoints_has_no_way_out() -> None:
    network, template = in_mode("endpoints")
    assert not network.assign_public_ip
    assert len(network.subnets) == 3
    for resource_type in ("AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route"):
        template.resource_count_is(resource_type, 0)
    # until somebody calls a service, there is only the endpoint that costs nothing
    endpoint = only(template, "AWS::EC2::VPCEndpoint")
    assert plain(endpoint["ServiceName"]) == "com.amazonaws.<AWS::Region>.s3"
    assert len(endpoint["RouteTableIds"]) == 3
    template.resource_count_is("AWS::EC2::SecurityGroup", 1)
    assert_no_ingress(template)


def test_from_mode_to_mode_no_subnet_is_replaced() -> None:
    public, nat, endpoints = (subnets(in_mode(mode)[1]) for mode in ("public", "nat", "endpoints"))
    assert public.items() < nat.items()
    assert endpoints.items() < nat.items()
    assert len(nat) == len(public) + len(endpoints) == 6
    # and where there are as many zones as AWS has, they still fit
    assert len(subnets(in_mode("nat", max_azs=6)[1])) == 12


@pytest.mark.parametrize("mode", NETWORK_MODES)
def test_the_vpc_keeps_its_id(mode: NetworkMode) -> None:
    network, template = in_mode(mode)
    assert list(template.find_resources("AWS::EC2::VPC")) == ["NetworkVpc7FB7348F"]
    assert network.mode == mode


@pytest.mark.parametrize("mode", NETWORK_MODES)
def test_flow_logs_in_each_mode(mode: NetworkMode) -> None:
    _, template = in_mode(mode, flow_log_retention=logs.RetentionDays.ONE_DAY)
    template.resource_count_is("AWS::EC2::FlowLog", 1)


def test_mode_of_an_existing_vpc_is_unknown() -> None:
    stack = new_stack()
    assert FlowNetwork(stack, "Network", vpc=imported_vpc(stack)).mode is None


# Endpoints


def test_a_service_gets_an_endpoint_for_those_that_use_it() -> None:
    stack = new_stack(env=cdk.Environment(region="us-east-1"))
    network = FlowNetwork(stack, "Network", mode="endpoints")
    other = ec2.SecurityGroup(stack, "Other", vpc=network.vpc)
    network.add_service_endpoint("athena", used_by=network, reason="Flows query Athena")
    network.add_service_endpoint("athena", used_by=other, reason="So does another")
    network.add_service_endpoint("ecr.api", used_by=other, reason="Once in a while", every_zone=False)
    template = Template.from_stack(stack)
    endpoints = {
        plain(endpoint["Properties"]["ServiceName"]).removeprefix("com.amazonaws.us-east-1."): endpoint["Properties"]
        for endpoint in template.find_resources(
            "AWS::EC2::VPCEndpoint", {"Properties": {"VpcEndpointType": "Interface"}}
        ).values()
    }
    assert set(endpoints) == {"athena", "ecr.api"}
    assert len(endpoints["athena"]["SubnetIds"]) == 3
    assert len(endpoints["ecr.api"]["SubnetIds"]) == 1
    assert {"Key": "Reason", "Value": "Flows query Athena"} in endpoints["athena"]["Tags"]
    for endpoint in endpoints.values():
        assert endpoint["PrivateDnsEnabled"]
        assert plain(endpoint["SecurityGroupIds"]) == ["<NetworkEndpointsSecurityGroup.GroupId>"]
    assert let_in(template) == [
        ("<NetworkSecurityGroup.GroupId>", "tcp", 443, 443),
        ("<Other.GroupId>", "tcp", 443, 443),
    ]
    group = resource(template, "NetworkEndpointsSecurityGroup")["Properties"]
    assert "SecurityGroupIngress" not in group
    assert [rule["Description"] for rule in group["SecurityGroupEgress"]] == ["Disallow all traffic"]


def test_an_endpoint_is_in_every_zone_if_one_of_its_users_wants_that() -> None:
    for order in ((False, True), (True, False)):
        stack = new_stack(env=cdk.Environment(region="us-east-1"))
        network = FlowNetwork(stack, "Network", mode="endpoints")
        for every_zone in order:
            network.add_service_endpoint("sqs", used_by=network, reason="Why", every_zone=every_zone)
        template = Template.from_stack(stack)
        (endpoint,) = template.find_resources(
            "AWS::EC2::VPCEndpoint", {"Properties": {"VpcEndpointType": "Interface"}}
        ).values()
        assert len(endpoint["Properties"]["SubnetIds"]) == 3


def let_in(template: Template) -> list[tuple[str, str, int, int]]:
    """Who may connect to the endpoints: group, protocol and ports."""
    rules = [plain(rule["Properties"]) for rule in template.find_resources("AWS::EC2::SecurityGroupIngress").values()]
    assert {rule["GroupId"] for rule in rules} == {"<NetworkEndpointsSecurityGroup.GroupId>"}
    return sorted(
        (rule["SourceSecurityGroupId"], rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules
    )


@pytest.mark.parametrize("mode", ["public", "nat"])
def test_with_a_way_out_a_service_needs_no_endpoint(mode: NetworkMode) -> None:
    stack = new_stack(env=cdk.Environment(region="us-east-1"))
    network = FlowNetwork(stack, "Network", mode=mode)
    network.add_service_endpoint("athena", used_by=network, reason="Flows query Athena")
    assert Template.from_stack(stack).to_json() == in_mode(mode)[1].to_json()


def test_refuses_what_is_not_a_service_or_a_reason() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", mode="endpoints")
    for service, reason, words in (
        ("com.amazonaws.us-east-1.athena", "Flows query Athena", "without com.amazonaws.REGION"),
        ("Athena", "Flows query Athena", "service must be a name such as athena"),
        ("athena", "", "reason becomes a tag"),
        ("athena", "why, indeed", "got 'why, indeed'"),
    ):
        assert_refused(
            stack,
            lambda service=service, reason=reason: network.add_service_endpoint(  # type: ignore[misc]
                service, used_by=network, reason=reason
            ),
            words,
        )


def test_what_is_deployed_with_it_waits_for_the_way_there() -> None:
    for mode, awaited in {
        "public": {"AWS::EC2::Route"},
        "nat": {"AWS::EC2::Route"},
        "endpoints": {"AWS::EC2::VPCEndpoint", "AWS::EC2::SecurityGroupIngress"},
    }.items():
        stack = new_stack(env=cdk.Environment(region="us-east-1"))
        network = FlowNetwork(stack, "Network", mode=mode)  # type: ignore[arg-type]
        caller = cdk.CfnResource(stack, "Caller", type="Test::Caller")
        caller.node.add_dependency(network.connectivity)
        network.add_service_endpoint("athena", used_by=network, reason="Flows query Athena")
        template = Template.from_stack(stack)
        depends_on = resource(template, "Caller")["DependsOn"]
        resources = template.to_json()["Resources"]
        assert awaited <= {resources[logical_id]["Type"] for logical_id in depends_on}, mode


# Zones


@pytest.mark.parametrize(
    ("region", "settings", "zones"),
    [
        (None, {}, 2),  # all that is certain anywhere
        (None, {"max_azs": 3}, 2),
        ("us-east-1", {}, 3),
        ("us-east-1", {"max_azs": 2}, 2),
        ("us-east-1", {"max_azs": 5}, 5),
        ("us-west-1", {}, 2),
    ],
)
def test_zones_of_a_region_that_nobody_looks_up(region: str | None, settings: dict[str, int], zones: int) -> None:
    stack = new_stack(env=cdk.Environment(region=region))
    network = FlowNetwork(stack, "Network", **settings)  # type: ignore[arg-type]
    found = [subnet.availability_zone for subnet in network.subnets]
    assert stack.resolve(found) == [{"Fn::Select": [index, {"Fn::GetAZs": ""}]} for index in range(zones)]


@pytest.mark.parametrize("offered", [2, 3, 6])
def test_zones_that_were_looked_up(offered: int) -> None:
    stack = looked_up(offered)
    network = FlowNetwork(stack, "Network")
    assert [subnet.availability_zone for subnet in network.subnets] == [
        f"us-east-1{zone}" for zone in "abcdef"[: min(offered, 3)]
    ]


def test_refuses_a_region_with_one_zone() -> None:
    stack = looked_up(1)
    assert_refused(
        stack,
        lambda: FlowNetwork(stack, "Network"),
        "us-east-1 offers this account 1 zone; a network needs 2, as Spot capacity is per zone",
    )


def looked_up(zones: int) -> cdk.Stack:
    """A stack for which the CDK CLI has looked up this many zones."""
    stack = new_stack(env=REAL)
    stack.node.set_context(
        "availability-zones:account=123456789012:region=us-east-1", [f"us-east-1{zone}" for zone in "abcdef"[:zones]]
    )
    return stack


def test_existing_subnets_in_one_zone_are_warned_of() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    one = ec2.SubnetSelection(availability_zones=["us-east-1a"])
    FlowNetwork(stack, "One", vpc=vpc, vpc_subnets=one)
    FlowNetwork(stack, "Two", vpc=vpc)
    annotations = Annotations.from_stack(stack)
    warned = annotations.find_warning("*", Match.string_like_regexp("all subnets are in one zone.*Spot"))
    assert [warning.id for warning in warned] == ["/Test/One"]


# Existing


def test_existing_vpc_prefers_private_subnets() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    assert subnet_ids(network) == ["subnet-private-1", "subnet-private-2"]
    assert not network.assign_public_ip
    template = Template.from_stack(stack)
    assert set(template.to_json()["Resources"]) == {
        stack.resolve(network.security_group.security_group_id)["Fn::GetAtt"][0]
    }
    assert only(template, "AWS::EC2::SecurityGroup")["VpcId"] == "vpc-1"
    assert_no_ingress(template)


def test_existing_vpc_with_public_subnets_only() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack, private=False))
    assert subnet_ids(network) == ["subnet-public-1", "subnet-public-2"]
    assert network.assign_public_ip


def test_existing_vpc_with_isolated_subnets_only() -> None:
    stack = new_stack()
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Imported",
        vpc_id="vpc-1",
        availability_zones=["us-east-1a", "us-east-1b"],
        isolated_subnet_ids=["subnet-isolated-1", "subnet-isolated-2"],
    )
    network = FlowNetwork(stack, "Network", vpc=vpc)
    assert subnet_ids(network) == ["subnet-isolated-1", "subnet-isolated-2"]
    assert not network.assign_public_ip


def test_existing_vpc_with_chosen_subnets() -> None:
    stack = new_stack()
    network = FlowNetwork(
        stack,
        "Network",
        vpc=imported_vpc(stack),
        vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC, availability_zones=["us-east-1b"]),
    )
    assert subnet_ids(network) == ["subnet-public-2"]
    assert network.assign_public_ip


def test_a_token_passes_as_vpc_and_subnets() -> None:
    stack = new_stack()
    subnets = cdk.CfnParameter(stack, "Subnets", type="List<AWS::EC2::Subnet::Id>")
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Imported",
        vpc_id=cdk.CfnParameter(stack, "VpcId").value_as_string,
        availability_zones=["us-east-1a", "us-east-1b"],
        private_subnet_ids=[cdk.Fn.select(index, subnets.value_as_list) for index in range(2)],
    )
    network = FlowNetwork(stack, "Network", vpc=vpc)
    assert stack.resolve(subnet_ids(network)) == [{"Fn::Select": [index, {"Ref": "Subnets"}]} for index in range(2)]


def test_existing_security_group_is_used_as_it_is() -> None:
    stack = new_stack()
    group = ec2.SecurityGroup.from_security_group_id(stack, "Group", "sg-1")
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack), security_group=group)
    assert network.security_group.security_group_id == "sg-1"
    Template.from_stack(stack).resource_count_is("AWS::EC2::SecurityGroup", 0)


def test_default_vpc_of_the_account() -> None:
    stack = new_stack(env=REAL)
    stack.node.set_context(
        "vpc-provider:account=123456789012:filter.isDefault=true:region=us-east-1:returnAsymmetricSubnets=true",
        {
            "vpcId": "vpc-default",
            "vpcCidrBlock": "172.31.0.0/16",
            "ownerAccountId": "123456789012",
            "availabilityZones": [],
            "subnetGroups": [
                {
                    "name": "Public",
                    "type": "Public",
                    "subnets": [
                        {
                            "subnetId": f"subnet-{zone}",
                            "cidr": f"172.31.{number * 16}.0/20",
                            "availabilityZone": f"us-east-1{zone}",
                            "routeTableId": "rtb-1",
                        }
                        for number, zone in enumerate("abc")
                    ],
                }
            ],
        },
    )
    network = FlowNetwork.from_default_vpc(stack, "Network")
    assert network.vpc.vpc_id == "vpc-default"
    assert subnet_ids(network) == ["subnet-a", "subnet-b", "subnet-c"]
    assert network.assign_public_ip
    template = Template.from_stack(stack)
    assert only(template, "AWS::EC2::SecurityGroup")["VpcId"] == "vpc-default"
    assert_no_ingress(template)


def test_something_can_allow_flow_runs_in() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    database = ec2.SecurityGroup(stack, "Database", vpc=network.vpc)
    ec2.Connections(security_groups=[database], default_port=ec2.Port.tcp(5432)).allow_default_port_from(network)
    ingress = plain(only(Template.from_stack(stack), "AWS::EC2::SecurityGroupIngress"))
    assert ingress["GroupId"] == "<Database.GroupId>"
    assert ingress["SourceSecurityGroupId"] == "<NetworkSecurityGroup.GroupId>"


def test_refuses_options_that_contradict() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    key = kms.Key.from_key_arn(stack, "Key", "arn:aws:kms:us-east-1:123456789012:key/1")
    public = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)
    for kwargs, words in (
        ({"vpc_subnets": public}, ("vpc_subnets", "pass vpc too")),
        (
            {"vpc": vpc, "mode": "nat"},
            ("flow_log_role, flow_log_encryption_key) shape a new VPC",),
        ),
        ({"vpc": vpc, "max_azs": 2}, ("leave them out when passing vpc",)),
        ({"vpc": vpc, "nat_gateways": 1}, ("leave them out when passing vpc",)),
        ({"vpc": vpc, "flow_log_encryption_key": key}, ("leave them out when passing vpc",)),
        ({"flow_log_encryption_key": key}, ("flow logs, which are off; set flow_log_retention too",)),
        ({"vpc": vpc, "flow_log_retention": logs.RetentionDays.ONE_DAY}, ("leave them out when passing vpc",)),
        ({"mode": "private"}, ("network mode must be one of public, nat, endpoints; got 'private'",)),
        ({"max_azs": 1}, ("max_azs must be 2 to 6", "Spot capacity is per zone", "got 1")),
        ({"mode": "nat", "nat_gateways": 3}, ("nat_gateways must be at most one per zone, here 2; got 3",)),
    ):
        assert_refused(stack, lambda kwargs=kwargs: FlowNetwork(stack, "Network", **kwargs), *words)  # type: ignore[misc]


def test_refuses_a_selection_that_matches_nothing() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    assert_refused(
        stack,
        lambda: FlowNetwork(
            stack, "Network", vpc=vpc, vpc_subnets=ec2.SubnetSelection(availability_zones=["us-east-1f"])
        ),
        "Test/Network: no subnet of the VPC matches vpc_subnets",
    )


def test_two_in_one_stack() -> None:
    stack = new_stack()
    FlowNetwork(stack, "One", vpc=imported_vpc(stack))
    FlowNetwork(stack, "Two", vpc=imported_vpc(stack, construct_id="Other"))
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::EC2::SecurityGroup", 2)
