"""Lazarus for real: the deployed function, queue and schedule, a real Prefect server and worker, IAM enforced.

Runs of the flow in flows/gated.py wait at a gate until a test opens it, so each is interrupted exactly where the test
wants it. Nothing here depends on how fast the machine is: the limits of time are for hangs only.
"""

import base64
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, Log, State, StateType, TaskRun
from prefect.client.schemas.sorting import LogSort
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Paused, Pending, Running, Scheduled

from cdk_prefect_ecs.functions.lazarus_world import FlowRuns
from cdk_prefect_ecs.functions.prefect_api import PrefectApiClient
from embedded import run_cdk
from embedded.aws import Task
from embedded.deployed import DeployedApp, bucket_objects, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FLOW = HERE / "flows" / "gated.py"
DEPLOYMENT = "gated/lazarus"
# Its code is at the same place for every task, as it is in an image. Prefect knows a subflow of an earlier attempt by
# the place of its code among other things.
BAKED = "gated/lazarus-baked"
MARK = "Lazarus: "
PARKED, RESCHEDULED = "Rescheduling", "Late"
# Short enough for a test; a worker that shares its machine with everything else still starts a task within it.
VARIANT = {
    "pool": {"max_reschedules": 1, "patience_seconds": 25},
    "monitoring": {"alarm_email": "on-call@example.com"},
}
ON_DEMAND = {"capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 1, "base": 0}]}
LONG = 240.0
#: Metrics of what Lazarus finds, not of what it does.
OBSERVED = ("WorkersOnline", "SecondsWaiting", "TasksOnSpot", "TasksOnDemand")
STEPS = {"one": 1, "two": 1, "three": 1}


@dataclass(frozen=True)
class Guard:
    """The app with a Lazarus, and what a test may do to it."""

    app: DeployedApp
    bucket: str
    pool: str
    cluster: str
    function: str
    log_group: str
    queue: str
    service: str
    dashboard: str
    pager: str
    """A queue that hears of every alarm, as who is on call would."""
    emulator_log_begins: int

    @classmethod
    def of(cls, app: DeployedApp, emulator_log_begins: int) -> "Guard":
        outputs = app.outputs()
        mine = {
            summary["ResourceType"]: summary["PhysicalResourceId"]
            for summary in app.resources()
            if summary["LogicalResourceId"].startswith(("PrefectLazarusFunction", "PrefectLazarusTaskEventsQueue"))
        }
        function = mine["AWS::Lambda::Function"]
        configuration = app.aws.client("lambda").get_function_configuration(FunctionName=function)
        return cls(
            app,
            bucket=outputs["BucketName"],
            pool=outputs["WorkPoolName"],
            cluster=outputs["ClusterName"],
            function=function,
            log_group=configuration["LoggingConfig"]["LogGroup"],
            queue=mine["AWS::SQS::Queue"],
            service=outputs["WorkerServiceName"],
            dashboard=outputs["DashboardName"],
            pager=subscribed_queue(app, outputs["AlarmTopicArn"]),
            emulator_log_begins=emulator_log_begins,
        )

    def start(
        self,
        *,
        nested: bool = False,
        background: bool = False,
        state: State | None = None,
        job_variables: Mapping[str, Any] | None = None,
    ) -> "Gated":
        """Start a run of the gated flow, or make one that is in this state already."""
        deployment = self.app.prefect.read_deployment_by_name(BAKED if nested else DEPLOYMENT)
        run = self.app.prefect.create_flow_run_from_deployment(
            deployment.id,
            parameters={"bucket": self.bucket, "nested": nested, "background": background},
            job_variables=dict(job_variables) if job_variables else None,
            state=state,
        )
        return Gated(self, run.id)

    def look(self) -> None:
        """Wake Lazarus, as its schedule does every minute."""
        client = self.app.aws.client("lambda")
        with suppress(client.exceptions.TooManyRequestsException):  # it is at it already: its concurrency is 1
            answer = client.invoke(FunctionName=self.function, Payload=b"{}")
            assert "FunctionError" not in answer, answer["Payload"].read()

    def log(self) -> list[str]:
        """Every line that the function logged."""
        pages = self.app.aws.client("logs").get_paginator("filter_log_events")
        return [
            event["message"] for page in pages.paginate(logGroupName=self.log_group) for event in page.get("events", [])
        ]

    def metrics(self) -> Counter[str]:
        """Sums of what it did, over all lines of CloudWatch's embedded format."""
        sums: Counter[str] = Counter()
        for line in self.log():
            if line.startswith('{"_aws"'):
                values = json.loads(line)
                (definition,) = values["_aws"]["CloudWatchMetrics"]
                assert (definition["Dimensions"], values["WorkPool"]) == ([["WorkPool"]], self.pool)
                for metric in definition["Metrics"]:
                    if metric["Name"] in OBSERVED:
                        continue
                    value = values[metric["Name"]]
                    sums[metric["Name"]] += len(value) if isinstance(value, list) else value
        return sums

    def alarm(self, name: str) -> dict[str, Any]:
        """An alarm, by its id."""
        alarms = self.app.aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
        (alarm,) = [alarm for alarm in alarms if re.search(rf"{name}[0-9A-F]{{8}}\b", alarm["AlarmName"])]
        return dict(alarm)

    def wait_for_alarm(self, name: str, state: str) -> dict[str, Any]:
        """Wait until an alarm is in a state; returns what it tells its topic about that."""
        wait_for(f"alarm {name} to be {state}", lambda: self.alarm(name)["StateValue"] == state or None, LONG)

        def heard() -> dict[str, Any] | None:
            answer = self.app.aws.client("sqs").receive_message(QueueUrl=self.pager, MaxNumberOfMessages=10)
            for message in answer.get("Messages", []):
                told = json.loads(json.loads(message["Body"])["Message"])
                self.app.aws.client("sqs").delete_message(QueueUrl=self.pager, ReceiptHandle=message["ReceiptHandle"])
                if (told["AlarmName"], told["NewStateValue"]) == (self.alarm(name)["AlarmName"], state):
                    return dict(told)
            return None

        return wait_for(f"somebody to hear that {name} is {state}", heard, LONG)

    def widgets(self, kind: str) -> list[dict[str, Any]]:
        """The properties of the dashboard's widgets of a kind."""
        answer = self.app.aws.client("cloudwatch").get_dashboard(DashboardName=self.dashboard)
        return [each["properties"] for each in json.loads(answer["DashboardBody"])["widgets"] if each["type"] == kind]

    def send(self, event: Mapping[str, Any]) -> None:
        """Put an event into Lazarus's queue once more."""
        self.app.aws.client("sqs").send_message(QueueUrl=self.queue, MessageBody=json.dumps(event, default=str))

    def wait_until_queue_is_empty(self) -> None:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

        def empty() -> bool | None:
            answer = self.app.aws.client("sqs").get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)
            return all(answer["Attributes"][name] == "0" for name in names) or None

        wait_for("Lazarus to have read its queue", empty, LONG)

    @contextmanager
    def without_events(self) -> Iterator[None]:
        """Task events stay in the queue, and come late."""
        client = self.app.aws.client("lambda")
        (mapping,) = client.list_event_source_mappings(FunctionName=self.function)["EventSourceMappings"]
        client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        try:
            yield
        finally:
            client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)

    @contextmanager
    def without_reserved_concurrency(self) -> Iterator[None]:
        """Two functions may be at it at once."""
        client = self.app.aws.client("lambda")
        client.delete_function_concurrency(FunctionName=self.function)
        try:
            yield
        finally:
            client.put_function_concurrency(FunctionName=self.function, ReservedConcurrentExecutions=1)

    @contextmanager
    def without_spot(self, *, fail_after_start: bool = False) -> Iterator[None]:
        """There is no Spot capacity."""
        self.app.aws.set_capacity("FARGATE_SPOT", False, fail_after_start=fail_after_start)
        try:
            yield
        finally:
            self.app.aws.set_capacity("FARGATE_SPOT", True)

    @contextmanager
    def without_worker(self) -> Iterator[None]:
        """The worker's machine is gone, and the service starts no other."""
        ecs = self.app.aws.client("ecs")
        ecs.update_service(cluster=self.cluster, service=self.service, desiredCount=0)
        for worker in self.workers():
            self.app.aws.interrupt(worker.arn, notice=False)
        try:
            wait_for("the worker to be gone", lambda: not self.workers() or None, LONG)
            yield
        finally:
            ecs.update_service(cluster=self.cluster, service=self.service, desiredCount=1)
        self.wait_for_worker()

    def workers(self) -> list[Task]:
        tasks = self.app.aws.tasks(self.cluster)
        return [task for task in tasks if task.group.startswith("service:") and task.last_status != "STOPPED"]

    def wait_for_worker(self, besides: Collection[str] = ()) -> None:
        def healthy() -> bool | None:
            return any(w.health_status == "HEALTHY" and w.arn not in besides for w in self.workers()) or None

        wait_for("a healthy worker", healthy, LONG)

    @contextmanager
    def without_api(self) -> Iterator[None]:
        """The Prefect server accepts connections and answers nothing."""
        os.killpg(self.app.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.app.server.pid, signal.SIGCONT)


