"""A small world for Lazarus: Prefect's server, workers, ECS, engines and users, in memory and in virtual time.

Nothing here moves by itself: whoever drives the world says who acts next, so every interleaving can be tried. The
orchestration rules are those of Prefect 3.8.8's ``CoreFlowPolicy`` that matter to a run whose task is gone.
"""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from cdk_prefect_ecs.functions import lazarus as lazarus_function
from cdk_prefect_ecs.functions.lazarus import Lazarus, Pool
from cdk_prefect_ecs.functions.lazarus_rules import MARK, PARKED, Cause, Limits
from cdk_prefect_ecs.functions.lazarus_world import FlowRuns, Tasks
from cdk_prefect_ecs.functions.prefect_api import PrefectApiError

CLUSTER = "arn:aws:ecs:eu-central-1:123456789012:cluster/flows"
OTHER_CLUSTER = "arn:aws:ecs:eu-central-1:123456789012:cluster/others"
POOL = "etl"
FAMILY = "etl-flows"
START = datetime(2026, 1, 1, tzinfo=UTC)
ON_DEMAND = {"capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 1, "base": 0}]}
#: A second pool, on Spot instances of an Auto Scaling group: ECS says only that the instance is gone.
GPU_POOL = "gpu"
GPU_FAMILY = "gpu-flows"
GPU_SPOT = "gpu-spot"
GPU_ON_DEMAND = {"capacity_provider_strategy": [{"capacityProvider": "gpu-on-demand", "weight": 1, "base": 0}]}
TERMINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")

#: A worker needs so long, at most, from Pending to having started the task; ``Limits.patience`` is longer.
WORKER_SECONDS = 60
#: A function ends after so long, at the latest.
FUNCTION_SECONDS = 60
NO_CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def parsed(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@dataclass
class FakeRun:
    """A flow run, and what really happened to it."""

    id: str
    pool: str = POOL
    deployment_id: str | None = "deployment"
    retries: int = 0
    persists_result: bool = True
    length: int = 2
    states: list[dict[str, Any]] = field(default_factory=list)
    pid: str | None = None
    job_variables: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    retry_type: str | None = None
    run_count: int = 0
    end_time: datetime | None = None
    parent: str | None = None
    queue: str | None = "queue"
    log: list[str] = field(default_factory=list)
    # The truth, for the assertions.
    finished: Counter[int] = field(default_factory=Counter)
    settled: str | None = None  # what it was left at by somebody who is not Lazarus
    rescheduled: list[Cause] = field(default_factory=list)  # by Lazarus, since somebody else started it
    on_demand_due: bool = False
    spot_losses: int = 0
    counted_spot_losses: int = 0

    @property
    def state(self) -> dict[str, Any]:
        return self.states[-1]

    @property
    def type(self) -> str:
        return str(self.state["type"])

    @property
    def due(self) -> datetime:
        return parsed(self.state["state_details"]["scheduled_time"])

    @property
    def is_on_demand(self) -> bool:
        return "capacity_provider_strategy" in self.job_variables

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": f"name-{self.id}",
            "state": self.state,
            "state_type": self.type,
            "infrastructure_pid": self.pid,
            "deployment_id": self.deployment_id,
            "job_variables": dict(self.job_variables),
            "tags": list(self.tags),
            "work_queue_id": self.queue,
            "work_pool_name": self.pool,
            "next_scheduled_start_time": self.state["state_details"]["scheduled_time"],
            "empirical_policy": {"retries": self.retries, "pause_keys": [], "retry_type": self.retry_type},
        }


@dataclass
class FakeTaskRun:
    """A task run; one that is deferred is executed elsewhere, by a task worker."""

    id: str
    run_id: str
    type: str = "RUNNING"
    message: str = ""
    is_subflow: bool = False
    deferred: bool = False


class FakeServer:
    """Flow runs and the orchestration rules that matter here."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._ids = 0
        self.runs: dict[str, FakeRun] = {}
        self.task_runs: dict[str, FakeTaskRun] = {}
        self.heartbeats: list[tuple[str, datetime]] = []  # the last of each worker, by pool

    def add(self, run: FakeRun) -> FakeRun:
        self.runs[run.id] = run
        self._write(run, "SCHEDULED", "Scheduled", "", self._now())
        return run

    def set_state(
        self,
        run: FakeRun,
        kind: str,
        name: str,
        message: str = "",
        *,
        scheduled: datetime | None = None,
        force: bool = False,
    ) -> tuple[str, dict[str, Any]]:
        """Propose a state; the answer's status, and the state that the run is in then."""
        if force:
            return self._accepted(run, kind, name, message, scheduled)
        current, state = run.type, run.state
        if current in TERMINAL:
            if kind in ("CANCELLING", "PAUSED", "CRASHED") or (kind == "SCHEDULED" and not run.deployment_id):
                return "ABORT", state
            if current == "COMPLETED" and kind not in TERMINAL and run.persists_result:
                return "REJECT", state
        if current == "CANCELLING" and kind != "CANCELLED":
            return "REJECT", state
        if current == "SCHEDULED" and kind == "CANCELLING" and not run.pid:
            return "REJECT", self._write(run, "CANCELLED", "Cancelled", "", None)
        if current == "PAUSED" and kind == "CANCELLING" and state["name"] == "Suspended":
            return "REJECT", self._write(run, "CANCELLED", "Cancelled", "", None)
        if kind == "PENDING" and current in ("PENDING", "CANCELLING", "RUNNING", "CANCELLED"):
            goes_on = current == "PENDING" and name not in ("Pending", state["name"])
            if not goes_on:
                return "ABORT", state
            due = state["state_details"]["scheduled_time"]
            scheduled = parsed(due) if due else None
        if kind == "SCHEDULED" and name == "Late" and (current != "SCHEDULED" or state["name"] == "Late"):
            return "REJECT", state
        if kind == "PAUSED" and current != "RUNNING":
            return "REJECT", state
        if kind == "PENDING" and current == "SCHEDULED":
            scheduled = run.due
        if kind == "RUNNING" and current in ("SCHEDULED", "PENDING"):
            due = state["state_details"].get("scheduled_time")
            if due and parsed(due) > self._now():
                return "WAIT", state
        if kind == "FAILED" and current == "RUNNING" and run.run_count <= run.retries:
            run.retry_type = "in_process"
            return "REJECT", self._write(
                run, "SCHEDULED", "AwaitingRetry", message, self._now() + timedelta(seconds=20)
            )
        if current in TERMINAL and kind not in TERMINAL:
            run.retry_type = "reschedule" if kind == "SCHEDULED" else None
        return self._accepted(run, kind, name, message, scheduled)

    def _accepted(
        self, run: FakeRun, kind: str, name: str, message: str, scheduled: datetime | None
    ) -> tuple[str, dict[str, Any]]:
        return "ACCEPT", self._write(run, kind, name, message, scheduled)

    def _write(self, run: FakeRun, kind: str, name: str, message: str, scheduled: datetime | None) -> dict[str, Any]:
        moment = self._now()
        if run.states:  # two states never have the same time
            moment = max(moment, parsed(run.state["timestamp"]) + timedelta(microseconds=1))
        if kind == "SCHEDULED" and scheduled is None:
            scheduled = self._now()
        if kind == "RUNNING":
            run.run_count += 1
        run.end_time = (run.end_time or moment) if kind in TERMINAL else None
        self._ids += 1
        state = {
            "id": f"state-{self._ids}",
            "type": kind,
            "name": name,
            "message": message,
            "timestamp": iso(moment),
            "state_details": {"scheduled_time": iso(scheduled) if scheduled else None},
        }
        run.states.append(state)
        return state

    def due_for_workers(self, prefetch: timedelta) -> list[FakeRun]:
        """What a worker is given: nothing that its engine retries by itself."""
        return [
            run
            for run in self.runs.values()
            if run.pool in (POOL, GPU_POOL)
            and run.type == "SCHEDULED"
            and run.retry_type != "in_process"
            and run.due <= self._now() + prefetch
        ]


Call = Callable[[str, Callable[[], Any]], Any]


def _at_once(what: str, effect: Callable[[], Any]) -> Any:
    return effect()


class FakeApi:
    """The server's routes, in the shape of ``PrefectApiClient``; ``call`` decides when a request takes effect."""

    def __init__(
        self,
        server: FakeServer,
        call: Call = _at_once,
        on_set_state: Callable[[FakeRun, str, str, str], None] = lambda *_: None,
    ) -> None:
        self._server = server
        self._call = call
        self._on_set_state = on_set_state

    def get(self, path: str) -> Any:
        return self._call(path, lambda: self._get(path))

    def post(self, path: str, body: Any = None) -> Any:
        return self._call(path, lambda: self._post(path, body))

    def patch(self, path: str, body: Any = None) -> Any:
        return self._call(f"PATCH {path}", lambda: self._patch(path, body))

    def scrubbed(self, text: str) -> str:
        return text

    def _run(self, run_id: str) -> FakeRun:
        if run_id not in self._server.runs:
            raise PrefectApiError("no such flow run", status=404)
        return self._server.runs[run_id]

    def _get(self, path: str) -> Any:
        if found := re.fullmatch(r"/flow_runs/([^/]+)", path):
            return self._run(found[1]).as_json()
        if found := re.fullmatch(r"/task_run_states/\?task_run_id=([^/]+)", path):
            task_run = self._server.task_runs[found[1]]
            return [{"state_details": {"deferred": task_run.deferred}}, {"state_details": {}}]
        found = re.fullmatch(r"/flow_run_states/\?flow_run_id=([^/]+)", path)
        assert found, path
        run = self._server.runs.get(found[1])
        return list(run.states) if run else []

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        if path == "/flow_runs/filter":
            return self._filtered(body)
        if path == "/task_runs/filter":
            return self._filtered_task_runs(body)
        if found := re.fullmatch(r"/task_runs/([^/]+)/set_state", path):
            return self._set_task_run_state(self._server.task_runs[found[1]], body)
        if found := re.fullmatch(r"/work_pools/(.+)/workers/filter", path):
            after = parsed(body["workers"]["last_heartbeat_time"]["after_"])
            return [{"name": "w"} for pool, at in self._server.heartbeats if pool == unquote(found[1]) and at >= after]
        if path == "/logs/":
            for line in body:
                if line["flow_run_id"] in self._server.runs:
                    self._server.runs[line["flow_run_id"]].log.append(line["message"])
            return None
        found = re.fullmatch(r"/flow_runs/([^/]+)/set_state", path)
        assert found, path
        run = self._run(found[1])
        state = body["state"]
        scheduled = state.get("state_details", {}).get("scheduled_time")
        status, current = self._server.set_state(
            run,
            state["type"],
            state["name"],
            state.get("message") or "",
            scheduled=parsed(scheduled) if scheduled else None,
            force=body.get("force", False),
        )
        if status == "ACCEPT":
            self._on_set_state(run, state["type"], state["name"], state.get("message") or "")
        return {"status": status, "state": current, "details": {}}

    def _patch(self, path: str, body: Mapping[str, Any]) -> None:
        found = re.fullmatch(r"/flow_runs/([^/]+)", path)
        assert found, path
        run = self._run(found[1])
        if body.get("job_variables") is not None:
            if run.type != "SCHEDULED":
                raise PrefectApiError("job variables of a flow run in this state cannot be updated", status=400)
            run.job_variables = dict(body["job_variables"])
        if "infrastructure_pid" in body:
            run.pid = body["infrastructure_pid"]
        if "tags" in body:
            run.tags = list(body["tags"])
        if "empirical_policy" in body:
            run.retry_type = body["empirical_policy"].get("retry_type")

    def _filtered_task_runs(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = body["task_runs"]
        assert wanted.keys() == {"flow_run_id", "state", "subflow_runs"}, wanted
        assert wanted["subflow_runs"] == {"exists_": False}
        found = [
            {"id": one.id}
            for one in self._server.task_runs.values()
            if one.run_id in wanted["flow_run_id"]["any_"]
            and one.type in wanted["state"]["type"]["any_"]
            and not one.is_subflow
        ]
        return found[body["offset"] : body["offset"] + body["limit"]]

    def _set_task_run_state(self, task_run: FakeTaskRun, body: Mapping[str, Any]) -> dict[str, Any]:
        assert body["force"] is False
        if task_run.type in TERMINAL:
            return {"status": "ABORT", "state": {}, "details": {}}
        task_run.type, task_run.message = body["state"]["type"], body["state"]["message"]
        return {"status": "ACCEPT", "state": {}, "details": {}}

    def _filtered(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = body["flow_runs"]
        assert wanted.keys() <= {"state", "end_time", "parent_flow_run_id", "next_scheduled_start_time"}, wanted
        due_before = wanted.get("next_scheduled_start_time", {}).get("before_")
        pools = body.get("work_pools", {}).get("name", {}).get("any_")
        after = wanted.get("end_time", {}).get("after_")
        parents = wanted.get("parent_flow_run_id", {}).get("any_")
        kinds = wanted.get("state", {}).get("type", {}).get("any_")
        names = wanted.get("state", {}).get("name", {}).get("any_")
        found = [
            run
            for run in self._server.runs.values()
            if (pools is None or run.pool in pools)
            and (kinds is None or run.type in kinds)
            and (names is None or run.state["name"] in names)
            and (parents is None or run.parent in parents)
            and (after is None or (run.end_time is not None and run.end_time >= parsed(after)))
            and (due_before is None or parsed(run.state["state_details"]["scheduled_time"]) <= parsed(due_before))
        ]
        found.sort(key=lambda run: run.id, reverse=True)
        if body.get("sort") == "NEXT_SCHEDULED_START_TIME_ASC":
            found.sort(key=lambda run: str(run.state["state_details"]["scheduled_time"]))
        offset = body.get("offset", 0)
        return [run.as_json() for run in found[offset : offset + body["limit"]]]


@dataclass
class Engine:
    """The process in a task that executes the flow. Under ``relinquish`` it ends on SIGTERM and says nothing."""

    stage: str = "new"  # new, waiting, running, retrying, ended
    wait_until: datetime = START
    in_step: int | None = None
    task_run: FakeTaskRun | None = None  # of the step
    has_executed: bool = False
    failed: bool = False
    sigterm: bool = False


@dataclass
class FakeTask:
    """An ECS task."""

    arn: str
    run_id: str
    created_at: datetime
    is_spot: bool
    family: str = FAMILY
    status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    stop_code: str = ""
    reason: str = ""
    exit_code: int | None = None
    container_reason: str = ""
    engine: Engine = field(default_factory=Engine)

    @property
    def is_alive(self) -> bool:
        return self.status != "STOPPED"

    @property
    def capacity_provider(self) -> str:
        on_demand = (ON_DEMAND if self.family == FAMILY else GPU_ON_DEMAND)["capacity_provider_strategy"][0]
        spot = "FARGATE_SPOT" if self.family == FAMILY else GPU_SPOT
        return spot if self.is_spot else str(on_demand["capacityProvider"])

    def stop(self, moment: datetime, code: str, reason: str, exit_code: int | None = None, container: str = "") -> None:
        self.status = self.desired_status = "STOPPED"
        self.stopped_at = moment
        self.stop_code = self.stop_code if code == "EssentialContainerExited" and self.stop_code else code
        self.reason = self.reason or reason
        self.exit_code = exit_code
        self.container_reason = container
        self.engine.stage = "ended"

    def as_aws(self) -> dict[str, Any]:
        described = {
            "taskArn": self.arn,
            "lastStatus": self.status,
            "desiredStatus": self.desired_status,
            "createdAt": self.created_at,
            "startedAt": self.started_at,
            "stoppedAt": self.stopped_at,
            "stopCode": self.stop_code,
            "stoppedReason": self.reason,
            "capacityProviderName": self.capacity_provider,
            "containers": [{"name": "flow", "exitCode": self.exit_code, "reason": self.container_reason}],
            "tags": [{"key": "prefect.io/flow-run-id", "value": self.run_id}],
        }
        return {key: value for key, value in described.items() if value not in (None, "")}


class FakeEcs:
    """The part of boto3's ECS client that Lazarus uses."""

    def __init__(self, tasks: dict[str, FakeTask], now: Callable[[], datetime], call: Call = _at_once) -> None:
        self._tasks = tasks
        self._now = now
        self._call = call

    def get_paginator(self, operation: str) -> "FakeEcs":
        assert operation == "list_tasks"
        return self

    def paginate(self, *, cluster: str, family: str, desiredStatus: str) -> Iterator[dict[str, Any]]:  # noqa: N803
        assert cluster == CLUSTER
        yield self._call("list_tasks", lambda: {"taskArns": self._listed(family, desiredStatus)})

    def _listed(self, family: str, desired_status: str) -> list[str]:
        wanted = (family, desired_status)
        return [task.arn for task in self._tasks.values() if (task.family, task.desired_status) == wanted]

    def describe_tasks(self, *, cluster: str, tasks: Sequence[str], include: Sequence[str]) -> dict[str, Any]:
        assert cluster == CLUSTER
        assert 0 < len(tasks) <= 100
        assert include == ["TAGS"]
        return self._call(
            "describe_tasks", lambda: {"tasks": [self._tasks[arn].as_aws() for arn in tasks if arn in self._tasks]}
        )

    def stop_task(self, *, cluster: str, task: str, reason: str) -> None:
        assert cluster == CLUSTER
        self._call("stop_task", lambda: self._stop(task, reason))

    def _stop(self, arn: str, reason: str) -> None:
        task = self._tasks[arn]
        if task.is_alive and task.desired_status == "RUNNING":
            task.desired_status = "STOPPED"
            task.stop_code, task.reason = "UserInitiated", reason
            task.engine.sigterm = True


class FakeLogs:
    """The part of boto3's CloudWatch Logs client that Lazarus uses."""

    class exceptions:  # noqa: N801 - as boto3 names it
        class ResourceNotFoundException(Exception):  # noqa: N818
            pass

    def __init__(self, lines: Mapping[str, Sequence[str]] | None = None, call: Call = _at_once) -> None:
        self._lines = lines or {}
        self._call = call
        self.asked: list[dict[str, Any]] = []

    def get_log_events(self, **asked: Any) -> dict[str, Any]:
        return self._call("get_log_events", lambda: self._get(asked))

    def _get(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(asked)
        if asked["logStreamName"] not in self._lines:
            raise self.exceptions.ResourceNotFoundException
        return {"events": [{"message": line} for line in self._lines[asked["logStreamName"]][-asked["limit"] :]]}


class DiedError(BaseException):
    """The function was stopped where it stood."""


class Invocation:
    """One invocation of Lazarus. Every call of an API is one step: others may act before it takes effect."""

    def __init__(self, world: "World") -> None:
        self.started_at = world.now
        self.is_done = False
        self.is_at_change = False  # its next call changes something
        self.error: Exception | None = None
        self.failures: list[str] = []
        self._world = world
        self._outcome = "ok"
        self._go = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()
        self._waits.acquire()

    def _run(self) -> None:
        try:
            self.failures = self._world.look(self._call)
        except DiedError:
            pass
        except Exception as error:
            self.error = error
        self.is_done = True
        self._waits.release()

    def _call(self, what: str, effect: Callable[[], Any]) -> Any:
        self.is_at_change = what.endswith("/set_state") or what.startswith(("PATCH", "stop_task"))
        while True:
            self._waits.release()
            self._go.acquire()
            if self._outcome == "die":
                raise DiedError
            if self._outcome == "fail":
                raise PrefectApiError("failed", status=503)
            answer = effect()
            if self._outcome == "lost":
                raise PrefectApiError("no answer")
            if self._outcome != "again":  # as a client does that has had no answer
                return answer

    def step(self, outcome: str = "ok") -> None:
        """Let the next call happen; ``outcome`` is ok, fail, lost (it happens, no answer), again (it happens twice) or
        die."""
        if not self.is_done:
            self._outcome = outcome
            self._go.release()
            self._waits.acquire()


@dataclass
class Submission:
    """A worker on its way from a scheduled run to a reported task."""

    worker: int
    run_id: str
    state_id: str
    stage: str = "polled"
    since: datetime = START
    task_arn: str = ""


class World:
    """Everything at once. Each method is one thing that happens; those that cannot happen now do nothing."""

    def __init__(
        self, limits: Limits | None = None, runs: int = 2, *, gpu_limits: Limits | None = None, **run: Any
    ) -> None:
        """:param gpu_limits: Of a second pool, which then has every other run. None: there is only one."""
        self.now = START
        self.pools = {POOL: Pool(FAMILY, limits or Limits(), ON_DEMAND)}
        if gpu_limits is not None:
            spot_limits = replace(gpu_limits, spot_provider=GPU_SPOT)
            self.pools[GPU_POOL] = Pool(GPU_FAMILY, spot_limits, GPU_ON_DEMAND)
        self.server = FakeServer(lambda: self.now)
        self.tasks: dict[str, FakeTask] = {}
        self.submissions: list[Submission] = []
        self.invocations: list[Invocation] = []
        self.last_look = self.now
        self._arns = 0
        names = list(self.pools)
        self.mine = [self.server.add(FakeRun(f"run-{i}", pool=names[i % len(names)], **run)) for i in range(runs)]
        self.foreign = [self._foreign("other-pool", "elsewhere", CLUSTER), self._foreign("other", POOL, OTHER_CLUSTER)]
        self.foreign_before = [run.as_json() for run in self.foreign]

    def _tick(self) -> None:
        self.now += timedelta(milliseconds=20)  # nothing happens twice at one time

    def _foreign(self, run_id: str, pool: str, cluster: str) -> FakeRun:
        run = self.server.add(FakeRun(run_id, pool=pool))
        self.server.set_state(run, "PENDING", "Pending")
        self.server.set_state(run, "RUNNING", "Running")
        run.pid = f"{cluster}::{cluster.replace('cluster', 'task')}/gone"
        return run

    # -- Lazarus ---------------------------------------------------------------------------------------------

    def lazarus(self, call: Call = _at_once) -> Lazarus:
        lazarus_function._now = lambda: self.now  # the tests' fixture puts it back
        return Lazarus(
            FlowRuns(FakeApi(self.server, call, self._lazarus_set_state), tuple(self.pools), CLUSTER),  # type: ignore[arg-type]
            Tasks(
                FakeEcs(self.tasks, lambda: self.now, call),
                FakeLogs(call=call),
                cluster_arn=CLUSTER,
                families=[pool.family for pool in self.pools.values()],
                log_group="group",
                stream_prefix="prefix",
            ),
            self.pools,
            deadline=float("inf"),
        )

    def look(self, call: Call = _at_once) -> list[str]:
        """What an invocation does, but for what it measures."""
        lazarus = self.lazarus(call)
        failures = lazarus.tend()
        lazarus.end_task_runs(FlowRuns(FakeApi(self.server, call), tuple(self.pools), CLUSTER))  # type: ignore[arg-type]
        return failures

    def _lazarus_set_state(self, run: FakeRun, kind: str, name: str, message: str) -> None:
        counted = re.match(rf"{MARK}\((\w+)\) ", message)
        if kind != "SCHEDULED" or name == PARKED or not counted:
            return
        before = next(state for state in reversed(run.states[:-1]) if state["name"] != PARKED)
        if before["message"].startswith(MARK):
            # A second function has done once more what the first had done; it may have seen a cause that the first did
            # not, because ECS forgot the task.
            run.on_demand_due = run.on_demand_due or run.is_on_demand
            return
        if before["type"] == "SCHEDULED":  # a user retried the run just before it was parked
            run.on_demand_due = run.on_demand_due or run.is_on_demand
        cause = Cause(counted[1])
        run.rescheduled.append(cause)
        limits = self.pools[run.pool].limits
        assert run.rescheduled.count(Cause.FAILURE) <= limits.max_reschedules, "max_reschedules was exceeded"
        spot = len(run.rescheduled) - run.rescheduled.count(Cause.FAILURE)
        run.counted_spot_losses += cause != Cause.FAILURE
        if [state["name"] == PARKED for state in run.states[-3:-1]] == [False, True]:
            # Else it was carried on with the cause that somebody else had seen, or a request was repeated after a user
            # had cancelled the run and retried it.
            assert run.counted_spot_losses <= run.spot_losses, "counted twice, or something else was blamed on Spot"
        if limits.spot_attempts is not None and spot >= limits.spot_attempts:
            run.on_demand_due = True

    def lazarus_looks(self) -> None:
        self._tick()
        failures = self.look()
        assert not failures, failures
        self.last_look = self.now

    def lazarus_starts(self) -> None:
        if len(self.invocations) < 2:
            self.invocations.append(Invocation(self))

    def lazarus_steps(self, n: int, count: int, outcome: str) -> None:
        if self.invocations:
            invocation = self.invocations[n % len(self.invocations)]
            for i in range(count):
                invocation.step(outcome if i == count - 1 else "ok")
            self._reap()

    def lazarus_changes(self, n: int, count: int, outcome: str) -> None:
        """Go on to its ``count``-th next call that changes something, and let that happen as ``outcome`` says."""
        if self.invocations:
            invocation = self.invocations[n % len(self.invocations)]
            for i in range(count):
                while not invocation.is_done and not invocation.is_at_change:
                    invocation.step()
                invocation.step(outcome if i == count - 1 else "ok")
            self._reap()

    def _reap(self) -> None:
        for invocation in list(self.invocations):
            if self.now - invocation.started_at > timedelta(seconds=FUNCTION_SECONDS):
                invocation.step("die")
            if invocation.is_done:
                self.invocations.remove(invocation)
                if isinstance(invocation.error, AssertionError):
                    raise invocation.error
                violations = [failure for failure in invocation.failures if "counted" in failure or "exceed" in failure]
                assert not violations

    # -- workers ---------------------------------------------------------------------------------------------

    def worker_polls(self, n: int) -> None:
        worker = n % 2
        for run in self.server.due_for_workers(timedelta(seconds=10)):
            if not any((s.worker, s.run_id) == (worker, run.id) for s in self.submissions):
                state_id = self._last_not_parked(run)["id"]
                self.submissions.append(Submission(worker, run.id, state_id, since=self.now))

    def _last_not_parked(self, run: FakeRun) -> dict[str, Any]:
        return next(state for state in reversed(run.states) if state["name"] != PARKED)

    def worker_steps(self, n: int, outcome: str = "ok") -> None:
        self._tick()
        if not self.submissions:
            return
        submission = self.submissions[n % len(self.submissions)]
        run = self.server.runs.get(submission.run_id)
        if run is None:
            self.submissions.remove(submission)
            return
        match submission.stage:
            case "polled" if submission.state_id != self._last_not_parked(run)["id"]:
                # Prefect lets a worker take a run that has been taken and has crashed since it polled. No worker is so
                # slow: it polls, and takes.
                self.submissions.remove(submission)
            case "polled":
                status, _ = self.server.set_state(run, "PENDING", "Pending")
                if status == "ACCEPT":
                    submission.stage, submission.since = "pending", self.now
                else:
                    self.submissions.remove(submission)
            case "pending":
                self.server.set_state(run, "PENDING", "Submitting")
                submission.stage = "submitting"
            case "submitting":
                self._run_task(run, submission, outcome)
            case "started":
                if outcome != "unreported":
                    run.pid = f"{CLUSTER}::{submission.task_arn}"
                self.submissions.remove(submission)
            case "failed":
                self._crash(run, submission.task_arn)
                self.submissions.remove(submission)

    def _run_task(self, run: FakeRun, submission: Submission, outcome: str) -> None:
        assert run.is_on_demand == run.on_demand_due, "switched to on-demand neither sooner nor later than it is due"
        pool = self.pools[run.pool]
        assert not run.is_on_demand or run.job_variables == pool.on_demand, "switched to another pool's capacity"
        if outcome == "no capacity" and not run.is_on_demand:
            run.spot_losses += 1
            submission.stage, submission.task_arn = "failed", f"RuntimeError: Failed to run ECS task: {NO_CAPACITY}"
            return
        if outcome == "refused":
            submission.stage, submission.task_arn = "failed", "InvalidParameterException: no such subnet"
            return
        self._arns += 1
        arn = f"{CLUSTER.replace('cluster', 'task')}/{self._arns:04}"
        self.tasks[arn] = FakeTask(arn, run.id, self.now, not run.is_on_demand, pool.family)
        submission.stage, submission.task_arn = "started", arn
        if outcome == "answer lost":
            submission.stage, submission.task_arn = "failed", "ReadTimeoutError: no answer"

    def _crash(self, run: FakeRun, message: str) -> None:
        self.server.set_state(run, "CRASHED", "Crashed", f"Failed to submit flow run to infrastructure: {message}")

    def all_goes_well(self, n: int) -> None:
        """A worker takes what is due, its tasks start and begin to work."""
        self.worker_polls(n)
        for i, submission in enumerate(list(self.submissions)):
            for _ in range(4):
                if submission in self.submissions:
                    self.worker_steps(self.submissions.index(submission))
            self.task_goes_on(i)
        for i in range(len(self.mine)):
            self.task_goes_on(i)
            for _ in range(2):
                self.engine_steps(i)

    def worker_dies(self, n: int) -> None:
        self.submissions = [s for s in self.submissions if s.worker != n % 2]

    # -- ECS -------------------------------------------------------------------------------------------------

    def _task(self, n: int, *, spot: bool = False, statuses: Sequence[str] = ()) -> FakeTask | None:
        found = [
            task
            for task in self.tasks.values()
            if task.is_alive and (task.is_spot or not spot) and (not statuses or task.status in statuses)
        ]
        return found[n % len(found)] if found else None

    def task_goes_on(self, n: int) -> None:
        self._tick()
        task = self._task(n)
        if task is None:
            return
        if task.desired_status == "STOPPED":
            task.stop(self.now, task.stop_code, task.reason, None if task.started_at is None else 1)
        elif task.engine.stage == "ended":
            task.stop(self.now, "EssentialContainerExited", "Essential container in task exited", 0)
        elif task.status == "PROVISIONING":
            task.status, task.started_at = "RUNNING", self.now

    def task_fails_to_start(self, n: int, why: str) -> None:
        self._tick()
        task = self._task(n, statuses=("PROVISIONING",))
        if task is None or (why == "capacity" and not task.is_spot):
            return
        reason = {
            "image": "CannotPullContainerError: pull image manifest has been retried 1 time(s)",
            "secret": "ResourceInitializationError: unable to pull secrets or registry auth",
            "capacity": NO_CAPACITY,
        }[why]
        if why == "capacity" and task.desired_status == "RUNNING":
            self._spot_loss(task)
        task.stop(self.now, task.stop_code or "TaskFailedToStart", reason)

    def spot_gives_notice(self, n: int) -> None:
        self._tick()
        task = self._task(n, spot=True, statuses=("RUNNING",))
        if task is not None and task.desired_status == "RUNNING" and task.family == FAMILY:
            self._spot_loss(task)
            task.desired_status, task.stop_code, task.reason = (
                "STOPPED",
                "TerminationNotice",
                "Your Spot Task was interrupted.",
            )
            task.engine.sigterm = True

    def spot_takes_it(self, n: int) -> None:
        self._tick()
        task = self._task(n, spot=True, statuses=("RUNNING",))
        if task is not None and task.desired_status == "RUNNING":
            self._spot_loss(task)
            if task.family == FAMILY:
                task.stop(self.now, "SpotInterruption", "Your Spot Task was interrupted.", 137)
            else:
                task.stop(self.now, "", f"Host EC2 (instance i-{self._arns}) terminated.", 137)

    def _spot_loss(self, task: FakeTask) -> None:
        if task.run_id in self.server.runs:
            self.server.runs[task.run_id].spot_losses += 1

    def task_runs_out_of_memory(self, n: int, *, said: bool) -> None:
        task = self._task(n, statuses=("RUNNING",))
        run = self.server.runs.get(task.run_id) if task else None
        if task is None or task.engine.stage != "running" or task.engine.sigterm:
            return
        if said and run is not None:
            self._somebody_set(run, "CRASHED", "Crashed", message="Process exited with status code: -9.")
            task.engine.stage = "ended"
        else:
            task.stop(self.now, "EssentialContainerExited", "exited", 137, "OutOfMemoryError: container killed")

    def ecs_forgets(self, n: int) -> None:
        stopped = [task for task in self.tasks.values() if not task.is_alive]
        if stopped:
            del self.tasks[stopped[n % len(stopped)].arn]

    # -- engines ---------------------------------------------------------------------------------------------

    def engine_steps(self, n: int, outcome: str = "ok") -> None:
        self._tick()
        task = self._task(n, statuses=("RUNNING",))
        run = self.server.runs.get(task.run_id) if task else None
        if task is None or task.engine.stage == "ended":
            return
        if run is None or (task.engine.sigterm and outcome != "deaf"):
            task.engine.stage = "ended"
            return
        match task.engine.stage:
            case "new":
                self._engine_begins(run, task.engine)
            case "waiting" | "retrying":
                if self.now >= task.engine.wait_until:
                    self._engine_proposes_running(run, task.engine)
            case "running":
                self._engine_runs(run, task.engine, outcome)

    def _engine_begins(self, run: FakeRun, engine: Engine) -> None:
        if run.type == "CANCELLING":
            self._somebody_set(run, "CANCELLED", "Cancelled")
            engine.stage = "ended"
        elif run.type == "CANCELLED":
            engine.stage = "ended"
        else:
            self._engine_proposes_running(run, engine)

    def _engine_proposes_running(self, run: FakeRun, engine: Engine) -> None:
        status, state = self.server.set_state(run, "RUNNING", "Running")
        if status == "WAIT":
            engine.stage, engine.wait_until = "waiting", parsed(state["state_details"]["scheduled_time"])
        elif status == "ACCEPT":
            engine.stage, engine.has_executed = "running", True
            run.settled = None
        else:
            engine.stage = "ended"

    def _engine_runs(self, run: FakeRun, engine: Engine, outcome: str) -> None:
        if run.type == "CANCELLING" and outcome != "deaf":
            self._somebody_set(run, "CANCELLED", "Cancelled")
            engine.stage = "ended"
        elif run.type == "PAUSED":
            if run.state["name"] == "Suspended":
                engine.stage = "ended"
        elif outcome == "crash":
            self._somebody_set(run, "CRASHED", "Crashed", message="Process exited with status code: 1.")
            engine.stage = "ended"
        elif outcome == "fail" and engine.in_step is not None:
            self._task_run_ends(engine, "FAILED")
            self._engine_ends(run, engine, "FAILED", "Failed")
        elif engine.in_step is not None:
            run.finished[engine.in_step] += 1
            self._task_run_ends(engine, "COMPLETED")
        else:
            engine.in_step = next((i for i in range(run.length) if not run.finished[i]), None)
            if engine.in_step is None:
                self._engine_ends(run, engine, "COMPLETED", "Completed")
            else:
                engine.task_run = FakeTaskRun(f"task-run-{len(self.server.task_runs)}", run.id)
                self.server.task_runs[engine.task_run.id] = engine.task_run

    def _task_run_ends(self, engine: Engine, kind: str) -> None:
        assert engine.task_run is not None
        engine.in_step, engine.task_run.type, engine.task_run = None, kind, None

    def _engine_ends(self, run: FakeRun, engine: Engine, kind: str, name: str) -> None:
        status, state = self._somebody_set(run, kind, name)
        if status == "REJECT" and state["type"] == "SCHEDULED":
            engine.stage, engine.wait_until = "retrying", parsed(state["state_details"]["scheduled_time"])
        elif status == "REJECT" and state["type"] == "CANCELLING":
            self._somebody_set(run, "CANCELLED", "Cancelled")
            engine.stage = "ended"
        else:
            engine.stage = "ended"

    def _somebody_set(self, run: FakeRun, kind: str, name: str, **more: Any) -> tuple[str, dict[str, Any]]:
        answer = self.server.set_state(run, kind, name, **more)
        run.settled = run.type if run.type in ("COMPLETED", "FAILED", "CANCELLED", "PAUSED") else None
        return answer

    # -- users -----------------------------------------------------------------------------------------------

    def _mine(self, n: int) -> FakeRun | None:
        run = self.mine[n % len(self.mine)]
        return run if run.id in self.server.runs else None

    def user_cancels(self, n: int) -> None:
        run = self._mine(n)
        if run is not None and run.type not in TERMINAL:
            self._somebody_set(run, "CANCELLING", "Cancelling")

    def user_deletes(self, n: int) -> None:
        run = self._mine(n)
        if run is not None:
            del self.server.runs[run.id]

    def user_pauses(self, n: int, name: str) -> None:
        run = self._mine(n)
        if run is not None and run.type == "RUNNING":
            self._somebody_set(run, "PAUSED", name)

    def user_resumes(self, n: int) -> None:
        run = self._mine(n)
        if run is not None and run.type == "PAUSED":
            if run.state["name"] == "Suspended":
                if not self._live_tasks(run):
                    self._somebody_set(run, "SCHEDULED", "Resuming")
            else:
                self._somebody_set(run, "RUNNING", "Running")

    def user_retries(self, n: int) -> None:
        """Only when its tasks are gone: who retries a run that is still executed asks for two at once."""
        run = self._mine(n)
        if run is not None and run.type in ("FAILED", "CRASHED", "CANCELLED") and not self._live_tasks(run):
            self._somebody_set(run, "SCHEDULED", "AwaitingRetry")
            run.rescheduled.clear()
            run.on_demand_due = run.is_on_demand  # he may have cancelled it when it was parked and switched

    def _live_tasks(self, run: FakeRun) -> list[FakeTask]:
        return [task for task in self.tasks.values() if task.run_id == run.id and task.is_alive]

    # -- time, and what must be true in it -------------------------------------------------------------------

    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        late = timedelta(seconds=WORKER_SECONDS)
        self.submissions = [
            s for s in self.submissions if self.now - s.since <= late or s.stage in ("started", "failed")
        ]
        self._reap()
        if self.now - self.last_look > timedelta(minutes=30):  # there is a schedule
            self.lazarus_looks()

    def check(self) -> None:
        for run in self.mine:
            executing = [t for t in self.tasks.values() if t.run_id == run.id and t.is_alive and t.engine.has_executed]
            assert len(executing) <= 1, f"two live tasks execute {run.id}"
            for task in executing:
                step = task.engine.task_run
                assert step is None or step.type == "RUNNING", f"a task run of {run.id} was ended that is executed"
            assert all(count == 1 for count in run.finished.values()), f"a finished task of {run.id} was executed again"
        assert [run.as_json() for run in self.foreign] == self.foreign_before, "a foreign run was touched"

    def close(self) -> None:
        """End what is under way."""
        for invocation in self.invocations:
            invocation.step("die")
        self.invocations.clear()

    def settle(self) -> None:
        """No more faults: the schedule ticks, worker, ECS and engines do what they should; then judge every run."""
        self.close()
        self.submissions.clear()
        for tick in range(1200):
            self.now += timedelta(seconds=5)
            if tick % 12 == 0:
                self.lazarus_looks()
                if not self.is_unsettled():
                    break
            self.worker_polls(0)
            for _ in range(4 * len(self.submissions)):
                self.worker_steps(0)
            for n in range(len(self.tasks)):
                self.task_goes_on(n)
                for _ in range(3):
                    self.engine_steps(n)
            self.check()
        for run in self.mine:
            assert run.id not in self.server.runs or self._is_settled(run), f"{run.id} was lost in {run.state}"

    def is_unsettled(self) -> bool:
        return any(not self._is_settled(run) for run in self.mine if run.id in self.server.runs)

    def _is_settled(self, run: FakeRun) -> bool:
        if run.settled:
            return run.type == run.settled
        if run.type == "CRASHED" and run.state["message"].startswith(MARK):
            return "Given up" in run.state["message"] and (
                run.rescheduled.count(Cause.FAILURE) == self.pools[run.pool].limits.max_reschedules
            )
        return run.type == "CANCELLED" and any(state["type"] == "CANCELLING" for state in run.states)
