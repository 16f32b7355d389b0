"""What Lazarus does about a flow run: pure rules, without clock, network or AWS.

A flow run is *attended* while an ECS task that executes it is alive; then nothing is done. Everything else is decided
from the run, its state history and what ECS says of its tasks, so a lost, late, repeated or reordered event changes
nothing: the next look comes to the same decision.

Rescheduling takes three steps, so that nobody is overtaken: the run is *parked* in a scheduled state far ahead, where
no worker takes it; what must change (job variables, the old task's id) is changed; then it is scheduled for real. A run
that is found parked was left by a function that died, and is carried on.

The last step must not reach a run that a worker has taken meanwhile: a request that is repeated because its answer was
lost, or a second function, would have a second task started beside a live one. Prefect accepts one scheduled state only
from another: Late. So the run becomes Late.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

#: Name of the state in which a run is parked; the run's type is SCHEDULED then.
PARKED: Final = "Rescheduling"
#: Name of the state in which it is scheduled for real: Prefect refuses it to a run that is no longer scheduled.
RESCHEDULED: Final = "Late"
#: Every message of Lazarus begins like this; its own history is read back from it.
MARK: Final = "Lazarus: "

_COUNTED = re.compile(rf"{re.escape(MARK)}\((interruption|capacity|failure)\) ")
#: What ECS says without capacity, of Fargate, of instances that are too full and of a provider that has none, when it
#: refuses a task or stops it before it started. The bare word is in ARNs too, of which a missing right would tell.
#: Source: "Amazon ECS API failure reasons", Amazon ECS Developer Guide; prefect-aws says "due to a capacity provider
#: error" of whatever speaks of one.
_NO_CAPACITY: Final = re.compile(
    r"(?i:\b(capacity is unavailable|no capacity|due to a capacity provider error)\b)"
    r"|(?i:\bno container instances were found in your capacity provider\b)"
    r"|\b(RESOURCE:(CPU|MEMORY|GPU|ENI|PORTS)|EMPTY CAPACITY PROVIDER|NO ACTIVE INSTANCES)\b"
)
#: Source: "Stopped tasks error messages", Amazon ECS Developer Guide.
_INSTANCE_GONE: Final = re.compile(r"\bHost EC2 \(instance [^)]*\) (terminated|stopped)")
_SWITCHED: Final = "; switched to on-demand"
_STAYS: Final = "; stays on-demand"
_TERMINAL: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})


class Cause(StrEnum):
    """Why a run lost its task. The first two are Spot's doing and do not count against ``max_reschedules``."""

    INTERRUPTION = "interruption"
    CAPACITY = "capacity"
    FAILURE = "failure"


@dataclass(frozen=True)
class State:
    """A state of a flow run, as Prefect has it."""

    id: str
    type: str
    name: str
    timestamp: datetime
    message: str = ""


@dataclass(frozen=True)
class Run:
    """A flow run.

    :ivar task_arn: The ECS task that the worker started for it last; None before, and while it is rescheduled.
    :ivar retried_in_process: The flow failed and its engine, in the same task, retries it. Prefect gives such a run to
        no worker, so its scheduled state is as good as Running.
    """

    id: str
    name: str
    state: State
    task_arn: str | None
    has_deployment: bool = True
    retried_in_process: bool = False

    @property
    def needs_task(self) -> bool:
        """Whether a task should be executing it, or about to."""
        return self.state.type in ("RUNNING", "PENDING") or (
            self.state.type == "SCHEDULED" and self.state.name != PARKED and self.retried_in_process
        )