@dataclass(frozen=True)
class Gated:
    """A run of the gated flow."""

    guard: Guard
    id: UUID

    @property
    def app(self) -> DeployedApp:
        return self.guard.app

    @property
    def run(self) -> FlowRun:
        return self.app.prefect.read_flow_run(self.id)

    @property
    def attempts(self) -> list[Task]:
        return self.app.attempts(self.id)

    def objects(self, prefix: str) -> list[str]:
        return bucket_objects(self.app.aws, self.guard.bucket, f"data/gated/{self.id}/{prefix}/")

    def executed(self) -> dict[str, int]:
        """How often each step was executed, by its own record."""
        return dict(Counter(key.split("/")[-2] for key in self.objects("executed")))

    def wait_for_gate(self, attempt: int = 1) -> Task:
        """Wait until this attempt is at the gate; returns its task."""

        def reached() -> bool | None:
            state = self.run.state
            assert state is not None
            assert not state.is_final(), f"{state.name}: {state.message}"
            return len(self.objects("reached")) >= attempt or None

        wait_for(f"attempt {attempt} of {self.id} to reach the gate", reached, LONG)
        (task,) = [task for task in self.attempts if task.last_status == "RUNNING"]
        return task

    def interrupt(self, task: Task, *, notice: bool = True) -> None:
        self.app.aws.interrupt(task.arn, notice=notice)

    def wait_until_stopped(self, task: Task) -> Task:
        def stopped() -> Task | None:
            return next((t for t in self.attempts if t.arn == task.arn and t.last_status == "STOPPED"), None)

        return wait_for(f"task {task.id} to stop", stopped, LONG)

    def open(self) -> None:
        self.app.aws.client("s3").put_object(
            Bucket=self.guard.bucket, Key=f"data/gated/{self.id}/open", Body=b"", ContentType="text/plain"
        )

    def states(self) -> list[State]:
        return sorted(self.app.prefect.read_flow_run_states(self.id), key=lambda state: state.timestamp)

    def wait_for_states(self, name: str, count: int = 1, *, knock: bool = False) -> None:
        """Wait until the run has been in this state so often.

        :param knock: Wake Lazarus while waiting: nothing else would, but its schedule, within a minute.
        """

        def seen() -> bool | None:
            if knock:
                self.guard.look()
            return sum(state.name == name for state in self.states()) >= count or None

        wait_for(f"run {self.id} to be {name} {count} times", seen, LONG, interval=1.0 if knock else 0.2)

    def end(self, *, knock: bool = False) -> FlowRun:
        """Wait until it has ended, and its tasks with it.

        :param knock: Wake Lazarus while waiting.
        """

        def final() -> FlowRun | None:
            if knock:
                self.guard.look()
            run = self.run
            return run if run.state and run.state.is_final() else None

        run = wait_for(f"run {self.id} to end", final, LONG, interval=1.0 if knock else 0.2)
        for task in self.attempts:  # the process ends a moment after the run
            self.wait_until_stopped(task)
        return run

    def log(self) -> list[Log]:
        """What Lazarus wrote into the run's own log."""
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.id]))
        lines = self.app.prefect.read_logs(wanted, limit=200, sort=LogSort.TIMESTAMP_ASC)
        return [line for line in lines if line.name == "lazarus"]

    def subflows(self) -> list[FlowRun]:
        wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[self.id]))
        return self.app.prefect.read_flow_runs(flow_run_filter=wanted)

    def task_runs(self, name: str) -> list[TaskRun]:
        """Its task runs of a task, and those of its subflows; oldest first."""
        runs = [self.id, *(subflow.id for subflow in self.subflows())]
        wanted = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=runs))
        found = self.app.prefect.read_task_runs(task_run_filter=wanted)
        named = [one for one in found if one.task_key.startswith(f"{name}-")]
        return sorted(named, key=lambda one: one.created or datetime.min.replace(tzinfo=UTC))

    def wait_for_gates(self, *states: str) -> None:
        """Wait until what Prefect believes of each attempt at the gate is this."""

        def seen() -> bool | None:
            return [one.state_name for one in self.task_runs("gate")] == list(states) or None

        wait_for(f"the gates of {self.id} to be {states}", seen, LONG)

    def completes(
        self,
        *causes: str,
        attempts: int | None = None,
        steps: Mapping[str, int] = STEPS,
        parked_together: bool = False,
    ) -> list[Task]:
        """Check that it completes after having been rescheduled for these causes, without any work done twice.

        :returns: Its ECS tasks.
        """
        run = self.end()
        assert run.state is not None
        assert run.state.name == "Completed", f"{run.state.name}: {run.state.message}"
        assert self.executed() == steps
        tasks = self.attempts
        assert len(tasks) == (len(causes) + 1 if attempts is None else attempts)
        for elder, younger in pairwise(tasks):
            assert elder.stopped_at is not None
            assert elder.stopped_at <= younger.created_at, "two tasks executed the run at once"
        assert (run.infrastructure_pid or "").rpartition("::")[2] == tasks[-1].arn
        self.check_interventions(*causes, parked_together=parked_together)
        return tasks

    def check_interventions(self, *causes: str, parked_together: bool = False) -> None:
        """Check states and log: each intervention is a pair of states and one line, and says why."""
        states = [state for state in self.states() if (state.message or "").startswith(MARK)]
        if parked_together:  # by two functions at once; one of them, and only one, goes on
            states = [state for i, state in enumerate(states) if i == 0 or state.name != states[i - 1].name]
        assert [state.name for state in states] == [PARKED, RESCHEDULED] * len(causes)
        messages = [state.message or "" for state in states[1::2]]
        assert [state.message for state in states[::2]] == messages
        for cause, message in zip(causes, messages, strict=True):
            assert message.startswith(f"{MARK}({cause}) ")
        # The line is written after the state is set.
        lines = [line.message for line in wait_for("the lines", lambda: self._lines(len(causes)), LONG)]
        assert [line.partition("\n")[0] for line in lines] == messages

    def _lines(self, count: int) -> list[Log] | None:
        lines = self.log()
        return lines if len(lines) >= count else None


