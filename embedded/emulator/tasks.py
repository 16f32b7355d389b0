"""The life of one ECS task, from PROVISIONING to STOPPED.

The record that DescribeTasks shows is MiniStack's; this moves it through its states, runs its containers and tells the
world. Every task has a thread of its own; whoever wants it stopped leaves a StopRequest.
"""

import contextlib
import contextvars
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedded.emulator import capacity, containers, credentials, interfaces, machines, registry, secret_values
from embedded.emulator.container_logs import LogDriverError, LogStream, open_stream
from embedded.emulator.containers import Container
from embedded.emulator.events import EventStream
from embedded.emulator.inner import Json, account_and_region, ecs, responses
from embedded.emulator.runtime import (
    CannotPullContainerError,
    CannotStartContainerError,
    ContainerSpec,
    Runtime,
)

logger = logging.getLogger("embedded.tasks")

FLOW_RUN_ID = "PREFECT__FLOW_RUN_ID"
SPOT_REASON = "Your Spot Task was interrupted."
# AWS's stop code for a machine that failed; its wording is not documented.
LOSS_REASON = "The underlying infrastructure that hosted the task was lost."


@dataclass(frozen=True)
class StopRequest:
    """Why and how a task is to stop. ``announced`` is what the record says until its processes are gone."""

    reason: str
    code: str
    announced: str = ""
    grace: float | None = None  # None: each container's own stop timeout; 0: SIGKILL at once


@dataclass(frozen=True)
class World:
    """What all tasks share."""

    directory: Path
    endpoint: str
    runtime: Runtime
    events: EventStream
    on_change: Callable[["TaskRun"], None]


