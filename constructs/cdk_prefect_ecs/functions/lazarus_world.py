"""What Lazarus sees and does: flow runs through Prefect's API, tasks through ECS."""

import logging
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .lazarus_rules import PARKED, RESCHEDULED, Container, Reschedule, Run, State, Task
from .prefect_api import PrefectApiClient, PrefectApiError

logger: logging.Logger = logging.getLogger(__name__)

_PAGE = 200  # the most that Prefect's filters return
_DESCRIBED = 100  # the most that DescribeTasks takes
_FLOW_RUN_TAG = "prefect.io/flow-run-id"  # set by prefect-aws on every task
_LOG_LINES = 20
#: Names of scheduled states that a run may have while its engine waits to go on with it.
_RETRIED_IN_PROCESS = ("AwaitingRetry", "Resuming")
#: Workers send a heartbeat every 30 seconds; Prefect itself gives them up after three that are missing.
_WORKER_SILENCE = timedelta(seconds=90)
#: States in which a task run, or a subflow, waits for the process that executes it.
_UNENDED = ("RUNNING", "PENDING")
#: A parked run is scheduled so far ahead that no worker takes it, and soon enough to run if nobody ever carries it on.
_PARKED_FOR = timedelta(hours=1)


@dataclass(frozen=True)
class Seen:
    """A flow run with what is needed to change it."""

    run: Run
    work_pool: str
    job_variables: Mapping[str, Any]
    tags: Sequence[str]
    policy: Mapping[str, Any] = field(default_factory=dict)


