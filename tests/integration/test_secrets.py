"""Secrets for real: planted values are found where ECS injects them and nowhere else; they are changed; they are wrong.

An AWS and a Prefect server of their own, as the server's credential changes here. The tests are in the order in which
they have to be.
"""

import hashlib
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from secret_search import HANDED_ON, everywhere, spellings, where

from embedded import run_cdk
from embedded.aws import EmbeddedAws, Task
from embedded.deployed import DeployedApp, bucket_objects, wait_for
from embedded.prefect_server import PrefectServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LONG = 120.0
FLOW_SECRETS = ("PLANTED_PASSWORD", "PLANTED_TOKEN")
TOKEN_PARAMETER = "/planted/token"
STARTS_BY_ITSELF = "Once the right one is stored it starts by itself."


def new_value() -> str:
    return f"Planted{secrets.token_hex(16)}"


@dataclass
class Planted:
    """The app, deployed, and the secrets that it refers to."""

    app: DeployedApp
    key: str
    arns: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    out: str = ""

    @property
    def bucket(self) -> str:
        return self.app.outputs()["BucketName"]

    @property
    def api_source(self) -> str:
        """How messages call the credential."""
        return f"Secrets Manager secret '{self.arns['api']}', field 'auth'"

    # Storing

    def store(self, name: str, fields: dict[str, str], key: str = "alias/aws/secretsmanager") -> None:
        """Store a secret in Secrets Manager, as its user would."""
        client = self.app.aws.client("secretsmanager")
        text = json.dumps(fields)
        if name in self.arns:
            client.put_secret_value(SecretId=self.arns[name], SecretString=text)
        else:
            self.arns[name] = client.create_secret(Name=f"planted-{name}", SecretString=text, KmsKeyId=key)["ARN"]

    def store_password(self) -> None:
        self.values["PLANTED_PASSWORD"] = new_value()
        self.store("password", {"user": "etl", "password": self.values["PLANTED_PASSWORD"]}, self.key)

    def store_token(self) -> None:
        self.values["PLANTED_TOKEN"] = new_value()
        self.app.aws.client("ssm").put_parameter(
            Name=TOKEN_PARAMETER,
            Value=self.values["PLANTED_TOKEN"],
            Type="SecureString",
            KeyId=self.key,
            Overwrite=True,
        )

    # Deploying

    def cdk(self, command: str) -> None:
        planted = {**self.arns, "token": TOKEN_PARAMETER, "key": self.key}
        environment = {
            "PREFECT_API_URL": self.app.server.api_url,
            "PLANTED": json.dumps(planted),
            "PYTHONPATH": str(ROOT),
        }
        run_cdk(
            [command, "**", "--output", self.out],
            aws=self.app.aws,
            cwd=ROOT,
            app=f"{sys.executable} {HERE / 'apps' / 'planted.py'}",
            env=environment,
        )

    # Running

    def start(self) -> UUID:
        deployment = self.app.prefect.read_deployment_by_name("planted/planted")
        run = self.app.prefect.create_flow_run_from_deployment(deployment.id, parameters={"bucket": self.bucket})
        return run.id

    def objects(self, run: UUID, prefix: str) -> list[str]:
        return bucket_objects(self.app.aws, self.bucket, f"data/gated/{run}/{prefix}/")

    def wait_for_gate(self, run: UUID, attempt: int = 1) -> Task:
        def reached() -> bool | None:
            return len(self.objects(run, "reached")) >= attempt or None

        wait_for(f"attempt {attempt} of {run} to reach the gate", reached, LONG)
        (task,) = [task for task in self.app.attempts(run) if task.last_status == "RUNNING"]
        return task

    def open(self, run: UUID) -> None:
        self.app.aws.client("s3").put_object(Bucket=self.bucket, Key=f"data/gated/{run}/open", Body=b"")

    def completes(self, run: UUID) -> None:
        """Check that it completes, with each step executed once and with today's secrets."""
        self.open(run)
        done = self.app.wait_for_final_state(run, LONG)
        assert done.state is not None
        assert done.state.name == "Completed", done.state
        assert sorted(key.split("/")[-2] for key in self.objects(run, "executed")) == ["one", "two"]

    def handed(self, run: UUID) -> set[tuple[str, str]]:
        """Variables and hashes of what the run found in them."""
        return {(parts[-3], parts[-2]) for parts in (key.split("/") for key in self.objects(run, "handed"))}

    def hashes(self) -> set[tuple[str, str]]:
        return {(name, hashlib.sha256(self.values[name].encode()).hexdigest()) for name in FLOW_SECRETS}

    def log_of(self, run: UUID) -> list[str]:
        """What the run's own log says."""
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        return [line.message for line in self.app.prefect.read_logs(wanted, limit=200)]

    # The worker and Lazarus

    def workers(self) -> list[Task]:
        return [task for task in self.app.aws.tasks() if task.group.startswith("service:")]

    def wanted(self) -> str:
        """The one worker that nobody is stopping."""
        (worker,) = [task for task in self.workers() if task.desired_status == "RUNNING"]
        assert worker.last_status == "RUNNING"
        return worker.arn

    def wait_for_worker(self, besides: set[str]) -> Task:
        def healthy() -> Task | None:
            found = [task for task in self.workers() if task.arn not in besides and task.last_status == "RUNNING"]
            return next((task for task in found if task.health_status == "HEALTHY"), None)

        return wait_for("another healthy worker", healthy, LONG)

    def force_new_deployment(self) -> str:
        """The one documented command; returns the id of the deployment that it makes."""
        outputs = self.app.outputs()
        service = self.app.aws.client("ecs").update_service(
            cluster=outputs["ClusterName"], service=outputs["WorkerServiceName"], forceNewDeployment=True
        )["service"]
        return str(next(each["id"] for each in service["deployments"] if each["status"] == "PRIMARY"))

    def rollout(self, deployment: str) -> str | None:
        outputs = self.app.outputs()
        (service,) = self.app.aws.client("ecs").describe_services(
            cluster=outputs["ClusterName"], services=[outputs["WorkerServiceName"]]
        )["services"]
        return next((each["rolloutState"] for each in service["deployments"] if each["id"] == deployment), None)

    def worker_log(self) -> list[str]:
        return self._log(self.app.outputs()["LogGroupName"], "worker/")

    def lazarus_log(self) -> list[str]:
        (name,) = [
            each["PhysicalResourceId"]
            for each in self.app.resources()
            if each["LogicalResourceId"].startswith("PrefectLazarusFunction")
            and each["ResourceType"] == "AWS::Lambda::Function"
        ]
        self.app.aws.client("lambda").invoke(FunctionName=name, Payload=b"{}")
        configuration = self.app.aws.client("lambda").get_function_configuration(FunctionName=name)
        return self._log(configuration["LoggingConfig"]["LogGroup"], None)

    def _log(self, group: str, prefix: str | None) -> list[str]:
        more: dict[str, Any] = {"logStreamNamePrefix": prefix} if prefix else {}
        pages = self.app.aws.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group, **more)
        return [event["message"] for page in pages for event in page["events"]]

    def wait_for_line(self, log: Callable[[], list[str]], text: str, after: int = 0) -> str:
        """Wait until a line of a log has this text.

        :param after: So many lines are of earlier days.
        """

        def said() -> str | None:
            return next((line for line in log()[after:] if text in line), None)

        return wait_for(f"a line with {text!r}", said, LONG, interval=0.5)


