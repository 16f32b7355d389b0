"""The ECS endpoint: authorise, then our own for tasks, services and machines, and MiniStack for everything else."""

from collections.abc import Callable
from typing import Any

from embedded.emulator import authorization, container_instances, mends
from embedded.emulator.engine import Engine
from embedded.emulator.inner import Json, Response, app, concurrency, ecs
from embedded.emulator.references import answered
from embedded.emulator.services import ServiceScheduler


def install(engine: Engine, scheduler: ServiceScheduler) -> None:
    container_instances.install()
    instances = engine.container_instances
    own: dict[str, Callable[[Json], Response]] = {
        "RegisterTaskDefinition": mends.register_task_definition,
        "RunTask": engine.run_task,
        "StopTask": engine.stop_task,
        "CreateService": scheduler.create,
        "DeleteService": scheduler.delete,
        "RegisterContainerInstance": answered(instances.register),
        "DeregisterContainerInstance": answered(instances.deregister),
        "ListContainerInstances": answered(instances.arns),
        "DescribeContainerInstances": answered(instances.describe),
    }

    async def handle(method: str, path: str, headers: Json, body: bytes, query: Json) -> Any:
        operation, data = authorization.operation_of(headers), authorization.body_of(body)
        # Every SDK names the operation in this header; MiniStack also knows paths, which AWS does not.
        if app.AUTH and (refusal := authorization.deny(operation, data, headers=headers, query=query, body=body)):
            return refusal
        if handler := own.get(operation):
            answer = await concurrency.run_reentrant(handler, data, thread_name=f"ecs-{operation}")
            return ecs._finalize_ecs_response(answer)
        return await ecs.handle_request(method, path, headers, body, query)

    app.SERVICE_HANDLERS["ecs"] = handle

    # Where MiniStack itself would run or stop tasks: Step Functions, UpdateService, DeleteService.
    ecs._run_task = engine.run_task
    ecs._stop_task = scheduler.stop_task
    ecs._reconcile_service_tasks = scheduler.wake
    # Never a Docker daemon, even where there is one: the engine's runtime starts the containers.
    ecs._get_docker = _no_docker


def _no_docker() -> None:
    return None
