"""What becomes of flow runs when Spot takes their machines: prefect-aws as it deploys itself, and ours beside it.

    make bench BENCH=spot_chaos            24 flow runs on each side
    make bench BENCH=spot_chaos RUNS=6     fewer, for a first look

One embedded AWS, one Prefect server, two sides, each with a cluster, a work pool and a worker of its own:

    prefect-aws       what `prefect-aws ecs-worker deploy-service` deploys, on FARGATE_SPOT; see `bench/baseline.py`
    cdk-prefect-ecs   this repository's environment `embedded`, as `cdk deploy` makes it

Both execute the same flow (`bench/chaos_flow.py`) equally often, and both meet the same faults at the same points of
it: a third is interrupted with notice, some of those twice; a sixth is killed outright; some find no capacity, when
they are to be started or after; the worker dies once while it is about to start runs; the rest is left alone. When an
interrupted run executes again, the events of its earlier attempts come once more, late, doubled and in the wrong order.

Everything is computed from what happened: the flow's own journal, Prefect's state histories, ECS's tasks. Times depend
on the machine, which starts all the processes; what is lost or repeated does not. The exit status is non-zero if ours
loses a run, repeats a finished task or executes a run twice at once.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State
from rich.console import Console
from rich.table import Table

from bench import chaos_flow
from bench.baseline import Baseline
from bench.measure import (
    PARTS,
    Interruption,
    Line,
    RunFacts,
    StateFact,
    Summary,
    TaskFact,
    parsed,
    run_as_json,
    summary,
)
from bench.picture import draw
from cdk_prefect_ecs.capacity import FARGATE_SPOT
from embedded.aws import EmbeddedAws, Task
from embedded.cdk import bootstrap
from embedded.deployed import DeployedApp, wait_for
from embedded.errors import EmbeddedError
from embedded.prefect_server import PrefectServer

RESULTS = Path(__file__).resolve().parent / "results"
THEIRS, OURS = "prefect-aws", "cdk-prefect-ecs"
RUNS = 24
FEWEST_RUNS = 6
AT_ONCE = 4  # of each side; a run starts when an earlier one has ended
SETTLING_SECONDS = 180.0  # a run to which nothing has happened for so long, and which has not ended, is stuck
GIVEN_FOR_GONE_SECONDS = 45.0  # and after this, without a task, it does not keep others from starting
LATE_SECONDS = 15.0  # how late events come for a run that does not execute again
TICK_SECONDS = 0.2
LONGEST_SECONDS = 1500.0
CODE_FOLDER = "code/chaos"


class Fault(StrEnum):
    """What happens to a run."""

    NONE = "undisturbed"
    NOTICE = "notice"
    NOTICE_TWICE = "notice twice"
    KILLED = "killed outright"
    REFUSED = "no capacity at RunTask"
    NOT_PLACED = "no capacity after that"
    WORKER = "worker died"


@dataclass(frozen=True)
class Point:
    """A point in the flow: so long after a task's start, or, without a task, before any of the flow's code."""

    task: str | None
    seconds: float = 0.5


# Always in the middle of a task: what came before is finished and recorded, and the task itself is lost.
POINTS = (
    Point("step-2"),
    Point("step-4"),
    Point("item-0", 1.6),
    Point("step-1"),
    Point("step-5"),
    Point("step-3"),
)
BEFORE_ANY_CODE = Point(None)


@dataclass(frozen=True)
class Plan:
    """One run's part."""

    number: int
    fault: Fault
    points: tuple[Point, ...] = ()


