"""Several work pools on one layer, on every kind of machine, deployed: runs in all of them, with a fallback in two."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from botocore.exceptions import ClientError
from prefect.client.schemas.objects import WorkerStatus

from embedded import run_cdk
from embedded.aws import Task
from embedded.deployed import DeployedApp, bucket_objects, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STACK = "Capacity"
POOLS = ("many", "many-graviton", "many-gpu", "many-arm", "many-managed", "many-own")
#: Whose instances Spot takes away.
FALLEN = ("many-gpu", "many-managed")
LONG = 120.0
FOUND_NO_MACHINE = (
    "Lazarus: (failure) it crashed (Failed to submit flow run to infrastructure: InvalidParameterException: "
    "An error occurred (InvalidParameterException) when calling the RunTask operation: "
    "No Container Instances were found in your cluster.); rescheduled in 10 s, failure 1 of 3"
)
FELL_BACK = (
    "Lazarus: (interruption) Spot took its machine; rescheduled, Spot attempt 1 of 1 lost; switched to on-demand"
)


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

    def images(self) -> dict[str, str]:
        """The image of the instances of each launch template, by their first type."""
        ec2 = self.app.aws.client("ec2")
        found = [
            ec2.describe_launch_template_versions(LaunchTemplateId=template)["LaunchTemplateVersions"][0]
            for template in self.of_type("AWS::EC2::LaunchTemplate")
        ]
        return {item["LaunchTemplateData"]["InstanceType"]: item["LaunchTemplateData"]["ImageId"] for item in found}

    def provider(self, pool: str, purchase: str) -> str:
        """The capacity provider of a pool's own machines: ``on-demand`` or ``spot``."""
        return str(json.loads(self.outputs["Providers"])[pool][purchase])

    def wait_for_workers(self) -> None:
        for pool in POOLS:

            def online(pool: str = pool) -> bool | None:
                workers = self.app.prefect.read_workers_for_work_pool(pool)
                return any(worker.status == WorkerStatus.ONLINE for worker in workers) or None

            wait_for(f"a worker of {pool}", online, LONG)

    def register_machine(self) -> str:
        """A machine of one's own joins the cluster: what its ECS agent does after the registration command."""
        options = dict(re.findall(r"--(\S+) (\S+)", self.outputs["RegistrationCommand"]))
        role = self.app.aws.client("iam").get_role(RoleName=self.outputs["RegistrationRole"])["Role"]["Arn"]
        # Systems Manager, which the role trusts, hands it to the machine.
        with closing(self.app.aws.client_as(role, "ecs", "mi-0123456789abcdef0")) as agent:
            registered = agent.register_container_instance(
                cluster=options["cluster"], attributes=[{"name": "ecs.capability.external"}]
            )
        return str(registered["containerInstance"]["containerInstanceArn"])

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

    def definition(self, arn: str) -> dict[str, Any]:
        found = self.app.aws.client("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]
        return dict(found)

    def messages(self, run: UUID, state: str) -> list[str]:
        """What was said whenever the run entered the state of this name."""
        states = self.app.prefect.read_flow_run_states(run)
        return [found.message or "" for found in states if found.name == state]

    def open(self, run: UUID) -> None:
        """Let the run go on to its end."""
        self.app.aws.client("s3").put_object(
            Bucket=self.outputs["Bucket"], Key=f"data/gated/{run}/open", Body=b"", ContentType="text/plain"
        )


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
    ecs, cluster = app.aws.client("ecs"), made.outputs["Cluster"]
    for machine in ecs.list_container_instances(cluster=cluster)["containerInstanceArns"]:
        ecs.deregister_container_instance(cluster=cluster, containerInstance=machine)
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
    images = layer.images()
    assert set(images) == {"g5.xlarge", "m7g.large"}
    assert all(image.startswith("ami-") for image in images.values())
    assert len(set(images.values())) == 2  # with NVIDIA's drivers, for ARM


def test_every_pool_is_in_prefect_with_its_own_capacity(layer: Layer) -> None:
    kinds = {}
    for pool in POOLS:
        definition = layer.template(pool)["job_configuration"]["task_definition"]
        kinds[pool] = (definition.get("requiresCompatibilities"), definition["networkMode"])
    assert kinds == {
        "many": (["FARGATE"], "awsvpc"),
        "many-graviton": (["FARGATE"], "awsvpc"),
        "many-gpu": (["EC2"], "bridge"),
        "many-arm": (["EC2"], "bridge"),
        "many-managed": (["MANAGED_INSTANCES"], "host"),
        "many-own": (None, "bridge"),
    }
    variables = layer.template("many-gpu")["variables"]["properties"]
    allowed = variables["capacity_provider_strategy"]["items"]["properties"]["capacityProvider"]["enum"]
    assert allowed == [layer.provider("many-gpu", "on-demand"), layer.provider("many-gpu", "spot")]
    queues = layer.app.prefect._client.post("/work_pools/many/queues/filter", json={}).json()
    assert {q["name"]: (q["priority"], q["concurrency_limit"]) for q in queues} == {
        "urgent": (1, 2),
        "default": (2, None),
    }


def test_only_systems_manager_hands_out_the_role_of_a_machine(layer: Layer) -> None:
    role = layer.app.aws.client("iam").get_role(RoleName=layer.outputs["RegistrationRole"])["Role"]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "ssm.amazonaws.com"}
    with pytest.raises(ClientError, match="AccessDenied"):
        layer.app.aws.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="nobody")