@pytest.fixture(scope="module")
def planted() -> Iterator[Planted]:
    """The app with planted secrets, its worker online, a flow deployed, and somebody who listens to ECS's events."""
    with (
        EmbeddedAws.start(record_requests=True) as aws,
        PrefectServer.start(auth_string=f"admin:{new_value()}") as server,
    ):
        app = DeployedApp(aws, server)
        planted = Planted(app, aws.client("kms").create_key()["KeyMetadata"]["Arn"], out=str(aws.directory / "out"))
        planted.store("api", {"user": "admin", "auth": str(server.auth_string)})
        planted.store_password()
        planted.store_token()
        listen(aws)
        app.bootstrap()
        planted.cdk("deploy")
        app.wait_for_worker()
        for name in ("planted.py", "gated.py"):
            aws.client("s3").upload_file(str(HERE / "flows" / name), planted.bucket, f"code/planted/{name}")
        step = "prefect_aws.deployments.steps.pull_from_s3"
        app.prefect.create_deployment(
            flow_id=app.prefect.create_flow_from_name("planted"),
            name="planted",
            work_pool_name=app.outputs()["WorkPoolName"],
            entrypoint="planted.py:planted",
            pull_steps=[{step: {"bucket": planted.bucket, "folder": "code/planted"}}],
            enforce_parameter_schema=False,
        )
        yield planted


