import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Template
from library_helpers import (
    assert_no_ingress,
    assert_refused,
    imported_vpc,
    new_stack,
    only,
    plain,
)

from cdk_prefect_ecs import FlowNetwork

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
    public = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)
    for kwargs, words in (
        ({"vpc_subnets": public}, ("vpc_subnets", "pass vpc too")),
        ({"vpc": vpc, "max_azs": 2}, ("max_azs and flow_log_retention shape a new VPC",)),
        ({"vpc": vpc, "flow_log_retention": logs.RetentionDays.ONE_DAY}, ("leave them out when passing vpc",)),
        ({"max_azs": 0}, ("max_azs must be 1 or more; got 0",)),
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
