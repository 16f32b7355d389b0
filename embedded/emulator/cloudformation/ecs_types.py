"""ECS resources go through the ECS API, so that nothing is dropped and everything is checked.

MiniStack's own handlers leave out secrets, health checks, runtime platform, ephemeral storage and more.
"""

import contextlib
import json
import time
import uuid
from typing import Any

from embedded.emulator.cloudformation.handlers import Created, add, camel, checked, extend
from embedded.emulator.inner import Json, arn_of, autoscaling, ecs, provisioners, stacks
from embedded.emulator.placement import FARGATE_PROVIDERS
from embedded.emulator.services import ServiceScheduler

# CloudFormation waits up to three hours for a service to become steady; nobody wants that on a laptop.
STEADY_TIMEOUT_SECONDS = 180.0
_NUMBERS = {"cpu", "memory", "memoryReservation", "base", "weight", "containerPort", "hostPort", "desiredCount"}


def install(scheduler: ServiceScheduler) -> None:
    extend("AWS::AutoScaling::AutoScalingGroup", _group_policy)
    add("AWS::ECS::CapacityProvider", create=_provider_create, update=_provider_update, delete=_provider_delete)
    add(
        "AWS::ECS::ClusterCapacityProviderAssociations",
        create=_association_create,
        update=_association_update,
        delete=_association_delete,
    )
    service = ServiceType(scheduler)
    provisioners._RESOURCE_HANDLERS["AWS::ECS::Service"] = {
        "create": service.create,
        "update": service.update,
        "delete": service.delete,
    }
    # MiniStack's update handler calls this by name when anything but a tag changed; the old revision is then
    # deregistered when the stack update has succeeded.
    provisioners._ecs_task_def_create = _definition_create
    provisioners._RESOURCE_HANDLERS["AWS::ECS::TaskDefinition"]["create"] = _definition_create

    blocks = stacks._runs_on_worker_thread

    def runs_on_worker_thread(resource_type: str) -> bool:
        return resource_type == "AWS::ECS::Service" or bool(blocks(resource_type))

    stacks._runs_on_worker_thread = runs_on_worker_thread


# Capacity providers


def _group_policy(name: str, properties: Json) -> Json:
    """MiniStack drops what instances are bought, and how."""
    autoscaling._asgs[name]["MixedInstancesPolicy"] = properties.get("MixedInstancesPolicy") or {}
    return {}


def _provider_create(logical_id: str, properties: Json, stack: str) -> Created:
    name = properties.get("Name") or f"{stack}-{logical_id}-{uuid.uuid4().hex[:8]}"
    managed = properties.get("ManagedInstancesProvider")
    if managed and not properties.get("ClusterName"):
        raise ValueError("CreateCapacityProvider: a managed instances provider belongs to a cluster; give ClusterName")
    request = {**camel({k: v for k, v in properties.items() if k != "Name"}), "name": name}
    checked(ecs._create_capacity_provider(request), "CreateCapacityProvider")
    record = ecs._capacity_providers[name]
    if managed:
        del record["autoScalingGroupProvider"]
        record["managedInstancesProvider"] = camel(managed)
        record["cluster"] = str(properties["ClusterName"])
        record["_spot"] = managed["InstanceLaunchTemplate"].get("CapacityOptionType") == "SPOT"
        ecs._clusters[record["cluster"]].setdefault("capacityProviders", []).append(name)
    else:
        record["_spot"] = _buys_spot(properties["AutoScalingGroupProvider"]["AutoScalingGroupArn"])
    return name, {}


def _buys_spot(group: str) -> bool:
    found = autoscaling._asgs.get(str(group).rsplit("/", 1)[-1])
    if found is None:
        raise ValueError(f"CreateCapacityProvider: the Auto Scaling group {group} does not exist.")
    distribution = (found.get("MixedInstancesPolicy") or {}).get("InstancesDistribution") or {}
    return int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100)) == 0


def _provider_update(name: str, _old: Json, new: Json, _stack: str) -> Created:
    checked(
        ecs._update_capacity_provider(
            {"name": name, "autoScalingGroupProvider": camel(new.get("AutoScalingGroupProvider") or {})}
        ),
        "UpdateCapacityProvider",
    )
    return name, {}


def _provider_delete(name: str, _properties: Json) -> None:
    record = ecs._capacity_providers.pop(name, None) or {}
    cluster = ecs._clusters.get(record.get("cluster", ""))
    if cluster is not None and name in cluster.get("capacityProviders", []):
        cluster["capacityProviders"].remove(name)


def _association_create(_logical_id: str, properties: Json, _stack: str) -> Created:
    providers = [str(p).rsplit("/", 1)[-1] for p in properties.get("CapacityProviders") or []]
    strategy = _numbered(camel(properties.get("DefaultCapacityProviderStrategy") or []))
    unknown = set(providers) - {*FARGATE_PROVIDERS, *ecs._capacity_providers.keys()}
    unknown |= {item["capacityProvider"] for item in strategy} - set(providers)
    if unknown:
        raise ValueError(f"The specified capacity provider strategy cannot contain {', '.join(sorted(unknown))}")
    # Providers of Managed Instances are the cluster's from the beginning.
    cluster = str(properties["Cluster"])
    own = [n for n, record in ecs._capacity_providers.items() if record.get("cluster") == cluster]
    request = {
        "cluster": cluster,
        "capacityProviders": [*providers, *(name for name in own if name not in providers)],
        "defaultCapacityProviderStrategy": strategy,
    }
    checked(ecs._put_cluster_capacity_providers(request), "PutClusterCapacityProviders")
    return str(properties["Cluster"]), {}