def listen(aws: EmbeddedAws) -> None:
    """Have ECS's events in a queue, as every subscriber of the account gets them."""
    sqs, events = aws.client("sqs"), aws.client("events")
    url = sqs.create_queue(QueueName="listener")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allowed = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = {"Version": "2012-10-17", "Statement": [{**allowed, "Resource": arn}]}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    events.put_rule(Name="listener", EventPattern=json.dumps({"source": ["aws.ecs"]}))
    events.put_targets(Rule="listener", Targets=[{"Id": "listener", "Arn": arn}])


def password_of(auth_string: str | None) -> str:
    assert auth_string is not None
    return auth_string.partition(":")[2]


@pytest.mark.parametrize("before", ["", "a", "ab", "admin:", "?>"])
def test_search_finds_a_value_in_base64_wherever_it_stands(before: str) -> None:
    import base64

    value = new_value()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        content = encode(f"{before}{value}~~".encode())
        assert where(value, [("here", content)]) == {"here"}
    assert all(len(spelling) > len(value) / 2 for spelling in spellings(value))


def test_planted_values_are_where_ecs_injects_them_and_nowhere_else(planted: Planted) -> None:
    run = planted.start()
    planted.wait_for_gate(run)
    places = list(everywhere(planted.app))  # while they are in use
    planted.completes(run)
    assert planted.handed(run) == planted.hashes()
    places += everywhere(planted.app)  # and what is left of it

    names = {name for name, _ in places}
    run_tasks = [content for name, content in places if name == "request RunTask"]
    assert any(str(run).encode() in content for content in run_tasks)
    assert {
        "queue listener",
        "file prefect-server/prefect.db",
        "file out/manifest.json",
        "template PrefectEmbedded-Execution",
        "Prefect's flow runs",
    } <= names
    assert any(b"ECS Task State Change" in content for name, content in places if name == "queue listener")

    in_a_flow_run = {"environment of a flow run", HANDED_ON}
    found = [
        where(password_of(planted.app.server.auth_string), places),
        *(where(planted.values[name], places) for name in FLOW_SECRETS),
    ]
    assert found == [
        {"environment of the Prefect server", "environment of the worker", *in_a_flow_run, "request CreateSecret"},
        {*in_a_flow_run, "request CreateSecret"},
        {*in_a_flow_run, "request PutParameter"},
    ]


def test_flow_secrets_are_read_by_every_run_anew(planted: Planted) -> None:
    before = planted.hashes()
    planted.store_password()
    planted.store_token()
    run = planted.start()
    planted.completes(run)
    assert planted.handed(run) == planted.hashes()
    assert not planted.hashes() & before


