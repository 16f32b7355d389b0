"""Several work pools on one layer, on every kind of machine, deployed; runs in two of them, with a fallback in one."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, WorkerStatus

from embedded import run_cdk
from embedded.aws import Task
from embedded.deployed import DeployedApp, bucket_objects, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STACK = "Capacity"
POOLS = ("many", "many-gpu", "many-arm", "many-managed", "many-own")
LONG = 120.0


@dataclass(frozen=True)
class Layer:
    """The deployed layer."""

    app: DeployedApp
    outputs: dict[str, str]
    resources: list[dict[str, Any]]

    def of_type(self, resource_type: str) -> list[str]:
        return [r["PhysicalResourceId"] for r in self.resources if r["ResourceType"] == resource_type]

    def template(self, pool: str) -> dict[str, Any]:
        return self.app.prefect.read_work_pool(pool).base_job_template

    def start(self, pool: str, queue: str | None = None) -> UUID:
        """Start a run of the gated flow in this pool."""
        prefect = self.app.prefect
        deployment = prefect.create_deployment(
            flow_id=prefect.create_flow_from_name("gated"),
            name=pool,
            work_pool_name=pool,
            work_queue_name=queue,
            entrypoint="gated.py:gated",
            pull_steps=[
                {
                    "prefect_aws.deployments.steps.pull_from_s3": {
                        "bucket": self.outputs["Bucket"],
                        "folder": "code/gated",
                    }
                }
            ],
            enforce_parameter_schema=False,
        )
        return prefect.create_flow_run_from_deployment(deployment, parameters={"bucket": self.outputs["Bucket"]}).id

    def objects(self, run: UUID, what: str) -> list[str]:
        return bucket_objects(self.app.aws, self.outputs["Bucket"], f"data/gated/{run}/{what}/")

    def wait_for_gate(self, run: UUID, attempt: int = 1) -> Task:
        wait_for(
            f"attempt {attempt} of {run} to reach its gate",
            lambda: len(self.objects(run, "reached")) >= attempt or None,
            LONG,
        )
        (task,) = [task for task in self.app.attempts(run) if task.last_status == "RUNNING"]
        return task

    def open(self, run: UUID) -> FlowRun:
        """Let the run go on to its end."""
        self.app.aws.client("s3").put_object(
            Bucket=self.outputs["Bucket"], Key=f"data/gated/{run}/open", Body=b"", ContentType="text/plain"
        )
        return self.app.wait_for_final_state(run, LONG)


@pytest.fixture(scope="module")
def layer(undeployed: DeployedApp) -> Iterator[Layer]:
    app, out = undeployed, str(undeployed.aws.directory / "capacity.out")
    run_cdk(
        ["deploy", STACK, "--output", out],
        aws=app.aws,
        cwd=ROOT,
        app=f"{sys.executable} {HERE / 'apps' / 'capacity.py'}",
        env={"PREFECT_API_URL": app.server.api_url, "PYTHONPATH": str(ROOT)},
    )
    cloudformation = app.aws.client("cloudformation")
    (described,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=STACK)
    made = Layer(
        app,
        {item["OutputKey"]: item["OutputValue"] for item in described["Outputs"]},
        [summary for page in pages for summary in page["StackResourceSummaries"]],
    )
    flow = HERE / "flows" / "gated.py"
    app.aws.client("s3").upload_file(str(flow), made.outputs["Bucket"], "code/gated/gated.py")
    yield made
    app.delete_deployments()
    run_cdk(["destroy", STACK], aws=app.aws, cwd=ROOT, app=out)


def test_every_machine_is_deployed(layer: Layer) -> None:
    assert {r["ResourceStatus"] for r in layer.resources} == {"CREATE_COMPLETE"}
    ecs = layer.app.aws.client("ecs")
    (cluster,) = ecs.describe_clusters(clusters=[layer.outputs["Cluster"]])["clusters"]
    providers = layer.of_type("AWS::ECS::CapacityProvider")
    assert len(providers) == 5  # GPU and Managed Instances twice each, ARM
    assert set(cluster["capacityProviders"]) == {"FARGATE", "FARGATE_SPOT", *providers}
    described = ecs.describe_capacity_providers(capacityProviders=providers)["capacityProviders"]
    managed = [provider for provider in described if provider.get("managedInstancesProvider")]
    assert len(managed) == 2
    groups = {
        provider["autoScalingGroupProvider"]["autoScalingGroupArn"]
        for provider in described
        if not provider.get("managedInstancesProvider")
    }
    assert groups == set(layer.of_type("AWS::AutoScaling::AutoScalingGroup"))
    scaling = layer.app.aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    mine = [group for group in scaling if group["AutoScalingGroupName"] in groups]
    assert {(group["MinSize"], group["DesiredCapacity"]) for group in mine} == {(0, 0)}  # nothing runs, nothing costs
    assert len(layer.of_type("AWS::ApplicationAutoScaling::ScalableTarget")) == 1


def test_every_pool_is_in_prefect_with_its_own_capacity(layer: Layer) -> None:
    kinds = {}
    for pool in POOLS:
        definition = layer.template(pool)["job_configuration"]["task_definition"]
        kinds[pool] = (definition.get("requiresCompatibilities"), definition["networkMode"])
    assert kinds == {
        "many": (["FARGATE"], "awsvpc"),
        "many-gpu": (["EC2"], "bridge"),
        "many-arm": (["EC2"], "bridge"),
        "many-managed": (["MANAGED_INSTANCES"], "host"),
        "many-own": (None, "bridge"),
    }
    variables = layer.template("many-gpu")["variables"]["properties"]
    allowed = variables["capacity_provider_strategy"]["items"]["properties"]["capacityProvider"]["enum"]
    assert allowed == json.loads(layer.outputs["GpuProviders"])
    queues = layer.app.prefect._client.post("/work_pools/many/queues/filter", json={}).json()
    assert {q["name"]: (q["priority"], q["concurrency_limit"]) for q in queues} == {
        "urgent": (1, 2),
        "default": (2, None),
    }


def test_a_machine_of_ones_own_may_register(layer: Layer) -> None:
    role = layer.app.aws.client("iam").get_role(RoleName=layer.outputs["RegistrationRole"])["Role"]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "ssm.amazonaws.com"}
    assert f"--region us-east-1 --cluster {layer.outputs['Cluster']} " in layer.outputs["RegistrationCommand"]


def test_runs_in_two_pools_and_a_fallback_in_the_second(layer: Layer) -> None:
    for pool in ("many", "many-gpu"):
        wait_for(
            f"a worker of {pool}",
            lambda pool=pool: (
                any(  # type: ignore[misc]
                    worker.status == WorkerStatus.ONLINE
                    for worker in layer.app.prefect.read_workers_for_work_pool(pool)
                )
                or None
            ),
            LONG,
        )
    on_demand, spot = json.loads(layer.outputs["GpuProviders"])
    on_fargate, on_gpu = layer.start("many", "urgent"), layer.start("many-gpu")

    task = layer.wait_for_gate(on_fargate)
    described = layer.app.describe_task(task)
    assert (task.capacity_provider, described["launchType"]) == ("FARGATE_SPOT", "FARGATE")
    assert described["ephemeralStorage"] == {"sizeInGiB": 50}
    assert {tag["key"]: tag["value"] for tag in described["tags"]}["CostCenter"] == "42"
    assert b"DB_PASSWORD=s3cret" in Path(f"/proc/{task.pid}/environ").read_bytes().split(b"\0")

    first = layer.wait_for_gate(on_gpu)
    described = layer.app.describe_task(first)
    assert (first.capacity_provider, described["launchType"]) == (spot, "EC2")
    assert {tag["key"]: tag["value"] for tag in described["tags"]}["CostCenter"] == "43"
    # The instance goes; ECS says no more than that. After one lost Spot attempt it is the pool's on-demand instances.
    layer.app.aws.interrupt(first.arn, notice=False)
    second = layer.wait_for_gate(on_gpu, 2)
    assert second.capacity_provider == on_demand

    for run in (on_fargate, on_gpu):
        ended = layer.open(run)
        assert ended.state_name == "Completed", ended.state
        executed = [key.split("/")[-2] for key in layer.objects(run, "executed")]
        assert sorted(executed) == ["one", "three", "two"]  # each once
    states = layer.app.prefect.read_flow_run_states(on_gpu)
    said = [state.message for state in states if state.name == "Late"]
    assert said == [
        "Lazarus: (interruption) Spot took its machine; rescheduled, Spot attempt 1 of 1 lost; switched to on-demand"
    ]
    assert len(layer.app.attempts(on_fargate)) == 1
    registered = layer.app.aws.client("ecs").list_task_definitions(familyPrefix="Capacity-many-gpu")
    assert len(registered["taskDefinitionArns"]) == 1  # both attempts are of one revision