def together(*stories: Callable[[], None]) -> None:
    """Let several stories happen at once."""
    with ThreadPoolExecutor(len(stories)) as pool:
        for story in [pool.submit(story) for story in stories]:
            story.result()


def subscribed_queue(app: DeployedApp, topic: str) -> str:
    """A queue that a topic's messages go to."""
    sqs = app.aws.client("sqs")
    queue: str = sqs.create_queue(QueueName="pager")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    app.aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return queue


@pytest.fixture(scope="module")
def guard(undeployed: DeployedApp) -> Iterator[Guard]:
    """The app with limits that suit a test, a worker, and a deployment of the gated flow. It goes with the module."""
    app, out = undeployed, str(undeployed.aws.directory / "lazarus.out")
    # What is in the log already is of a function that was at work while its stack, and its policy, went.
    emulator_log_begins = app.aws.log.stat().st_size
    run_cdk(
        ["deploy", "**", "--output", out],
        aws=app.aws,
        cwd=ROOT,
        app=f"{sys.executable} {HERE / 'apps' / 'variant.py'}",
        env={"PREFECT_API_URL": app.server.api_url, "VARIANT": json.dumps(VARIANT), "PYTHONPATH": str(ROOT)},
    )
    guard = Guard.of(app, emulator_log_begins)
    app.aws.client("s3").upload_file(str(FLOW), guard.bucket, "code/gated/gated.py")
    from_s3 = {"prefect_aws.deployments.steps.pull_from_s3": {"bucket": guard.bucket, "folder": "code/gated"}}
    baked = {"prefect.deployments.steps.set_working_directory": {"directory": str(FLOW.parent)}}
    for name, pull_step in ((DEPLOYMENT, from_s3), (BAKED, baked)):
        app.prefect.create_deployment(
            flow_id=app.prefect.create_flow_from_name("gated"),
            name=name.partition("/")[2],
            work_pool_name=guard.pool,
            entrypoint="gated.py:gated",
            pull_steps=[pull_step],
            enforce_parameter_schema=False,
        )
    guard.wait_for_worker()
    yield guard
    app.delete_deployments()
    run_cdk(["destroy", "**"], aws=app.aws, cwd=ROOT, app=out)