def _association_update(_physical_id: str, _old: Json, new: Json, stack: str) -> Created:
    return _association_create("", new, stack)


def _association_delete(cluster: str, _properties: Json) -> None:
    if ecs._clusters.get(ecs._resolve_cluster_name(cluster)):
        request = {"cluster": cluster, "capacityProviders": [], "defaultCapacityProviderStrategy": []}
        ecs._put_cluster_capacity_providers(request)


# Task definitions


def _definition_create(logical_id: str, properties: Json, stack: str) -> Created:
    family = properties.get("Family") or f"{stack}{logical_id}"
    request = {**_numbered(camel(properties)), "family": family}
    for size in ("cpu", "memory"):  # of the task: strings, unlike the container's
        if size in request:
            request[size] = str(request[size])
    body = checked(ecs._register_task_definition(request), "RegisterTaskDefinition")
    arn = str(json.loads(body)["taskDefinition"]["taskDefinitionArn"])
    return arn, {"TaskDefinitionArn": arn}


def _numbered(value: Any, key: str = "") -> Any:
    """Templates may carry numbers as strings; the ECS API does not."""
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    if isinstance(value, dict):
        return {k: _numbered(v, k) for k, v in value.items()}
    return int(value) if key in _NUMBERS and isinstance(value, str) and value.isdigit() else value


# Services


class ServiceType:
    """AWS::ECS::Service. Like CloudFormation, it waits until the service is steady, or fails with the breaker."""

    def __init__(self, scheduler: ServiceScheduler) -> None:
        self._scheduler = scheduler

    def create(self, logical_id: str, properties: Json, stack: str) -> Created:
        name = properties.get("ServiceName") or f"{stack}-{logical_id}-{uuid.uuid4().hex[:12]}"
        request = {**_numbered(camel(properties)), "serviceName": name}
        checked(self._scheduler.create(request), "CreateService")
        cluster = str(properties.get("Cluster") or "default").rsplit("/", 1)[-1]
        arn = arn_of("ecs", f"service/{cluster}/{name}")
        try:
            self._wait_until_steady(cluster, name)
        except ValueError:
            # The stack has no physical id to delete yet when a create handler fails.
            self.delete(arn, properties)
            raise
        return arn, {"ServiceArn": arn, "Name": name}

    def update(self, arn: str, old: Json, new: Json, stack: str) -> Created:
        cluster, name = arn.split("/")[-2:]
        try:
            self._apply(cluster, name, old, new)
        except ValueError:
            # CloudFormation sends the service back to what it was, unless the circuit breaker did.
            if ecs._services[f"{cluster}/{name}"]["taskDefinition"] != old.get("TaskDefinition"):
                with contextlib.suppress(ValueError):
                    self._apply(cluster, name, new, old)
            raise
        return arn, {"ServiceArn": arn, "Name": name}

    def _apply(self, cluster: str, name: str, old: Json, new: Json) -> None:
        changed = {key: value for key, value in new.items() if value != old.get(key)}
        # A changed strategy or network reaches running tasks only by way of a deployment.
        redeploys = {"CapacityProviderStrategy", "NetworkConfiguration", "PlatformVersion"} & set(changed)
        request = {
            **_numbered(camel(changed)),
            "cluster": cluster,
            "service": name,
            "forceNewDeployment": bool(redeploys),
        }
        checked(ecs._update_service(request), "UpdateService")
        self._wait_until_steady(cluster, name)

    def delete(self, arn: str, properties: Json) -> None:
        cluster, name = arn.split("/")[-2:]
        service = ecs._services.get(f"{cluster}/{name}")
        if service is None:
            return
        self._scheduler.delete({"cluster": cluster, "service": name, "force": True})
        # Stop timeouts are at most 120 seconds; the cluster must not go before its tasks.
        for run in self._scheduler.tasks_of(service):
            run.finished.wait(timeout=125)

    def _wait_until_steady(self, cluster: str, name: str) -> None:
        service = ecs._services[f"{cluster}/{name}"]
        mine = service["deployments"][0]
        deadline = time.monotonic() + STEADY_TIMEOUT_SECONDS
        while mine.get("rolloutState") == "IN_PROGRESS":
            if time.monotonic() > deadline:
                latest = "; ".join(event["message"] for event in service["events"][:3])
                raise ValueError(
                    f"Service {name} is not steady after {STEADY_TIMEOUT_SECONDS:.0f} s. Latest events: {latest}"
                )
            time.sleep(0.1)
        if mine.get("rolloutState") == "FAILED":
            raise ValueError(
                "Resource handler returned message: \"Error occurred during operation 'ECS Deployment Circuit Breaker "
                f"was triggered'.\" Last stopped task: {self._last_reason(mine['id'])}"
            )

    def _last_reason(self, deployment: str) -> str:
        ended = [run.record for run in self._scheduler.ended_of(deployment)]
        if not ended:
            return "unknown"
        last = max(ended, key=lambda record: str(record["stoppedAt"]))
        codes = {c["name"]: c.get("exitCode") for c in last["containers"]}
        return f"{last['stoppedReason']} (exit codes: {codes})"
