"""What the journals, Prefect's state histories and ECS's tasks say about a flow run: pure functions of facts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PARKED = "Rescheduling"  # Lazarus's state in between, in which no worker takes a run


@dataclass(frozen=True)
class Line:
    """A line of a journal."""

    at: float
    process: int
    kind: str
    name: str


@dataclass(frozen=True)
class Execution:
    """One execution of one task's code by one process; `end` is None when it was cut off."""

    name: str
    process: int
    start: float
    last: float
    end: float | None

    @property
    def seconds(self) -> float:
        return self.last - self.start


@dataclass(frozen=True)
class StateFact:
    """A state of a flow run."""

    at: float
    type: str
    name: str
    message: str


@dataclass(frozen=True)
class TaskFact:
    """An ECS task of a flow run."""

    arn: str
    created: float
    started: float | None
    stopped: float | None
    provider: str
    stop_code: str


@dataclass(frozen=True)
class Interruption:
    """When a machine was taken away, and how."""

    at: float
    arn: str
    how: str


@dataclass(frozen=True)
class Recovery:
    """From an interruption to user code running again, in seconds; the parts are None where nothing came."""

    how: str
    total: float | None
    stop: float | None
    reschedule: float | None
    poll: float | None
    start: float | None


@dataclass(frozen=True)
class RunFacts:
    """All that is known of a flow run."""

    name: str
    fault: str
    submitted: float
    outcome: str
    journal: Sequence[Line]
    states: Sequence[StateFact]
    tasks: Sequence[TaskFact]
    interruptions: Sequence[Interruption]


@dataclass
class Summary:
    """One side of the comparison."""

    runs: int = 0
    completed: int = 0
    crashed: int = 0
    stuck: int = 0
    other: int = 0
    interruptions: int = 0
    recovered: int = 0
    tasks_repeated: int = 0
    double_seconds: float = 0.0
    compute_seconds: float = 0.0
    wasted_seconds: float = 0.0
    fallbacks: int = 0
    attempts: int = 0
    median_seconds: float | None = None
    worst_seconds: float | None = None
    median_parts: dict[str, float | None] = field(default_factory=dict)
    worst_parts: dict[str, float | None] = field(default_factory=dict)

    @property
    def wasted_percent(self) -> float:
        return 100 * self.wasted_seconds / self.compute_seconds if self.compute_seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        return {key: _rounded(value) for key, value in asdict(self).items()}


PARTS = ("stop", "reschedule", "poll", "start")


def parsed(text: str) -> list[Line]:
    """Lines of a journal; the last one may be half written."""
    lines = []
    for raw in text.splitlines(keepends=True):
        if raw.endswith("\n"):
            lines.append(Line(**json.loads(raw)))
    return lines


def executions(journal: Sequence[Line]) -> list[Execution]:
    """The executions of tasks, in the order in which they began."""
    found: dict[tuple[int, str], Execution] = {}
    for line in sorted(journal, key=lambda line: line.at):
        key = (line.process, line.name)
        if line.kind == "start":
            found[key] = Execution(line.name, line.process, line.at, line.at, None)
        elif line.kind in ("beat", "end") and key in found:
            begun = found[key]
            end = line.at if line.kind == "end" else None
            found[key] = Execution(begun.name, begun.process, begun.start, line.at, end)
    return sorted(found.values(), key=lambda execution: execution.start)


def repeated(done: Sequence[Execution]) -> list[Execution]:
    """Executions of tasks whose code had come to its end before."""
    return [
        later
        for later in done
        if any(e.name == later.name and e.end is not None and e.end < later.start for e in done if e is not later)
    ]


def double_seconds(journal: Sequence[Line]) -> float:
    """Seconds during which more than one process executed the run: from its first line to its last."""
    edges = []
    for first, last in spans(journal).values():
        edges += [(first, 1), (last, -1)]
    total, alive, before = 0.0, 0, 0.0
    for at, change in sorted(edges):
        if alive > 1:
            total += at - before
        alive, before = alive + change, at
    return total


def spans(journal: Sequence[Line]) -> dict[int, tuple[float, float]]:
    """First and last line of each process."""
    found: dict[int, tuple[float, float]] = {}
    for line in journal:
        first, last = found.get(line.process, (line.at, line.at))
        found[line.process] = (min(first, line.at), max(last, line.at))
    return found


