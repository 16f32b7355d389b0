"""The dashboard of an execution layer, as CloudWatch reads it. Pure rules: imports no CDK.

From top to bottom it answers: what is wrong, are runs started, what happened to those that lost their task, what do
they run on, and is what looks after them well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cdk_prefect_ecs.functions.lazarus_metrics import DIMENSION, GIVEN_UP, NAMESPACE, RESCHEDULED
from cdk_prefect_ecs.runbook import ADVICE, RUNBOOK, section

_WIDTH: Final = 24  # of a dashboard, in CloudWatch's units
_HEIGHT: Final = 6
_RED, _ORANGE, _GREEN, _BLUE, _GREY = "#d62728", "#ff7f0e", "#2ca02c", "#1f77b4", "#7f7f7f"

Widget = dict[str, Any]


@dataclass(frozen=True)
class PoolView:
    """A work pool on the dashboard.

    :ivar guarded: Whether a Lazarus guards it, and measures it.
    :ivar uses_spot: Whether its flow runs are ever on Spot.
    :ivar service: Cluster and name of the ECS service of its workers.
    :ivar group: Auto Scaling group of its worker host.
    """

    name: str
    guarded: bool
    uses_spot: bool
    service: tuple[str, str] | None = None
    group: str | None = None


@dataclass(frozen=True)
class GuardView:
    """A Lazarus on the dashboard: names of its function, queues and log group."""

    function: str
    queue: str
    dead_letters: Sequence[str]
    log_group: str


@dataclass
class View:
    """What a dashboard shows; it grows with the pools that are added."""

    title: str
    region: str
    worker_logs: str
    guard: GuardView | None = None
    runbook: str = RUNBOOK
    pools: list[PoolView] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    """ARNs of every alarm."""
    named: list[str] = field(default_factory=list)
    """Ids of those that there are, for the text on top."""

    def body(self) -> dict[str, Any]:
        """The body of the dashboard."""
        rows: list[list[Widget]] = [[self._text()]]
        if self.alarms:
            rows[0].append({"type": "alarm", "properties": {"title": "Alarms", "alarms": list(self.alarms)}})
        for pool in self.pools:
            rows.append([{"type": "text", "properties": {"markdown": f"## Work pool {pool.name}"}}])
            rows.append(self._runs(pool) + self._worker(pool))
        if self.guard is not None:
            rows.append(self._tables(self.guard))
            rows.append(self._guard(self.guard))
        rows.append([self._table("Last errors of workers", self.worker_logs, *_WORKER_ERRORS)])
        return {"start": "-PT12H", "periodOverride": "inherit", "widgets": _laid_out(rows)}

    def _text(self) -> Widget:
        lines = [f"# {self.title}", "", "Look at the alarms first. What a red one means, the most urgent on top:", ""]
        lines += ["| alarm | means | do first |", "| --- | --- | --- |"]
        for name, advice in ADVICE.items():
            if name in self.named:
                where = section(name, url=self.runbook)
                link = f"[{name}]({where})" if "://" in where else name
                lines.append(f"| {link} | {advice.means} | {advice.do} |")
        lines += ["", "None is red and runs are missing? Then they wait, or Prefect has not scheduled them."]
        return {"type": "text", "properties": {"markdown": "\n".join(lines)}}

    def _runs(self, pool: PoolView) -> list[Widget]:
        if not pool.guarded:
            return []

        def of(name: str, label: str, stat: str, color: str, **more: Any) -> list[Any]:
            return _metric(NAMESPACE, name, {DIMENSION: pool.name}, label=label, stat=stat, color=color, **more)

        lost = self._graph(
            "Flow runs that lost their task",
            [
                of("Interruptions", "Spot took the machine", "Sum", _BLUE),
                of("CapacityFailures", "no machine to be had", "Sum", _ORANGE),
                of("Reschedules", "rescheduled, all in all", "Sum", _GREEN),
                of("Fallbacks", "switched to on-demand", "Sum", _GREY),
                of("GivenUp", "given up", "Sum", _RED),
            ],
            period=300,
        )
        waiting = self._graph(
            "Seconds that runs wait",
            [
                of("SecondsWaiting", "due, and no worker took it", "Maximum", _ORANGE),
                of("SecondsFromStopToReschedule", "task lost to rescheduled, p90", "p90", _BLUE),
            ],
        )
        on_demand = of("TasksOnDemand", "on-demand", "Maximum", _GREY, id="m2")
        tasks = [on_demand]
        if pool.uses_spot:
            share = {"expression": "100 * m1 / (m1 + m2)", "label": "% on Spot", "yAxis": "right", "color": _BLUE}
            tasks = [of("TasksOnSpot", "Spot", "Maximum", _GREEN, id="m1"), on_demand, [share]]
        return [lost, waiting, self._graph("Tasks of flow runs, by capacity", tasks)]

    def _worker(self, pool: PoolView) -> list[Widget]:
        metrics = []
        if pool.guarded:
            dimensions = {DIMENSION: pool.name}
            metrics += [_metric(NAMESPACE, "WorkersOnline", dimensions, label="online", stat="Maximum", color=_GREEN)]
        if pool.service is not None:
            dimensions = dict(zip(("ClusterName", "ServiceName"), pool.service, strict=True))

            def of(name: str, label: str, stat: str, color: str, **more: Any) -> list[Any]:
                return _metric("AWS/ECS", name, dimensions, label=label, stat=stat, color=color, **more)

            metrics += [
                of("CPUUtilization", "running in ECS", "SampleCount", _BLUE),
                of("CPUUtilization", "CPU %", "Average", _GREY, yAxis="right"),
                of("MemoryUtilization", "memory %", "Average", _ORANGE, yAxis="right"),
            ]
        if pool.group is not None:
            dimensions = {"AutoScalingGroupName": pool.group}
            metrics += [
                _metric(
                    "AWS/AutoScaling",
                    "GroupInServiceInstances",
                    dimensions,
                    label="hosts in service",
                    stat="Minimum",
                    color=_BLUE,
                )
            ]
        return [self._graph("Workers", metrics)] if metrics else []

    def _guard(self, guard: GuardView) -> list[Widget]:
        function = {"FunctionName": guard.function}

        def of(name: str, label: str, stat: str, color: str, **more: Any) -> list[Any]:
            return _metric("AWS/Lambda", name, function, label=label, stat=stat, color=color, **more)

        dead = [
            _metric(
                "AWS/SQS",
                "ApproximateNumberOfMessagesVisible",
                {"QueueName": queue},
                label=f"dead letters {number}",
                stat="Maximum",
                color=color,
                yAxis="right",
            )
            for number, (queue, color) in enumerate(zip(guard.dead_letters, (_RED, _ORANGE), strict=True), start=1)
        ]
        age = _metric(
            "AWS/SQS",
            "ApproximateAgeOfOldestMessage",
            {"QueueName": guard.queue},
            label="oldest event, seconds",
            stat="Maximum",
            color=_BLUE,
        )
        return [
            self._graph(
                "Lazarus: invocations",
                [
                    of("Invocations", "invocations", "Sum", _GREEN),
                    of("Errors", "errors", "Sum", _RED),
                    of("Throttles", "throttles", "Sum", _ORANGE),
                ],
            ),
            self._graph(
                "Lazarus: milliseconds (its time-out is a minute)",
                [
                    of("Duration", "p50", "p50", _GREY),
                    of("Duration", "longest", "Maximum", _BLUE),
                ],
            ),
            self._graph("Task events that wait, and dead letters", [age, *dead]),
        ]

    def _tables(self, guard: GuardView) -> list[Widget]:
        return [
            self._table(
                title,
                guard.log_group,
                "fields @timestamp, workPool, flowRun, why, flowRunId",
                f'filter intervention = "{intervention}"',
            )
            for title, intervention in (("Last given-up runs", GIVEN_UP), ("Last rescheduled runs", RESCHEDULED))
        ]

    def _table(self, title: str, log_group: str, *commands: str) -> Widget:
        query = " | ".join([f"SOURCE '{log_group}'", *commands, "sort @timestamp desc", "limit 20"])
        return {"type": "log", "properties": {"title": title, "region": self.region, "query": query, "view": "table"}}

    def _graph(self, title: str, metrics: Sequence[Any], *, period: int = 60) -> Widget:
        return {
            "type": "metric",
            "properties": {
                "title": title,
                "region": self.region,
                "view": "timeSeries",
                "period": period,
                "yAxis": {"left": {"min": 0}, "right": {"min": 0}},
                "metrics": list(metrics),
            },
        }


_WORKER_ERRORS: Final = (
    "fields @timestamp, @logStream, @message",
    r"filter @logStream like /^worker/ and @message like /\b(ERROR|CRITICAL)\b|Traceback|Error:/",
)


def _metric(namespace: str, name: str, dimensions: Mapping[str, str], **rendering: Any) -> list[Any]:
    """A metric as CloudWatch's dashboards write it."""
    return [namespace, name, *(part for pair in dimensions.items() for part in pair), rendering]


def _laid_out(rows: Sequence[Sequence[Widget]]) -> list[Widget]:
    """The widgets with their places: those of a row share its width."""
    placed: list[Widget] = []
    y = 0
    for row in rows:
        height = max((_height(widget) for widget in row), default=0)
        for number, widget in enumerate(row):
            x = _WIDTH * number // len(row)
            width = _WIDTH * (number + 1) // len(row) - x
            placed.append({**widget, "x": x, "y": y, "width": width, "height": height})
        y += height
    return placed


def _height(widget: Widget) -> int:
    """Enough for what is in it."""
    properties = widget["properties"]
    if widget["type"] == "text":
        return 1 + int(properties["markdown"].count("\n")) * 2 // 3
    return 2 + len(properties["alarms"]) // 6 if widget["type"] == "alarm" else _HEIGHT