@pytest.fixture(scope="module", autouse=True)
def bystanders(guard: Guard) -> dict[UUID, State]:
    """Runs that are none of Lazarus's business, and their states."""
    prefect = guard.app.prefect
    gated = [
        guard.start(state=state).id
        for state in (
            Completed(),
            Failed(),
            Cancelled(),
            Paused(timeout_seconds=3600),
            Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1)),
            Crashed(message=f"{MARK}given up before"),
        )
    ]
    # A run that somebody executes on a machine of their own has neither pool nor task.
    local = prefect.create_flow_run(Flow(lambda: None, name="local"), state=Running())
    # A pool of another type.
    prefect.create_work_pool(WorkPoolCreate(name="lazarus-other", type="process"))
    elsewhere = prefect.create_deployment(
        flow_id=prefect.create_flow_from_name("elsewhere"), name="d", work_pool_name="lazarus-other"
    )
    other = prefect.create_flow_run_from_deployment(elsewhere, state=Running())
    # A run of this pool that a worker started in another cluster.
    foreign = guard.start(state=Running()).id
    arn = "arn:aws:ecs:us-east-1:000000000000"
    prefect.update_flow_run(foreign, infrastructure_pid=f"{arn}:cluster/another::{arn}:task/another/0123456789abcdef")
    return {
        run_id: prefect.read_flow_run(run_id).state  # type: ignore[misc]
        for run_id in (*gated, local.id, other.id, foreign)
    }


@pytest.fixture(scope="module", autouse=True)
def left_pending(guard: Guard) -> Gated:
    """A run as a worker leaves it that dies between taking it and starting its task. No event will tell of it."""
    run = guard.start(state=Pending())
    run.open()
    return run


# Interrupted