def wasted_seconds(run: RunFacts) -> float:
    """Seconds of executing tasks that served nothing: cut off, repeated, or of a run that never completed."""
    done = executions(run.journal)
    if run.outcome != "completed":
        return sum(execution.seconds for execution in done)
    counted: set[str] = set()
    wasted = 0.0
    for execution in done:
        if execution.end is not None and execution.name not in counted:
            counted.add(execution.name)
        else:
            wasted += execution.seconds
    return wasted


def recoveries(run: RunFacts) -> list[Recovery]:
    """How each interruption of the run was got over."""
    found = []
    for interruption in run.interruptions:
        hit = next(task for task in run.tasks if task.arn == interruption.arn)
        if hit.stopped is None:
            found.append(Recovery(interruption.how, None, None, None, None, None))
            continue
        stop = hit.stopped - interruption.at
        scheduled = next(
            (s.at for s in run.states if s.type == "SCHEDULED" and s.name != PARKED and s.at >= interruption.at), None
        )
        following = next((task for task in run.tasks if task.created > hit.created), None)
        again = (
            min((first for first, _ in spans(run.journal).values() if first > following.created), default=None)
            if following
            else None
        )
        found.append(
            Recovery(
                how=interruption.how,
                total=None if again is None else again - interruption.at,
                stop=stop,
                reschedule=None if scheduled is None else scheduled - hit.stopped,
                poll=None if scheduled is None or following is None else following.created - scheduled,
                start=None if again is None or following is None else again - following.created,
            )
        )
    return found


def summary(runs: Sequence[RunFacts]) -> Summary:
    """One side's figures."""
    got = Summary(runs=len(runs))
    got.completed = sum(run.outcome == "completed" for run in runs)
    got.crashed = sum(run.outcome == "crashed" for run in runs)
    got.stuck = sum(run.outcome == "stuck" for run in runs)
    got.other = got.runs - got.completed - got.crashed - got.stuck
    for run in runs:
        done = executions(run.journal)
        got.tasks_repeated += len(repeated(done))
        got.compute_seconds += sum(execution.seconds for execution in done)
        got.double_seconds += double_seconds(run.journal)
        got.wasted_seconds += wasted_seconds(run)
        got.attempts += len(run.tasks)
        got.fallbacks += any(task.provider == "FARGATE" for task in run.tasks)
    everything = [recovery for run in runs for recovery in recoveries(run)]
    overcome = [recovery for recovery in everything if recovery.total is not None]
    got.interruptions, got.recovered = len(everything), len(overcome)
    got.median_seconds, got.worst_seconds = _median_and_worst(recovery.total for recovery in overcome)
    for part in PARTS:
        values = [getattr(recovery, part) for recovery in everything]
        got.median_parts[part], got.worst_parts[part] = _median_and_worst(values)
    return got


def run_as_json(run: RunFacts) -> dict[str, Any]:
    """A run's facts in seconds since it was submitted."""

    def since(at: float | None) -> float | None:
        return None if at is None else round(at - run.submitted, 2)

    done = executions(run.journal)
    return {
        "name": run.name,
        "fault": run.fault,
        "outcome": run.outcome,
        "states": [
            {"at": since(s.at), "name": s.name, **({"message": s.message} if s.message else {})} for s in run.states
        ],
        "attempts": [
            {
                "created": since(task.created),
                "started": since(task.started),
                "stopped": since(task.stopped),
                "provider": task.provider,
                "stop_code": task.stop_code,
            }
            for task in run.tasks
        ],
        "code": [[since(first), since(last)] for first, last in sorted(spans(run.journal).values())],
        "interruptions": [{"at": since(i.at), "how": i.how} for i in run.interruptions],
        "recoveries": [
            {key: _rounded(value) for key, value in asdict(recovery).items()} for recovery in recoveries(run)
        ],
        "repeated": sorted(execution.name for execution in repeated(done)),
        "double_seconds": _rounded(double_seconds(run.journal)),
        "wasted_seconds": _rounded(wasted_seconds(run)),
    }


def _median_and_worst(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    return (statistics.median(known), max(known)) if known else (None, None)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return value
