"""Look for a value in everything that an AWS account, a Prefect server and a machine show of a deployment."""

import base64
import contextlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from embedded.deployed import DeployedApp
from embedded.emulator.processes import CONTAINER_MARK

Place = tuple[str, bytes]
"""What it is called, and what is in it."""

#: In the container of a flow run, Prefect hands its environment on to the engine in a file that only its user can read.
#: It is on the task's own disk and goes with it. Source: ``prefect/runner/_workspace_runtime.py``.
HANDED_ON = "Prefect's own file in a flow run's container"
_HANDED_ON = re.compile(r"tasks/[^/]+/prefect/tmp/prefect-workspace-attempt-\w+/workspace\.json")


def spellings(value: str) -> set[bytes]:
    """The value as it is, in hexadecimal, and in base64 wherever it may stand in what was encoded."""
    raw = value.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw + bytes(2))
        # The characters at the ends depend on what is around it.
        own = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        found |= {own, own.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def where(value: str, places: Iterable[Place]) -> set[str]:
    """The names of the places where the value is."""
    wanted = spellings(value)
    return {name for name, content in places if any(spelling in content for spelling in wanted)}


def everywhere(app: DeployedApp) -> Iterator[Place]:
    """All that is to be searched."""
    yield from processes(app)
    yield from requests(app)
    yield from files(app)
    yield from control_plane(app)
    yield from prefect_api(app)


def processes(app: DeployedApp) -> Iterator[Place]:
    """Environment and command line of every process of this machine."""
    tasks = {task.id: task for task in app.aws.tasks()}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            directory = Path("/proc") / str(process.pid)
            environment = (directory / "environ").read_bytes()
            whose = "another process"
            if container := process.environ().get(CONTAINER_MARK):
                task = tasks.get(container.split("/")[2])
                if task:  # else it is of another embedded AWS on this machine
                    whose = "the worker" if task.group.startswith("service:") else "a flow run"
            elif os.getsid(process.pid) == app.server.pid:
                whose = "the Prefect server"
            yield f"environment of {whose}", environment
            yield "a command line", (directory / "cmdline").read_bytes()


def requests(app: DeployedApp) -> Iterator[Place]:
    """What AWS was asked, by whomever: the CDK CLI, the worker, flow runs, functions."""
    for line in app.aws.requests.read_bytes().splitlines():
        request = json.loads(line)
        operation = request["headers"].get("x-amz-target", "").rpartition(".")[2]
        yield f"request {operation or request['method']}", line


def files(app: DeployedApp) -> Iterator[Place]:
    """Everything that AWS, tasks, functions, the CDK CLI and the Prefect server have on disk, the database included."""
    # What `attach` needs, and what is searched request by request.
    ours = {app.server.directory / "prefect.json", app.aws.requests}
    for top in (app.aws.directory, app.server.directory):
        for path in sorted(top.rglob("*")):
            if path.is_file() and path not in ours:
                name = str(path.relative_to(top))
                with contextlib.suppress(FileNotFoundError):  # of a task that has just ended
                    yield from unpacked(HANDED_ON if _HANDED_ON.fullmatch(name) else f"file {name}", path.read_bytes())


def unpacked(name: str, content: bytes) -> Iterator[Place]:
    """A file and, if it is an archive, what is in it."""
    yield name, content
    if content.startswith(b"PK"):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for inner in archive.namelist():
                yield f"{name}:{inner}", archive.read(inner)


def control_plane(app: DeployedApp) -> Iterator[Place]:
    """What AWS tells whoever may describe and read everything but secrets."""
    aws = app.aws

    def told(name: str, answer: Any) -> Place:
        return name, json.dumps(answer, default=str).encode()

    cloudformation = aws.client("cloudformation")
    for stack in cloudformation.describe_stacks()["Stacks"]:
        name = stack["StackName"]
        yield told(f"stack {name}", stack)  # with outputs and parameters
        yield told(f"template {name}", cloudformation.get_template(StackName=name))
        yield told(f"events {name}", cloudformation.describe_stack_events(StackName=name))
        yield told(f"resources {name}", cloudformation.list_stack_resources(StackName=name))

    functions = aws.client("lambda")
    for function in functions.list_functions()["Functions"]:
        name = function["FunctionName"]
        yield told(f"function {name}", functions.get_function_configuration(FunctionName=name))

    ecs = aws.client("ecs")
    for arn in ecs.list_task_definitions()["taskDefinitionArns"]:
        yield told(f"task definition {arn}", ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"]))
    for task in aws.tasks():
        yield told(f"task {task.group}", app.describe_task(task))
    for cluster in ecs.list_clusters()["clusterArns"]:
        for service in ecs.list_services(cluster=cluster)["serviceArns"]:
            yield told(f"service {service}", ecs.describe_services(cluster=cluster, services=[service]))

    logs = aws.client("logs")
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
            yield told(f"log {name}", page)

    sqs = aws.client("sqs")
    for url in sqs.list_queues().get("QueueUrls", []):
        while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            yield told(f"queue {url.rpartition('/')[2]}", messages)

    s3 = aws.client("s3")
    for bucket in s3.list_buckets()["Buckets"]:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for item in page.get("Contents", []):
                body = s3.get_object(Bucket=bucket["Name"], Key=item["Key"])["Body"].read()
                yield from unpacked(f"object {item['Key']}", body)

    yield told("IAM", aws.client("iam").get_account_authorization_details())
    rules = aws.client("events")
    for rule in rules.list_rules()["Rules"]:
        yield told(f"rule {rule['Name']}", [rule, rules.list_targets_by_rule(Rule=rule["Name"])])
    yield told("list of parameters", aws.client("ssm").describe_parameters())
    yield told("list of secrets", aws.client("secretsmanager").list_secrets())


def prefect_api(app: DeployedApp) -> Iterator[Place]:
    """What Prefect's API answers, secrets of blocks included."""
    prefect = app.prefect
    pools = prefect.read_work_pools()
    answers: dict[str, Any] = {
        "work pools": pools,
        "workers": [worker for pool in pools for worker in prefect.read_workers_for_work_pool(pool.name)],
        "deployments": prefect.read_deployments(),
        "flow runs": prefect.read_flow_runs(),  # with their job variables
        "task runs": prefect.read_task_runs(),
        "logs": prefect.read_logs(limit=200),
        "blocks": prefect.read_block_documents(include_secrets=True),
    }
    for name, models in answers.items():
        yield f"Prefect's {name}", "\n".join(model.model_dump_json() for model in models).encode()