def test_interrupted_runs_go_on_where_they_were(guard: Guard) -> None:
    def hit(*, notice: bool) -> None:
        run = guard.start()
        run.interrupt(run.wait_for_gate(), notice=notice)
        run.wait_for_gate(2)
        run.open()
        first, second = run.completes("interruption")
        assert first.stop_code == "SpotInterruption"
        assert [first.capacity_provider, second.capacity_provider] == ["FARGATE_SPOT", "FARGATE_SPOT"]
        (line,) = run.log()
        assert line.message == f"{MARK}(interruption) Spot took its machine; rescheduled, Spot attempt 1 of 2 lost"
        assert run.run.tags == []
        run.wait_for_gates("Crashed", "Completed")
        first_gate = run.task_runs("gate")[0]
        assert first_gate.state is not None
        # With notice its engine still says so itself.
        by_engine = "Execution was aborted by a termination signal."
        assert first_gate.state.message == (by_engine if notice else line.message)

    def with_a_task_in_the_background() -> None:
        run = guard.start(background=True)
        run.interrupt(run.wait_for_gate())
        run.wait_for_gate(2)
        run.open()
        run.completes("interruption")
        run.wait_for_gates("Crashed", "Completed")
        # A task worker may have it, on a machine of its own.
        assert {errand.state_name for errand in run.task_runs("errand")} == {"Scheduled"}

    def with_a_subflow() -> None:
        run = guard.start(nested=True)
        run.interrupt(run.wait_for_gate())
        run.wait_for_gate(2)
        run.open()
        run.completes("interruption", steps={**STEPS, "inside": 1})
        run.wait_for_gates("Crashed", "Completed")
        (subflow,) = run.subflows()
        assert subflow.state_name == "Completed"

    together(lambda: hit(notice=True), lambda: hit(notice=False), with_a_subflow, with_a_task_in_the_background)


def test_run_that_spot_interrupts_twice_goes_on_demand(guard: Guard) -> None:
    def twice() -> None:
        run = guard.start(job_variables={"cpu": 1024, "memory": 2048})
        run.interrupt(run.wait_for_gate(1))
        run.interrupt(run.wait_for_gate(2), notice=False)
        third = run.wait_for_gate(3)
        run.open()
        # One more than max_reschedules, which interruptions do not use up.
        tasks = run.completes("interruption", "interruption")
        assert [task.capacity_provider for task in tasks] == ["FARGATE_SPOT", "FARGATE_SPOT", "FARGATE"]
        assert (third.cpu, third.memory_mib) == (1024, 2048)
        assert run.run.tags == ["on-demand-fallback"]
        assert run.log()[-1].message.endswith("Spot attempt 2 of 2 lost; switched to on-demand")

    def before_it_began() -> None:
        run = guard.start()

        def started() -> Task | None:
            return next((task for task in run.attempts if task.last_status == "RUNNING"), None)

        run.interrupt(wait_for("the first task", started, LONG, interval=0.02), notice=False)
        run.open()
        run.completes("interruption")

    together(twice, before_it_began)


@pytest.mark.slow
def test_slot_of_a_killed_task_comes_free(guard: Guard) -> None:
    guard.app.prefect.create_concurrency_limit(tag="gate", concurrency_limit=1)
    try:
        run = guard.start()
        run.interrupt(run.wait_for_gate(), notice=False)
        # The dead engine gives nothing back. Lazarus ends its task run, and Prefect takes the slot from it.

        def ended() -> TaskRun | None:
            return next((one for one in run.task_runs("gate") if one.state_name == "Crashed"), None)

        first = wait_for("the killed task run to be ended", ended, LONG)
        assert first.id not in guard.app.prefect.read_concurrency_limit_by_tag("gate").active_slots
        run.wait_for_gate(2)
        run.open()
        run.completes("interruption")
    finally:
        guard.app.prefect.delete_concurrency_limit_by_tag("gate")


# Never started


def test_run_without_spot_capacity_goes_on_demand(guard: Guard) -> None:
    with guard.without_spot():
        run = guard.start()
        run.open()
        # No task, no event: what the worker reports is seen by the schedule.
        run.wait_for_states(RESCHEDULED, 2, knock=True)
        (task,) = run.completes("capacity", "capacity", attempts=1)
        assert task.capacity_provider == "FARGATE"
    assert run.run.tags == ["on-demand-fallback"]
    assert "no capacity for its task" in run.log()[0].message


def test_run_whose_tasks_find_no_machine_goes_on_demand(guard: Guard) -> None:
    with guard.without_spot(fail_after_start=True):
        run = guard.start()
        run.open()
        run.wait_for_states(RESCHEDULED, 2, knock=True)
        tasks = run.completes("capacity", "capacity")
    assert [task.capacity_provider for task in tasks] == ["FARGATE_SPOT", "FARGATE_SPOT", "FARGATE"]
    assert [task.stop_code for task in tasks[:2]] == ["TaskFailedToStart", "TaskFailedToStart"]
    assert "no capacity for its task" in run.log()[0].message