def test_workers_of_each_pool_are_as_they_were_told(layer: Layer) -> None:
    ecs, cluster = layer.app.aws.client("ecs"), layer.outputs["Cluster"]
    arns = ecs.list_services(cluster=cluster)["serviceArns"]
    found = {}
    for service in ecs.describe_services(cluster=cluster, services=arns)["services"]:
        definition = layer.definition(service["taskDefinition"])
        (container,) = definition["containerDefinitions"]
        found[container["command"][container["command"].index("--pool") + 1]] = (
            service["runningCount"],
            definition["cpu"],
            definition["memory"],
            definition["runtimePlatform"]["cpuArchitecture"],
        )
    ordinary = (1, "512", "1024", "X86_64")
    assert found == {
        "many": ordinary,
        "many-graviton": ordinary,
        "many-gpu": (2, "512", "2048", "X86_64"),
        "many-arm": (1, "256", "512", "ARM64"),
        "many-managed": ordinary,
        "many-own": ordinary,
    }
    assert len(layer.of_type("AWS::ApplicationAutoScaling::ScalableTarget")) == 1  # of many-gpu
    workers = [task for task in layer.app.aws.tasks(cluster) if task.group.startswith("service:")]
    assert len(workers) == 7
    assert {tags(layer.app.describe_task(task)).get("Project") for task in workers} == {"prefect"}


@dataclass(frozen=True)
class Started:
    """A run in each pool, by the pool's name, and its first task; all wait at their gates."""

    runs: dict[str, UUID]
    tasks: dict[str, Task]
    described: dict[str, dict[str, Any]]
    definitions: dict[str, dict[str, Any]]
    own_machine: str


@pytest.fixture(scope="module")
def started(layer: Layer) -> Started:
    """All at once. The machine of one's own registers itself when its pool has been refused a task, and the instances
    on Spot go, of which ECS says no more than that."""
    layer.wait_for_workers()
    runs = {pool: layer.start(pool, "urgent" if pool == "many" else None) for pool in ("many-own", *POOLS[:-1])}
    wait_for("a run to find no machine", lambda: layer.messages(runs["many-own"], "Crashed") or None, LONG)
    own_machine = layer.register_machine()
    tasks = {pool: layer.wait_for_gate(runs[pool]) for pool in POOLS[:-1]}
    described = {pool: layer.app.describe_task(task) for pool, task in tasks.items()}
    for pool in FALLEN:
        layer.app.aws.interrupt(tasks[pool].arn, notice=False)
    tasks["many-own"] = layer.wait_for_gate(runs["many-own"])
    described["many-own"] = layer.app.describe_task(tasks["many-own"])
    for pool in FALLEN:
        layer.wait_for_gate(runs[pool], 2)
    definitions = {pool: layer.definition(task["taskDefinitionArn"]) for pool, task in described.items()}
    return Started(runs, tasks, described, definitions, own_machine)


