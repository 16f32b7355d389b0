"""RunTask, StopTask and interruptions: every task of this emulator, by its ARN."""

import copy
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from embedded.emulator import capacity, interfaces, machines, placement, tasks
from embedded.emulator.container_instances import ContainerInstances
from embedded.emulator.events import EventStream
from embedded.emulator.inner import Json, Response, account_and_region, arn_of, ecs, refuse, reply, responses
from embedded.emulator.references import RefusedError, cluster_name, resolve_cluster, resolve_definition
from embedded.emulator.runtime import Runtime
from embedded.emulator.tasks import StopRequest, TaskRun

MAX_GRACE_SECONDS = 120.0
_UNKNOWN_MODES = {"EXTERNAL": "awsvpc", "MANAGED_INSTANCES": "bridge"}
_BOTH = "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again."


class Engine:
    def __init__(self, directory: Path, endpoint: str, runtime: Runtime) -> None:
        self.capacity = capacity.CapacityBoard()
        self.container_instances = ContainerInstances()
        self._runs: dict[str, TaskRun] = {}
        self._lock = threading.Lock()
        self._listeners: list[Callable[[TaskRun], None]] = []
        self._world = tasks.World(directory, endpoint, runtime, EventStream(), self._changed)

    # What others ask

    def on_change(self, listener: Callable[[TaskRun], None]) -> None:
        self._listeners.append(listener)

    def runs(self) -> list[TaskRun]:
        with self._lock:
            return list(self._runs.values())

    def find(self, arn: str) -> TaskRun | None:
        with self._lock:
            return self._runs.get(arn)

    def _changed(self, run: TaskRun) -> None:
        cluster = cluster_name(run.record["clusterArn"])
        ecs._recount_cluster(cluster)
        ecs._refresh_service_state(cluster, run.record.get("group", ""))
        for listener in self._listeners:
            listener(run)

    # The API

    def run_task(self, data: Json) -> Response:
        try:
            cluster = resolve_cluster(data.get("cluster"))
            definition = resolve_definition(data.get("taskDefinition", ""))
            if definition["status"] != "ACTIVE":
                raise RefusedError("ClientException", "TaskDefinition is inactive")
            launch_type, strategy = launch_choice(data, cluster)
            check_launch(data, definition, launch_type, strategy)
            machine = self.container_instances.for_launch(launch_type, cluster)
            count = int(data.get("count") or 1)
            if not 1 <= count <= 10:
                raise RefusedError("InvalidParameterException", f"count is {count}; it must be between 1 and 10.")
            check_overrides(data, definition)
        except RefusedError as error:
            return error.response()
        started: list[Json] = []
        failures: list[Json] = []
        providers = placement.place(strategy, count) if strategy else [None] * count
        for provider in providers:
            shortage = self.capacity.shortage(provider or launch_type)
            if shortage == "refuse":
                failures.append({"arn": cluster["clusterArn"], "reason": capacity.REASON})
            else:
                run = self.register(
                    cluster, definition, data, launch_type=launch_type, provider=provider, machine=machine
                )
                started.append(ecs._sanitize(run.record))  # still PROVISIONING, as AWS answers
                run.start()
        return reply({"tasks": started, "failures": failures})

    def register(
        self,
        cluster: Json,
        definition: Json,
        request: Json,
        *,
        launch_type: str | None,
        provider: str | None,
        deployment: str | None = None,
        machine: str | None = None,
    ) -> TaskRun:
        """A new task of this emulator, not started yet."""
        if provider:
            launch_type = machines.launch_type(provider)
        arn = arn_of("ecs", f"task/{cluster['clusterName']}/{uuid.uuid4().hex}")
        record = new_record(arn, cluster, definition, request)
        record.update(launchType=launch_type or "EC2", capacityProviderName=provider, _deployment_id=deployment)
        if machine:
            record["containerInstanceArn"] = machine
        if record["launchType"] == "FARGATE":
            record.update(platformVersion="1.4.0", platformFamily="Linux")
        record["_capacity_failure"] = tasks.failure_of(self.capacity.shortage(provider or record["launchType"]))
        ecs._tasks[arn] = record
        if tags := task_tags(request, definition):
            ecs._tags[arn] = tags
            record["tags"] = tags
        run = TaskRun(record, copy.deepcopy(definition), self._world)
        with self._lock:
            self._runs[arn] = run
        return run

    def stop_task(self, data: Json) -> Response:
        """StopTask, also as MiniStack's own DeleteService calls it (it has no other way to say who asks)."""
        try:
            cluster = resolve_cluster(data.get("cluster"))
        except RefusedError as error:
            return error.response()
        record = ecs._resolve_task(data.get("task", ""), cluster["clusterName"])
        run = self.find(record["taskArn"]) if record else None
        if run is None:
            return refuse("InvalidParameterException", "The referenced task was not found.")
        run.stop(StopRequest(data.get("reason") or "Task stopped by user", data.get("_code") or "UserInitiated"))
        return reply({"task": ecs._sanitize(run.record)})

    def interrupt(self, arn: str, *, notice: bool, grace: float | None, force: bool) -> str | None:
        """Take the task's machine away; returns why not, if not."""
        run = self.find(arn)
        if run is None:
            return f"there is no task {arn!r}"
        if run.finished.is_set() or (notice and run.stopping):  # a machine may well go during the grace
            return f"task {arn} is {run.record['lastStatus']} and already stopping or stopped"
        if not notice:
            on_fargate = (
                (tasks.SPOT_REASON, "SpotInterruption") if run.on_spot else (tasks.LOSS_REASON, "InfrastructureHealth")
            )
            reason, code = machines.loss(run.record.get("capacityProviderName")) or on_fargate
            run.stop(StopRequest(reason, code, grace=0))
            return None
        if not (run.on_spot and run.record["launchType"] == "FARGATE") and not force:
            where = run.record.get("capacityProviderName") or run.record["launchType"]
            return (
                f"task {arn} runs on {where}, and AWS gives notice only on FARGATE_SPOT; "
                "take it away without notice, or force it"
            )
        if run.record["lastStatus"] != "RUNNING":
            return f"task {arn} is {run.record['lastStatus']}; only a RUNNING task gets a notice"
        limit = None if grace is None else min(max(grace, 0.001), MAX_GRACE_SECONDS)
        run.stop(StopRequest(tasks.SPOT_REASON, "SpotInterruption", announced="TerminationNotice", grace=limit))
        return None

    def shut_down(self) -> None:
        for run in self.runs():
            run.kill()
        shutil.rmtree(self._world.directory, ignore_errors=True)


