"""The function that reschedules flow runs whose ECS task is gone.

Woken by task events for speed and by a schedule for certainty; either way it looks at every run of its pools and does
what ``lazarus_rules`` says. What woke it is not even read.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from .credential import CredentialReference, aws_client, read_credential
from .lazarus_metrics import GIVEN_UP, RESCHEDULED, Counts, Observation, intervention
from .lazarus_rules import (
    Action,
    Adopt,
    Cancel,
    Cause,
    GiveUp,
    Limits,
    Reschedule,
    StopTasks,
    Task,
    decide,
    is_attended,
)
from .lazarus_world import FlowRuns, Seen, Tasks
from .prefect_api import PrefectApiClient, PrefectApiError

logger: logging.Logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

_RESERVE_SECONDS = 2.0  # of the function's time, for what comes after the last call
_AFTERWARDS_SECONDS = 10.0  # for what nothing depends on: it keeps nobody waiting whose run has lost its task
_OBSERVE_EVERY_SECONDS = 20.0  # at most: task events may come by the dozen


@dataclass(frozen=True)
class Pool:
    """How the runs of one work pool are treated.

    :param family: Family of their task definitions.
    :param on_demand: Job variables that place a run on the pool's on-demand capacity.
    """

    family: str
    limits: Limits
    on_demand: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Pool":
        """Read what the construct wrote."""
        limits = Limits(
            spot_attempts=raw.get("spotAttempts"),
            max_reschedules=raw["maxReschedules"],
            patience=timedelta(seconds=raw["patienceSeconds"]),
            spot_provider=raw.get("spot"),
        )
        strategy = [{"capacityProvider": raw["onDemand"], "weight": 1, "base": 0}] if raw.get("onDemand") else None
        return cls(raw["family"], limits, {"capacity_provider_strategy": strategy} if strategy else {})


@dataclass(frozen=True)
class Ended:
    """Task runs that ended with the task that executed them, which nobody has told Prefect yet."""

    task_run_ids: Sequence[str]
    state_type: str
    name: str
    message: str


class Lazarus:
    """Tends the flow runs of the work pools of one cluster."""

    def __init__(self, runs: FlowRuns, tasks: Tasks, pools: Mapping[str, Pool], *, deadline: float) -> None:
        self._runs = runs
        self._tasks = tasks
        self._pools = pools
        self._deadline = deadline
        self.counts: dict[str, Counts] = {name: Counts() for name in pools}
        self._alive: Counter[tuple[str, bool]] = Counter()  # tasks, by pool and whether they are on Spot
        self._ended: list[Ended] = []

    def tend(self) -> list[str]:
        """Look at every run once and do what has to be done; returns what failed, to be tried again."""
        candidates = self._runs.candidates(_now(), max(pool.limits.crash_window for pool in self._pools.values()))
        tasks = self._tasks.by_run([seen.run for seen in candidates])
        failures = []
        self._alive = Counter(
            (seen.work_pool, task.capacity_provider == self._pools[seen.work_pool].limits.spot_provider)
            for seen in candidates
            for task in tasks[seen.run.id]
            if task.is_alive
        )
        for seen in candidates:
            if is_attended(seen.run, tasks[seen.run.id]):
                continue
            if time.monotonic() > self._deadline:
                failures.append("no time was left for every run")
                break
            try:
                self._tend(seen, tasks[seen.run.id])
            except Exception as error:  # one run's trouble must not keep the others waiting
                logger.exception("Flow run %s", seen.run.id)
                failures.append(f"flow run {seen.run.id}: {error}")
        return failures

    def end_task_runs(self, runs: FlowRuns) -> None:
        """Have Prefect know, after :meth:`tend`, which task runs ended with their task: it would call them Running for
        ever, and keep their slots until their leases end. Those of which it cannot be told stay so: nothing depends on
        it."""
        errors = []
        for ended in self._ended:
            for task_run_id in ended.task_run_ids:
                try:
                    runs.end_task_run(task_run_id, ended.state_type, ended.name, ended.message)
                except Exception as error:
                    errors.append(error)
        if errors:
            logger.warning("%d task runs could not be ended", len(errors), exc_info=errors[0])

    def observe(self, runs: FlowRuns) -> None:
        """Note how the pools do, after :meth:`tend`. What cannot be learned is left out: nothing depends on it."""
        for name, counts in self.counts.items():
            try:
                now = _now()
                due = runs.longest_due(name, now)
                counts.observation = Observation(
                    workers_online=runs.workers_online(name, now),
                    seconds_waiting=max(0.0, (now - due).total_seconds()) if due else 0.0,
                    tasks_on_spot=self._alive[name, True],
                    tasks_on_demand=self._alive[name, False],
                )
            except Exception:
                logger.warning("Work pool %s could not be observed", name, exc_info=True)

    def _tend(self, seen: Seen, tasks: Sequence[Task]) -> None:
        pool = self._pools[seen.work_pool]
        action = decide(seen.run, self._runs.states(seen.run.id), tasks, _now(), pool.limits)
        if action is None:
            return
        current = self._runs.current(seen.run.id)
        if current is None or current.run.state.id != seen.run.state.id or current.work_pool != seen.work_pool:
            return  # it has moved on by itself; the next look sees where
        logger.info("Flow run %s (%s): %r", seen.run.id, seen.run.name, action)
        self._carry_out(current, action)

    def _carry_out(self, seen: Seen, action: Action) -> None:
        run_id = seen.run.id
        match action:
            case Adopt(task_arn):
                self._runs.adopt(seen, task_arn)
            case StopTasks(arns, reason):
                for arn in arns:
                    self._tasks.stop(arn, reason)
                self._runs.log(run_id, f"{reason}: stopping {', '.join(arn.rpartition('/')[2] for arn in arns)}")
            case Cancel(message):
                left = self._left_executing(seen)
                if self._runs.cancel(seen, message):
                    self._ended.append(Ended(left, "CANCELLED", "Cancelled", message))
                    self._runs.log(run_id, message)
                    self._runs.end_subflows(run_id, "CANCELLED", "Cancelled", message)
            case GiveUp(message, task):
                left = self._left_executing(seen)
                if self._runs.give_up(seen, message):
                    self._ended.append(Ended(left, "CRASHED", "Crashed", message))
                    self.counts[seen.work_pool].given_up += 1
                    _tell(GIVEN_UP, seen, message)
                    self._runs.log(run_id, message + self._last_words(seen, task), level=logging.ERROR)
                    self._runs.end_subflows(run_id, "CRASHED", "Crashed", message)
            case Reschedule():
                left = self._left_executing(seen)  # before there is another attempt, with task runs of its own
                if self._runs.reschedule(seen, action, _now(), self._pools[seen.work_pool].on_demand):
                    self._ended.append(Ended(left, "CRASHED", "Crashed", action.message))
                    self._count(self.counts[seen.work_pool], action)
                    _tell(RESCHEDULED, seen, action.message)
                    words = self._last_words(seen, action.task) if action.cause == Cause.FAILURE else ""
                    self._runs.log(run_id, action.message + words)

    def _left_executing(self, seen: Seen) -> list[str]:
        if seen.run.state.type == "PENDING":  # nothing has been executed, in this attempt
            return []
        try:
            return self._runs.left_executing(seen.run.id)
        except Exception:  # the run itself matters more
            logger.warning("The task runs of flow run %s", seen.run.id, exc_info=True)
            return []

    def _count(self, counts: Counts, action: Reschedule) -> None:
        counts.reschedules += 1
        counts.interruptions += action.cause == Cause.INTERRUPTION
        counts.capacity_failures += action.cause == Cause.CAPACITY
        counts.fallbacks += action.falls_back
        if action.task is not None and action.task.stopped_at is not None:
            counts.seconds_to_reschedule.append(max(0.0, (_now() - action.task.stopped_at).total_seconds()))

    def _last_words(self, seen: Seen, task: Task | None) -> str:
        """The end of the container's log, for a run that never came to write one of its own."""
        if task is None or seen.run.state.type == "RUNNING":
            return ""
        try:
            words = self._tasks.last_words(task)
        except Exception:  # the rest of the message matters more
            logger.exception("The log of task %s", task.arn)
            return ""
        # What a program says of a credential that it cannot use may be the credential.
        return f"\nLast lines of its container's log:\n{self._runs.scrubbed(words)}" if words else ""