def test_run_whose_container_cannot_start_is_given_up_with_reason_and_log(guard: Guard) -> None:
    def given_up(**job_variables: str) -> tuple[State, list[str]]:
        run = guard.start(job_variables={**job_variables, **ON_DEMAND})
        run.wait_for_states(RESCHEDULED, 1)
        ended = wait_for("it to be given up", lambda: _given_up(run), LONG)
        first, second = run.attempts  # max_reschedules is 1
        assert first.stopped_at is not None
        assert first.stopped_at <= second.created_at
        lines = [line.message for line in wait_for("both lines", lambda: run._lines(2), LONG)]
        assert len(lines) == 2
        assert lines[0].startswith(f"{MARK}(failure) ")
        assert lines[1].startswith(ended.message or "?")
        assert run.run.state == ended
        return ended, lines

    def ends_at_once() -> None:
        state, lines = given_up(command="sh -c 'echo cannot find the licence; exit 3'")
        assert "its container exited with code 3" in (state.message or "")
        for line in lines:
            assert line.endswith("Last lines of its container's log:\ncannot find the licence")

    def is_unknown() -> None:
        state, _ = given_up(command="/opt/nothing/here")
        assert "its task could not start (CannotStartContainerError" in (state.message or "")
        assert "/opt/nothing/here" in (state.message or "")

    def has_an_image_that_may_not_be_pulled() -> None:
        state, _ = given_up(image="000000000000.dkr.ecr.us-east-1.amazonaws.com/closed:1")
        assert "its task could not start (ResourceInitializationError" in (state.message or "")
        assert "ecr:GetAuthorizationToken" in (state.message or "")

    together(ends_at_once, is_unknown, has_an_image_that_may_not_be_pulled)


def _given_up(run: Gated) -> State | None:
    state = run.states()[-1]
    if state.type != StateType.CRASHED or not (state.message or "").startswith(MARK):
        return None
    assert "Given up after 1 reschedules (max_reschedules 1)" in (state.message or "")
    assert (state.message or "").endswith("mend the cause, then retry the run in Prefect.")
    return state


# The worker dies


def test_run_that_a_dead_worker_left_pending_is_rescheduled_by_the_schedule(left_pending: Gated) -> None:
    left_pending.completes("failure", attempts=1)
    assert "its worker never started a task for it" in left_pending.log()[0].message


@pytest.mark.slow
def test_worker_that_dies_with_a_run_in_its_hands_loses_nothing(guard: Guard) -> None:
    run = guard.start()

    def taken() -> bool | None:
        return run.run.state_name != "Scheduled" or None

    wait_for("the worker to take the run", taken, LONG, interval=0.01)
    dead = [worker.arn for worker in guard.workers()]
    for arn in dead:
        guard.app.aws.interrupt(arn, notice=False)
    run.open()
    # Where exactly it died is left to chance: before the task, or after it, or before it said which task it was.
    done = run.end(knock=True)
    assert done.state_name == "Completed", done.state
    assert run.executed() == STEPS
    (task,) = run.attempts
    assert (done.infrastructure_pid or "").rpartition("::")[2] == task.arn
    guard.wait_for_worker(besides=dead)


def test_task_that_the_worker_could_not_name_any_more_is_adopted(guard: Guard) -> None:
    run = guard.start()
    task = run.wait_for_gate()
    pid = run.run.infrastructure_pid
    # As a worker leaves it that dies between starting a task and saying so.
    guard.app.prefect.request("PATCH", "/flow_runs/{id}", path_params={"id": run.id}, json={"infrastructure_pid": None})
    guard.look()
    wait_for("the task to be adopted", lambda: run.run.infrastructure_pid == pid or None, LONG)
    run.interrupt(task)
    run.wait_for_gate(2)
    run.open()
    run.completes("interruption")


# Cancelled


def test_cancelled_run_ends_cancelled(guard: Guard) -> None:
    run = guard.start()
    run.wait_for_gate()
    cancel(run)
    assert run.end().state_name == "Cancelled"
    assert run.log() == []
    assert len(run.attempts) == 1


def test_without_a_worker_cancelled_runs_end_and_interrupted_ones_wait(guard: Guard) -> None:
    cancelled, interrupted = guard.start(nested=True), guard.start()
    tasks = [run.wait_for_gate() for run in (cancelled, interrupted)]
    with guard.without_worker():
        cancel(cancelled)
        cancelled.interrupt(tasks[0], notice=False)
        interrupted.interrupt(tasks[1])
        assert cancelled.end().state_name == "Cancelled"
        interrupted.wait_for_states(RESCHEDULED)
        guard.look()
    (line,) = cancelled.log()
    assert line.message == f"{MARK}cancelled; its task has stopped"
    assert [subflow.state_name for subflow in cancelled.subflows()] == ["Cancelled"]
    cancelled.wait_for_gates("Cancelled")
    interrupted.open()
    interrupted.completes("interruption")
    assert len(cancelled.attempts) == 1


@pytest.mark.slow
def test_without_a_worker_lazarus_stops_the_task_of_a_cancelled_run(guard: Guard) -> None:
    run = guard.start()
    task = run.wait_for_gate()
    with guard.without_worker():
        os.kill(task.pid or 0, signal.SIGSTOP)  # the run does not hear of it either
        try:
            cancel(run)
            wait_for("Lazarus to stop the task", lambda: _stopping(run) or None, LONG)
        finally:
            os.kill(task.pid or 0, signal.SIGCONT)
        assert run.end().state_name == "Cancelled"
    assert run.attempts[0].stop_code == "UserInitiated"
    assert run.attempts[0].stopped_reason == f"{MARK}the run was cancelled"
    assert [line.message for line in run.log()][-1] == f"{MARK}cancelled; its task has stopped"