class TaskRun:
    def __init__(self, record: Json, definition: Json, world: World) -> None:
        self.record = record
        self.definition = definition
        self.world = world
        self.containers: list[Container] = []
        self.essential_ended = False
        self.running_since: float | None = None
        self.finished = threading.Event()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._stop: StopRequest | None = None
        self._home = world.directory / self.id  # until the containers start

    @property
    def arn(self) -> str:
        return str(self.record["taskArn"])

    @property
    def id(self) -> str:
        return self.arn.rsplit("/", 1)[-1]

    @property
    def stopping(self) -> bool:
        return self._stop is not None or self.finished.is_set()

    @property
    def on_spot(self) -> bool:
        return machines.is_spot(self.record.get("capacityProviderName"))

    @property
    def lived(self) -> float:
        return 0.0 if self.running_since is None else time.monotonic() - self.running_since

    def override_of(self, name: str) -> Json:
        overrides = (self.record.get("overrides") or {}).get("containerOverrides") or []
        found = next((dict(o) for o in overrides if o.get("name") == name), {})
        if command := found.get("command"):
            found["command"] = interfaces.listening_on(command, interfaces.address_of(self.record))
        return found

    def role(self, key: str) -> str:
        """``taskRoleArn`` or ``executionRoleArn``; RunTask's override wins (prefect-aws sends the task role there)."""
        return str((self.record.get("overrides") or {}).get(key) or self.definition.get(key) or "")

    @property
    def flow_run_id(self) -> str | None:
        """The Prefect flow run that the worker started this task for."""
        for override in (self.record.get("overrides") or {}).get("containerOverrides") or []:
            for pair in override.get("environment") or []:
                if pair.get("name") == FLOW_RUN_ID:
                    return str(pair.get("value"))
        return None

    def start(self) -> None:
        self._announce()
        context = contextvars.copy_context()  # the account and region of the request
        threading.Thread(target=context.run, args=(self._live,), name=f"task-{self.id[:8]}", daemon=True).start()

    def stop(self, request: StopRequest) -> bool:
        """Ask the task to stop. A harder request replaces a softer one; returns whether it changed anything."""
        with self._changed:
            if self.finished.is_set():
                return False
            if self._stop is not None and request.grace != 0:
                return False
            first, self._stop = self._stop is None, request
            if first:
                self.record.update(
                    desiredStatus="STOPPED",
                    stoppedReason=request.reason,
                    stopCode=request.announced or request.code,
                    stoppingAt=responses.now_iso(),
                )
                if request.grace != 0:  # a machine that is gone says nothing before it is gone
                    self._announce()
            self._changed.notify_all()
        return True

    def kill(self) -> None:
        """SIGKILL, without ceremony: the emulator is ending."""
        for container in self.containers:
            container.process.kill()

    # The task's own thread

    def _live(self) -> None:
        try:
            reason, code = self._run()
        except Exception as error:
            logger.exception("task %s failed inside the emulator", self.arn)
            reason, code = f"InternalError: {error}", "TaskFailedToStart"
        self._end_containers(StopRequest(reason, code))
        self._finish(reason, code)

    def _run(self) -> tuple[str, str]:
        """Live until something ends the task; returns the reason and code it stops with."""
        if capacity_failed := self.record.pop("_capacity_failure", None):
            return str(capacity_failed), "TaskFailedToStart"
        self._enter("PENDING")
        try:
            self._start_containers()
        except (secret_values.SecretUnavailableError, LogDriverError) as error:
            return f"ResourceInitializationError: {error}", "TaskFailedToStart"
        except CannotPullContainerError as error:
            return f"CannotPullContainerError: {error}", "TaskFailedToStart"
        except CannotStartContainerError as error:
            return f"CannotStartContainerError: {error}", "TaskFailedToStart"
        with self._lock:
            stopped_early = self._stop is not None
        if not stopped_early:
            self._enter("RUNNING")
        with self._changed:
            while self._stop is None and not self.essential_ended:
                self._changed.wait()
            request = self._stop
        if request is None:
            return "Essential container in task exited", "EssentialContainerExited"
        return request.reason, request.code

    def _start_containers(self) -> None:
        execution_role = self.role("executionRoleArn")
        for role in filter(None, (execution_role, self.role("taskRoleArn"))):
            if not credentials.trusts_tasks(role, self.arn):
                raise secret_values.SecretUnavailableError(
                    f"unable to pull secrets or registry auth: ECS was unable to assume the role '{role}' that was "
                    "provided for this task. Please verify that the role exists, that its trust relationship allows "
                    f"{credentials.TASKS_SERVICE} and that its conditions hold"
                )
        agent = credentials.assume(execution_role, self.id) if execution_role else None
        task_role = self.role("taskRoleArn")
        own = credentials.assume(task_role, self.id).environment() if task_role else {}
        _, region = account_and_region()
        runtime = self.world.runtime
        self._home = claim_home(self.world.directory, self.id, self.flow_run_id)
        prepared = []
        for definition, record in zip(self.definition["containerDefinitions"], self.record["containers"], strict=True):
            secrets = {s["name"]: self._secret(s["valueFrom"], agent) for s in definition.get("secrets") or []}
            stream = self._log_stream(definition, record, agent)
            home = self._home / record["name"]
            home.mkdir(parents=True, exist_ok=True)
            fargate = containers.fargate_environment(endpoint=self.world.endpoint, region=region)
            override = self.override_of(record["name"])
            spec = ContainerSpec(
                task_id=self.id,
                arn=str(record["containerArn"]),
                definition=definition,
                override=override,
                environment=interfaces.bound_to(
                    containers.environment(
                        definition, override, base={**runtime.environment(home), **fargate, **own}, secrets=secrets
                    ),
                    interfaces.address_of(self.record),
                ),
                home=home,
                cpu=int(self.record["cpu"]),
                memory_mib=int(override.get("memory") or definition.get("memory") or self.record["memory"]),
                on_lines=self._writer(stream),
            )
            prepared.append((spec, record))
        for spec, record in prepared:
            registry.check(spec.definition.get("image", ""), agent)
            if digest := runtime.pull(spec.definition.get("image", "")):
                record["imageDigest"] = digest
        runtime.prepare(self.id, self.definition)
        for spec, record in prepared:
            with self._lock:
                if self._stop is not None:
                    return
            container = Container(spec, record, runtime)
            with self._lock:
                self.containers.append(container)
                record.update(lastStatus="RUNNING", runtimeId=f"{self.id}-{container.process.pid}")
            container.follow(lambda ended=container: self._container_ended(ended))  # type: ignore[misc]
            container.watch_health(self._health_changed)

    def _secret(self, value_from: str, agent: credentials.RoleSession | None) -> str:
        if agent is None:
            raise secret_values.SecretUnavailableError(
                "unable to pull secrets or registry auth: the task definition has secrets but no execution role"
            )
        return secret_values.fetch(value_from, agent)

    def _log_stream(self, definition: Json, record: Json, agent: credentials.RoleSession | None) -> LogStream | None:
        if agent is None:
            if (definition.get("logConfiguration") or {}).get("logDriver") == "awslogs":
                raise LogDriverError(
                    "failed to validate logger args: the awslogs driver needs an execution role and there is none"
                )
            return None
        return open_stream(definition, self.id, str(record["containerArn"]).rsplit("/", 1)[-1], agent)

    def _writer(self, stream: LogStream | None) -> Callable[[list[str]], None]:
        if stream is None:
            return lambda _lines: None
        context, lock = contextvars.copy_context(), threading.Lock()

        def write(lines: list[str]) -> None:
            with lock:  # a context can be entered only once at a time
                context.run(stream.write, lines)

        return write

    def _container_ended(self, container: Container) -> None:
        with self._changed:
            if container.essential or all(c.ended.is_set() for c in self.containers):
                self.essential_ended = True
            self._changed.notify_all()

    def _health_changed(self) -> None:
        with self._lock:
            checked = [c for c in self.containers if c.essential and c.definition.get("healthCheck")]
            states = {str(c.record["healthStatus"]) for c in checked}
            self.record["healthStatus"] = (
                "UNHEALTHY" if "UNHEALTHY" in states else "HEALTHY" if states == {"HEALTHY"} else "UNKNOWN"
            )
        self.world.on_change(self)

    def _end_containers(self, request: StopRequest) -> None:
        """SIGTERM, each container's grace, SIGKILL. A harder request may arrive while waiting."""
        with self._lock:
            request = self._stop or request
        alive = [c for c in self.containers if not c.ended.is_set()]
        began = time.monotonic()
        if request.grace != 0:
            for container in alive:
                container.process.terminate()
        while alive:
            with self._lock:
                request = self._stop or request
            for container in alive:
                grace = container.stop_timeout if request.grace is None else request.grace
                if time.monotonic() - began >= grace:
                    container.process.kill()
            alive[0].ended.wait(0.05)
            alive = [c for c in alive if not c.ended.is_set()]

    def _finish(self, reason: str, code: str) -> None:
        with self._lock:
            if self._stop is not None:
                reason, code = self._stop.reason, self._stop.code
        now = responses.now_iso()
        self.record.update(desiredStatus="STOPPED", stoppedReason=reason, stopCode=code, executionStoppedAt=now)
        self.record["stoppingAt"] = self.record.get("stoppingAt") or now
        self._enter("DEPROVISIONING")
        self.world.runtime.clean_up(self.id)
        shutil.rmtree(self._home, ignore_errors=True)  # ephemeral storage
        interfaces.detach(self.record)
        for container in self.record["containers"]:
            container["lastStatus"] = "STOPPED"
        self.record["stoppedAt"] = responses.now_iso()
        self.finished.set()
        self._enter("STOPPED")

    def _enter(self, status: str) -> None:
        now = responses.now_iso()
        with self._lock:
            if status == "PENDING":
                self.record["pullStartedAt"] = now
            if status == "RUNNING":
                self.record.update(pullStoppedAt=now, startedAt=now)
                self.running_since = time.monotonic()
            self.record["lastStatus"] = status
            self._announce()
        self.world.on_change(self)

    def _announce(self) -> None:
        with self._lock:
            ecs._bump_task_version(self.record)
            self.world.events.task_changed(self.record)


def failure_of(shortage: capacity.Shortage | None) -> str | None:
    """The reason a task that was accepted will not start, if its provider has no machine for it."""
    return capacity.REASON if shortage == "fail-after-start" else None


def claim_home(directory: Path, task_id: str, flow_run_id: str | None) -> Path:
    """Make the directory that is a task's alone until it ends.

    On Fargate the image's working directory has the same path in every task, and Prefect recognises a subflow of an
    earlier attempt by the path of its code, among other things. So the directory is named after the flow run, unless
    another living task of that run has it.
    """
    names = [flow_run_id] if flow_run_id and re.fullmatch(r"[\w-]+", flow_run_id) else []
    for name in (*names, task_id):
        with contextlib.suppress(FileExistsError):
            (directory / name).mkdir(parents=True)
            return directory / name
    raise FileExistsError(f"another task has the directory {directory / task_id}")
