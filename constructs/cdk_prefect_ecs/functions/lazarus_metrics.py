"""What Lazarus tells CloudWatch through its log: metrics of each work pool, and what it did about a run and why."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

#: Namespace and dimension of every metric. Alarms of others name them: docs/compatibility.md.
NAMESPACE = "PrefectOnEcs"
DIMENSION = "WorkPool"

#: Values of ``intervention`` in the lines that :func:`intervention` makes.
GIVEN_UP = "given up"
RESCHEDULED = "rescheduled"


def intervention(what: str, *, work_pool: str, run_id: str, run_name: str, why: str) -> str:
    """One line of JSON, whose fields CloudWatch Logs Insights knows by their names."""
    return json.dumps(
        {"intervention": what, "workPool": work_pool, "flowRun": run_name, "flowRunId": run_id, "why": why}
    )


@dataclass(frozen=True)
class Observation:
    """How a pool does at the moment, for somebody who watches.

    :ivar workers_online: Workers that polled the API within the last minute and a half.
    :ivar seconds_waiting: How long the run that waits longest has been due; 0 when none waits.
    :ivar tasks_on_spot: Live tasks of its flow runs on Spot.
    :ivar tasks_on_demand: The others.
    """

    workers_online: int
    seconds_waiting: float
    tasks_on_spot: int
    tasks_on_demand: int


@dataclass
class Counts:
    """What one look did, and found, in one work pool."""

    interruptions: int = 0
    capacity_failures: int = 0
    fallbacks: int = 0
    reschedules: int = 0
    given_up: int = 0
    seconds_to_reschedule: list[float] = field(default_factory=list)
    observation: Observation | None = None

    def embedded_metrics(self, work_pool: str, now: datetime) -> str:
        """One line in CloudWatch's embedded metric format: metrics by way of the log, without an API call."""
        values: dict[str, tuple[str, Any]] = {
            "Interruptions": ("Count", self.interruptions),
            "CapacityFailures": ("Count", self.capacity_failures),
            "Fallbacks": ("Count", self.fallbacks),
            "Reschedules": ("Count", self.reschedules),
            "GivenUp": ("Count", self.given_up),
        }
        if self.seconds_to_reschedule:
            values["SecondsFromStopToReschedule"] = ("Seconds", self.seconds_to_reschedule)
        if self.observation is not None:
            values |= {
                "WorkersOnline": ("Count", self.observation.workers_online),
                "SecondsWaiting": ("Seconds", self.observation.seconds_waiting),
                "TasksOnSpot": ("Count", self.observation.tasks_on_spot),
                "TasksOnDemand": ("Count", self.observation.tasks_on_demand),
            }
        definition = {
            "Namespace": NAMESPACE,
            "Dimensions": [[DIMENSION]],
            "Metrics": [{"Name": name, "Unit": unit} for name, (unit, _) in values.items()],
        }
        return json.dumps(
            {
                "_aws": {"Timestamp": int(now.timestamp() * 1000), "CloudWatchMetrics": [definition]},
                DIMENSION: work_pool,
                **{name: value for name, (_, value) in values.items()},
            }
        )
