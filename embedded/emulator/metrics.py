"""CloudWatch's metrics and alarms as on AWS: metrics that logs carry, those of functions, queues and services; alarms
that look at their own metric and tell their topic.

MiniStack keeps metrics, alarms and dashboards; of functions it counts what is invoked through the API only.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from embedded.emulator import alarm_rules
from embedded.emulator.engine import Engine
from embedded.emulator.inner import Json, cloudwatch, ecs, lambda_svc, logs, responses, sqs
from embedded.emulator.tasks import TaskRun

logger = logging.getLogger("embedded.metrics")

_TICK_SECONDS = 0.5
_SAMPLE_SECONDS = 60.0

_append_log_events = logs._append_log_events
_acquire_execution_slot = lambda_svc._acquire_execution_slot
_execute_function_dispatch = lambda_svc._execute_function_dispatch


@dataclass(frozen=True)
class Datum:
    """One metric in a line of a log."""

    namespace: str
    name: str
    unit: str
    dimensions: Json
    values: tuple[float, ...]
    timestamp: float


def embedded(line: str) -> Iterator[Datum]:
    """The metrics in a line of CloudWatch's embedded metric format; none in any other.

    Source: "Specification: Embedded metric format", Amazon CloudWatch User Guide.
    """
    if not line.startswith('{"_aws"'):
        return
    document = json.loads(line)
    for directive in document["_aws"]["CloudWatchMetrics"]:
        for keys in directive["Dimensions"]:
            for metric in directive["Metrics"]:
                value = document[metric["Name"]]
                yield Datum(
                    directive["Namespace"],
                    metric["Name"],
                    metric.get("Unit", "None"),
                    {key: document[key] for key in keys},
                    tuple(map(float, value if isinstance(value, list) else [value])),
                    document["_aws"]["Timestamp"] / 1000,
                )


class Metrics:
    """Fills CloudWatch, and looks at its alarms.

    :ivar ahead: By how many seconds the alarms are ahead of time, so that nobody has to wait for them.
    """

    def __init__(self, engine: Engine) -> None:
        self.ahead = 0.0
        self._engine = engine
        self._cpu_before: dict[str, tuple[float, float]] = {}  # by task: when, and its seconds of CPU until then

    def install(self) -> None:
        logs._append_log_events = append_log_events
        lambda_svc._execute_function_dispatch = execute_function_dispatch
        lambda_svc._acquire_execution_slot = acquire_execution_slot
        lambda_svc._emit_lambda_metrics = lambda *_, **__: None  # it would count some of them again
        cloudwatch._evaluate_alarm = self.evaluate
        threading.Thread(target=self._watch, name="metrics", daemon=True).start()

    def _watch(self) -> None:
        sampled = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            if time.monotonic() - sampled >= _SAMPLE_SECONDS:
                sampled = time.monotonic()
                _each(sqs._queues.all_items(), sample_queue)
                _each(ecs._services.all_items(), self.sample_service)
            _each(cloudwatch._alarms.all_items(), self.evaluate)

    def sample_service(self, service: Json) -> None:
        """One sample for each running task, as the ECS agent sends it: also how many tasks run is read from that."""
        dimensions = {
            "ClusterName": service["clusterArn"].rpartition("/")[2],
            "ServiceName": service["serviceName"],
        }
        for run in self._engine.runs():
            record = run.record
            if record["group"] != f"service:{service['serviceName']}" or record["lastStatus"] != "RUNNING":
                continue
            cpu, memory = self._utilization(run)
            cloudwatch.record_metric("AWS/ECS", "CPUUtilization", cpu, "Percent", dimensions)
            cloudwatch.record_metric("AWS/ECS", "MemoryUtilization", memory, "Percent", dimensions)

    def _utilization(self, run: TaskRun) -> tuple[float, float]:
        """How much of its CPU and memory a task uses, in percent."""
        now, seconds, bytes_used = time.monotonic(), 0.0, 0
        for container in run.containers:
            try:
                first = psutil.Process(container.process.pid)
                for process in (first, *first.children(recursive=True)):
                    seconds += sum(process.cpu_times()[:2])
                    bytes_used += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it has just ended
        then, before = self._cpu_before.get(run.arn, (now - max(run.lived, 1.0), 0.0))
        self._cpu_before[run.arn] = (now, seconds)
        shares = int(run.record["cpu"]) / 1024
        return (
            100 * max(0.0, seconds - before) / (now - then) / shares,
            100 * bytes_used / (int(run.record["memory"]) * 2**20),
        )

    def evaluate(self, alarm: Json) -> None:
        """Set the state of an alarm, and tell its topics of a change."""
        statistic, comparison = alarm.get("Statistic"), alarm.get("ComparisonOperator", "")
        if alarm.get("ExtendedStatistic") or not alarm_rules.supports(statistic, comparison):
            return
        periods = int(alarm["EvaluationPeriods"])
        rule = alarm_rules.Rule(
            str(statistic),
            comparison,
            float(alarm["Threshold"]),
            float(alarm["Period"]),
            periods,
            int(alarm.get("DatapointsToAlarm") or periods),
            alarm.get("TreatMissingData") or "missing",
        )
        dimensions = {item["Name"]: item["Value"] for item in alarm.get("Dimensions") or []}
        key = (alarm["Namespace"], alarm["MetricName"], cloudwatch._dims_key(dimensions))
        points = [(point["Timestamp"], point["Value"]) for point in list(cloudwatch._metrics.get(key) or [])]
        before = alarm["StateValue"]
        state = alarm_rules.state(rule, points, time.time() + self.ahead, before)
        if state == before:
            return
        reason = (
            f"Threshold Crossed: {statistic} {comparison} {rule.threshold:g} in {rule.to_alarm} of {periods} periods"
        )
        alarm.update(StateValue=state, StateReason=reason, StateUpdatedTimestamp=int(time.time()))
        cloudwatch._record_history(alarm["AlarmName"], before, state, reason)
        cloudwatch._dispatch_alarm_actions(alarm, before, state, reason)
        cloudwatch._evaluate_parent_alarms(alarm)


def execute_function_dispatch(func: Json, config: Json, event: Json, request_id: str, started: float) -> Any:
    """One invocation, whoever asked for it."""
    result = _execute_function_dispatch(func, config, event, request_id, started)
    failed = isinstance(result, dict) and bool(result.get("error"))
    measured = {"Invocations": 1, "Errors": int(failed), "Throttles": 0}
    dimensions = {"FunctionName": config["FunctionName"]}
    for name, value in measured.items():
        cloudwatch.record_metric("AWS/Lambda", name, value, "Count", dimensions)
    milliseconds = 1000 * (time.time() - started)
    cloudwatch.record_metric("AWS/Lambda", "Duration", milliseconds, "Milliseconds", dimensions)
    return result


def acquire_execution_slot(func: Json, config: Json) -> Any:
    """Whether a function may be invoked now; what is throttled is no invocation."""
    slot, limit = _acquire_execution_slot(func, config)
    if slot is None:
        cloudwatch.record_metric("AWS/Lambda", "Throttles", 1, "Count", {"FunctionName": config["FunctionName"]})
    return slot, limit


def append_log_events(stream: Json, events: Any) -> None:
    """Whatever is logged, by functions and by tasks, may carry metrics."""
    _append_log_events(stream, events)
    for event in events:
        try:
            for datum in embedded(event["message"]):
                store(datum)
        except (KeyError, TypeError, ValueError):
            logger.warning("a line looks like the embedded metric format and is not: %s", event["message"][:200])


def store(datum: Datum) -> None:
    for value in datum.values:
        cloudwatch._store_datum(
            datum.namespace, datum.name, datum.dimensions, datum.timestamp, datum.unit, value, None, None, None
        )


def sample_queue(queue: Json) -> None:
    """What SQS tells of a queue."""
    now, dimensions = time.time(), {"QueueName": queue["name"]}
    messages = list(queue["messages"])
    visible = sum(message["visible_at"] <= now for message in messages)
    oldest = max((now - message["sent_at"] for message in messages), default=0.0)
    cloudwatch.record_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", visible, "Count", dimensions)
    cloudwatch.record_metric("AWS/SQS", "ApproximateAgeOfOldestMessage", oldest, "Seconds", dimensions)


def _each(items: Iterable[tuple[tuple[str, str, Any], Json]], do: Any) -> None:
    """Do something with each, in its account and region."""
    for (account, region, name), item in items:
        try:
            with responses.request_scope(account, region):
                do(item)
        except Exception:
            logger.exception("%s of %s could not be seen to", do.__name__, name)