class FlowRuns:
    """The flow runs of some work pools."""

    def __init__(self, api: PrefectApiClient, work_pools: Sequence[str], cluster_arn: str) -> None:
        self._api = api
        self._work_pools = list(work_pools)
        self._cluster_arn = cluster_arn

    def candidates(self, now: datetime, crash_window: timedelta) -> list[Seen]:
        """Runs of these pools and this cluster that may need something."""
        wanted = (
            {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}},
            {"state": {"name": {"any_": [PARKED, *_RETRIED_IN_PROCESS]}}},
            {"state": {"type": {"any_": ["CRASHED"]}}, "end_time": {"after_": _iso(now - crash_window)}},
        )
        found: dict[str, Seen] = {}
        for flow_runs in wanted:
            body = {"flow_runs": flow_runs, "work_pools": {"name": {"any_": self._work_pools}}}
            for raw in self._pages("/flow_runs/filter", body):
                seen = self._seen(raw)
                if seen is not None and (seen.run.needs_task or seen.run.state.name not in _RETRIED_IN_PROCESS):
                    found[seen.run.id] = seen
        return list(found.values())

    def _pages(self, path: str, body: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        offset = 0
        while True:
            page = self._api.post(path, {**body, "sort": "ID_DESC", "limit": _PAGE, "offset": offset})
            yield from page
            if len(page) < _PAGE:
                return
            offset += _PAGE

    def _seen(self, raw: Mapping[str, Any]) -> Seen | None:
        """The run; None when another cluster executes it."""
        pid = raw.get("infrastructure_pid")
        cluster, _, task_arn = (pid or "").partition("::")
        if pid and not (cluster == self._cluster_arn or cluster == self._cluster_arn.rpartition("/")[2]):
            return None
        policy = raw.get("empirical_policy") or {}
        run = Run(
            id=raw["id"],
            name=raw["name"],
            state=_state(raw["state"]),
            task_arn=task_arn or None,
            has_deployment=raw.get("deployment_id") is not None,
            retried_in_process=policy.get("retry_type") == "in_process",
        )
        return Seen(run, raw.get("work_pool_name") or "", raw.get("job_variables") or {}, raw.get("tags") or [], policy)

    def longest_due(self, work_pool: str, now: datetime) -> datetime | None:
        """Since when the run that waits longest for a worker of this pool has been due; None when none waits."""
        waiting = self._api.post(
            "/flow_runs/filter",
            {
                "flow_runs": {
                    "state": {"type": {"any_": ["SCHEDULED"]}},
                    "next_scheduled_start_time": {"before_": _iso(now)},
                },
                "work_pools": {"name": {"any_": [work_pool]}},
                "sort": "NEXT_SCHEDULED_START_TIME_ASC",
                "limit": 1,
            },
        )
        return _parsed(waiting[0]["next_scheduled_start_time"]) if waiting else None

    def workers_online(self, work_pool: str, now: datetime) -> int:
        """How many workers poll this pool."""
        online = {"last_heartbeat_time": {"after_": _iso(now - _WORKER_SILENCE)}}
        path = f"/work_pools/{urllib.parse.quote(work_pool, safe='')}/workers/filter"
        return len(self._api.post(path, {"workers": online, "limit": _PAGE}))

    def current(self, run_id: str) -> Seen | None:
        """The run as it is now; None when it is deleted."""
        try:
            return self._seen(self._api.get(f"/flow_runs/{run_id}"))
        except PrefectApiError as error:
            if error.status == 404:
                return None
            raise

    def states(self, run_id: str) -> list[State]:
        """The run's state history, oldest first."""
        raw = self._api.get(f"/flow_run_states/?flow_run_id={run_id}")
        return sorted((_state(item) for item in raw), key=lambda state: state.timestamp)

    def reschedule(self, seen: Seen, action: Reschedule, now: datetime, on_demand: Mapping[str, Any]) -> bool:
        """Park the run, change what must change, and schedule it; see ``lazarus_rules``.

        :param on_demand: Job variables that place the run on demand.
        :returns: False when somebody else changed the run meanwhile, who then has it.
        """
        run = seen.run
        parked = self._set_state(run.id, "SCHEDULED", PARKED, action.message, scheduled=now + _PARKED_FOR)
        if parked is None:
            return False
        states = self.states(run.id)
        position = next((i for i, state in enumerate(states) if state.id == parked), None)
        if position is None or states[-1].id != parked:
            return False
        chain = 1  # of parked states; ours is the last
        while chain <= position and states[position - chain].name == PARKED:
            chain += 1
        before = states[position - chain] if chain <= position else None
        if before is not None and not _is_ours(run, before, states[position - chain + 1 : position]):
            # Between our look and our parking it was cancelled, or its end was reported after all, or it runs again.
            self._put_back(run.id, before, parked)
            return False
        changes: dict[str, Any] = {"infrastructure_pid": None}
        if seen.run.retried_in_process:
            changes["empirical_policy"] = {**seen.policy, "retry_type": "reschedule"}  # or no worker would take it
        if action.to_on_demand:
            changes["job_variables"] = {**seen.job_variables, **on_demand}
            changes["tags"] = [*seen.tags, *({"on-demand-fallback"} - set(seen.tags))]
        self._api.patch(f"/flow_runs/{run.id}", changes)
        latest = self.current(run.id)
        if latest is None or latest.run.state.id != parked:
            return False
        due = now + action.delay
        return self._set_state(run.id, "SCHEDULED", RESCHEDULED, action.message, scheduled=due) is not None

    def give_up(self, seen: Seen, message: str) -> bool:
        """Leave the run Crashed, with the reason."""
        # Prefect refuses Crashed after Crashed; that the run has not changed was seen just now.
        force = seen.run.state.type == "CRASHED"
        return self._set_state(seen.run.id, "CRASHED", "Crashed", message, force=force) is not None

    def cancel(self, seen: Seen, message: str) -> bool:
        """Complete a cancellation."""
        return self._set_state(seen.run.id, "CANCELLED", "Cancelled", message) is not None

    def adopt(self, seen: Seen, task_arn: str) -> None:
        """Note which task executes the run."""
        self._api.patch(f"/flow_runs/{seen.run.id}", {"infrastructure_pid": f"{self._cluster_arn}::{task_arn}"})

    def end_subflows(self, run_id: str, state_type: str, name: str, message: str) -> None:
        """End what is left Running below a run whose task is gone: subflows live in their parent's task."""
        for subflow_id in self._subflows(run_id):
            self._set_state(subflow_id, state_type, name, message)

    def _subflows(self, run_id: str) -> list[str]:
        """The subflows in a run's task, and those in them, that have not ended."""
        unended = {"type": {"any_": [*_UNENDED, "CANCELLING"]}}
        found = []
        for child in self._pages(
            "/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}, "state": unended}}
        ):
            if child.get("work_queue_id") is None:  # one with a queue has a task of its own
                found += [str(child["id"]), *self._subflows(child["id"])]
        return found

    def left_executing(self, run_id: str) -> list[str]:
        """Ids of the task runs that a run without a task, and the subflows in it, left unended.

        Without those that stand for a subflow: the next attempt finds the subflow again by them.
        """
        wanted = {
            "flow_run_id": {"any_": [run_id, *self._subflows(run_id)]},
            "state": {"type": {"any_": [*_UNENDED, "SCHEDULED"]}},  # such as AwaitingRetry
            "subflow_runs": {"exists_": False},
        }
        return [str(raw["id"]) for raw in self._pages("/task_runs/filter", {"task_runs": wanted})]

    def end_task_run(self, task_run_id: str, state_type: str, name: str, message: str) -> None:
        """End a task run whose process is gone; one that a task worker executes, elsewhere, stays as it is."""
        history = self._api.get(f"/task_run_states/?task_run_id={task_run_id}")
        if any((state.get("state_details") or {}).get("deferred") for state in history):
            return
        state = {"type": state_type, "name": name, "message": message}
        # Prefect does not accept it from a task run that has ended meanwhile, and that is as it should be.
        self._api.post(f"/task_runs/{task_run_id}/set_state", {"state": state, "force": False})

    def log(self, run_id: str, message: str, *, level: int = logging.WARNING) -> None:
        """Write into the run's own log."""
        line = {
            "flow_run_id": run_id,
            "level": level,
            "name": "lazarus",
            "message": message,
            "timestamp": _iso(datetime.now(UTC)),
        }
        self._api.post("/logs/", [line])

    def scrubbed(self, text: str) -> str:
        """The text without the credential of the Prefect API."""
        return self._api.scrubbed(text)

    def _put_back(self, run_id: str, state: State, parked: str) -> None:
        latest = self.current(run_id)
        if latest is not None and latest.run.state.id == parked:
            self._set_state(run_id, state.type, state.name, state.message, force=True)

    def _set_state(
        self,
        run_id: str,
        state_type: str,
        name: str,
        message: str,
        *,
        scheduled: datetime | None = None,
        force: bool = False,
    ) -> str | None:
        """Id of the new state; None when Prefect did not accept it."""
        state: dict[str, Any] = {"type": state_type, "name": name, "message": message}
        if scheduled is not None:
            state["state_details"] = {"scheduled_time": _iso(scheduled)}
        answer = self._api.post(f"/flow_runs/{run_id}/set_state", {"state": state, "force": force})
        if answer["status"] != "ACCEPT":
            logger.info("Prefect did not accept %s for flow run %s: %s", name, run_id, answer.get("details"))
            return None
        return str(answer["state"]["id"])


class Tasks:
    """The ECS tasks of some families in one cluster, by flow run.

    All families together, not each by its pool: a run that was moved to another pool still has its old task.
    """

    def __init__(
        self, ecs: Any, logs: Any, *, cluster_arn: str, families: Sequence[str], log_group: str, stream_prefix: str
    ) -> None:
        self._ecs = ecs
        self._logs = logs
        self._cluster = cluster_arn
        self._families = list(families)
        self._log_group = log_group
        self._stream_prefix = stream_prefix

    def by_run(self, runs: Sequence[Run]) -> dict[str, list[Task]]:
        """Every task that ECS knows of each run: ECS forgets a stopped one after about an hour."""
        arns = set(self._list("RUNNING")) | {run.task_arn for run in runs if run.task_arn}
        found = self._describe(arns)
        attended = {run_id for run_id, task in found if task.is_alive}
        if any(run.id not in attended for run in runs):
            # Also those that are stopping or stopped and that no run names (any more): a second task must not start
            # while one of them is alive.
            found += self._describe(set(self._list("STOPPED")) - arns)
        tasks: dict[str, list[Task]] = {run.id: [] for run in runs}
        for run_id, task in found:
            if run_id in tasks:
                tasks[run_id].append(task)
        return tasks

    def _list(self, desired_status: str) -> Iterable[str]:
        for family in self._families:
            pages = self._ecs.get_paginator("list_tasks").paginate(
                cluster=self._cluster, family=family, desiredStatus=desired_status
            )
            for page in pages:
                yield from page["taskArns"]

    def _describe(self, arns: Iterable[str]) -> list[tuple[str, Task]]:
        found = []
        ordered = sorted(arns)
        for start in range(0, len(ordered), _DESCRIBED):
            batch = ordered[start : start + _DESCRIBED]
            answer = self._ecs.describe_tasks(cluster=self._cluster, tasks=batch, include=["TAGS"])
            for raw in answer["tasks"]:
                tags = {tag["key"]: tag["value"] for tag in raw.get("tags", [])}
                found.append((tags.get(_FLOW_RUN_TAG, ""), _task(raw)))
        return found

    def stop(self, arn: str, reason: str) -> None:
        """Stop a task: SIGTERM, its stop time-out, SIGKILL."""
        self._ecs.stop_task(cluster=self._cluster, task=arn, reason=reason[:255])

    def last_words(self, task: Task) -> str:
        """The last lines that the task's container logged; empty without any."""
        stream = f"{self._stream_prefix}/{task.arn.rpartition('/')[2]}"
        try:
            answer = self._logs.get_log_events(
                logGroupName=self._log_group, logStreamName=stream, limit=_LOG_LINES, startFromHead=False
            )
        except self._logs.exceptions.ResourceNotFoundException:
            return ""
        return "\n".join(event["message"].rstrip() for event in answer["events"])


def _is_ours(run: Run, before: State, parked: Sequence[State]) -> bool:
    """Whether a run that we have just parked may be rescheduled.

    :param before: The last state before it was parked.
    :param parked: The states in which others had parked it since.
    """
    if before.id == run.state.id or before.type == "SCHEDULED":
        return True
    left_parked = any(state.id == run.state.id for state in parked)
    return left_parked and before.type in ("RUNNING", "PENDING", "CRASHED")


def _task(raw: Mapping[str, Any]) -> Task:
    return Task(
        arn=raw["taskArn"],
        last_status=raw["lastStatus"],
        created_at=raw["createdAt"],
        started_at=raw.get("startedAt"),
        stopped_at=raw.get("stoppedAt"),
        stop_code=raw.get("stopCode") or "",
        stopped_reason=raw.get("stoppedReason") or "",
        capacity_provider=raw.get("capacityProviderName") or "",
        is_stopping=raw.get("desiredStatus") == "STOPPED",
        containers=tuple(
            Container(item.get("name", ""), item.get("exitCode"), item.get("reason") or "")
            for item in raw.get("containers", [])
        ),
    )


def _state(raw: Mapping[str, Any]) -> State:
    return State(
        id=raw["id"],
        type=raw["type"],
        name=raw["name"],
        timestamp=_parsed(raw["timestamp"]),
        message=raw.get("message") or "",
    )


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _parsed(text: str) -> datetime:
    # Nanoseconds, which some servers write, are more than Python reads.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00")))
