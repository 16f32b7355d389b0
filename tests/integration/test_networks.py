"""Every kind of network, deployed: what CloudFormation made of it, as EC2 tells."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdk_prefect_ecs.network_reach import flow_secret_calls, lazarus_calls, task_calls, worker_calls
from embedded import run_cdk
from embedded.deployed import DeployedApp

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
APP = Path(__file__).parent / "apps" / "networks.py"


class Networks:
    """The deployed stack."""

    def __init__(self, app: DeployedApp) -> None:
        self._app = app
        self._assembly = app.aws.directory / "networks.out"
        self.ec2 = app.aws.client("ec2")

    def deploy(self, mode: str) -> None:
        env = {"PREFECT_API_URL": self._app.server.api_url, "MODE": mode, "PYTHONPATH": str(ROOT)}
        run_cdk(
            ["deploy", "--output", str(self._assembly)],
            aws=self._app.aws,
            cwd=self._app.aws.directory,
            app=f"{sys.executable} {APP}",
            env=env,
        )

    def destroy(self) -> None:
        run_cdk(["destroy"], aws=self._app.aws, cwd=self._app.aws.directory, app=str(self._assembly))

    def outputs(self) -> dict[str, str]:
        (stack,) = self._app.aws.client("cloudformation").describe_stacks(StackName="Networks")["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def subnets(self, name: str) -> list[str]:
        return self.outputs()[f"{name}Subnets"].split(",")

    def ways_out(self, name: str) -> set[str]:
        """Where the default routes of a network's subnets go."""
        tables = self.ec2.describe_route_tables(
            Filters=[{"Name": "association.subnet-id", "Values": self.subnets(name)}]
        )["RouteTables"]
        assert len(tables) == len(self.subnets(name))
        routes = [r for table in tables for r in table["Routes"] if r.get("DestinationCidrBlock") == "0.0.0.0/0"]
        return {"nat" if "NatGatewayId" in route else route["GatewayId"].partition("-")[0] for route in routes}

    def zones(self, name: str) -> set[str]:
        found = self.ec2.describe_subnets(SubnetIds=self.subnets(name))["Subnets"]
        return {subnet["AvailabilityZone"] for subnet in found}

    def group(self, key: str) -> dict[str, Any]:
        (group,) = self.ec2.describe_security_groups(GroupIds=[self.outputs()[key]])["SecurityGroups"]
        return dict(group)

    def endpoints(self, name: str) -> dict[str, dict[str, Any]]:
        vpc = self.outputs()[f"{name}Vpc"]
        found = [e for e in self.ec2.describe_vpc_endpoints()["VpcEndpoints"] if e["VpcId"] == vpc]
        return {endpoint["ServiceName"].removeprefix("com.amazonaws.us-east-1."): endpoint for endpoint in found}


@pytest.fixture(scope="module")
def networks(undeployed: DeployedApp) -> Iterator[Networks]:
    made = Networks(undeployed)
    ecr = undeployed.aws.client("ecr")
    ecr.create_repository(repositoryName="flows")
    manifest = {"schemaVersion": 2, "config": {"size": 1}, "layers": [{"size": 1}]}
    ecr.put_image(repositoryName="flows", imageTag="1.0", imageManifest=json.dumps(manifest))
    made.deploy("public")
    yield made
    made.destroy()
    assert "networks" not in [pool.name for pool in undeployed.prefect.read_work_pools()]


def test_each_kind_reaches_the_world_its_own_way(networks: Networks) -> None:
    assert networks.ways_out("Changing") == {"igw"}
    assert networks.ways_out("Nat") == {"nat"}
    assert networks.ways_out("Existing") == {"igw"}
    assert networks.ways_out("Endpoints") == set()


def test_each_kind_is_in_several_zones(networks: Networks) -> None:
    counts = {name: len(networks.zones(name)) for name in ("Changing", "Nat", "Endpoints", "Existing", "Default")}
    assert counts == {"Changing": 3, "Nat": 2, "Endpoints": 3, "Existing": 2, "Default": 3}


def test_nothing_is_let_in_anywhere(networks: Networks) -> None:
    for key in ("ChangingGroup", "NatGroup", "EndpointsGroup", "DefaultGroup", "ExistingGroup", "WorkerGroup"):
        group = networks.group(key)
        assert group["IpPermissions"] == []
        assert [r["CidrIp"] for rule in group["IpPermissionsEgress"] for r in rule["IpRanges"]] == ["0.0.0.0/0"]


def test_existing_and_default_vpc_are_used_as_they_are(networks: Networks) -> None:
    outputs = networks.outputs()
    assert outputs["ExistingVpc"] == outputs["NatVpc"]
    (default,) = networks.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert outputs["DefaultVpc"] == default["VpcId"] == networks.group("DefaultGroup")["VpcId"]


def test_endpoints_are_there_for_worker_flow_runs_and_functions(networks: Networks, undeployed: DeployedApp) -> None:
    endpoints = networks.endpoints("Endpoints")
    # The layer's flow runs have a secret in Secrets Manager and a file system, which takes no endpoint.
    assert set(endpoints) == {"s3", "ecr.api", "ecr.dkr", "logs", "ssm", "secretsmanager", "ecs", "sqs"}
    assert {name for name, endpoint in endpoints.items() if endpoint["VpcEndpointType"] == "Gateway"} == {"s3"}
    assert {name for name in endpoints if len(endpoints[name]["SubnetIds"]) == 1} == {"sqs"}
    assert sorted(endpoints["ecs"]["SubnetIds"]) == sorted(networks.subnets("Endpoints"))
    calls = [
        *task_calls(image_in_ecr=True, secret_service="ssm"),
        *flow_secret_calls(["secretsmanager:GetSecretValue"]),
        *worker_calls(enable_execute_command=False),
        *lazarus_calls(secret_service="ssm"),
    ]
    reasons = {
        name: next(tag["Value"] for tag in endpoint["Tags"] if tag["Key"] == "Reason")
        for name, endpoint in endpoints.items()
    }
    assert reasons.pop("s3")
    assert reasons == {call.service: call.reason for call in calls}

    vpc = networks.outputs()["EndpointsVpc"]
    groups = networks.ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"]
    (group,) = [found for found in groups if found["Description"].startswith("Interface endpoints")]
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissions"]} == {
        ("tcp", 443, 443)
    }
    users = {pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]}
    outputs = networks.outputs()
    functions = {found["GroupId"] for found in groups if "Lambda Function" in found["Description"]}
    assert len(functions) == 2
    assert users == {outputs["EndpointsGroup"], outputs["WorkerGroup"]} | functions
    # Made by a function in this VPC.
    assert "networks" in [pool.name for pool in undeployed.prefect.read_work_pools()]


def test_from_public_to_nat_in_place(networks: Networks) -> None:
    before = networks.outputs()["ChangingVpc"]
    public = networks.subnets("Changing")
    networks.deploy("nat")
    assert networks.outputs()["ChangingVpc"] == before
    assert networks.ways_out("Changing") == {"nat"}
    assert not set(networks.subnets("Changing")) & set(public)
    assert len(networks.ec2.describe_subnets(SubnetIds=public)["Subnets"]) == 3
