"""ECS tasks as local processes: their life, what they see, and what is in the way of their start."""

import json
import os
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError
from embedded_lab import CLUSTER, NETWORK, ON_DEMAND, SPOT, Lab, gone, wait_until

pytestmark = pytest.mark.integration


def test_a_task_lives_and_tells_about_it(lab: Lab) -> None:
    arn = lab.run(lab.define("echo one; echo two >&2; printf three; exit 3"))
    task = lab.wait(arn, "STOPPED")
    assert (task.stop_code, task.stopped_reason) == ("EssentialContainerExited", "Essential container in task exited")
    assert task.exit_codes == {"main": 3}
    assert task.capacity_provider == "FARGATE_SPOT"
    assert lab.logs(arn) == ["one", "two", "three"]
    events = lab.events(arn)
    assert [event["lastStatus"] for event in events] == [
        "PROVISIONING",
        "PENDING",
        "RUNNING",
        "DEPROVISIONING",
        "STOPPED",
    ]
    last = events[-1]
    assert last["containers"][0]["exitCode"] == 3
    assert last["clusterArn"].endswith(f"cluster/{CLUSTER}")
    assert last["createdAt"] < last["startedAt"] < last["stoppedAt"]
    assert "tags" not in last
    assert "stopCode" not in events[0]


def test_a_task_sees_its_own_environment_and_nothing_else(lab: Lab, monkeypatch) -> None:
    lab.client("ssm").put_parameter(Name="/lab/open", Value="from ssm", Type="SecureString")
    secret = lab.client("secretsmanager").create_secret(Name="lab-db", SecretString='{"password": "from asm"}')["ARN"]
    monkeypatch.setenv("PREFECT_API_KEY", "the developer's")
    definition = lab.define(
        'env | sort; echo "$HOME" > "$HOME/file"; pwd',
        environment=[{"name": "A", "value": "definition"}, {"name": "B", "value": "definition"}],
        secrets=[
            {"name": "FROM_SSM", "valueFrom": "arn:aws:ssm:us-east-1:000000000000:parameter/lab/open"},
            {"name": "FROM_ASM", "valueFrom": f"{secret}:password::"},
        ],
    )
    arn = lab.run(
        definition,
        tags=[{"key": "run", "value": "7"}],
        overrides={
            "cpu": "1024",
            "memory": "4096",
            "ephemeralStorage": {"sizeInGiB": 30},
            "containerOverrides": [
                {
                    "name": "main",
                    "environment": [
                        {"name": "B", "value": "override"},
                        {"name": "PREFECT__FLOW_RUN_ID", "value": "f-1"},
                    ],
                }
            ],
        },
    )
    task = lab.wait(arn, "STOPPED")
    lines = lab.logs(arn)
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert environment["A"] == "definition"
    assert environment["B"] == "override"
    assert (environment["FROM_SSM"], environment["FROM_ASM"]) == ("from ssm", "from asm")
    assert environment["AWS_ENDPOINT_URL"] == lab.aws.endpoint
    assert not {"PREFECT_API_KEY", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"} & environment.keys(), "a task without a role"
    assert lines[-1] == environment["HOME"]
    assert not Path(environment["HOME"]).exists(), "the disk goes with the task"
    assert task.flow_run_id == "f-1"
    assert (task.cpu, task.memory_mib) == (1024, 4096)
    described = lab.describe(arn, include=["TAGS"])
    assert described["tags"] == [{"key": "run", "value": "7"}]
    assert described["ephemeralStorage"] == {"sizeInGiB": 30}


def test_attempts_of_a_flow_run_work_at_the_same_place_one_after_the_other(lab: Lab) -> None:
    definition = lab.define('pwd; touch "$HOME/file"; ls; exec sleep 600')
    environment = [{"name": "PREFECT__FLOW_RUN_ID", "value": "8c3c3f0e-6d1f-4c62-a0f2-7d2b2f6e4d11"}]
    overrides = {"containerOverrides": [{"name": "main", "environment": environment}]}

    def start() -> str:
        arn = lab.run(definition, overrides=overrides)
        lab.wait_for_line(arn, "tmp")
        return arn

    def end(arn: str) -> None:
        lab.aws.interrupt(arn, notice=False)
        lab.wait(arn, "STOPPED")

    def place(arn: str) -> Path:
        home, *files = lab.logs(arn)
        assert files == ["file", "tmp"], "the disk is new"
        return Path(home)

    first = start()
    beside = start()
    assert place(beside) != place(first), "two living tasks share no disk"
    end(beside)
    assert (place(first) / "file").exists()
    end(first)
    again = start()
    assert place(again) == place(first)
    end(again)
    assert not place(again).exists()


def test_a_task_may_do_what_its_role_may(lab: Lab) -> None:
    bucket = "lab-role-bucket"
    lab.client("s3").create_bucket(Bucket=bucket)
    role = lab.role("lab-writer", {"Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/mine/*"})
    script = f"""
import boto3, botocore.exceptions
print(boto3.client("sts").get_caller_identity()["Arn"])
s3 = boto3.client("s3")
s3.put_object(Bucket="{bucket}", Key="mine/a", Body=b"x")
try:
    s3.put_object(Bucket="{bucket}", Key="yours/a", Body=b"x")
except botocore.exceptions.ClientError as error:
    print(error)
"""
    definition = lab.define("", command=["python", "-c", script])
    arn = lab.run(definition, overrides={"taskRoleArn": role})
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 0}
    who, denied = lab.logs(arn)
    assert who == f"arn:aws:sts::000000000000:assumed-role/lab-writer/{arn.rsplit('/', 1)[-1]}"
    assert f"User: {who} is not authorized to perform: s3:PutObject on resource" in denied
    assert [o["Key"] for o in lab.client("s3").list_objects_v2(Bucket=bucket)["Contents"]] == ["mine/a"]


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        (
            {"secrets": [{"name": "S", "valueFrom": "/lab/closed"}]},
            "not authorized to perform: ssm:GetParameters on resource: "
            "arn:aws:ssm:us-east-1:000000000000:parameter/lab/closed",
        ),
        (
            {
                "secrets": [
                    {"name": "S", "valueFrom": "arn:aws:secretsmanager:us-east-1:000000000000:secret:other-AbCdEf"}
                ]
            },
            "not authorized to perform: secretsmanager:GetSecretValue on resource",
        ),
        (
            {
                "secrets": [
                    {"name": "S", "valueFrom": "arn:aws:secretsmanager:us-east-1:000000000000:secret:lab-no-AbCdEf"}
                ]
            },
            "ResourceNotFoundException",
        ),
        (
            {
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {
                        "awslogs-group": "/closed",
                        "awslogs-stream-prefix": "x",
                        "awslogs-region": "us-east-1",
                    },
                }
            },
            "not authorized to perform: logs:CreateLogStream on resource",
        ),
    ],
)
def test_a_task_whose_execution_role_may_not_does_not_start(lab: Lab, container: dict, reason: str) -> None:
    arn = lab.run(lab.define("true", **container))
    task = lab.wait(arn, "STOPPED")
    assert task.stop_code == "TaskFailedToStart"
    assert task.stopped_reason is not None
    assert task.stopped_reason.startswith("ResourceInitializationError: ")
    assert reason in task.stopped_reason
    assert task.pid is None
    assert lab.events(arn)[-1]["stoppedReason"] == task.stopped_reason