def test_each_pool_is_placed_on_its_own_machines(layer: Layer, started: Started) -> None:
    placed = {pool: (task["launchType"], task.get("capacityProviderName")) for pool, task in started.described.items()}
    assert placed == {
        "many": ("FARGATE", "FARGATE_SPOT"),
        "many-graviton": ("FARGATE", "FARGATE_SPOT"),
        "many-gpu": ("EC2", layer.provider("many-gpu", "spot")),
        "many-arm": ("EC2", layer.provider("many-arm", "on-demand")),
        "many-managed": ("MANAGED_INSTANCES", layer.provider("many-managed", "spot")),
        "many-own": ("EXTERNAL", None),
    }
    assert started.described["many-own"]["containerInstanceArn"] == started.own_machine
    asked = {
        pool: (
            definition.get("requiresCompatibilities") or None,
            definition["networkMode"],
            definition["runtimePlatform"]["cpuArchitecture"],
        )
        for pool, definition in started.definitions.items()
    }
    assert asked == {
        "many": (["FARGATE"], "awsvpc", "X86_64"),
        "many-graviton": (["FARGATE"], "awsvpc", "ARM64"),
        "many-gpu": (["EC2"], "bridge", "X86_64"),
        "many-arm": (["EC2"], "bridge", "ARM64"),
        "many-managed": (["MANAGED_INSTANCES"], "host", "X86_64"),
        "many-own": (None, "bridge", "X86_64"),
    }


def test_each_pool_asks_for_its_own_size(started: Started) -> None:
    of_the_task, of_the_container = ("512", "1024", None, None), (None, None, 512, 1024)
    assert {pool: size_asked_for(task) for pool, task in started.described.items()} == {
        "many": of_the_task,
        "many-graviton": of_the_task,
        "many-gpu": of_the_container,
        "many-arm": of_the_container,
        "many-managed": ("512", "1024", 512, 1024),
        "many-own": of_the_container,
    }
    asked = {
        pool: definition["containerDefinitions"][0].get("resourceRequirements") or None
        for pool, definition in started.definitions.items()
    }
    assert asked == {pool: [{"type": "GPU", "value": "1"}] if pool == "many-gpu" else None for pool in POOLS}


def test_flow_runs_have_what_their_pool_was_given(layer: Layer, started: Started) -> None:
    definition = started.definitions["many"]
    assert started.described["many"]["ephemeralStorage"] == {"sizeInGiB": 50}
    (volume,) = definition["volumes"]
    access_point = volume["efsVolumeConfiguration"]["authorizationConfig"]["accessPointId"]
    assert access_point == layer.outputs["AccessPoint"]
    (mount,) = definition["containerDefinitions"][0]["mountPoints"]
    assert (mount["sourceVolume"], mount["containerPath"]) == (volume["name"], "/data")
    environment = Path(f"/proc/{started.tasks['many'].pid}/environ").read_bytes().split(b"\0")
    assert {b"DB_PASSWORD=s3cret", b"MODE=thorough"} <= set(environment)
    cost_centers = {
        pool: tags(task)["CostCenter"] for pool, task in started.described.items() if "CostCenter" in tags(task)
    }
    assert cost_centers == {"many": "42", "many-gpu": "43", "many-arm": "44"}
    image = started.definitions["many-arm"]["containerDefinitions"][0]["image"]
    assert image.startswith("ghcr.io/acme/flows@sha256:")


