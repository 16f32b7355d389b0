"""The app for real: the real CDK CLI, Prefect server and worker, on the embedded AWS with IAM enforced.

The tests are in the order in which a life goes: deployed, used, changed, broken, destroyed.
"""

import base64
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import LogSort

from embedded import EmbeddedError, run_cdk
from embedded.deployed import DeployedApp, bucket_objects, finished, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

APPS = Path(__file__).parent / "apps"
ROOT = APPS.parent.parent.parent
FLIGHTS = "flights-etl/flights"
SMALL = {"months": [1, 2, 3, 4], "origins": ["LGA"]}


def cdk_variant(app: DeployedApp, command: str, variant: dict[str, object], *, check: bool = True) -> str:
    out = app.aws.directory / "variant.out"
    env = {"PREFECT_API_URL": app.server.api_url, "VARIANT": json.dumps(variant), "PYTHONPATH": str(ROOT)}
    result = run_cdk(
        [command, "**", "--output", str(out)],
        aws=app.aws,
        cwd=ROOT,
        app=f"{sys.executable} {APPS / 'variant.py'}",
        env=env,
        check=check,
    )
    return result.stdout


# Deployed


def test_every_resource_was_made(app: DeployedApp) -> None:
    statuses = {summary["LogicalResourceId"]: summary["ResourceStatus"] for summary in app.resources()}
    assert len(statuses) > 40
    assert set(statuses.values()) == {"CREATE_COMPLETE"}


def test_worker_is_online_on_demand_and_healthy(app: DeployedApp) -> None:
    outputs = app.outputs()
    service = app.aws.client("ecs").describe_services(
        cluster=outputs["ClusterName"], services=[outputs["WorkerServiceName"]]
    )["services"][0]
    assert (service["desiredCount"], service["runningCount"]) == (1, 1)
    worker = next(task for task in app.aws.tasks() if task.group.startswith("service:"))
    assert worker.capacity_provider == "FARGATE"
    assert worker.health_status == "HEALTHY"


def test_worker_log_is_quiet_and_holds_no_secret(app: DeployedApp) -> None:
    logs = app.aws.client("logs")
    group = app.outputs()["LogGroupName"]
    lines = [
        event["message"]
        for event in logs.filter_log_events(logGroupName=group, logStreamNamePrefix="worker/")["events"]
    ]
    assert any("started" in line for line in lines)
    assert not [line for line in lines if "Traceback" in line]
    assert app.server.auth_string is not None
    assert not [line for line in lines if app.server.auth_string.partition(":")[2] in line]


def test_logs_command_shows_worker_and_functions(app: DeployedApp) -> None:
    command = [sys.executable, "-m", "embedded", "logs"]
    env = {**os.environ, "EMBEDDED_DIR": str(app.aws.directory)}
    printed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    assert "started!" in printed
    assert "REPORT RequestId" in printed


def test_pool_in_prefect_is_the_template_of_the_stack(app: DeployedApp) -> None:
    pool = app.work_pool()
    outputs = app.outputs()
    assert pool.type == "ecs"
    job, variables = pool.base_job_template["job_configuration"], pool.base_job_template["variables"]["properties"]
    assert job["cluster"].endswith(f"cluster/{outputs['ClusterName']}")
    assert job["task_definition"]["taskRoleArn"] == outputs["FlowRoleArn"]
    assert job["task_definition"]["containerDefinitions"][0]["stopTimeout"] == 120
    assert job["cloudwatch_logs_options"]["awslogs-group"] == outputs["LogGroupName"]
    assert len(variables["network_configuration"]["default"]["subnets"]) == 3
    assert variables["capacity_provider_strategy"]["default"] == [
        {"capacityProvider": "FARGATE_SPOT", "weight": 1, "base": 0}
    ]
    assert variables["cpu"]["default"] == 512
    block = app.prefect.read_block_document_by_name("etl-results", "s3-bucket")
    assert block.data["bucket_name"] == outputs["BucketName"]


def test_diff_is_clean_after_deploy(app: DeployedApp) -> None:
    printed = app.cdk("diff", "--fail").stdout
    assert "Number of stacks with differences: 0" in printed