def cancel(run: Gated) -> None:
    """As the UI does it."""
    result = run.app.prefect.set_flow_run_state(run.id, Cancelling())
    assert result.status == "ACCEPT"


def _stopping(run: Gated) -> bool:
    return run.attempts[0].desired_status == "STOPPED"


# Events late, twice and never; two functions; no API


def test_two_functions_at_once_and_late_events_make_one_attempt(guard: Guard) -> None:
    run = guard.start()
    first = run.wait_for_gate()
    with guard.without_events(), guard.without_reserved_concurrency():
        run.interrupt(first)
        run.wait_until_stopped(first)
        together(*[guard.look] * 4)
        second = run.wait_for_gate(2)
    # The notice and the stop of the first attempt come now, and once more, while the second one is at work.
    guard.wait_until_queue_is_empty()
    event = {
        "source": "aws.ecs",
        "detail-type": "ECS Task State Change",
        "resources": [first.arn],
        "detail": guard.app.describe_task(first),
    }
    for _ in range(3):
        guard.send(event)
    guard.wait_until_queue_is_empty()
    guard.look()
    assert run.run.state_name == "Running"
    assert [task.arn for task in run.attempts] == [first.arn, second.arn]
    run.open()
    run.completes("interruption", parked_together=True)


@pytest.mark.slow
def test_interruption_while_the_api_is_down(guard: Guard) -> None:
    run = guard.start()
    first = run.wait_for_gate()
    with guard.without_api():
        run.interrupt(first, notice=False)
        run.wait_until_stopped(first)
        # Longer than one call of Lazarus waits for its answer.
        time.sleep(15)
    run.wait_for_gate(2)
    run.open()
    run.completes("interruption")


@pytest.mark.slow
def test_lost_events_are_made_up_for_by_the_schedule(guard: Guard) -> None:
    with guard.without_events():
        run = guard.start()
        run.interrupt(run.wait_for_gate())
        run.wait_for_gate(2)
        run.open()
        run.completes("interruption")


# At the end


def test_bystanders_are_untouched(guard: Guard, bystanders: dict[UUID, State]) -> None:
    guard.look()
    for run_id, state in bystanders.items():
        assert guard.app.prefect.read_flow_run(run_id).state == state
        assert guard.app.attempts(run_id) == []
        assert Gated(guard, run_id).log() == []


def test_metrics_are_what_happened(guard: Guard, left_pending: Gated) -> None:
    left_pending.end()
    wanted = WorkPoolFilter(name=WorkPoolFilterName(any_=[guard.pool]))
    runs = guard.app.prefect.read_flow_runs(work_pool_filter=wanted, limit=200)
    happened: Counter[str] = Counter()
    names = {"interruption": "Interruptions", "capacity": "CapacityFailures"}
    for run in runs:
        for state in Gated(guard, run.id).states():
            message = state.message or ""
            if message.startswith(f"{MARK}(") and state.name == RESCHEDULED:
                happened["Reschedules"] += 1
                cause = message[len(MARK) + 1 :].partition(")")[0]
                if cause in names:
                    happened[names[cause]] += 1
                happened["Fallbacks"] += message.endswith("switched to on-demand")
            happened["GivenUp"] += message.startswith(MARK) and "Given up after" in message

    def told() -> Counter[str] | None:
        metrics = guard.metrics()
        return metrics if metrics["Reschedules"] >= happened["Reschedules"] else None

    metrics = wait_for("the metrics", told, LONG)
    timed = metrics.pop("SecondsFromStopToReschedule", 0)
    assert timed <= metrics["Reschedules"]
    assert +metrics == +happened


def test_what_lazarus_asks_for_somebody_who_watches(guard: Guard) -> None:
    """The two requests, against the real server: of a pool with a worker, and of one without where runs are due."""
    prefect, auth_string = guard.app.prefect, guard.app.server.auth_string
    assert auth_string is not None
    pool = "lazarus-forsaken"
    prefect.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    deployment = prefect.create_deployment(
        flow_id=prefect.create_flow_from_name("forsaken"), name="d", work_pool_name=pool
    )
    now = datetime.now(UTC)
    ago = {minutes: now - timedelta(minutes=minutes) for minutes in (3, 5, -3)}
    for moment in ago.values():
        prefect.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=moment))
    header = f"Basic {base64.b64encode(auth_string.encode()).decode()}"
    api = PrefectApiClient(guard.app.server.api_url, header, deadline=time.monotonic() + LONG)
    runs = FlowRuns(api, [guard.pool, pool], guard.cluster)
    due = runs.longest_due(pool, now)
    assert due is not None
    assert abs(due - ago[5]) < timedelta(milliseconds=1)
    assert runs.longest_due(pool, ago[5] - timedelta(minutes=1)) is None
    assert runs.workers_online(pool, now) == 0
    assert runs.workers_online(guard.pool, now) >= 1  # one that a test took away polled a moment ago
    assert runs.workers_online(guard.pool, now + timedelta(minutes=10)) == 0
    assert runs.workers_online(guard.pool, now + timedelta(minutes=10)) == 0