def test_a_role_that_does_not_trust_tasks_is_of_no_use(lab: Lab) -> None:
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    role = lab.role("lab-of-lambda", trust=trust)
    task = lab.wait(lab.run(lab.define("true"), overrides={"taskRoleArn": role}), "STOPPED")
    assert "unable to assume the role" in str(task.stopped_reason)


def test_an_image_in_ecr_must_be_there_and_be_granted(lab: Lab) -> None:
    ecr = lab.client("ecr")
    repository = ecr.create_repository(repositoryName="lab-images")["repository"]
    with pytest.raises(ecr.exceptions.ImageNotFoundException, match="imageTag:'1'} does not exist within the repo"):
        ecr.describe_images(repositoryName="lab-images", imageIds=[{"imageTag": "1"}])
    manifest = {"schemaVersion": 2, "config": {"size": 7}, "layers": [{"size": 1000}, {"size": 1}]}
    pushed = ecr.put_image(repositoryName="lab-images", imageTag="1", imageManifest=json.dumps(manifest))["image"]
    (detail,) = ecr.describe_images(repositoryName="lab-images", imageIds=[{"imageTag": "1"}])["imageDetails"]
    assert (detail["imageDigest"], detail["imageSizeInBytes"]) == (pushed["imageId"]["imageDigest"], 1008)

    logs = {
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": "arn:aws:logs:us-east-1:000000000000:log-group:/lab/tasks:*",
    }
    log_in = {"Action": "ecr:GetAuthorizationToken", "Resource": "*"}
    pull = {
        "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Resource": repository["repositoryArn"],
    }
    stranger = lab.role("lab-stranger", logs)
    guest = lab.role("lab-guest", logs, log_in)
    puller = lab.role("lab-puller", logs, log_in, pull)

    def stopped(role: str, tag: str) -> str | None:
        image = f"{repository['repositoryUri']}:{tag}"
        arn = lab.run(lab.define("true", image=image, task={"executionRoleArn": role}))
        task = lab.wait(arn, "STOPPED")
        assert (task.stop_code == "EssentialContainerExited") == (task.exit_codes == {"main": 0})
        return task.stopped_reason

    assert stopped(puller, "1") == "Essential container in task exited"
    assert str(stopped(puller, "2")).startswith("CannotPullContainerError: ")
    assert str(stopped(puller, "2")).endswith("/lab-images:2: not found")
    assert "is not authorized to perform: ecr:BatchCheckLayerAvailability on resource" in str(stopped(guest, "1"))
    assert str(stopped(stranger, "1")).startswith(
        "ResourceInitializationError: unable to pull secrets or registry auth"
    )


