"""The service scheduler: keeps every ECS service at its desired count.

MiniStack keeps the records of services and deployments; this starts, replaces and stops their tasks, moves deployments
from one task definition to the next, and triggers the circuit breaker.
"""

import logging
import math
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass

from embedded.emulator import capacity, placement
from embedded.emulator.backoff import Backoff
from embedded.emulator.engine import Engine, launch_choice
from embedded.emulator.inner import Json, Response, ecs, responses
from embedded.emulator.references import RefusedError, resolve_cluster, resolve_definition
from embedded.emulator.tasks import StopRequest, TaskRun

logger = logging.getLogger("embedded.services")

# A process that only just started may be about to fail; a task counts as steady after this.
STEADY_SECONDS = 1.0
_TICK_SECONDS = 0.25
_BY_THEMSELVES = ("EssentialContainerExited", "TaskFailedToStart")


@dataclass(frozen=True)
class Plan:
    """How many tasks of the new deployment to start, of the old ones to stop, and of the new ones to stop."""

    start: int = 0
    stop_old: int = 0
    stop_new: int = 0


def plan(
    *, desired: int, new: int, steady: int, old: int, leaving: int, minimum_percent: int, maximum_percent: int
) -> Plan:
    """One step towards ``desired`` tasks of the new deployment and none of the old.

    At least minimumHealthyPercent of the desired count (rounded up) stays, and at most maximumPercent (rounded down)
    lives at once, tasks that are still ``leaving`` included.
    """
    lower = math.ceil(desired * minimum_percent / 100)
    upper = math.floor(desired * maximum_percent / 100)
    missing = max(0, desired - new)
    start = max(0, min(missing, upper - new - old - leaving))
    if steady >= desired:
        stop_old = old
    elif start + leaving < missing:  # no room: make some, as far as the minimum allows
        stop_old = max(0, min(old, missing - start - leaving, steady + old - lower))
    else:
        stop_old = 0
    return Plan(start, stop_old, max(0, new - desired))


def failure_threshold(desired: int) -> int:
    """The circuit breaker gives up after half the desired count, but not before 3 and not after 200 failures."""
    return min(200, max(3, math.ceil(desired * 0.5)))