def test_changed_credential_is_used_by_worker_flow_runs_and_lazarus_without_a_deployment(planted: Planted) -> None:
    app = planted.app
    under_way = planted.start()
    first = planted.wait_for_gate(under_way)
    old_workers = {task.arn for task in planted.workers()}
    lines, own_lines = len(planted.worker_log()), len(planted.lazarus_log())
    changed = f"admin:{new_value()}"

    # The server takes another one, and nobody has been told.
    app.server.change_auth_string(changed)
    app.prefect = SyncPrefectClient(app.server.api_url, auth_string=changed)
    rejected = planted.wait_for_line(planted.worker_log, "The worker does not start", lines)
    api = f"the Prefect API at {app.server.api_url}"
    assert rejected == (
        f"The worker does not start: {planted.api_source} was rejected by {api} (401). {STARTS_BY_ITSELF}"
    )
    planted.wait_for_line(
        planted.lazarus_log, f"rejected the credential read from {planted.api_source} (401)", own_lines
    )

    # Told, and nothing else done.
    planted.store("api", {"user": "admin", "auth": changed})
    planted.wait_for_worker(old_workers)
    other = planted.start()
    planted.completes(other)
    assert app.attempts(other)[0].started_at is not None

    # The run that was under way lost its connection. Lazarus, with the new credential, has it go on where it was.
    planted.completes(under_way)
    attempts = app.attempts(under_way)
    assert [attempts[0].arn, len(attempts)] == [first.arn, 2]
    assert any(line.startswith("Lazarus: (failure) its container exited") for line in planted.log_of(under_way))
    for value in (password_of(changed), changed):
        assert not any(value in line for line in [*planted.worker_log(), *planted.lazarus_log()])


def test_documented_command_replaces_the_worker(planted: Planted) -> None:
    old = {task.arn for task in planted.workers()}
    deployment = planted.force_new_deployment()
    worker = planted.wait_for_worker(old)
    wait_for("the deployment to complete", lambda: planted.rollout(deployment) == "COMPLETED" or None, LONG)
    assert planted.wanted() == worker.arn


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"user": "admin"}, None),
        ({"auth": ""}, "is empty."),
        ({"auth": "admin:pass\n"}, "has a line break or another control character in it, and is used as it is: store"),
    ],
    ids=["missing", "empty", "line break"],
)
def test_wrong_credential_is_named_and_the_old_worker_stays(
    planted: Planted, fields: dict[str, str], reason: str | None
) -> None:
    old = planted.wanted()
    lines = len(planted.worker_log())
    right = str(planted.app.server.auth_string)
    planted.store("api", fields)
    try:
        deployment = planted.force_new_deployment()
        wait_for("the deployment to fail", lambda: planted.rollout(deployment) == "FAILED" or None, LONG)
        assert planted.wanted() == old
        if reason is None:
            # Its container was never started, so ECS says it.
            assert planted.workers()[-1].stopped_reason == (
                "ResourceInitializationError: unable to pull secrets or registry auth: unable to retrieve secret from "
                "asm: retrieved secret from Secrets Manager did not contain json key auth"
            )
        else:
            line = planted.wait_for_line(planted.worker_log, "The worker does not start", lines)
            assert line.startswith(f"The worker does not start: {planted.api_source} {reason}")
            assert line.endswith(STARTS_BY_ITSELF)
    finally:
        planted.store("api", {"user": "admin", "auth": right})


def test_run_whose_secret_is_missing_says_so_in_its_log_and_runs_when_it_is_there(planted: Planted) -> None:
    planted.app.aws.client("ssm").delete_parameter(Name=TOKEN_PARAMETER)
    run = planted.start()
    planted.lazarus_log()  # wakes it; so do ECS's events
    line = wait_for(
        "Lazarus to say why",
        lambda: next((line for line in planted.log_of(run) if line.startswith("Lazarus: (failure)")), None),
        LONG,
    )
    assert "its task could not start (ResourceInitializationError: unable to pull secrets or registry auth" in line
    assert f"parameter{TOKEN_PARAMETER}" in line
    planted.store_token()
    planted.completes(run)
    assert planted.handed(run) == planted.hashes()


def test_function_of_the_work_pool_uses_the_changed_credential_too(planted: Planted) -> None:
    planted.app.delete_deployments()
    planted.cdk("destroy")
    assert planted.app.stacks() == []
    assert planted.app.prefect.read_work_pools() == []