def test_every_metric_on_the_dashboard_is_there(guard: Guard) -> None:
    graphs = guard.widgets("metric")
    named = {
        (namespace, name, tuple(dimensions))
        for graph in graphs
        for namespace, name, *dimensions, _ in (line for line in graph["metrics"] if len(line) > 1)
    }
    assert {namespace for namespace, _, _ in named} == {"PrefectOnEcs", "AWS/ECS", "AWS/Lambda", "AWS/SQS"}
    assert {name for namespace, name, _ in named if namespace == "PrefectOnEcs"} >= {"GivenUp", *OBSERVED}
    cloudwatch = guard.app.aws.client("cloudwatch")

    def there() -> bool | None:
        found = {
            (
                metric["Namespace"],
                metric["MetricName"],
                tuple(sorted((d["Name"], d["Value"]) for d in metric["Dimensions"])),
            )
            for page in cloudwatch.get_paginator("list_metrics").paginate()
            for metric in page["Metrics"]
        }
        wanted = {(ns, name, tuple(sorted(zip(dims[::2], dims[1::2], strict=True)))) for ns, name, dims in named}
        return wanted <= found or None

    wait_for("every metric of the dashboard", there, LONG)


def test_tables_of_the_dashboard_show_what_lazarus_did(guard: Guard) -> None:
    metrics, lines = guard.metrics(), guard.log()
    given_up, rescheduled, workers = guard.widgets("log")
    for table, count in ((given_up, metrics["GivenUp"]), (rescheduled, metrics["Reschedules"])):
        query = re.fullmatch(
            r"SOURCE '(.+)' \| fields @timestamp, (.+) \| filter intervention = \"(.+)\" \| sort .+", table["query"]
        )
        assert query is not None
        assert query[1] == guard.log_group
        told = [json.loads(line) for line in lines if line.startswith('{"intervention"')]
        shown = [each for each in told if each["intervention"] == query[3]]
        assert len(shown) == count > 0
        for each in shown:
            assert {*query[2].split(", "), "intervention"} == set(each)
            run = guard.app.prefect.read_flow_run(UUID(each["flowRunId"]))
            assert (run.name, guard.pool) == (each["flowRun"], each["workPool"])
            assert each["why"].startswith(MARK)
    assert workers["title"] == "Last errors of workers"


def test_given_up_run_wakes_somebody_until_it_is_over(guard: Guard) -> None:
    told = guard.wait_for_alarm("GivenUp", "ALARM")
    assert told["AlarmDescription"].startswith(f"Work pool {guard.pool}: A flow run is given up")
    assert told["AlarmDescription"].endswith("Runbook: docs/monitoring.md#givenup")
    assert {guard.alarm(name)["StateValue"] for name in ("Errors", "HeartbeatMissing", "NoWorker")} == {"OK"}
    arns = {alarm["AlarmArn"] for alarm in guard.app.aws.client("cloudwatch").describe_alarms()["MetricAlarms"]}
    (widget,) = guard.widgets("alarm")
    assert arns >= {*widget["alarms"]} >= {guard.alarm("GivenUp")["AlarmArn"], guard.alarm("NoWorker")["AlarmArn"]}
    guard.app.aws.set_alarms_ahead(16 * 60)
    try:
        guard.wait_for_alarm("GivenUp", "OK")
    finally:
        guard.app.aws.set_alarms_ahead(0)


def test_role_of_lazarus_suffices_and_its_log_is_quiet(guard: Guard) -> None:
    lines = guard.log()
    assert lines
    emulator = guard.app.aws.log.read_bytes()[guard.emulator_log_begins :].decode(errors="replace")
    assert guard.app.server.auth_string is not None
    secret = guard.app.server.auth_string.partition(":")[2]
    assert not [line for line in lines if secret in line]
    about_itself = [line for line in lines if not line.startswith('{"intervention"')]  # not what tasks lack
    for text in ("AccessDenied", "not authorized", "Traceback"):
        assert not [line for line in about_itself if text in line]
    role = guard.app.aws.client("lambda").get_function_configuration(FunctionName=guard.function)["Role"]
    denied = [line for line in emulator.splitlines() if "AccessDenied" in line and role.rpartition("/")[2] in line]
    assert denied == []


def test_no_message_ended_among_the_dead_letters(guard: Guard) -> None:
    sqs = guard.app.aws.client("sqs")
    urls = [url for url in sqs.list_queues()["QueueUrls"] if "Lazarus" in url and "DeadLetter" in url]
    assert len(urls) == 2
    for url in urls:
        answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        assert answer["Attributes"]["ApproximateNumberOfMessages"] == "0"