def test_one_change_shows_as_that_change(app: DeployedApp) -> None:
    printed = cdk_variant(app, "diff", {"pool": {"cpu": 1024, "memory_mib": 3072}})
    changed = [line.strip() for line in printed.splitlines() if line.strip().startswith(("├─ [-]", "└─ [+]", "├─ [+]"))]
    assert "json:512" in printed
    assert "json:1024" in printed
    assert [line for line in changed if "3072" in line]
    assert "Number of stacks with differences: 1" in printed
    resources = [line for line in printed.splitlines() if line.startswith(("[~]", "[+]", "[-]"))]
    assert len(resources) == 1
    assert "Custom::PrefectWorkPool" in resources[0]


# Used


def test_run_completes_with_its_own_size_on_spot(app: DeployedApp) -> None:
    run = app.start_run(FLIGHTS, SMALL, {"cpu": 1024, "memory": 4096, "labels": {"team": "flights"}})
    done = app.wait_for_final_state(run.id)
    assert done.state_name == "Completed", done.state
    (attempt,) = app.attempts(run.id)
    assert attempt.capacity_provider == "FARGATE_SPOT"
    described = app.describe_task(attempt)
    assert (described["cpu"], described["memory"]) == ("1024", "4096")
    tags = {tag["key"]: tag["value"] for tag in described["tags"]}
    assert tags["team"] == "flights"
    assert tags["prefect.io/flow-run-id"] == str(run.id)
    bucket = app.outputs()["BucketName"]
    assert len(bucket_objects(app.aws, bucket, f"data/flights/run={run.id}/")) == 2 * 4 + 1
    assert bucket_objects(app.aws, bucket, "results/")


def test_no_secret_reaches_run_task_or_a_command_line(app: DeployedApp) -> None:
    run = app.start_run(FLIGHTS, {**SMALL, "seconds_per_month": 1.0})
    attempt = app.wait_for_attempt(run.id)
    assert app.server.auth_string is not None
    password = app.server.auth_string.partition(":")[2]
    described = app.describe_task(attempt)
    definition = app.aws.client("ecs").describe_task_definition(taskDefinition=described["taskDefinitionArn"])
    assert password not in json.dumps([described, definition], default=str)
    secrets = definition["taskDefinition"]["containerDefinitions"][0]["secrets"]
    assert secrets[0]["name"] == "PREFECT_API_AUTH_STRING"
    processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert password not in processes
    assert app.wait_for_final_state(run.id).state_name == "Completed"


def test_one_task_definition_serves_many_runs(app: DeployedApp) -> None:
    arns = app.aws.client("ecs").list_task_definitions(familyPrefix="PrefectEmbedded-Execution-etl")
    assert len(arns["taskDefinitionArns"]) == 1


def test_interrupted_run_goes_on_where_it_was(app: DeployedApp) -> None:
    run = app.start_run(FLIGHTS, {"seconds_per_month": 0.8})
    first = app.wait_for_attempt(run.id)

    def half_way() -> bool | None:
        return sum(name.startswith("clean-") for name in finished(app.task_runs(run.id))) >= 4 or None

    wait_for("four months to be clean", half_way, 90)
    app.aws.interrupt(first.arn)
    done = app.wait_for_final_state(run.id)
    assert done.state_name == "Completed", done.state

    attempts = app.attempts(run.id)
    assert [task.capacity_provider for task in attempts] == ["FARGATE_SPOT", "FARGATE_SPOT"]
    assert attempts[0].stop_code == "SpotInterruption"
    assert attempts[0].stopped_reason == "Your Spot Task was interrupted."
    task_runs = app.task_runs(run.id)
    executed = finished(task_runs)
    assert set(executed.values()) == {1}, "a finished task was executed again"
    assert len(executed) == 27
    cached = [task_run.name for task_run in task_runs if task_run.state_name == "Cached"]
    assert len(cached) >= 8
    states = [state.name for state in app.prefect.read_flow_run_states(run.id)]
    assert states.count("Rescheduling") >= 1
    assert states.count("Late") == 1
    assert "Crashed" not in states

    def logged() -> bool | None:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        latest = app.prefect.read_logs(wanted, limit=20, sort=LogSort.TIMESTAMP_DESC)
        return any("336776 flights" in line.message for line in latest) or None

    wait_for("the flow's last words in Prefect's log", logged, 30)