def plans(runs: int) -> list[Plan]:
    """What happens to which run; the same for both sides.

    :raises ValueError: Too few runs to show every fault.
    """
    if runs < FEWEST_RUNS:
        raise ValueError(f"at least {FEWEST_RUNS} runs are needed to show every fault; got {runs}")
    with_notice, killed, others = runs // 3, runs // 6, max(1, runs // 12)
    twice = -(-with_notice // 3)
    faults: list[tuple[Fault, tuple[Point, ...]]] = []
    points = itertools.cycle(POINTS)
    faults += [(Fault.NOTICE_TWICE, (Point("step-1"), Point("step-4"))) for _ in range(twice)]
    faults += [(Fault.NOTICE, (next(points),)) for _ in range(with_notice - twice)]
    faults += [(Fault.KILLED, (BEFORE_ANY_CODE if number == 2 else next(points),)) for number in range(killed)]
    for fault in (Fault.REFUSED, Fault.NOT_PLACED, Fault.WORKER):
        faults += [(fault, ())] * others
    faults += [(Fault.NONE, ())] * (runs - len(faults))
    return [Plan(number, fault, where) for number, (fault, where) in enumerate(faults, start=1)]


@dataclass
class LiveRun:
    """A run under way."""

    plan: Plan
    id: UUID
    name: str
    submitted: float
    journal_file: Path
    journal: list[Line] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    state_type: str = "SCHEDULED"
    states_seen: set[str] = field(default_factory=set)
    interruptions: list[Interruption] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    late_events: int = 0
    changed: float = field(default_factory=time.monotonic)
    outcome: str | None = None
    _fingerprint: object = None

    @property
    def is_final(self) -> bool:
        return self.state_type in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    @property
    def alive(self) -> list[Task]:
        return [task for task in self.tasks if task.stopped_at is None]

    @property
    def quiet_seconds(self) -> float:
        """How long nothing has happened to it."""
        return 0.0 if self.alive else time.monotonic() - self.changed

    @property
    def processes(self) -> list[int]:
        """Those that executed its code, in their order."""
        return list(dict.fromkeys(line.process for line in self.journal))

    @property
    def was_missed(self) -> bool:
        """Whether it was to be interrupted and ended before."""
        return bool(self.plan.points) and not self.interruptions

    def read_journal(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.journal = parsed(self.journal_file.read_text())

    def note_change(self) -> None:
        fingerprint = (self.state_type, tuple((task.arn, task.last_status) for task in self.tasks))
        if fingerprint != self._fingerprint:
            self._fingerprint, self.changed = fingerprint, time.monotonic()

    def has_come_to(self, point: Point, attempt: Task) -> bool:
        """Whether this attempt, the latest, is at this point."""
        lines = [line for line in self.journal if line.at > attempt.created_at.timestamp()]
        if point.task is None:
            return not lines
        return any(
            line.kind == "start" and line.name == point.task and time.time() - line.at >= point.seconds
            for line in lines
        )


class Side:
    """One of the two: a work pool, its cluster, and the runs on it."""

    def __init__(
        self, name: str, aws: EmbeddedAws, prefect: SyncPrefectClient, work_pool: str, cluster_arn: str, say: Say
    ) -> None:
        self.name = name
        self.aws = aws
        self.prefect = prefect
        self.work_pool = work_pool
        self.cluster_arn = cluster_arn
        self.runs: list[LiveRun] = []
        self.late_events = 0
        self.runs_pending_at_worker_death: dict[str, int] = {}
        self._say = say
        self._deployment: UUID | None = None
        self._submitter = ThreadPoolExecutor(1, thread_name_prefix=f"submit-{name}")
        self._submissions: list[Future[LiveRun]] = []
        self._queue_url = _event_queue(aws, cluster_arn)
        self._journals = aws.directory / "journals" / name
        self._journals.mkdir(parents=True)

    # Runs

    def deploy_flow(self, bucket: str) -> None:
        """Make the flow's deployment, as `prefect deploy` would: its code is pulled from S3."""
        self._deployment = self.prefect.create_deployment(
            flow_id=self.prefect.create_flow_from_name("chaos"),
            name=self.work_pool,
            work_pool_name=self.work_pool,
            entrypoint="chaos_flow.py:chaos",
            pull_steps=[{"prefect_aws.deployments.steps.pull_from_s3": {"bucket": bucket, "folder": CODE_FOLDER}}],
        )

    def submit(self, plan: Plan) -> LiveRun:
        assert self._deployment is not None
        name = f"{plan.number:02d}"
        journal = self._journals / f"{name}.jsonl"
        run = self.prefect.create_flow_run_from_deployment(
            self._deployment, name=f"{name} {plan.fault}", parameters={"journal": str(journal)}
        )
        live = LiveRun(plan, run.id, name, time.time(), journal)
        self.runs.append(live)
        return live

    def submit_soon(self, plan: Plan) -> None:
        """Submit it beside everything else: a server that is slow to answer must not delay a fault."""
        self._submissions.append(self._submitter.submit(self.submit, plan))

    @property
    def submitting(self) -> int:
        """Submissions under way.

        :raises Exception: One failed.
        """
        for submission in self._submissions:
            if submission.done():
                submission.result()
        self._submissions = [submission for submission in self._submissions if not submission.done()]
        return len(self._submissions)

    def of(self, fault: Fault) -> list[LiveRun]:
        return [run for run in self.runs if run.plan.fault == fault]

    def observe(self, tasks: Sequence[Task]) -> None:
        """See what has become of the runs."""
        for run in self.runs:
            run.tasks = [task for task in tasks if task.flow_run_id == str(run.id)]
            run.note_change()
            if not (run.is_final and not run.alive):
                run.read_journal()

    def observe_states(self) -> None:
        """The part of it that Prefect's server answers, which may take its time."""
        runs = list(self.runs)
        if not runs:
            return
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
        found = {run.id: run.state for run in self.prefect.read_flow_runs(flow_run_filter=wanted, limit=200)}
        for run in runs:
            state = found.get(run.id)
            if state is not None:
                run.state_type = str(state.type.value)
                run.states_seen.add(str(state.type.value))
                if (state.message or "").startswith("Lazarus: "):
                    run.states_seen.add("Lazarus")

    @property
    def busy(self) -> int:
        """Runs that keep others from starting."""
        return self.submitting + sum(
            not run.is_final and run.quiet_seconds < GIVEN_FOR_GONE_SECONDS
            for run in list(self.runs)
            if run.plan.fault not in (Fault.WORKER, Fault.REFUSED, Fault.NOT_PLACED)
        )

    @property
    def settled(self) -> bool:
        return all((run.is_final and not run.alive) or run.quiet_seconds > SETTLING_SECONDS for run in self.runs)

    # Faults

    def disturb(self, run: LiveRun) -> None:
        """Interrupt the run if it has come to its next point."""
        points = run.plan.points[len(run.interruptions) :]
        hit = {interruption.arn for interruption in run.interruptions} | run.refused
        target = next((t for t in run.alive if t.arn not in hit and t.last_status == "RUNNING"), None)
        if not points or target is None or run.is_final or not run.has_come_to(points[0], target):
            return
        notice = run.plan.fault != Fault.KILLED
        how, at = ("notice" if notice else "killed"), time.time()
        try:
            self.aws.interrupt(target.arn, notice=notice)
        except EmbeddedError as error:  # it ended just now, or is not on Spot any more
            run.refused.add(target.arn)
            self._say(f"{self.name} {run.name}: not interrupted: {error}")
            return
        run.interruptions.append(Interruption(at, target.arn, how))
        self._say(f"{self.name} {run.name}: {how} at {points[0].task or 'the start'}")

    def repeat_events(self, run: LiveRun, captured: Captured) -> None:
        """Send the events of earlier attempts again: late, doubled, and the stop before its notice."""
        stopped = [task for task in run.tasks if task.stopped_at is not None]
        later = len(run.processes) - 1
        if not run.interruptions or not stopped:
            return
        nothing_comes = run.late_events == 0 and not run.alive and run.quiet_seconds > LATE_SECONDS
        if later <= run.late_events and not nothing_comes:
            return
        run.late_events = max(later, 1)
        sqs = self.aws.client("sqs")
        for task in stopped:
            notices, stops = captured.of(task.arn)
            for body in [*stops, *notices, *stops]:
                sqs.send_message(QueueUrl=self._queue_url, MessageBody=body)
                self.late_events += 1

    def kill_worker_when_pending(self, runs: Sequence[LiveRun], timeout: float = 60) -> None:
        """Kill the worker's task at the moment when one of the runs is Pending; wait until there is another worker."""
        before = self.worker()
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            states = [run.state for run in self.prefect.read_flow_runs(flow_run_filter=wanted)]
            if any(state and not state.is_scheduled() for state in states):
                break
            time.sleep(0.02)
        self.aws.interrupt(before.arn, notice=False)
        self._say(f"{self.name}: worker killed; runs were {', '.join(str(state.name) for state in states if state)}")
        wait_for(
            "another worker",
            lambda: worker if (worker := self.worker()).arn != before.arn else None,
            timeout,
        )
        known = self.prefect.read_flow_runs(flow_run_filter=wanted)
        started = {task.flow_run_id for task in self.aws.tasks(self.cluster_arn)}
        self.runs_pending_at_worker_death = dict(
            Counter(f"{run.state_name} {'with' if str(run.id) in started else 'without'} a task" for run in known)
        )

    def worker(self) -> Task:
        """The worker's task, once there is a healthy one."""

        def healthy() -> Task | None:
            return next(
                (
                    task
                    for task in reversed(self.aws.tasks(self.cluster_arn))
                    if task.group.startswith("service:")
                    and (task.last_status, task.health_status) == ("RUNNING", "HEALTHY")
                ),
                None,
            )

        return wait_for(f"the worker of {self.name}", healthy, 90)

    # Afterwards

    def facts(self) -> list[RunFacts]:
        return [self._facts_of(run) for run in self.runs]

    def _facts_of(self, run: LiveRun) -> RunFacts:
        run.read_journal()
        states = sorted(self.prefect.read_flow_run_states(run.id), key=lambda state: state.timestamp)
        outcome = states[-1].type.value.lower() if states[-1].is_final() else "stuck"
        return RunFacts(
            name=run.name,
            fault=str(run.plan.fault),
            submitted=run.submitted,
            outcome=outcome,
            journal=run.journal,
            states=[self._state_fact(state) for state in states],
            tasks=[
                TaskFact(
                    arn=task.arn,
                    created=task.created_at.timestamp(),
                    started=task.started_at.timestamp() if task.started_at else None,
                    stopped=task.stopped_at.timestamp() if task.stopped_at else None,
                    provider=task.capacity_provider,
                    stop_code=task.stop_code or "",
                )
                for task in run.tasks
            ],
            interruptions=run.interruptions,
        )

    def _state_fact(self, state: State[Any]) -> StateFact:
        message = (state.message or "").replace(str(self.aws.directory), "…")
        return StateFact(state.timestamp.timestamp(), state.type.value, state.name or "", message[:300])

    def log_of(self, run: LiveRun) -> list[str]:
        """The run's log in Prefect, warnings and worse."""
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        lines = sorted(self.prefect.read_logs(wanted, limit=200), key=lambda line: line.timestamp)
        return [
            f"{line.timestamp.timestamp() - run.submitted:6.1f} {line.name}: {line.message[:400]}"
            for line in lines
            if line.level >= 30
        ]


Say = Callable[[str], None]


class Captured:
    """Every task event of this AWS, by way of a rule and a queue of the benchmark's own."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self._sqs = aws.client("sqs")
        self._lock = threading.Lock()
        self._events: list[tuple[str, str, str]] = []  # task, last status, body
        self._over = threading.Event()
        self._url = self._sqs.create_queue(QueueName="bench-task-events")["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
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
        self._sqs.set_queue_attributes(QueueUrl=self._url, Attributes={"Policy": json.dumps(policy)})
        events = aws.client("events")
        pattern = {"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}
        events.put_rule(Name="bench-task-events", EventPattern=json.dumps(pattern))
        events.put_targets(Rule="bench-task-events", Targets=[{"Id": "queue", "Arn": arn}])
        self._thread = threading.Thread(target=self._read, name="captured-events", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=2)
            except Exception:
                self._over.wait(1)  # the AWS is busy, or about to end
                continue
            for message in answer.get("Messages", []):
                detail = json.loads(message["Body"])["detail"]
                with self._lock:
                    self._events.append((detail["taskArn"], detail.get("stopCode") or "", message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])

    def of(self, arn: str) -> tuple[list[str], list[str]]:
        """Notices and stops of a task."""
        with self._lock:
            mine = [(code, body) for task, code, body in self._events if task == arn]
        notices = [body for code, body in mine if code == "TerminationNotice"]
        stops = [body for _, body in mine if json.loads(body)["detail"]["lastStatus"] == "STOPPED"]
        return notices, stops

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)


class Experiment:
    """The same faults on both sides, at the same points."""

    def __init__(self, aws: EmbeddedAws, sides: Sequence[Side], captured: Captured, runs: int, say: Say) -> None:
        self._aws = aws
        self._sides = sides
        self._captured = captured
        self._plans = plans(runs)
        self._say = say
        self._last_status = 0.0
        self._over = threading.Event()
        self._deadline = time.monotonic() + LONGEST_SECONDS

    def run(self) -> None:
        """From the first run to the last word about it."""
        # Beside everything else, as submissions are.
        watch = threading.Thread(target=self._watch_states, name="states", daemon=True)
        watch.start()
        try:
            self._all_faults()
        finally:
            self._over.set()
            watch.join(10)

    def _watch_states(self) -> None:
        while not self._over.wait(1):
            for side in self._sides:
                with contextlib.suppress(Exception):  # the next second brings another answer
                    side.observe_states()

    def _all_faults(self) -> None:
        self._worker_deaths()
        calm = self._starvation()
        self._interruptions(calm)
        self._say("all submitted; waiting until every run has ended, or nothing happens to it any more")
        self._tick_until(lambda: all(side.settled for side in self._sides), LONGEST_SECONDS, "every run to settle")

    def _of(self, *faults: Fault) -> list[Plan]:
        return [plan for plan in self._plans if plan.fault in faults]

    def _worker_deaths(self) -> None:
        self._say("the workers die while runs are Pending")
        with ThreadPoolExecutor(len(self._sides)) as pool:
            deaths = []
            for side in self._sides:
                runs = [side.submit(plan) for plan in self._of(Fault.WORKER)]
                deaths.append(pool.submit(side.kill_worker_when_pending, runs))
            self._tick_until(lambda: all(death.done() for death in deaths), 180, "other workers")
            for death in deaths:
                death.result()

    def _starvation(self) -> int:
        """No Spot capacity for a while; returns how many undisturbed runs were started before."""
        calm = self._of(Fault.NONE)[:AT_ONCE]
        for side in self._sides:
            for plan in calm:
                side.submit(plan)
        self._tick_until(lambda: self._all(Fault.NONE, lambda run: bool(run.journal)), 120, "undisturbed runs to start")
        try:
            self._say("Spot has no capacity: RunTask is refused")
            self._aws.set_capacity(FARGATE_SPOT, available=False)
            self._submit_and_wait(Fault.REFUSED, lambda run: bool(run.states_seen & {"CRASHED", "Lazarus"}))
            self._say("Spot has no capacity: tasks are accepted and do not start")
            self._aws.set_capacity(FARGATE_SPOT, available=False, fail_after_start=True)
            self._submit_and_wait(
                Fault.NOT_PLACED, lambda run: any(task.stop_code == "TaskFailedToStart" for task in run.tasks)
            )
        finally:
            self._aws.set_capacity(FARGATE_SPOT, available=True)
        self._say("Spot has capacity again")
        return len(calm)

    def _submit_and_wait(self, fault: Fault, struck: Callable[[LiveRun], bool]) -> None:
        for side in self._sides:
            for plan in self._of(fault):
                side.submit(plan)
        self._tick_until(lambda: self._all(fault, struck), 90, f"{fault} to strike")

    def _all(self, fault: Fault, condition: Callable[[LiveRun], bool]) -> bool:
        return all(condition(run) for side in self._sides for run in side.of(fault))

    def _interruptions(self, calm_started: int) -> None:
        self._say(f"interruptions, {AT_ONCE} runs at once on each side")
        rest = _mixed(
            self._of(Fault.NOTICE_TWICE),
            self._of(Fault.KILLED),
            self._of(Fault.NOTICE),
            self._of(Fault.NONE)[calm_started:],
        )
        waiting = {side.name: list(rest) for side in self._sides}

        def all_submitted() -> bool:
            for side in self._sides:
                queue = waiting[side.name]
                while queue and side.busy < AT_ONCE:
                    side.submit_soon(queue.pop(0))
            return not any(waiting.values()) and not any(side.submitting for side in self._sides)

        self._tick_until(all_submitted, LONGEST_SECONDS, "all runs to be submitted")

    def _tick_until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        """Go on with everything until something is so. A benchmark notes what does not come, and goes on."""
        deadline = min(time.monotonic() + timeout, self._deadline)
        while not done():
            if time.monotonic() > deadline:
                self._say(f"waited in vain for {what}")
                return
            self._tick()
            time.sleep(TICK_SECONDS)

    def _tick(self) -> None:
        now = time.monotonic()
        tasks = self._aws.tasks()
        for side in self._sides:
            side.observe(tasks)
            for run in side.runs:
                side.disturb(run)
                side.repeat_events(run, self._captured)
        if now - self._last_status >= 20:
            self._last_status = now
            self._say(" · ".join(f"{side.name}: {_standing(side)}" for side in self._sides))


def _standing(side: Side) -> str:
    counts = Counter(run.state_type.lower() for run in side.runs)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing yet"


def _mixed(*groups: Iterable[Plan]) -> list[Plan]:
    """In turn one of each, so that the faults are spread over the time."""
    rows = itertools.zip_longest(*groups)
    return [plan for row in rows for plan in row if plan is not None]


def _event_queue(aws: EmbeddedAws, cluster_arn: str) -> str:
    """URL of the queue to which this cluster's task events go."""
    events, sqs = aws.client("events"), aws.client("sqs")
    for rule in events.list_rules()["Rules"]:
        if cluster_arn in json.loads(rule.get("EventPattern") or "{}").get("detail", {}).get("clusterArn", []):
            for target in events.list_targets_by_rule(Rule=rule["Name"])["Targets"]:
                if ":sqs:" in target["Arn"]:
                    return str(sqs.get_queue_url(QueueName=target["Arn"].rpartition(":")[2])["QueueUrl"])
    raise EmbeddedError(f"no rule sends the task events of {cluster_arn} to a queue")


# What comes out


def report_of(facts: dict[str, list[RunFacts]], sides: Sequence[Side], seconds: float) -> dict[str, Any]:
    """All figures, and the facts they are made from, without anything of this machine but its processors."""
    return {
        "benchmark": "spot_chaos",
        "versions": {name: version(name) for name in ("prefect", "prefect-aws", "cdk-prefect-ecs")},
        "processors": os.cpu_count(),
        "flow_runs_per_side": len(facts[OURS]),
        "settling_seconds": SETTLING_SECONDS,
        "duration_seconds": round(seconds),
        "sides": {
            side.name: {
                **summary(facts[side.name]).as_json(),
                "late_events": side.late_events,
                "runs_when_the_worker_died": side.runs_pending_at_worker_death,
            }
            for side in sides
        },
        "flow_runs": {side.name: [run_as_json(run) for run in facts[side.name]] for side in sides},
    }


def table_of(theirs: Summary, ours: Summary) -> Table:
    table = Table(title=f"{ours.runs} flow runs on each side, the same faults", title_justify="left")
    table.add_column("")
    for column in (THEIRS, OURS, "Ratio"):
        table.add_column(column, justify="right")

    def row(title: str, a: float | None, b: float | None, digits: int = 0, *, ratio: bool = True) -> None:
        shown = ["never" if value is None else f"{value:.{digits}f}" for value in (a, b)]
        both = f"{b / a:.2f}" if ratio and a and b is not None else "-"
        table.add_row(title, *shown, both)

    row("Completed", theirs.completed, ours.completed)
    row("Crashed", theirs.crashed, ours.crashed)
    row("Stuck", theirs.stuck, ours.stuck)
    if theirs.other or ours.other:
        row("Ended otherwise", theirs.other, ours.other)
    row("Finished tasks executed again", theirs.tasks_repeated, ours.tasks_repeated)
    row("Seconds executed twice at once", theirs.double_seconds, ours.double_seconds, 1)
    row("Seconds of computing wasted", theirs.wasted_seconds, ours.wasted_seconds, 1)
    row("… of all computing, %", theirs.wasted_percent, ours.wasted_percent, 1)
    row("Interruptions", theirs.interruptions, ours.interruptions)
    row("… after which user code ran again", theirs.recovered, ours.recovered)
    row("Runs that fell back to on-demand", theirs.fallbacks, ours.fallbacks)
    table.add_section()
    row("Interruption to user code again, median s", theirs.median_seconds, ours.median_seconds, 1)
    row("… worst s", theirs.worst_seconds, ours.worst_seconds, 1)
    for part, title in zip(
        PARTS, ("stop of the task", "rescheduling", "worker's poll", "start of task and flow"), strict=True
    ):
        row(f"… {title}, median s", theirs.median_parts[part], ours.median_parts[part], 1)
    return table


def missed_goals(ours: Summary) -> list[str]:
    """What ours promises and did not keep; times are reported, not judged."""
    missed = []
    if ours.completed != ours.runs:
        missed.append(f"{ours.completed} of {ours.runs} runs completed")
    if ours.double_seconds:
        missed.append(f"{ours.double_seconds:.1f} s of double execution")
    if ours.tasks_repeated:
        missed.append(f"{ours.tasks_repeated} finished tasks were executed again")
    return missed


def explain(console: Console, side: Side, facts: Sequence[RunFacts]) -> None:
    """Everything that is known of the runs that ours promised otherwise."""
    for run, fact in zip(side.runs, facts, strict=True):
        shown = run_as_json(fact)
        if fact.outcome == "completed" and not shown["repeated"] and not shown["double_seconds"]:
            continue
        console.print(f"\n[bold]{side.name} {fact.name}[/], {fact.fault}: {fact.outcome}")
        console.print(json.dumps({key: shown[key] for key in shown if key != "states"}, indent=1), markup=False)
        for state in shown["states"]:
            console.print(f"  {state['at']:6.1f} {state['name']}: {state.get('message', '')}", markup=False)
        for line in side.log_of(run):
            console.print(f"    log {line}", markup=False)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.spot_chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or RUNS), help="flow runs on each side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args()
    try:
        plans(options.runs)
    except ValueError as error:
        parser.error(str(error))
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {text}", markup=False)

    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        return _benchmark(console, say, options.runs, options.results, began)
    except EmbeddedError as error:
        console.print(f"[red bold]Failed:[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything was stopped.")
        return 130


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _benchmark(console: Console, say: Say, runs: int, results: Path, began: float) -> int:
    with ExitStack() as undo:
        sides, captured = _set_up(undo, say)
        Experiment(sides[0].aws, sides, captured, runs, say).run()
        if missed_points := [f"{side.name} {run.name}" for side in sides for run in side.runs if run.was_missed]:
            raise EmbeddedError(
                f"this machine was too busy to compare anything: {', '.join(missed_points)} ended before the fault came"
            )
        facts = {side.name: side.facts() for side in sides}
        theirs, ours = summary(facts[THEIRS]), summary(facts[OURS])
        missed = missed_goals(ours)
        if missed:
            explain(console, sides[1], facts[OURS])
        report = report_of(facts, sides, time.monotonic() - began)
    results.mkdir(parents=True, exist_ok=True)
    (results / "spot_chaos.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (results / "spot_chaos.svg").write_text(draw(report))
    console.print()
    console.print(table_of(theirs, ours))
    for text in missed:
        console.print(f"[red bold]{OURS} missed its goal:[/] {text}")
    return 1 if missed else 0


def _set_up(undo: ExitStack, say: Say) -> tuple[list[Side], Captured]:
    say("an embedded AWS, a Prefect server")
    aws = EmbeddedAws.start()
    undo.callback(aws.stop)
    with ThreadPoolExecutor(1) as background:
        starting = background.submit(PrefectServer.start)
        undo.callback(_stop_started, starting)
        bootstrap(aws)
        server = starting.result()
    app = DeployedApp(aws, server)
    app.store_secret()
    say(f"{OURS}: cdk deploy")
    app.deploy()
    outputs = app.outputs()
    bucket = outputs["BucketName"]
    code = Path(chaos_flow.__file__)
    aws.client("s3").put_object(Bucket=bucket, Key=f"{CODE_FOLDER}/{code.name}", Body=code.read_bytes())
    say(f"{THEIRS}: its own template and job template")
    baseline = Baseline(aws, server, app.prefect)
    baseline.deploy(bucket)
    captured = Captured(aws)
    undo.callback(captured.close)
    (cluster,) = aws.client("ecs").describe_clusters(clusters=[outputs["ClusterName"]])["clusters"]
    sides = [
        Side(THEIRS, aws, app.prefect, baseline.work_pool, baseline.cluster_arn, say),
        Side(OURS, aws, app.prefect, outputs["WorkPoolName"], cluster["clusterArn"], say),
    ]
    say("waiting for both workers")
    for side in sides:
        side.deploy_flow(bucket)
        side.worker()
    return sides, captured


def _stop_started(starting: Future[PrefectServer]) -> None:
    if starting.exception() is None:
        starting.result().stop()


if __name__ == "__main__":
    sys.exit(main())