def launch_choice(data: Json, cluster: Json) -> tuple[str | None, tuple[placement.Share, ...]]:
    """Launch type or strategy: the request's, else the cluster's default strategy, else EC2."""
    items = data.get("capacityProviderStrategy") or []
    if items and data.get("launchType"):
        raise RefusedError("InvalidParameterException", _BOTH)
    if data.get("launchType"):
        return str(data["launchType"]), ()
    items = items or cluster.get("defaultCapacityProviderStrategy") or []
    if not items:
        return "EC2", ()
    strategy = placement.strategy_from(items)
    if problem := placement.problem(strategy, cluster.get("capacityProviders") or []):
        raise RefusedError("InvalidParameterException", problem)
    return None, strategy


def check_launch(data: Json, definition: Json, launch_type: str | None, strategy: tuple[placement.Share, ...]) -> None:
    kinds = {launch_type} if launch_type else {machines.launch_type(share.provider) for share in strategy}
    mode = definition.get("networkMode")
    check_network((data.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}, mode, kinds)
    for kind in sorted(kinds & {"FARGATE", "MANAGED_INSTANCES"}):  # EC2 takes whatever can be
        if kind not in (definition.get("requiresCompatibilities") or []):
            raise RefusedError("InvalidParameterException", f"Task definition does not support launch_type {kind}.")
    for kind in sorted(kinds & set(_UNKNOWN_MODES)):
        if mode == _UNKNOWN_MODES[kind]:
            raise RefusedError(
                "ClientException", f"The {mode} network mode is not supported for the {kind} launch type."
            )
    needs_gpu = any(c.get("resourceRequirements") for c in definition["containerDefinitions"])
    if "FARGATE" in kinds and needs_gpu:
        raise RefusedError("ClientException", "Tasks using the Fargate launch type do not support GPU resources.")