def test_worker_comes_back_after_its_machine_is_lost(app: DeployedApp) -> None:
    before = next(t for t in app.aws.tasks() if t.group.startswith("service:") and t.last_status == "RUNNING")
    app.aws.interrupt(before.arn, notice=False)

    def replaced() -> bool | None:
        alive = [t for t in app.aws.tasks() if t.group.startswith("service:") and t.health_status == "HEALTHY"]
        return any(task.arn != before.arn and task.last_status == "RUNNING" for task in alive) or None

    wait_for("another worker", replaced, 90)
    run = app.start_run(FLIGHTS, {**SMALL, "months": [1]})
    assert app.wait_for_final_state(run.id).state_name == "Completed"


# Changed


def test_update_reaches_the_pool_and_back(app: DeployedApp) -> None:
    cdk_variant(app, "deploy", {"pool": {"cpu": 2048, "memory_mib": 4096, "concurrency_limit": 7}})
    pool = app.work_pool()
    assert pool.concurrency_limit == 7
    assert pool.base_job_template["variables"]["properties"]["cpu"]["default"] == 2048
    app.deploy()
    pool = app.work_pool()
    assert pool.concurrency_limit is None
    assert pool.base_job_template["variables"]["properties"]["cpu"]["default"] == 512


@pytest.mark.slow
def test_worker_moves_to_a_host_and_back(app: DeployedApp) -> None:
    """No instance boots here (tests/image/worker_host is about that): what the group would start it with is."""
    pool = app.work_pool()
    cdk_variant(app, "deploy", {"worker": {"host": "t4g.nano"}})
    outputs = app.outputs()
    assert "WorkerServiceName" not in outputs
    (group,) = app.aws.client("autoscaling").describe_auto_scaling_groups(
        AutoScalingGroupNames=[outputs["WorkerGroupName"]]
    )["AutoScalingGroups"]
    assert (group["MinSize"], group["MaxSize"]) == (1, 2)
    assert len(group["VPCZoneIdentifier"].split(",")) == 3
    launched = group["LaunchTemplate"]
    (version,) = app.aws.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=launched["LaunchTemplateId"], Versions=[launched["Version"]]
    )["LaunchTemplateVersions"]
    data = version["LaunchTemplateData"]
    assert data["InstanceType"] == "t4g.nano"
    user_data = base64.b64decode(data["UserData"]).decode()
    for told in (f'"WorkPoolName":"{pool.name}"', app.server.api_url, outputs["LogGroupName"]):
        assert told in user_data
    assert app.server.auth_string is not None
    assert app.server.auth_string.partition(":")[2] not in user_data
    assert app.aws.client("ecs").list_services(cluster=outputs["ClusterName"])["serviceArns"] == []
    assert app.work_pool().id == pool.id

    app.deploy()
    outputs = app.outputs()
    assert "WorkerGroupName" not in outputs
    assert app.aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"] == []

    def served() -> bool | None:
        alive = [t for t in app.aws.tasks() if t.group == f"service:{outputs['WorkerServiceName']}"]
        return any(task.health_status == "HEALTHY" for task in alive) or None

    wait_for("the worker of the service", served, 90)


# Broken


