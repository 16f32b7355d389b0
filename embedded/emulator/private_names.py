"""Cloud Map: the private names of services, whose tasks are registered while they are healthy.

On AWS the resolver of the VPC knows them. Here they are in a file, and Python programs look there first: see
``resolver/sitecustomize.py``. Containers of podman do not; they have a resolver of their own.
"""

import threading
from pathlib import Path

from embedded.emulator import interfaces
from embedded.emulator.inner import Json, ecs, servicediscovery
from embedded.emulator.tasks import TaskRun

_RESOLVER = Path(__file__).with_name("resolver")


def environment(hosts: Path) -> dict[str, str]:
    """What makes Python programs look into this file."""
    return {"PYTHONPATH": str(_RESOLVER), "EMBEDDED_HOSTS": str(hosts)}


class PrivateNames:
    """Registers tasks of services that have a service registry, and takes them out again."""

    def __init__(self, hosts: Path) -> None:
        self._hosts = hosts
        self._lock = threading.Lock()
        self._registered: dict[str, list[str]] = {}  # ids of the registries, by the ARN of the task
        self._names: dict[tuple[str, str], str] = {}  # by registry and task

    def task_changed(self, run: TaskRun) -> None:
        """Called whenever a task is in another state, or of other health."""
        with self._lock:
            if run.arn not in self._registered and _answers(run):
                self._register(run)
            elif run.arn in self._registered and not _answers(run):
                self._deregister(run)

    def _register(self, run: TaskRun) -> None:
        self._registered[run.arn] = registries = _registries(run)
        address = interfaces.address_of(run.record)
        for registry in registries:
            attributes = {"AWS_INSTANCE_IPV4": address, "AWS_INIT_HEALTH_STATUS": "HEALTHY"}
            servicediscovery._register_instance({"ServiceId": registry, "InstanceId": run.id, "Attributes": attributes})
            service = servicediscovery._services[registry]
            namespace = servicediscovery._namespaces[service["NamespaceId"]]
            self._names[registry, run.arn] = f"{address} {service['Name']}.{namespace['Name']}"
        self._write()

    def _deregister(self, run: TaskRun) -> None:
        for registry in self._registered.pop(run.arn):
            servicediscovery._deregister_instance({"ServiceId": registry, "InstanceId": run.id})
            self._names.pop((registry, run.arn), None)
        self._write()

    def _write(self) -> None:
        unfinished = self._hosts.with_suffix(".new")
        unfinished.write_text("".join(f"{line}\n" for line in self._names.values()).lower(), encoding="ascii")
        unfinished.replace(self._hosts)


def _answers(run: TaskRun) -> bool:
    """Whether ECS tells Cloud Map that a task is healthy."""
    if run.stopping or run.record["lastStatus"] != "RUNNING":
        return False
    return run.record["healthStatus"] == "HEALTHY" or not any(
        c.get("healthCheck") for c in run.definition["containerDefinitions"] if c.get("essential", True)
    )


def _registries(run: TaskRun) -> list[str]:
    cluster, group = run.record["clusterArn"].rsplit("/", 1)[-1], str(run.record["group"])
    service: Json = ecs._services.get(f"{cluster}/{group.removeprefix('service:')}") or {}
    known = [str(item["registryArn"]).rsplit("/", 1)[-1] for item in service.get("serviceRegistries") or []]
    return [registry for registry in known if registry in servicediscovery._services]