def check_network(awsvpc: Json, mode: str | None, kinds: set[str]) -> None:
    if mode != "awsvpc" and awsvpc:
        raise RefusedError(
            "InvalidParameterException",
            "Network Configuration is not valid for the given networkMode of this task definition.",
        )
    if mode == "awsvpc" and not awsvpc.get("subnets"):
        raise RefusedError(
            "InvalidParameterException",
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        )
    # On an instance a task's own interface never gets one.
    if kinds != {"FARGATE"} and awsvpc.get("assignPublicIp") == "ENABLED":
        raise RefusedError("InvalidParameterException", "Assign public IP is not supported for this launch type.")


def check_overrides(data: Json, definition: Json) -> None:
    known = {container["name"] for container in definition["containerDefinitions"]}
    for override in (data.get("overrides") or {}).get("containerOverrides") or []:
        if override.get("name") not in known:
            raise RefusedError(
                "InvalidParameterException",
                f"Override for container named {override.get('name')} is not a container in the TaskDefinition.",
            )


def task_tags(request: Json, definition: Json) -> list[Json]:
    inherited: list[Json] = []
    if request.get("propagateTags") == "TASK_DEFINITION":
        inherited = ecs._tags.get(definition["taskDefinitionArn"]) or []
    own = {tag["key"]: tag for tag in [*inherited, *(request.get("tags") or [])]}
    return list(own.values())


def new_record(arn: str, cluster: Json, definition: Json, request: Json) -> Json:
    """The task as DescribeTasks shows it at first."""
    overrides = copy.deepcopy(request.get("overrides") or {})
    overrides.setdefault("containerOverrides", [])
    overrides.setdefault("inferenceAcceleratorOverrides", [])
    now = responses.now_iso()
    awsvpc = (request.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
    account, region = account_and_region()
    return {
        "taskArn": arn,
        "clusterArn": cluster["clusterArn"],
        "taskDefinitionArn": definition["taskDefinitionArn"],
        "overrides": overrides,
        "lastStatus": "PROVISIONING",
        "desiredStatus": "RUNNING",
        "cpu": str(overrides.get("cpu") or definition.get("cpu") or "256"),
        "memory": str(overrides.get("memory") or definition.get("memory") or "512"),
        "ephemeralStorage": overrides.get("ephemeralStorage")
        or definition.get("ephemeralStorage")
        or {"sizeInGiB": 20},
        "connectivity": "CONNECTED",
        "connectivityAt": now,
        "createdAt": now,
        "group": request.get("group") or f"family:{definition['family']}",
        "startedBy": request.get("startedBy") or "",
        "version": 0,
        "containers": [_container_record(arn, cluster, c, account, region) for c in definition["containerDefinitions"]],
        "attachments": [interfaces.attach(awsvpc)] if definition.get("networkMode") == "awsvpc" else [],
        "availabilityZone": f"{region}a",
        "enableExecuteCommand": bool(request.get("enableExecuteCommand")),
        "healthStatus": "UNKNOWN",
        "tags": [],
    }


def _container_record(arn: str, cluster: Json, definition: Json, account: str, region: str) -> Json:
    task_id = arn.rsplit("/", 1)[-1]
    return {
        "containerArn": f"arn:aws:ecs:{region}:{account}:container/{cluster['clusterName']}/{task_id}/{uuid.uuid4()}",
        "taskArn": arn,
        "name": definition["name"],
        "image": definition.get("image", ""),
        "lastStatus": "PENDING",
        "networkBindings": [],
        "networkInterfaces": [],
        "healthStatus": "UNKNOWN",
        "cpu": str(definition.get("cpu") or 0),
        **({"memory": str(definition["memory"])} if definition.get("memory") else {}),
    }