def test_a_command_that_does_not_exist(lab: Lab) -> None:
    task = lab.wait(lab.run(lab.define("", command=["no-such-program"])), "STOPPED")
    assert task.stop_code == "TaskFailedToStart"
    assert task.stopped_reason == 'CannotStartContainerError: exec: "no-such-program": No such file or directory'


def test_stopping_asks_first_and_then_insists(lab: Lab) -> None:
    polite = lab.run(lab.define("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"))
    plain = lab.run(lab.define("echo ready; sleep 60"))
    deaf = lab.run(lab.define("trap '' TERM; echo ready; while :; do sleep 0.05; done", stopTimeout=1))
    for arn in (polite, plain, deaf):
        lab.wait_for_line(arn, "ready")
        answer = lab.client("ecs").stop_task(cluster=CLUSTER, task=arn, reason="enough")["task"]
        assert (answer["desiredStatus"], answer["stopCode"]) == ("STOPPED", "UserInitiated")
    codes = {arn: lab.wait(arn, "STOPPED").exit_codes["main"] for arn in (polite, plain, deaf)}
    assert codes == {polite: 5, plain: 143, deaf: 137}
    assert lab.logs(polite)[-1] == "bye"
    assert lab.task(deaf).stopped_reason == "enough"
    assert [(e["lastStatus"], e["desiredStatus"]) for e in lab.events(deaf)][-3:] == [
        ("RUNNING", "STOPPED"),
        ("DEPROVISIONING", "STOPPED"),
        ("STOPPED", "STOPPED"),
    ]


def test_a_container_takes_its_children_with_it(lab: Lab) -> None:
    """Also those that made a session of their own, as daemons do."""
    script = (
        "import subprocess; p = subprocess.Popen(['sleep', '300'], start_new_session=True); print(p.pid, flush=True)"
    )
    arn = lab.run(lab.define("", command=["python", "-c", script]))
    lab.wait(arn, "STOPPED")
    assert gone(int(lab.logs(arn)[0]))


def test_the_other_containers_end_with_the_essential_one(lab: Lab) -> None:
    definition = lab.define(
        "sleep 0.2; exit 4",
        task={
            "containerDefinitions": [
                {"name": "main", "image": "x", "command": ["sh", "-c", "sleep 0.2; exit 4"]},
                {"name": "sidecar", "image": "x", "command": ["sleep", "60"], "essential": False},
                {"name": "brief", "image": "x", "command": ["true"], "essential": False},
            ]
        },
    )
    assert lab.wait(lab.run(definition), "STOPPED").exit_codes == {"main": 4, "sidecar": 143, "brief": 0}


def test_placement_and_what_run_task_refuses(lab: Lab) -> None:
    ecs = lab.client("ecs")
    definition = lab.define("true")
    strategy = [
        {"capacityProvider": "FARGATE", "base": 1, "weight": 1},
        {"capacityProvider": "FARGATE_SPOT", "weight": 3},
    ]
    answer = ecs.run_task(
        cluster=CLUSTER,
        taskDefinition=definition,
        count=5,
        capacityProviderStrategy=strategy,
        networkConfiguration=NETWORK,
    )
    placed = sorted(task["capacityProviderName"] for task in answer["tasks"])
    assert placed == ["FARGATE", "FARGATE", "FARGATE_SPOT", "FARGATE_SPOT", "FARGATE_SPOT"]
    assert {task["lastStatus"] for task in answer["tasks"]} == {"PROVISIONING"}

    def refused(**changed: object) -> str:
        request = {"cluster": CLUSTER, "taskDefinition": definition, "networkConfiguration": NETWORK, **changed}
        with pytest.raises(ClientError) as caught:
            ecs.run_task(**request)
        return str(caught.value)

    assert "both a launch type and capacity provider" in refused(launchType="FARGATE", capacityProviderStrategy=SPOT)
    foreign = [{"capacityProvider": "elsewhere", "weight": 1}]
    assert "'elsewhere' is not associated with the cluster" in refused(capacityProviderStrategy=foreign)
    assert "Network Configuration must be provided" in refused(networkConfiguration={}, launchType="FARGATE")
    assert "ClusterNotFoundException" in refused(cluster="nowhere", launchType="FARGATE")
    unknown = {"containerOverrides": [{"name": "nobody"}]}
    assert "nobody is not a container" in refused(overrides=unknown, launchType="FARGATE")


