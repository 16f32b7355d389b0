"""The app as deployed to an embedded AWS: what the demo and the integration tests do with it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRun, WorkerStatus, WorkPool

from embedded import launching
from embedded.aws import EmbeddedAws, Task
from embedded.cdk import bootstrap, run_cdk
from embedded.errors import EmbeddedError
from embedded.prefect_server import PrefectServer
from stacks.environments import EMBEDDED_AUTH_PARAMETER, environment
from tools import deploy_flows

ENVIRONMENT = "embedded"
STACKS = ("PrefectEmbedded-Foundation", "PrefectEmbedded-Execution")

_Found = TypeVar("_Found")


class DeployedApp:
    """This repository's app, deployed to an embedded AWS with the real CDK CLI."""

    def __init__(self, aws: EmbeddedAws, server: PrefectServer) -> None:
        self.aws = aws
        self.server = server
        self._assembly = aws.directory / "cdk.out"
        self.prefect = SyncPrefectClient(server.api_url, auth_string=server.auth_string)

    @classmethod
    @contextmanager
    def undeployed(cls) -> Iterator[Self]:
        """An embedded AWS, bootstrapped, and a Prefect server whose credential is stored; nothing is deployed."""
        with EmbeddedAws.start() as aws, PrefectServer.start() as server:
            app = cls(aws, server)
            app.store_secret()
            app.bootstrap()
            yield app

    # Deploying

    def store_secret(self) -> None:
        """Store the server's auth string where the app expects it, as a user would before the first deployment."""
        self.aws.client("ssm").put_parameter(
            Name=EMBEDDED_AUTH_PARAMETER, Value=self.server.auth_string, Type="SecureString", Overwrite=True
        )

    def bootstrap(self) -> None:
        """`cdk bootstrap`."""
        bootstrap(self.aws)

    def deploy(self) -> str:
        """`cdk deploy`, as `make deploy` does it; returns what the CLI printed."""
        return self.cdk("deploy", "--strict").stdout

    def deploy_all(self) -> Self:
        """Deploy the app and its flows; its worker is online when this returns."""
        self.deploy()
        self.wait_for_worker()
        self.deploy_flows()
        return self

    def destroy(self) -> str:
        """`cdk destroy` of what was deployed last; returns what the CLI printed."""
        return self.cdk("destroy", "--app", str(self._assembly)).stdout

    def cdk(self, command: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the CDK CLI on all stacks of the app."""
        return run_cdk(
            [command, "**", "-c", f"env={ENVIRONMENT}", "--output", str(self._assembly), *options],
            aws=self.aws,
            cwd=launching.ROOT,
            env={"PREFECT_API_URL": self.server.api_url},
            check=check,
        )

    def stacks(self) -> list[str]:
        """Names of the stacks that exist."""
        summaries = self.aws.client("cloudformation").describe_stacks()["Stacks"]
        return [stack["StackName"] for stack in summaries if stack["StackName"] in STACKS]

    def outputs(self) -> dict[str, str]:
        """Outputs of all stacks, by their names."""
        cloudformation = self.aws.client("cloudformation")
        return {
            output["OutputKey"]: output["OutputValue"]
            for name in STACKS
            for output in cloudformation.describe_stacks(StackName=name)["Stacks"][0].get("Outputs", [])
        }

    def resources(self) -> list[dict[str, Any]]:
        """Every resource of every stack, as CloudFormation lists them."""
        pages = self.aws.client("cloudformation").get_paginator("list_stack_resources")
        return [
            summary
            for name in STACKS
            for page in pages.paginate(StackName=name)
            for summary in page["StackResourceSummaries"]
        ]

    # Prefect

    def work_pool(self) -> WorkPool:
        """The work pool that the deployment made."""
        return self.prefect.read_work_pool(self.outputs()["WorkPoolName"])

    def wait_for_worker(self, timeout: float = 90) -> str:
        """Wait until the worker that the ECS service started polls the pool; returns its name."""
        pool = self.outputs()["WorkPoolName"]

        def online() -> str | None:
            workers = self.prefect.read_workers_for_work_pool(pool)
            return next((worker.name for worker in workers if worker.status == WorkerStatus.ONLINE), None)

        return wait_for("the worker to be online", online, timeout)

    def deploy_flows(self) -> str:
        """`prefect deploy --all`: upload the flows' code and create their deployments."""
        variables = {**os.environ, **self.aws.environment(), **self.server.environment()}
        try:
            target = deploy_flows.find_target(environment(ENVIRONMENT), self.aws.client("cloudformation"))
            return deploy_flows.deploy(target, variables, capture=True).stdout
        except deploy_flows.FlowDeploymentError as error:
            raise EmbeddedError(str(error)) from error

    def start_run(
        self,
        deployment: str,
        parameters: Mapping[str, Any] | None = None,
        job_variables: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> FlowRun:
        """Start a run of a deployment (`flow/deployment`)."""
        return self.prefect.create_flow_run_from_deployment(
            self.prefect.read_deployment_by_name(deployment).id,
            name=name,
            parameters=dict(parameters or {}),
            job_variables=dict(job_variables) if job_variables else None,
        )

    def wait_for_final_state(self, run_id: UUID, timeout: float = 180) -> FlowRun:
        """Wait until a run has ended, however it did."""

        def final() -> FlowRun | None:
            run = self.prefect.read_flow_run(run_id)
            return run if run.state and run.state.is_final() else None

        return wait_for(f"flow run {run_id} to end", final, timeout)

    def task_runs(self, run_id: UUID) -> list[TaskRun]:
        """The task runs of a flow run, in the order they began."""
        runs = self.prefect.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])), limit=200)
        return sorted(runs, key=lambda run: run.expected_start_time or run.created)  # type: ignore[arg-type,return-value]

    def delete_deployments(self) -> None:
        """Delete every deployment, so that the work pool goes with its stack."""
        for deployment in self.prefect.read_deployments():
            self.prefect.delete_deployment(deployment.id)

    # ECS

    def attempts(self, run_id: UUID) -> list[Task]:
        """The ECS tasks that executed a flow run, oldest first."""
        return [task for task in self.aws.tasks() if task.flow_run_id == str(run_id)]

    def wait_for_attempt(self, run_id: UUID, number: int = 1, timeout: float = 90) -> Task:
        """Wait until the run's nth ECS task is running."""

        def running() -> Task | None:
            attempts = self.attempts(run_id)
            return next((t for t in attempts[number - 1 : number] if t.last_status == "RUNNING"), None)

        return wait_for(f"attempt {number} of flow run {run_id} to be running", running, timeout)

    def interrupt_attempt(
        self, run_id: UUID, number: int, *, when: Callable[[dict[str, int]], bool], notice: bool = True
    ) -> Task:
        """Let Spot take the machine of the run's nth ECS task, once the tasks that have finished are as wanted.

        :param when: Called with what `finished` counts, until it agrees.
        :param notice: Whether the machine goes with notice and SIGTERM, or without a word.
        :return: The task, stopped.
        """
        task = self.wait_for_attempt(run_id, number)
        wait_for("enough tasks to finish", lambda: when(finished(self.task_runs(run_id))) or None, 90)
        self.aws.interrupt(task.arn, notice=notice)

        def stopped() -> Task | None:
            return next((t for t in self.attempts(run_id) if t.arn == task.arn and t.stopped_at), None)

        return wait_for("the interrupted task to stop", stopped, 150)

    def describe_task(self, task: Task) -> dict[str, Any]:
        """What ECS says of a task."""
        found = self.aws.client("ecs").describe_tasks(cluster=task.cluster, tasks=[task.arn], include=["TAGS"])
        described: dict[str, Any] = found["tasks"][0]
        return described


def finished(task_runs: Sequence[TaskRun]) -> dict[str, int]:
    """How often each task was executed to its end: one whose result was loaded instead is Cached, not Completed."""
    counts: dict[str, int] = {}
    for run in task_runs:
        if run.state_name == "Completed":
            counts[run.name] = counts.get(run.name, 0) + 1
    return counts


def wait_for(what: str, probe: Callable[[], _Found | None], timeout: float, interval: float = 0.2) -> _Found:
    """Ask again and again until there is an answer.

    :raises EmbeddedError: None came within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = probe()
        if found is not None:
            return found
        time.sleep(interval)
    raise EmbeddedError(f"waited {timeout:.0f} s for {what}")


def bucket_objects(aws: EmbeddedAws, bucket: str, prefix: str) -> list[str]:
    """Keys of the objects below a prefix."""
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]