def test_runs_complete_and_fall_back_where_there_is_spot(layer: Layer, started: Started) -> None:
    for run in started.runs.values():
        layer.open(run)
    for pool, run in started.runs.items():
        ended = layer.app.wait_for_final_state(run, LONG)
        assert ended.state_name == "Completed", (pool, ended.state)
        executed = [key.split("/")[-2] for key in layer.objects(run, "executed")]
        assert sorted(executed) == ["one", "three", "two"]  # each once
        said = layer.messages(run, "Late")
        assert said == ([FELL_BACK] if pool in FALLEN else [FOUND_NO_MACHINE] if pool == "many-own" else [])
        # After one lost Spot attempt it is the pool's on-demand instances.
        further = [task.capacity_provider for task in layer.app.attempts(run)[1:]]
        assert further == ([layer.provider(pool, "on-demand")] if pool in FALLEN else [])
    # All attempts of a pool are of one revision.
    families = {definition["family"] for definition in started.definitions.values()}
    registered = layer.app.aws.client("ecs").list_task_definitions()["taskDefinitionArns"]
    of_flow_runs = [arn for arn in registered if arn.rsplit("/", 1)[-1].rsplit(":", 1)[0] in families]
    assert sorted(of_flow_runs) == sorted(task["taskDefinitionArn"] for task in started.described.values())


def size_asked_for(task: dict[str, Any]) -> tuple[str | None, str | None, int | None, int | None]:
    """CPU and memory that the worker asked for: of the task, and of its container."""
    (container,) = task["overrides"]["containerOverrides"]
    return (
        task["overrides"].get("cpu"),
        task["overrides"].get("memory"),
        container.get("cpu"),
        container.get("memory"),
    )


def tags(task: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in task["tags"]}


def test_each_pool_is_watched_and_measured_for_itself(layer: Layer, started: Started) -> None:
    cloudwatch = layer.app.aws.client("cloudwatch")
    answer = cloudwatch.get_dashboard(DashboardName=layer.outputs["Dashboard"])
    widgets = [
        each["properties"] for each in json.loads(answer["DashboardBody"])["widgets"] if each["type"] == "metric"
    ]
    shown = [dict(pairs(line)) for widget in widgets for line in widget["metrics"] if line[0] == "PrefectOnEcs"]
    assert {each["WorkPool"] for each in shown} == set(POOLS)
    alarms = layer.of_type("AWS::CloudWatch::Alarm")
    assert sum("MonitoringPool" in alarm for alarm in alarms) == 4 * len(POOLS)

    def most(pool: str, metric: str) -> float:
        found = cloudwatch.get_metric_statistics(
            Namespace="PrefectOnEcs",
            MetricName=metric,
            Dimensions=[{"Name": "WorkPool", "Value": pool}],
            StartTime=datetime.now(UTC) - timedelta(hours=1),
            EndTime=datetime.now(UTC) + timedelta(minutes=1),
            Period=3600,
            Statistics=["Maximum"],
        )["Datapoints"]
        return max((float(point["Maximum"]) for point in found), default=0.0)

    def measured() -> bool | None:
        online = {pool: most(pool, "WorkersOnline") for pool in POOLS}
        return online == {pool: 2.0 if pool == "many-gpu" else 1.0 for pool in POOLS} or None

    wait_for("the workers of every pool to be counted", measured, LONG)
    for pool in FALLEN:
        assert most(pool, "Fallbacks") >= 1
        assert most(pool, "Interruptions") >= 1
    assert most("many-arm", "Fallbacks") == 0


def pairs(metric: list[Any]) -> list[tuple[str, str]]:
    """Names and values of a metric on a dashboard; its namespace and name are a pair too."""
    return list(zip(metric[:-1:2], metric[1:-1:2], strict=True))
