"""A Prefect server of one's own, deployed: a real server on a real PostgreSQL, found by its private name."""

import asyncio
import base64
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, WorkerStatus

from embedded import EmbeddedAws, run_cdk
from embedded.aws import Task
from embedded.cdk import bootstrap
from embedded.deployed import bucket_objects, wait_for
from embedded.emulator import postgres
from embedded.emulator.cloudformation.database_type import CA_FILE

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
APP = HERE / "apps" / "own_server.py"
STACKS = ("Own-Data", "Own-Server", "Own-Flows")
LONG = 120.0


@dataclass(frozen=True)
class Deployed:
    """The three stacks, on an embedded AWS that has no other Prefect server."""

    aws: EmbeddedAws
    outputs: dict[str, str]

    def secret(self, name: str) -> str:
        found = self.aws.client("secretsmanager").get_secret_value(SecretId=self.outputs[name])
        return str(found["SecretString"])

    def addresses(self) -> list[str]:
        """What Cloud Map answers for the server's name."""
        label, _, zone = str(urlsplit(self.outputs["ApiUrl"]).hostname).partition(".")
        names = self.aws.client("servicediscovery")
        (namespace,) = names.list_namespaces()["Namespaces"]
        (service,) = names.list_services()["Services"]
        assert (service["Name"], namespace["Name"]) == (label, zone)
        found = names.list_instances(ServiceId=service["Id"])["Instances"]
        return [instance["Attributes"]["AWS_INSTANCE_IPV4"] for instance in found]

    def address(self) -> str:
        def one() -> str | None:
            found = self.addresses()
            return found[0] if len(found) == 1 else None

        return wait_for("the server to be registered", one, LONG)

    def api_url(self) -> str:
        parts = urlsplit(self.outputs["ApiUrl"])
        return parts._replace(netloc=f"{self.address()}:{parts.port}").geturl()

    def prefect(self) -> SyncPrefectClient:
        """A client of the server, wherever it is now."""
        return SyncPrefectClient(self.api_url(), auth_string=self.secret("AuthSecret"))

    def status(self, path: str, credential: str | None) -> int:
        request = urllib.request.Request(self.api_url() + path)  # noqa: S310
        if credential is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(credential.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def server_tasks(self) -> list[Task]:
        return [t for t in self.aws.tasks(self.outputs["Cluster"]) if t.last_status == "RUNNING"]

    def wait_for_worker(self) -> None:
        def online() -> bool | None:
            workers = self.prefect().read_workers_for_work_pool("own")
            return any(worker.status == WorkerStatus.ONLINE for worker in workers) or None

        wait_for("the worker to be online", online, LONG)

    def start(self) -> UUID:
        """Start a run of the gated flow."""
        code = {"bucket": self.outputs["Bucket"], "folder": "code/gated"}
        source = (HERE / "flows" / "gated.py").read_bytes()
        self.aws.client("s3").put_object(Bucket=self.outputs["Bucket"], Key="code/gated/gated.py", Body=source)
        prefect = self.prefect()
        deployment = prefect.create_deployment(
            flow_id=prefect.create_flow_from_name("gated"),
            name="own",
            work_pool_name="own",
            entrypoint="gated.py:gated",
            pull_steps=[{"prefect_aws.deployments.steps.pull_from_s3": code}],
            enforce_parameter_schema=False,
        )
        return prefect.create_flow_run_from_deployment(deployment, parameters={"bucket": self.outputs["Bucket"]}).id

    def attempts(self, run: UUID) -> list[Task]:
        return [task for task in self.aws.tasks() if task.flow_run_id == str(run)]

    def wait_for_gate(self, run: UUID, attempt: int) -> Task:
        prefix = f"data/gated/{run}/reached/"
        wait_for(
            f"attempt {attempt} to reach its gate",
            lambda: len(bucket_objects(self.aws, self.outputs["Bucket"], prefix)) >= attempt or None,
            LONG,
        )
        return self.attempts(run)[-1]

    def open(self, run: UUID) -> None:
        self.aws.client("s3").put_object(Bucket=self.outputs["Bucket"], Key=f"data/gated/{run}/open", Body=b"")

    def end_of(self, run: UUID) -> FlowRun:
        def ended() -> FlowRun | None:
            found = self.prefect().read_flow_run(run)
            return found if found.state and found.state.is_final() else None

        return wait_for("the run to end", ended, LONG)

    def query(self, sql: str, **options: Any) -> list[Any]:
        """Ask the database, as the user of the server."""
        login = json.loads(self.secret("DatabaseSecret"))

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(
                host=login["host"],
                port=login["port"],
                user=login["username"],
                password=login["password"],
                database=login["dbname"],
                **options,
            )
            try:
                return list(await connection.fetch(sql))
            finally:
                await connection.close()

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def own() -> Iterator[Deployed]:
    assert postgres.is_installed(), "there is no PostgreSQL to start: say make test-slow, which installs one"
    with EmbeddedAws.start() as aws:
        bootstrap(aws)
        out = str(aws.directory / "own.out")
        run_cdk(
            ["deploy", "--all", "--output", out],
            aws=aws,
            cwd=aws.directory,
            app=f"{sys.executable} {APP}",
            env={"DATABASE_CA": str(aws.directory / CA_FILE), "PYTHONPATH": str(ROOT)},
        )
        cloudformation = aws.client("cloudformation")
        outputs = {
            output["OutputKey"]: output["OutputValue"]
            for name in STACKS
            for output in cloudformation.describe_stacks(StackName=name)["Stacks"][0].get("Outputs", [])
        }
        yield Deployed(aws, outputs)
        run_cdk(["destroy", "--all"], aws=aws, cwd=aws.directory, app=out)
        assert list((aws.directory / "emulator" / "databases").iterdir()) == []
        assert (aws.directory / "emulator" / "hosts").read_text() == ""


def test_the_worker_is_online_by_the_private_name(own: Deployed) -> None:
    own.wait_for_worker()
    assert own.outputs["ApiUrl"] == "http://prefect.own-server-server.internal:4200/api"
    (task,) = own.server_tasks()
    assert (task.capacity_provider, task.health_status) == ("FARGATE", "HEALTHY")


def test_the_server_knows_its_database_by_its_certificate(own: Deployed) -> None:
    connections = own.query(
        "SELECT ssl.ssl, ssl.version FROM pg_stat_ssl ssl JOIN pg_stat_activity USING (pid) "
        "WHERE usename = current_user AND pid <> pg_backend_pid()"
    )
    assert connections
    assert {(row["ssl"], row["version"]) for row in connections} == {(True, "TLSv1.3")}
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        own.query("SELECT 1", ssl=False)
    (version,) = own.query("SHOW server_version_num")
    assert version["server_version_num"].startswith("17")


def test_nobody_gets_in_without_the_credential(own: Deployed) -> None:
    assert own.status("/health", None) == 200
    assert own.status("/work_pools/own", None) == 401
    assert own.status("/work_pools/own", "admin:guessed") == 401
    assert own.status("/work_pools/own", own.secret("AuthSecret")) == 200


def test_the_ui_asks_the_server_that_it_came_from(own: Deployed) -> None:
    with urllib.request.urlopen(own.api_url().removesuffix("/api") + "/ui-settings", timeout=30) as answer:  # noqa: S310
        settings = json.load(answer)
    assert settings["api_url"] == "/api", "also through a forwarded port, where its private name means nothing"
    assert settings["auth"] == "BASIC"


def test_security_groups_let_in_who_calls_and_nobody_else(own: Deployed) -> None:
    groups = own.aws.client("ec2").describe_security_groups()["SecurityGroups"]
    by_id = {group["GroupId"]: group for group in groups}

    def let_in(name: str) -> set[tuple[int, str]]:
        return {
            (rule["FromPort"], by_id[pair["GroupId"]]["Description"])
            for rule in by_id[own.outputs[name]]["IpPermissions"]
            for pair in rule["UserIdGroupPairs"]
        }

    for name in ("ServerGroup", "DatabaseGroup"):
        assert all(rule["IpRanges"] == [] for rule in by_id[own.outputs[name]]["IpPermissions"])
    assert let_in("DatabaseGroup") == {(5432, "Prefect server: its API to those that are connected")}
    callers = let_in("ServerGroup")
    functions = {caller for caller in callers if "Lambda Function" in caller[1]}
    assert len(functions) == 2
    assert callers - functions == {(4200, "Prefect flow runs: no ingress"), (4200, "Prefect worker: no ingress")}


def test_no_secret_is_in_a_template_or_a_task_definition(own: Deployed) -> None:
    secrets = [own.secret("AuthSecret"), json.loads(own.secret("DatabaseSecret"))["password"]]
    cloudformation, ecs = own.aws.client("cloudformation"), own.aws.client("ecs")
    texts = [json.dumps(cloudformation.get_template(StackName=name)["TemplateBody"]) for name in STACKS]
    for arn in ecs.list_task_definitions()["taskDefinitionArns"]:
        texts.append(json.dumps(ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"], default=str))
    assert len(texts) > len(STACKS)
    assert not [secret for secret in secrets for text in texts if secret in text]


def test_an_interrupted_run_goes_on_by_lazarus(own: Deployed) -> None:
    run = own.start()
    own.aws.interrupt(own.wait_for_gate(run, 1).arn)
    second = own.wait_for_gate(run, 2)
    own.open(run)
    assert own.end_of(run).state_name == "Completed"
    assert own.attempts(run) != [second]
    executed = bucket_objects(own.aws, own.outputs["Bucket"], f"data/gated/{run}/executed/")
    assert len(executed) == 3, "no step was executed twice"


def test_what_the_server_knows_survives_it(own: Deployed) -> None:
    run = own.start()
    own.wait_for_gate(run, 1)
    (before,) = own.server_tasks()
    address = own.address()
    own.aws.client("ecs").stop_task(cluster=own.outputs["Cluster"], task=before.arn, reason="a test")
    wait_for("the server to be replaced", lambda: own.addresses() not in ([], [address]) or None, LONG)
    (after,) = own.server_tasks()
    assert after.arn != before.arn
    assert own.prefect().read_work_pool("own").type == "ecs"
    own.open(run)
    assert own.end_of(run).state_name == "Completed"
    # The run went on without a server, and so did the worker, which finds the new one by the name.
    own.wait_for_worker()
    again = own.start()
    own.open(again)
    assert own.end_of(again).state_name == "Completed"
