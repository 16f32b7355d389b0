"""Three apps of others, installed from the wheel and deployed: a worker comes online, and a flow run ends well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cloud_stand_in import API_KEY, cloud_stand_in
from consumer_helpers import Consumer
from prefect.client.schemas.objects import WorkerStatus

from embedded import run_cdk
from embedded.deployed import DeployedApp, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

FLOW = Path(__file__).parent / "flows" / "hello.py"


@dataclass(frozen=True)
class Deployed:
    """One of the apps, deployed from its own environment with the CDK CLI."""

    app: DeployedApp
    consumer: Consumer
    name: str
    variables: Mapping[str, str]

    @property
    def stack(self) -> str:
        return f"Consumer{self.name.capitalize()}"

    def cdk(self, command: str) -> None:
        file = self.consumer.app(self.name)
        run_cdk(
            [command, "--output", str(file.parent / "cdk.out")],
            aws=self.app.aws,
            cwd=file.parent,
            app=f"{self.consumer.python} {file}",
            env={"PYTHONPATH": "", **self.variables},
        )

    def template(self) -> dict[str, Any]:
        found = self.app.aws.client("cloudformation").get_template(StackName=self.stack)["TemplateBody"]
        return dict(json.loads(found)) if isinstance(found, str) else dict(found)

    def wait_for_worker(self, pool: str) -> None:
        def online() -> bool | None:
            workers = self.app.prefect.read_workers_for_work_pool(pool)
            return any(worker.status == WorkerStatus.ONLINE for worker in workers) or None

        wait_for(f"a worker of {pool} to be online", online, 90)

    def run(self, pool: str, needs: list[str]) -> dict[str, Any]:
        """Run a flow in this pool that fails without these variables; returns what ECS says of its one task."""
        folder = self.app.aws.directory / f"flows-{pool}"
        folder.mkdir()
        shutil.copy(FLOW, folder)
        prefect = self.app.prefect
        deployment = prefect.create_deployment(
            flow_id=prefect.create_flow_from_name("hello"),
            name=pool,
            work_pool_name=pool,
            path=str(folder),
            entrypoint="hello.py:hello",
            enforce_parameter_schema=False,
        )
        run = prefect.create_flow_run_from_deployment(deployment, parameters={"names": needs})
        done = self.app.wait_for_final_state(run.id)
        prefect.delete_deployment(deployment)  # else the pool stays when its stack goes
        assert done.state_name == "Completed", done.state
        (task,) = self.app.attempts(run.id)
        return self.app.describe_task(task)

    def exists(self) -> bool:
        stacks = self.app.aws.client("cloudformation").describe_stacks()["Stacks"]
        return self.stack in [stack["StackName"] for stack in stacks if stack["StackStatus"] != "DELETE_COMPLETE"]


@pytest.fixture
def deployed(request: pytest.FixtureRequest, undeployed: DeployedApp, newest: Consumer) -> Iterator[Deployed]:
    """The app that the test names, deployed; gone after it, with its pools."""
    name = request.param
    with cloud_stand_in(undeployed.server.api_url, str(undeployed.server.auth_string)) as cloud:
        made = Deployed(undeployed, newest, name, PREPARE[name](undeployed, cloud))
        made.cdk("deploy")
        yield made
        made.cdk("destroy")
    assert not made.exists()
    assert [pool.name for pool in undeployed.prefect.read_work_pools() if pool.name.startswith("consumer-")] == []


def put_secret(app: DeployedApp, name: str, value: str, **options: str) -> None:
    app.aws.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True, **options)


def prepare_cloud(app: DeployedApp, cloud: str) -> dict[str, str]:
    put_secret(app, "/consumer/api-key", API_KEY)
    return {"CLOUD_STAND_IN": cloud}


def prepare_existing(app: DeployedApp, _: str) -> dict[str, str]:
    """What the company has: a VPC, a cluster, three roles, a boundary."""
    put_secret(app, "/consumer/auth-string", str(app.server.auth_string))
    ec2, iam = app.aws.client("ec2"), app.aws.client("iam")
    app.aws.client("ecs").create_cluster(clusterName="company", capacityProviders=["FARGATE", "FARGATE_SPOT"])
    trust = {"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}
    for role in ("prefect-execution", "prefect-worker", "prefect-flows"):
        iam.create_role(
            RoleName=role,
            Path="/company/",
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )
    anything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    iam.create_policy(
        PolicyName="company-boundary",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [anything]}),
    )
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]
    ids = [subnet["SubnetId"] for subnet in sorted(subnets, key=lambda subnet: subnet["AvailabilityZone"])]
    return {"VPC_ID": vpc["VpcId"], "SUBNET_IDS": ",".join(ids), "PREFECT_API_URL": app.server.api_url}


def prepare_pools(app: DeployedApp, _: str) -> dict[str, str]:
    key = app.aws.client("kms").create_key()["KeyMetadata"]
    put_secret(app, "/consumer/own-key/auth-string", str(app.server.auth_string), KeyId=key["KeyId"])
    for team in ("sales", "research"):
        put_secret(app, f"/consumer/{team}/token", f"token of {team}")
    return {"API_KEY_ARN": key["Arn"], "PREFECT_API_URL": app.server.api_url}


PREPARE = {"cloud": prepare_cloud, "existing": prepare_existing, "pools": prepare_pools}


@pytest.mark.parametrize("deployed", ["cloud"], indirect=True)
def test_prefect_cloud_with_defaults(deployed: Deployed) -> None:
    pool = deployed.app.prefect.read_work_pool("consumer-cloud")
    assert pool.type == "ecs"
    deployed.wait_for_worker("consumer-cloud")
    task = deployed.run("consumer-cloud", ["PREFECT_API_KEY"])
    assert task["capacityProviderName"] == "FARGATE_SPOT"
    assert API_KEY not in json.dumps(deployed.template())


@pytest.mark.parametrize("deployed", ["existing"], indirect=True)
def test_what_is_there_is_used_and_what_is_made_has_the_boundary(deployed: Deployed) -> None:
    types = [resource["Type"] for resource in deployed.template()["Resources"].values()]
    assert {"AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::ECS::Cluster"} & {*types} == set()
    deployed.wait_for_worker("consumer-existing")
    task = deployed.run("consumer-existing", ["PREFECT_API_AUTH_STRING"])
    assert task["clusterArn"].endswith(":cluster/company")
    found = deployed.app.aws.client("ecs").describe_task_definition(taskDefinition=task["taskDefinitionArn"])
    assert found["taskDefinition"]["taskRoleArn"].endswith(":role/company/prefect-flows")
    assert found["taskDefinition"]["executionRoleArn"].endswith(":role/company/prefect-execution")

    iam = deployed.app.aws.client("iam")
    made = [role for role in iam.list_roles()["Roles"] if role["RoleName"].startswith(deployed.stack)]
    assert len(made) >= 2
    for role in made:
        boundary = iam.get_role(RoleName=role["RoleName"])["Role"]["PermissionsBoundary"]
        assert boundary["PermissionsBoundaryArn"].endswith(":policy/company-boundary")


@pytest.mark.parametrize("deployed", ["pools"], indirect=True)
def test_several_pools_with_keys_of_their_own(deployed: Deployed) -> None:
    pools = {pool.name for pool in deployed.app.prefect.read_work_pools()}
    assert pools >= {"consumer-main", "consumer-sales", "consumer-research", "consumer-gpu"}
    for pool, needs, providers in (
        ("consumer-main", ["PREFECT_API_AUTH_STRING"], {"FARGATE_SPOT"}),
        ("consumer-sales", ["DB_PASSWORD", "TOKEN"], {"FARGATE"}),
        ("consumer-research", ["DB_PASSWORD", "TOKEN"], {"FARGATE_SPOT", "FARGATE"}),
    ):
        deployed.wait_for_worker(pool)
        task = deployed.run(pool, needs)
        assert task["capacityProviderName"] in providers