def test_iam_decides_who_may_run_what(lab: Lab) -> None:
    """A worker's policy as one would write it for AWS."""
    allowed, other = lab.define("true"), lab.define("true")
    flow_role = lab.role("lab-flow")
    cluster_arn = f"arn:aws:ecs:us-east-1:000000000000:cluster/{CLUSTER}"
    on_cluster = {"Condition": {"ArnEquals": {"ecs:cluster": cluster_arn}}}
    worker = lab.role(
        "lab-worker",
        {"Action": "ecs:RunTask", "Resource": allowed.rsplit(":", 1)[0] + ":*", **on_cluster},
        {"Action": "ecs:StopTask", "Resource": f"arn:aws:ecs:us-east-1:000000000000:task/{CLUSTER}/*", **on_cluster},
        {
            "Action": "ecs:TagResource",
            "Resource": f"arn:aws:ecs:us-east-1:000000000000:task/{CLUSTER}/*",
            "Condition": {"StringEquals": {"ecs:CreateAction": "RunTask"}},
        },
        {
            "Action": "iam:PassRole",
            "Resource": [flow_role, lab.execution_role],
            "Condition": {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        },
    )
    calls = {
        "run": {"taskDefinition": allowed, "tags": [{"key": "a", "value": "b"}]},
        "run with role": {"taskDefinition": allowed, "overrides": {"taskRoleArn": flow_role}},
        "run another": {"taskDefinition": other},
        "pass another": {"taskDefinition": allowed, "overrides": {"taskRoleArn": worker}},
        "elsewhere": {"taskDefinition": allowed, "cluster": "elsewhere"},
    }
    script = f"""
import boto3, botocore.exceptions, json
ecs, arn = boto3.client("ecs"), None
base = dict(cluster="{CLUSTER}", launchType="FARGATE", networkConfiguration={NETWORK!r})
for name, call in {calls!r}.items():
    try:
        arn = ecs.run_task(**{{**base, **call}})["tasks"][0]["taskArn"]
        print(json.dumps([name, "ok"]))
    except botocore.exceptions.ClientError as error:
        print(json.dumps([name, str(error)]))
print(json.dumps(["stop", ecs.stop_task(cluster="{CLUSTER}", task=arn)["task"]["taskArn"] == arn]))
try:
    ecs.list_clusters()
except botocore.exceptions.ClientError as error:
    print(json.dumps(["list", str(error)]))
"""
    arn = lab.run(lab.define("", command=["python", "-c", script]), overrides={"taskRoleArn": worker})
    lab.wait(arn, "STOPPED")
    answers = dict(json.loads(line) for line in lab.logs(arn))
    assert answers["run"] == answers["run with role"] == "ok"
    assert f"is not authorized to perform: ecs:RunTask on resource: {other}" in answers["run another"]
    assert "assumed-role/lab-worker/" in answers["run another"]
    assert f"is not authorized to perform: iam:PassRole on resource: {worker}" in answers["pass another"]
    assert "is not authorized to perform: ecs:RunTask" in answers["elsewhere"]
    assert answers["stop"] is True
    assert "is not authorized to perform: ecs:ListClusters on resource: *" in answers["list"]


def test_health_is_checked_in_the_containers_own_world(lab: Lab) -> None:
    check = {"command": ["CMD-SHELL", 'test "$MARK" = here && test -e sound'], "interval": 1, "retries": 1}
    definition = lab.define(
        "touch sound; sleep 1; rm sound; sleep 60", environment=[{"name": "MARK", "value": "here"}], healthCheck=check
    )
    arn = lab.run(definition, capacityProviderStrategy=ON_DEMAND)
    wait_until(lambda: lab.describe(arn)["healthStatus"] == "HEALTHY", "health")
    wait_until(lambda: lab.describe(arn)["containers"][0]["healthStatus"] == "UNHEALTHY", "illness")
    assert lab.task(arn).last_status == "RUNNING", "nobody restarts a task that belongs to no service"
    lab.aws.interrupt(arn, notice=False)
    assert lab.wait(arn, "STOPPED").stop_code == "InfrastructureHealth"


def test_the_emulator_listens_on_loopback_only(lab: Lab) -> None:
    listening = [c for c in psutil.Process(lab.aws.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert len(listening) == 1
    assert psutil.Process(lab.aws.pid).username() == psutil.Process(os.getpid()).username()
