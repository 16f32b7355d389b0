"""A cluster on the embedded AWS with roles, logs and a queue that hears of every task."""

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from embedded import EmbeddedAws, Task

T = TypeVar("T")

CLUSTER = "lab"
LOG_GROUP = "/lab/tasks"
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-lab"], "assignPublicIp": "ENABLED"}}
SPOT = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
ON_DEMAND = [{"capacityProvider": "FARGATE", "weight": 1}]
TRUSTS_TASKS = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def wait_until(look: Callable[[], T | bool | None], what: str, seconds: float = 20) -> T:
    """Poll until ``look`` returns something; the limit is for hangs only."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.03)
    return found  # type: ignore[return-value]


def gone(*pids: int | None) -> bool:
    """Whether none of these processes runs any more; one that only waits for init to notice does not run."""
    for pid in filter(None, pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


@dataclass
class Lab:
    aws: EmbeddedAws
    image: str = "example/none:1"
    queue: str = ""
    heard: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client("ecs").create_cluster(clusterName=CLUSTER, capacityProviders=["FARGATE", "FARGATE_SPOT"])
        self.client("logs").create_log_group(logGroupName=LOG_GROUP)
        self.execution_role = self.role(
            "lab-execution",
            {
                "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                "Resource": f"arn:aws:logs:us-east-1:000000000000:log-group:{LOG_GROUP}:*",
            },
            {"Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:us-east-1:000000000000:parameter/lab/open"},
            {
                "Action": "secretsmanager:GetSecretValue",
                "Resource": "arn:aws:secretsmanager:us-east-1:000000000000:secret:lab-*",
            },
        )
        sqs, events = self.client("sqs"), self.client("events")
        self.queue = sqs.create_queue(QueueName="lab-events")["QueueUrl"]
        arn = "arn:aws:sqs:us-east-1:000000000000:lab-events"
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "events.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": arn,
                }
            ],
        }
        sqs.set_queue_attributes(QueueUrl=self.queue, Attributes={"Policy": json.dumps(policy)})
        pattern = {"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}
        events.put_rule(Name="lab", EventPattern=json.dumps(pattern))
        events.put_targets(Rule="lab", Targets=[{"Id": "queue", "Arn": arn}])

    def client(self, service: str) -> Any:
        return self.aws.client(service)

    def role(self, name: str, *statements: dict[str, Any], trust: dict[str, Any] | None = None) -> str:
        iam = self.client("iam")
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust or TRUSTS_TASKS))["Role"][
            "Arn"
        ]
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **s} for s in statements]}
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=json.dumps(document))
        return arn

    def define(self, script: str, *, task: dict[str, Any] | None = None, **container: Any) -> str:
        """A task definition whose only container runs this shell script and logs to the lab's group."""
        log = {
            "awslogs-group": LOG_GROUP,
            "awslogs-stream-prefix": "lab",
            "awslogs-region": "us-east-1",
        }
        main = {
            "name": "main",
            "image": self.image,
            "command": ["sh", "-c", script],
            "stopTimeout": 2,
            "logConfiguration": {"logDriver": "awslogs", "options": log},
            **container,
        }
        request = {
            "family": f"lab-{uuid.uuid4().hex[:8]}",
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "cpu": "256",
            "memory": "512",
            "executionRoleArn": self.execution_role,
            "containerDefinitions": [main],
            **(task or {}),
        }
        answer = self.client("ecs").register_task_definition(**request)
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    def run(self, definition: str, **request: Any) -> str:
        request = {"capacityProviderStrategy": SPOT, "networkConfiguration": NETWORK, **request}
        answer = self.client("ecs").run_task(cluster=CLUSTER, taskDefinition=definition, **request)
        assert answer["failures"] == []
        return str(answer["tasks"][0]["taskArn"])

    def task(self, arn: str) -> Task:
        return next(task for task in self.aws.tasks() if task.arn == arn)

    def describe(self, arn: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.client("ecs").describe_tasks(cluster=CLUSTER, tasks=[arn], **more)["tasks"][0]
        return found

    def wait(self, arn: str, status: str) -> Task:
        def look() -> Task | None:
            task = self.task(arn)
            assert status == "STOPPED" or task.last_status != "STOPPED", task
            return task if task.last_status == status else None

        return wait_until(look, f"{arn} to be {status}")

    def logs(self, arn: str) -> list[str]:
        stream = f"lab/main/{arn.rsplit('/', 1)[-1]}"
        events = self.client("logs").get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True)[
            "events"
        ]
        return [event["message"] for event in events]

    def wait_for_line(self, arn: str, line: str) -> None:
        self.wait(arn, "RUNNING")
        wait_until(lambda: line in self.logs(arn), f"{line!r} in the log of {arn}")

    def events(self, arn: str) -> list[dict[str, Any]]:
        """What the queue heard of this task, up to STOPPED, in order."""

        def look() -> list[dict[str, Any]] | None:
            sqs = self.client("sqs")
            for message in sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", []):
                self.heard.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
            mine = sorted(
                (e["detail"] for e in self.heard if e["detail"]["taskArn"] == arn), key=lambda d: d["version"]
            )
            return mine if mine and mine[-1]["lastStatus"] == "STOPPED" else None

        return wait_until(look, f"the STOPPED event of {arn}")


def port_is_free(endpoint: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))) != 0


def living(directory: Path) -> list[psutil.Process]:
    """Processes that have this directory in their environment: every server's, and all that it starts."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(str(directory) in value for value in process.environ().values()):
                found.append(process)
    return found