def test_deployment_that_cannot_work_says_why_and_rolls_back(app: DeployedApp) -> None:
    app.aws.client("ssm").put_parameter(Name="/prefect/wrong", Value="admin:not-the-one", Type="SecureString")
    fields = {"empty": "", "line": f"{app.server.auth_string}\n"}
    secret = app.aws.client("secretsmanager").create_secret(Name="prefect-broken", SecretString=json.dumps(fields))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
    subnet = app.aws.client("ec2").describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])
    env = {
        "PREFECT_API_URL": app.server.api_url,
        "DEAD_API_URL": dead,
        "SECRET_ARN": secret["ARN"],
        "VPC_ID": subnet["Subnets"][0]["VpcId"],
        "SUBNET_ID": subnet["Subnets"][0]["SubnetId"],
        "PYTHONPATH": str(ROOT),
    }
    out = str(app.aws.directory / "broken.out")
    run_cdk(
        ["synth", "--quiet", "--output", out],
        aws=app.aws,
        cwd=ROOT,
        app=f"{sys.executable} {APPS / 'broken.py'}",
        env=env,
    )

    def deploy(name: str) -> str:
        result = run_cdk(
            ["deploy", name], aws=app.aws, cwd=ROOT, app=out, check=False, output=app.aws.directory / f"{name}.log"
        )
        assert result.returncode != 0
        return " ".join(result.stdout.split())

    names = ("Unreachable", "WrongKey", "MissingParameter", "EmptyField", "LineBreak")
    with ThreadPoolExecutor(3) as pool:
        unreachable, wrong_key, missing, empty, line_break = pool.map(deploy, names)

    assert f"cannot reach the Prefect API at {dead}" in unreachable
    assert "rejected the credential" in wrong_key
    assert "/prefect/wrong" in wrong_key
    assert "SSM parameter '/prefect/missing' does not exist" in missing
    source = f"Secrets Manager secret '{secret['ARN']}', field"
    assert f"{source} 'empty' is empty. Store the credential there: aws secretsmanager put-secret-value" in empty
    assert f"{source} 'line' ends in a line break, with which ECS would hand it to worker and flow runs" in line_break
    assert app.server.auth_string is not None
    for value in ("not-the-one", app.server.auth_string.partition(":")[2]):
        assert value not in unreachable + wrong_key + missing + empty + line_break
    cloudformation = app.aws.client("cloudformation")
    for name in names:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
        cloudformation.delete_stack(StackName=name)
    assert [pool.name for pool in app.prefect.read_work_pools()] == ["etl"]


def test_default_vpc_is_looked_up(app: DeployedApp, tmp_path: Path) -> None:
    env = {"PREFECT_API_URL": "https://prefect.example.com/api", "PYTHONPATH": str(ROOT)}
    run_cdk(
        ["synth", "--quiet", "--output", str(tmp_path / "out")],
        aws=app.aws,
        cwd=tmp_path,
        app=f"{sys.executable} {APPS / 'default_vpc.py'}",
        env=env,
    )
    vpcs = app.aws.client("ec2").describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    template = json.loads((tmp_path / "out" / "DefaultVpc.template.json").read_text())
    pool = next(r for r in template["Resources"].values() if r["Type"] == "Custom::PrefectWorkPool")
    assert pool["Properties"]["BaseJobTemplate"]["job_configuration"]["vpc_id"] == vpcs[0]["VpcId"]


def test_unknown_environment_lists_the_known_ones(app: DeployedApp) -> None:
    result = run_cdk(["synth", "-c", "env=nowhere"], aws=app.aws, cwd=ROOT, check=False)
    assert result.returncode != 0
    assert "unknown environment 'nowhere'; use one of dev, staging, prod, embedded" in result.stdout
    assert "Traceback" not in result.stdout


def test_placeholder_workspace_stops_a_deployment_before_anything_is_made(app: DeployedApp) -> None:
    result = run_cdk(
        ["deploy", "--strict", "**", "-c", "env=dev", "--output", str(app.aws.directory / "dev.out")],
        aws=app.aws,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode != 0
    assert "put your Prefect Cloud account_id and workspace_id into stacks/environments.py" in result.stdout
    names = [stack["StackName"] for stack in app.aws.client("cloudformation").describe_stacks()["Stacks"]]
    assert not [name for name in names if name.startswith("PrefectDev")]


# Destroyed


def test_pool_with_deployments_outlives_its_stack_and_everything_else_goes(app: DeployedApp) -> None:
    bucket = app.outputs()["BucketName"]
    app.destroy()
    assert app.stacks() == []
    assert [task.id for task in app.aws.tasks() if task.last_status != "STOPPED"] == []
    assert bucket not in [found["Name"] for found in app.aws.client("s3").list_buckets()["Buckets"]]
    assert [pool.name for pool in app.prefect.read_work_pools()] == ["etl"]
    with pytest.raises(EmbeddedError, match="waited"):
        wait_for("nothing", lambda: None, timeout=0.1)


def test_pool_without_deployments_goes_with_its_stack(app: DeployedApp) -> None:
    app.delete_deployments()
    app.prefect.delete_work_pool("etl")
    app.deploy()
    assert [pool.name for pool in app.prefect.read_work_pools()] == ["etl"]
    app.destroy()
    assert app.prefect.read_work_pools() == []
    assert "PREFECT_API_AUTH_STRING" not in os.environ