def _tell(what: str, seen: Seen, why: str) -> None:
    print(intervention(what, work_pool=seen.work_pool, run_id=seen.run.id, run_name=seen.run.name, why=why))


def handler(_event: Mapping[str, Any], context: Any) -> None:
    """Lambda's entry point."""
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS
    kept = "credential" in _CACHE
    try:
        _look(deadline)
    except PrefectApiError as error:
        if error.status not in (401, 403):
            raise
        _CACHE.pop("credential", None)
        if not kept:
            raise
        logger.info("The credential that was kept is rejected; reading it anew.")
        _look(deadline)


def _look(deadline: float) -> None:
    settings = os.environ
    region = settings["AWS_REGION"]
    api = _api(deadline)
    pools = {name: Pool.parse(raw) for name, raw in json.loads(settings["POOLS"]).items()}
    runs = FlowRuns(api, tuple(pools), settings["CLUSTER_ARN"])

    def afterwards() -> FlowRuns:
        hurried = api.with_deadline(min(deadline, time.monotonic() + _AFTERWARDS_SECONDS))
        return FlowRuns(hurried, tuple(pools), settings["CLUSTER_ARN"])

    tasks = Tasks(
        _client("ecs", region),
        _client("logs", region),
        cluster_arn=settings["CLUSTER_ARN"],
        families=[pool.family for pool in pools.values()],
        log_group=settings["LOG_GROUP"],
        stream_prefix=settings["STREAM_PREFIX"],
    )
    lazarus = Lazarus(runs, tasks, pools, deadline=deadline)
    try:
        failures = lazarus.tend()
        lazarus.end_task_runs(afterwards())
        if settings.get("OBSERVE") and time.monotonic() >= _CACHE.get("observe", 0.0):
            _CACHE["observe"] = time.monotonic() + _OBSERVE_EVERY_SECONDS
            lazarus.observe(afterwards())
    finally:
        for name, counts in lazarus.counts.items():
            print(counts.embedded_metrics(name, _now()))
    if failures:
        # Lambda and SQS see to it that there is another time.
        raise RuntimeError("; ".join(failures))


_CACHE: dict[str, Any] = {}


def _client(service: str, region: str) -> Any:
    if service not in _CACHE:
        _CACHE[service] = aws_client(service, region)
    return _CACHE[service]


def _api(deadline: float) -> PrefectApiClient:
    reference = os.environ.get("CREDENTIAL")
    if reference and "credential" not in _CACHE:
        _CACHE["credential"] = read_credential(CredentialReference.parse(json.loads(reference)))
    credential = _CACHE.get("credential")
    return PrefectApiClient(
        os.environ["API_URL"],
        credential.authorization_header if credential else None,
        deadline=deadline,
        credential_source=credential.source if credential else None,
    )


def _now() -> datetime:
    return datetime.now(UTC)