@dataclass(frozen=True)
class Container:
    """A container of an ECS task."""

    name: str
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Task:
    """An ECS task, as ECS describes it."""

    arn: str
    last_status: str
    created_at: datetime
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    stop_code: str = ""
    stopped_reason: str = ""
    capacity_provider: str = ""
    containers: tuple[Container, ...] = ()
    is_stopping: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether it may still execute something: ECS says STOPPED only when its containers are gone."""
        return self.last_status != "STOPPED"


@dataclass(frozen=True)
class Limits:
    """How patient and how persistent Lazarus is.

    :param spot_attempts: Interruptions and capacity failures of one run before it is switched to on-demand. None: it
        stays where it is, however often.
    :param max_reschedules: Reschedules of one run for other failures of its infrastructure.
    :param patience: How long a run may be without a task that anybody knows: a worker needs so long, at most, to start
        one and to say so.
    :param cancel_patience: How long a worker may take to stop the task of a run that is cancelled.
    :param crash_window: Crashed runs are taken up so long after they crashed; older ones are history.
    :param parked_patience: A run that is parked for longer was left by a function that died.
    :param spot_provider: The capacity provider whose machines Spot takes away; of a task on EC2, ECS says no more than
        that its instance is gone.
    :param first_delay: Delay of the first reschedule that has a delay; each further one waits twice as long.
    :param longest_delay: But no longer than this.
    """

    spot_attempts: int | None = 2
    max_reschedules: int = 3
    patience: timedelta = timedelta(seconds=90)
    cancel_patience: timedelta = timedelta(seconds=60)
    crash_window: timedelta = timedelta(hours=1)
    parked_patience: timedelta = timedelta(seconds=30)
    first_delay: timedelta = timedelta(seconds=10)
    longest_delay: timedelta = timedelta(minutes=5)
    spot_provider: str | None = None


@dataclass(frozen=True)
class Reschedule:
    """Run it again: the same run, so finished tasks are not executed again.

    :ivar to_on_demand: Place this run on demand from now on.
    :ivar falls_back: This reschedule is the one that switches it.
    :ivar message: For the state and for the run's log.
    :ivar task: The task that was lost; None when there never was one, or ECS has forgotten it.
    """

    cause: Cause
    message: str
    delay: timedelta
    to_on_demand: bool
    falls_back: bool = False
    task: Task | None = None


@dataclass(frozen=True)
class GiveUp:
    """Leave it Crashed, and say why and what to do."""

    message: str
    task: Task | None = None


@dataclass(frozen=True)
class Cancel:
    """Its task is gone: the cancellation is complete."""

    message: str


@dataclass(frozen=True)
class StopTasks:
    """Stop what is alive; what comes next is decided when it is gone."""

    arns: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Adopt:
    """The worker died before it could say which task it had started; say it for it."""

    task_arn: str


Action = Reschedule | GiveUp | Cancel | StopTasks | Adopt


def is_attended(run: Run, tasks: Sequence[Task]) -> bool:
    """Whether there is nothing to do: a run that needs a task, and whose one known task is alive."""
    alive = [task for task in tasks if task.is_alive]
    return run.needs_task and [task.arn for task in alive] == [run.task_arn]


def decide(run: Run, states: Sequence[State], tasks: Sequence[Task], now: datetime, limits: Limits) -> Action | None:
    """Decide what to do about a run.

    :param states: Its whole state history, oldest first; the last one is its state.
    :param tasks: Every ECS task of this run that ECS knows, of whichever attempt.
    :returns: One action, or None to leave the run alone for now.
    """
    alive = [task for task in tasks if task.is_alive]
    age = now - run.state.timestamp
    match run.state.type:
        case "CANCELLING":
            return _cancelling(run, states, tasks, alive, age, limits)
        case _ if run.needs_task:
            if alive:
                return _attended(run, alive)
            return _unattended(run, states, tasks, age, limits)
        case "CRASHED":
            if run.state.message.startswith(MARK) or age > limits.crash_window or not run.has_deployment:
                return None
            if alive:
                return _stop(alive, "the run crashed; its task must end before it runs again")
            return _again(run, states, _newest(_of_this_attempt(run, states, tasks)), limits)
        case "SCHEDULED" if run.state.name == PARKED:
            if alive:
                return _stop(alive, "the run is being rescheduled")
            return _carried_on(run, tasks) if age > limits.parked_patience else None
    return None


def _cancelling(
    run: Run,
    states: Sequence[State],
    tasks: Sequence[Task],
    alive: Sequence[Task],
    age: timedelta,
    limits: Limits,
) -> Action | None:
    if alive:
        # A worker should do it, if there is one.
        return _stop(alive, "the run was cancelled") if age > limits.cancel_patience else None
    ended = _of_this_attempt(run, states, tasks) or _unnamed(run, states, tasks)
    if ended or age > limits.patience:  # else a worker may be about to start a task, whatever became of earlier ones
        return Cancel(f"{MARK}cancelled; its task has stopped")
    return None


def _attended(run: Run, alive: Sequence[Task]) -> Action | None:
    """One task is right; of two, the younger is one too many, because the elder has begun to work."""
    keep = min(alive, key=lambda task: (task.created_at, task.arn))
    stop = _stop([task for task in alive if task is not keep], "another task executes the run already")
    return stop or (Adopt(keep.arn) if run.task_arn != keep.arn else None)


def _stop(alive: Sequence[Task], reason: str) -> StopTasks | None:
    """Stop what nobody is stopping yet."""
    arns = tuple(task.arn for task in alive if not task.is_stopping)
    return StopTasks(arns, f"{MARK}{reason}") if arns else None


def _unattended(
    run: Run, states: Sequence[State], tasks: Sequence[Task], age: timedelta, limits: Limits
) -> Action | None:
    lost = _newest(_of_this_attempt(run, states, tasks))
    if lost is None:
        if age <= limits.patience:
            # The worker may be about to start a task, or to say which.
            return None
        # A task that the run names is then its last one, whatever the clocks say of it.
        lost = _newest([task for task in tasks if task.arn == run.task_arn] or _unnamed(run, states, tasks))
    return _again(run, states, lost, limits)


def _again(run: Run, states: Sequence[State], lost: Task | None, limits: Limits) -> Action:
    cause, reason = _explain(run, lost, limits.spot_provider)
    if not run.has_deployment:
        return GiveUp(f"{MARK}{reason}. The run has no deployment, so it cannot be rescheduled: start it again.", lost)
    earlier = history(states)
    spot = earlier.count(Cause.INTERRUPTION) + earlier.count(Cause.CAPACITY)
    failures = earlier.count(Cause.FAILURE)
    to_on_demand = limits.spot_attempts is not None and spot + (cause != Cause.FAILURE) >= limits.spot_attempts
    if cause == Cause.FAILURE:
        if failures >= limits.max_reschedules:
            return GiveUp(
                f"{MARK}{reason}. Given up after {failures} reschedules (max_reschedules {limits.max_reschedules}): "
                "mend the cause, then retry the run in Prefect.",
                lost,
            )
        delay = _backoff(failures, limits)
        done = f"rescheduled in {delay.total_seconds():.0f} s, failure {failures + 1} of {limits.max_reschedules}"
        switched = False
    else:
        # An interruption says nothing about the next attempt, nor does a lack of Spot about on-demand. Without capacity
        # where the run stays, the next attempt would fail just as well.
        switched = limits.spot_attempts is not None and spot + 1 == limits.spot_attempts
        delay = timedelta(0) if cause == Cause.INTERRUPTION or switched else _backoff(spot, limits)
        when = f"rescheduled in {delay.total_seconds():.0f} s" if delay else "rescheduled"
        of = f" of {limits.spot_attempts}" if limits.spot_attempts is not None else ""
        done = f"{when}, Spot attempt {spot + 1}{of} lost"
    where = _SWITCHED if switched else _STAYS if to_on_demand else ""
    message = f"{MARK}({cause}) {reason}; {done}{where}"
    return Reschedule(cause, message, delay, to_on_demand, switched, lost)


def _carried_on(run: Run, tasks: Sequence[Task]) -> Reschedule:
    message = run.state.message
    counted = _COUNTED.match(message)
    cause = Cause(counted[1]) if counted else Cause.FAILURE
    switched = message.endswith(_SWITCHED)
    to_on_demand = switched or message.endswith(_STAYS)
    return Reschedule(cause, message, timedelta(0), to_on_demand, switched, _newest(tasks))


def history(states: Sequence[State]) -> list[Cause]:
    """Causes of the reschedules since the run was last started by somebody else, oldest first."""
    causes: list[Cause] = []
    previous: State | None = None
    counted = False
    for state in states:
        ours = state.type == "SCHEDULED" and state.message.startswith(MARK)
        if previous is not None and previous.type in _TERMINAL and state.type == "SCHEDULED" and not ours:
            causes.clear()  # it had ended, and somebody started it again
        # What was parked may have been put back, and two functions at once reschedule twice and count once.
        found = _COUNTED.match(state.message) if ours and state.name == RESCHEDULED and not counted else None
        if found:
            causes.append(Cause(found[1]))
        counted = ours and (counted or found is not None)
        previous = state
    return causes


def _backoff(earlier: int, limits: Limits) -> timedelta:
    factor: int = 1 << min(earlier, 20)
    return min(limits.first_delay * factor, limits.longest_delay)


def _of_this_attempt(run: Run, states: Sequence[State], tasks: Sequence[Task]) -> list[Task]:
    """The tasks of the current attempt, and of no earlier one.

    Lazarus takes the task's id away from a run that it reschedules, so a task that the run names is its current one,
    unless somebody else rescheduled it, or its worker was slow to say which it had started. A worker makes a run
    Pending before it starts a task, so the task must be the younger of the two, and must have lived since. (Scheduled
    states do not tell: an engine that retries its flow sets one without a new task.)
    """
    begun = _begun(states)
    skew = timedelta(seconds=5)  # between Prefect's clock and that of AWS
    return [
        task
        for task in tasks
        if task.arn == run.task_arn
        and (begun is None or task.created_at >= begun - skew)
        and (begun is None or task.stopped_at is None or task.stopped_at >= begun)
    ]


def _unnamed(run: Run, states: Sequence[State], tasks: Sequence[Task]) -> list[Task]:
    """Tasks of the current attempt whose worker died before it could say which it had started."""
    begun = _begun(states)
    return [task for task in tasks if run.task_arn is None and begun is not None and task.created_at >= begun]


def _begun(states: Sequence[State]) -> datetime | None:
    """When a worker took the run last."""
    begun: datetime | None = None
    for before, state in zip([None, *states], states, strict=False):
        if state.type == "PENDING" and (before is None or before.type != "PENDING"):
            begun = state.timestamp
    return begun


def _newest(tasks: Sequence[Task]) -> Task | None:
    return max(tasks, key=lambda task: (task.created_at, task.arn), default=None)


def _explain(run: Run, task: Task | None, spot_provider: str | None) -> tuple[Cause, str]:
    """Why the run lost its task, in words for a person."""
    if task is None:
        message = run.state.message if run.state.type == "CRASHED" else ""
        if _NO_CAPACITY.search(message):
            return Cause.CAPACITY, "no capacity for its task"
        if message:
            return Cause.FAILURE, f"it crashed ({_shortened(message)})"
        if run.task_arn:
            return Cause.FAILURE, "its task is unknown to ECS"
        return Cause.FAILURE, "its worker never started a task for it"
    reason = task.stopped_reason
    if task.stop_code in ("SpotInterruption", "TerminationNotice") or "Spot Task was interrupted" in reason:
        return Cause.INTERRUPTION, "Spot took its machine"
    if _INSTANCE_GONE.search(reason):
        if task.capacity_provider and task.capacity_provider == spot_provider:
            return Cause.INTERRUPTION, "Spot took its machine"
        return Cause.FAILURE, f"its machine is gone ({_shortened(reason)})"
    if _NO_CAPACITY.search(reason):
        return Cause.CAPACITY, "no capacity for its task"
    if any("OutOfMemory" in container.reason for container in task.containers) or "OutOfMemory" in reason:
        return Cause.FAILURE, "it ran out of memory; give it more (job variable memory)"
    if task.stop_code == "TaskFailedToStart":
        return Cause.FAILURE, f"its task could not start ({_shortened(reason)})"
    if run.state.type == "CRASHED" and run.state.message:
        return Cause.FAILURE, f"it crashed ({_shortened(run.state.message)})"
    if task.stop_code == "EssentialContainerExited" or not task.stop_code:
        codes = ", ".join(str(c.exit_code) for c in task.containers if c.exit_code is not None)
        return Cause.FAILURE, f"its container exited{f' with code {codes}' if codes else ''}"
    return Cause.FAILURE, f"its task was stopped ({task.stop_code}: {_shortened(reason)})"


def _shortened(text: str, length: int = 600) -> str:
    # AWS names role and session before the one thing that matters, the permission that is missing.
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"