class ServiceScheduler:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = threading.Event()
        self._backoff: dict[str, Backoff] = {}  # by deployment id
        self._unhealthy: set[str] = set()
        engine.on_change(self._task_changed)
        threading.Thread(target=self._watch, name="service-scheduler", daemon=True).start()

    def wake(self, *_: object) -> None:
        """Look at all services soon (MiniStack calls this where it would have started tasks itself)."""
        self._wake.set()

    # The API

    def create(self, data: Json) -> Response:
        try:
            cluster = resolve_cluster(data.get("cluster"))
            resolve_definition(data.get("taskDefinition", ""))
            launch_choice(data, cluster)
        except RefusedError as error:
            return error.response()
        answer: Response = ecs._create_service(data)
        if answer[0] < 400:
            service = ecs._services[f"{cluster['clusterName']}/{data['serviceName']}"]
            service["deployments"][0].update(rolloutState="IN_PROGRESS", rolloutStateReason="")
            self.wake()
        return answer

    def delete(self, data: Json) -> Response:
        answer: Response = ecs._delete_service(data)
        self.wake()
        return answer

    def stop_task(self, data: Json) -> Response:
        """MiniStack's DeleteService stops the tasks of the service through this."""
        return self._engine.stop_task({**data, "_code": "ServiceSchedulerInitiated"})

    def tasks_of(self, service: Json) -> list[TaskRun]:
        group = f"service:{service['serviceName']}"
        return [
            run
            for run in self._engine.runs()
            if run.record["group"] == group
            and run.record["clusterArn"] == service["clusterArn"]
            and not run.finished.is_set()
        ]

    def ended_of(self, deployment: str) -> list[TaskRun]:
        return [
            run
            for run in self._engine.runs()
            if run.record.get("_deployment_id") == deployment and run.finished.is_set()
        ]

    # The watch

    def _task_changed(self, run: TaskRun) -> None:
        if not str(run.record["group"]).startswith("service:"):
            return
        if run.record["lastStatus"] == "STOPPED":
            self._task_ended(run)
        self.wake()

    def _task_ended(self, run: TaskRun) -> None:
        service = self._service_of(run)
        deployment = run.record.get("_deployment_id") or ""
        failed = run.record["stopCode"] in _BY_THEMSELVES or run.arn in self._unhealthy
        self._unhealthy.discard(run.arn)
        if not failed or service is None:
            return  # lost, interrupted or stopped by someone: replaced at once
        backoff = self._backoff.setdefault(deployment, Backoff())
        backoff.died(lived=run.lived, now=time.monotonic())
        for record in service["deployments"]:
            if record["id"] == deployment and record.get("rolloutState") == "IN_PROGRESS":
                record["failedTasks"] = int(record.get("failedTasks") or 0) + 1
                self._maybe_break(service, record)

    def _service_of(self, run: TaskRun) -> Json | None:
        cluster = run.record["clusterArn"].rsplit("/", 1)[-1]
        service: Json | None = ecs._services.get(f"{cluster}/{run.record['group'].removeprefix('service:')}")
        return service

    def _watch(self) -> None:
        while True:
            self._wake.wait(timeout=_TICK_SECONDS)
            self._wake.clear()
            for (account, region, _), service in ecs._services.all_items():
                if service.get("status") == "ACTIVE":
                    try:
                        with responses.request_scope(account, region):
                            self._tend(service)
                    except Exception:
                        logger.exception("service %s could not be tended", service.get("serviceName"))

    def _tend(self, service: Json) -> None:
        primary = next((d for d in service["deployments"] if d["status"] == "PRIMARY"), None)
        if primary is None:
            return
        alive = self.tasks_of(service)
        runs = [run for run in alive if not run.stopping]
        new = [run for run in runs if run.record.get("_deployment_id") == primary["id"]]
        old = [run for run in runs if run.record.get("_deployment_id") != primary["id"]]
        for run in new:
            if run.record["healthStatus"] == "UNHEALTHY":
                self._unhealthy.add(run.arn)
                self._event(service, f"stopped task {run.id}: failed container health checks.")
                run.stop(StopRequest("Task failed container health checks", "ServiceSchedulerInitiated"))
        steady = sum(_steady(run) for run in new)
        desired = 0 if primary.get("rolloutState") == "FAILED" else int(service["desiredCount"])
        configuration = service.get("deploymentConfiguration") or {}
        step = plan(
            desired=desired,
            new=len(new),
            steady=steady,
            old=len(old),
            leaving=len(alive) - len(runs),
            minimum_percent=int(configuration.get("minimumHealthyPercent", 100)),
            maximum_percent=int(configuration.get("maximumPercent", 200)),
        )
        self._start(service, primary, step.start, new)
        newest_first = sorted(new, key=lambda run: str(run.record["createdAt"]), reverse=True)
        for run in [*old[: step.stop_old], *newest_first[: step.stop_new]]:
            why = f"Scaling activity initiated by (deployment {primary['id']})"
            run.stop(StopRequest(why, "ServiceSchedulerInitiated"))
        if steady >= desired and not old and primary.get("rolloutState") == "IN_PROGRESS":
            primary.update(rolloutState="COMPLETED", rolloutStateReason=f"ECS deployment {primary['id']} completed.")
            primary["updatedAt"] = responses.now_iso()
            primary["failedTasks"] = 0
            self._event(service, f"(deployment {primary['id']}) deployment completed.")
            self._event(service, "has reached a steady state.")
            # A failed deployment stays visible: it holds the diagnosis.
            service["deployments"] = [
                d for d in service["deployments"] if d is primary or d.get("rolloutState") == "FAILED"
            ]
        ecs._refresh_service_state(service["clusterArn"].rsplit("/", 1)[-1], f"service:{service['serviceName']}")

    def _start(self, service: Json, deployment: Json, count: int, running: list[TaskRun]) -> None:
        backoff = self._backoff.setdefault(deployment["id"], Backoff())
        if not count or not backoff.ready(time.monotonic()):
            return
        cluster = resolve_cluster(service["clusterArn"])
        definition = resolve_definition(deployment["taskDefinition"])
        strategy = placement.strategy_from(service.get("capacityProviderStrategy") or [])
        counts = Counter(str(run.record.get("capacityProviderName")) for run in running)
        providers = placement.place(strategy, count, counts) if strategy else [None] * count
        for provider in providers:
            if self._engine.capacity.shortage(provider or service.get("launchType")) == "refuse":
                backoff.died(lived=0.0, now=time.monotonic())
                self._event(service, f"was unable to place a task. Reason: {capacity.REASON}.")
                return
            run = self._engine.register(
                cluster,
                definition,
                self._request(service, deployment),
                launch_type=service.get("launchType"),
                provider=provider,
                deployment=deployment["id"],
            )
            run.start()
            self._event(service, f"has started 1 tasks: (task {run.id}).")

    def _request(self, service: Json, deployment: Json) -> Json:
        tags = ecs._tags.get(service["serviceArn"]) if service.get("propagateTags") == "SERVICE" else None
        return {
            "group": f"service:{service['serviceName']}",
            "startedBy": deployment["id"],
            "networkConfiguration": service.get("networkConfiguration"),
            "enableExecuteCommand": service.get("enableExecuteCommand"),
            "propagateTags": service.get("propagateTags"),
            "tags": tags or [],
        }

    def _maybe_break(self, service: Json, deployment: Json) -> None:
        breaker = (service.get("deploymentConfiguration") or {}).get("deploymentCircuitBreaker") or {}
        if not breaker.get("enable") or deployment["failedTasks"] < failure_threshold(int(service["desiredCount"])):
            return
        reason = "ECS deployment circuit breaker: tasks failed to start."
        deployment.update(rolloutState="FAILED", rolloutStateReason=reason, updatedAt=responses.now_iso())
        self._event(service, f"(deployment {deployment['id']}) deployment failed: tasks failed to start.")
        previous = next((d for d in service["deployments"] if d.get("rolloutState") == "COMPLETED"), None)
        if breaker.get("rollback") and previous is not None:
            deployment["status"], previous["status"] = "ACTIVE", "PRIMARY"
            previous["rolloutState"] = "IN_PROGRESS"
            previous["rolloutStateReason"] = "ECS deployment circuit breaker: rolling back to a previous deployment."
            service["taskDefinition"] = previous["taskDefinition"]
            self._event(service, f"rolling back to deployment {previous['id']}.")

    def _event(self, service: Json, text: str) -> None:
        entry = {
            "id": str(uuid.uuid4()),
            "createdAt": responses.now_iso(),
            "message": f"(service {service['serviceName']}) {text}",
        }
        service["events"] = [entry, *service.get("events", [])][:100]


def _steady(run: TaskRun) -> bool:
    if run.record["lastStatus"] != "RUNNING" or run.lived < STEADY_SECONDS:
        return False
    checked = any(c.get("healthCheck") for c in run.definition["containerDefinitions"] if c.get("essential", True))
    return run.record["healthStatus"] == "HEALTHY" if checked else True
