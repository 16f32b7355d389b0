"""EC2 networking that a VPC needs and MiniStack's CloudFormation lacks."""

import re
import uuid
from typing import Any

from embedded.emulator.cloudformation.handlers import Created, add, checked, extend, keep
from embedded.emulator.inner import Json, ec2, provisioners


def install() -> None:
    for resource_type, key in (
        ("AWS::EC2::SecurityGroupIngress", "IpPermissions"),
        ("AWS::EC2::SecurityGroupEgress", "IpPermissionsEgress"),
    ):
        rules = SecurityGroupRules(key)
        add(resource_type, create=rules.create, update=rules.update, delete=rules.delete)
    add("AWS::EC2::FlowLog", create=_flow_log_create, update=keep, delete=_flow_log_delete)
    add("AWS::EC2::EIP", create=_address_create, update=keep, delete=_address_delete)
    add("AWS::EC2::NatGateway", create=_nat_create, update=keep, delete=_nat_delete)
    extend("AWS::EC2::VPC", _vpc_attributes)


def _vpc_attributes(_physical_id: str, properties: Json) -> Json:
    cidr = properties.get("CidrBlock", "10.0.0.0/16")
    return {"CidrBlock": cidr, "CidrBlockAssociations": [], "Ipv6CidrBlocks": []}


class SecurityGroupRules:
    """A rule as a resource of its own, kept in its group's list."""

    def __init__(self, key: str) -> None:
        self._key = key

    def create(self, logical_id: str, properties: Json, stack: str) -> Created:
        self._rules(properties).extend(provisioners._ec2_sg_permissions([properties]))
        return f"sgr-{uuid.uuid4().hex[:17]}", {}

    def update(self, physical_id: str, old: Json, new: Json, stack: str) -> Created:
        self.delete(physical_id, old)
        self._rules(new).extend(provisioners._ec2_sg_permissions([new]))
        return physical_id, {}

    def delete(self, physical_id: str, properties: Json) -> None:
        if ec2._security_groups.get(properties.get("GroupId")) is None:
            return
        rules = self._rules(properties)
        for permission in provisioners._ec2_sg_permissions([properties]):
            if permission in rules:
                rules.remove(permission)

    def _rules(self, properties: Json) -> list[Any]:
        rules: list[Any] = ec2._security_groups[properties["GroupId"]].setdefault(self._key, [])
        return rules


def _flow_log_create(_logical_id: str, properties: Json, _stack: str) -> Created:
    request = {
        "ResourceId.1": [str(properties["ResourceId"])],
        "ResourceType": [str(properties["ResourceType"])],
        "TrafficType": [str(properties.get("TrafficType") or "ALL")],
        "LogDestinationType": [str(properties.get("LogDestinationType") or "cloud-watch-logs")],
        "LogDestination": [str(properties.get("LogDestination") or "")],
        "LogGroupName": [str(properties.get("LogGroupName") or "")],
    }
    body = checked(ec2._create_flow_logs(request), "CreateFlowLogs")
    physical_id = _first(r"<item>([^<]+)</item>", body)
    return physical_id, {"Id": physical_id}


def _flow_log_delete(physical_id: str, _properties: Json) -> None:
    ec2._delete_flow_logs({"FlowLogId.1": [physical_id]})


def _address_create(_logical_id: str, _properties: Json, _stack: str) -> Created:
    body = checked(ec2._allocate_address({"Domain": "vpc"}), "AllocateAddress")
    allocation = _first(r"<allocationId>([^<]+)<", body)
    address = str(ec2._addresses[allocation]["PublicIp"])
    return address, {"AllocationId": allocation, "PublicIp": address}


def _address_delete(physical_id: str, _properties: Json) -> None:
    for allocation, address in list(ec2._addresses.items()):
        if address["PublicIp"] == physical_id:
            ec2._release_address({"AllocationId": allocation})


def _nat_create(_logical_id: str, properties: Json, _stack: str) -> Created:
    wanted = {k: properties[k] for k in ("SubnetId", "AllocationId", "ConnectivityType") if k in properties}
    body = checked(ec2._create_nat_gateway(wanted), "CreateNatGateway")
    physical_id = _first(r"<natGatewayId>([^<]+)<", body)
    return physical_id, {"NatGatewayId": physical_id}


def _nat_delete(physical_id: str, _properties: Json) -> None:
    ec2._delete_nat_gateway({"NatGatewayId": physical_id})


def _first(pattern: str, body: str | bytes) -> str:
    match = re.search(pattern, body if isinstance(body, str) else body.decode())
    if match is None:
        raise ValueError(f"MiniStack's answer has no {pattern}: {body!r}")
    return match.group(1)
