"""The base job template of an ECS work pool, as prefect-aws reads it. Pure rules: imports no CDK.

Two halves. `variables` is the JSON schema of what a deployment or a single run may set; Prefect's UI draws a form from
it and its API refuses what does not fit. `job_configuration` is what the worker does with it; whatever is not a
variable there is fixed by the infrastructure, because nothing else would be permitted to the worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from cdk_prefect_ecs.capacity import CapacityKind, CapacityWeight, FlowCapacity
from cdk_prefect_ecs.fargate import (
    FARGATE_SIZES,
    MAX_EPHEMERAL_STORAGE_GIB,
    MAX_STOP_TIMEOUT_SECONDS,
    MIN_EPHEMERAL_STORAGE_GIB,
)
from cdk_prefect_ecs.instance_types import MIN_INSTANCE_CPU, MIN_INSTANCE_MEMORY_MIB

CONTAINER_NAME: Final = "prefect"
STREAM_PREFIX: Final = "flow-run"

SIGTERM_BEHAVIOR: Final = "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"
#: Nobody watches the pool: on SIGTERM the run goes back to the queue by itself, while its engine may run on for 30 s.
RESCHEDULE: Final = "reschedule"
#: Lazarus watches it: the run stays Running until its task has really stopped.
RELINQUISH: Final = "relinquish"

#: Seconds between the heartbeats of a flow run; 30 is the least that Prefect takes, its default is 180.
#: Source: PREFECT_FLOWS_HEARTBEAT_FREQUENCY, Prefect settings reference.
HEARTBEAT_SECONDS: Final = 30


@dataclass(frozen=True)
class EfsMount:
    """A file system in the container of a flow run."""

    file_system_id: str
    access_point_id: str
    container_path: str
    read_only: bool = False


@dataclass(frozen=True)
class JobTemplate:
    """What the template is rendered from. All ids and ARNs may be CDK tokens."""

    family: str
    image: str
    cpu: int
    memory_mib: int
    cpu_architecture: str
    cluster_arn: str
    capacity: FlowCapacity
    strategy: Sequence[CapacityWeight]
    vpc_id: str
    subnet_ids: Sequence[str]
    security_group_ids: Sequence[str]
    assign_public_ip: bool
    execution_role_arn: str
    flow_role_arn: str
    log_group_name: str
    region: str
    result_block: str
    api_secret_variable: str | None = None
    api_secret_arn: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Variables that ECS injects, and what it injects: ARNs as in ``valueFrom``."""
    gpus: int = 0
    ephemeral_storage_gib: int | None = None
    mounts: Sequence[EfsMount] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    registry_secret_arn: str | None = None
    writable_volumes: Mapping[str, str] = field(default_factory=dict)
    """Name and path of each; the root is read-only when there are any."""

    def render(self) -> dict[str, Any]:
        """The template as Prefect's API takes it."""
        return {"variables": self._variables(), "job_configuration": self._job_configuration()}

    def _variables(self) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "name": {
                "title": "Name",
                "description": "Name of the ECS task in Prefect. Default: the name of the flow run.",
                "type": "string",
            },
            "image": {
                "title": "Image",
                "description": "Container image with the flow's dependencies and the worker's Prefect version.",
                "type": "string",
                "default": self.image,
            },
            "command": {
                "title": "Command",
                "description": "Command of the container. Default: Prefect's own, which executes the flow run.",
                "type": "string",
            },
            **(self._fargate_size() if self._is_fargate else self._instance_size()),
            "env": {
                "title": "Environment Variables",
                "description": "Environment of the flow run; merged with the environment of deployment and run.",
                "type": "object",
                "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "default": self._flow_environment(),
            },
            "labels": {
                "title": "Labels",
                "description": "Tags of the ECS task, besides those that Prefect sets.",
                "type": "object",
                "additionalProperties": {"type": "string"},
            },
        }
        if self._network_mode == "awsvpc":
            properties["network_configuration"] = {
                "title": "Network Configuration",
                "description": "Subnets, security groups and public address of the task.",
                "type": "object",
                "default": {
                    "subnets": list(self.subnet_ids),
                    "securityGroups": list(self.security_group_ids),
                    "assignPublicIp": "ENABLED" if self._has_public_address else "DISABLED",
                },
            }
        if self.strategy:
            properties["capacity_provider_strategy"] = self._strategy_variable()
        if not self._is_fargate:
            return {"type": "object", "properties": properties}
        properties["ephemeral_storage"] = self._storage_variable()
        # In force as soon as there is a value for cpu, and Prefect puts in the pool's own. Prefect looks at each
        # default by itself too, where "if" alone would be true of every CPU; "required" it drops from the schema.
        return {"type": "object", "properties": properties, "dependentSchemas": {"cpu": {"allOf": _fargate_pairs()}}}

    @property
    def _is_fargate(self) -> bool:
        return self.capacity.kind is CapacityKind.FARGATE

    @property
    def _network_mode(self) -> str:
        """Who has a network interface of its own needs none of an instance, and no public address where it is on one.

        On EC2 a task's own interface never gets a public address, and a small instance takes two or three of them.
        """
        match self.capacity.kind:
            case CapacityKind.FARGATE:
                return "awsvpc"
            case CapacityKind.MANAGED_INSTANCES:  # knows no bridge
                return "host" if self.assign_public_ip else "awsvpc"
        return "bridge"

    @property
    def _has_public_address(self) -> bool:
        return self.assign_public_ip and self._is_fargate

    def _fargate_size(self) -> dict[str, Any]:
        return {
            "cpu": {
                "title": "CPU",
                "description": "CPU units of the task; 1024 are one vCPU.",
                "type": "integer",
                "enum": list(FARGATE_SIZES),
                "default": self.cpu,
            },
            "memory": {
                "title": "Memory",
                "description": "Memory of the task in MiB; must be a size that Fargate offers with this CPU.",
                "type": "integer",
                "minimum": min(min(sizes) for sizes in FARGATE_SIZES.values()),
                "maximum": max(max(sizes) for sizes in FARGATE_SIZES.values()),
                "multipleOf": 512,
                "default": self.memory_mib,
            },
        }

    def _instance_size(self) -> dict[str, Any]:
        return {
            "cpu": {
                "title": "CPU",
                "description": "CPU units of the container; 1024 are one vCPU.",
                "type": "integer",
                "minimum": MIN_INSTANCE_CPU,
                "default": self.cpu,
            },
            "memory": {
                "title": "Memory",
                "description": "Memory of the container in MiB; one that needs more is killed.",
                "type": "integer",
                "minimum": MIN_INSTANCE_MEMORY_MIB,
                "default": self.memory_mib,
            },
        }

    def _storage_variable(self) -> dict[str, Any]:
        default = {} if self.ephemeral_storage_gib is None else {"default": self._storage()}
        return {
            "title": "Ephemeral Storage",
            "description": "Scratch disk of the task in GiB. Default: 20, which cost nothing.",
            "type": "object",
            "properties": {
                "sizeInGiB": {
                    "title": "Size in GiB",
                    "type": "integer",
                    "minimum": MIN_EPHEMERAL_STORAGE_GIB,
                    "maximum": MAX_EPHEMERAL_STORAGE_GIB,
                }
            },
            "required": ["sizeInGiB"],
            **default,
        }

    def _storage(self) -> dict[str, int | None]:
        return {"sizeInGiB": self.ephemeral_storage_gib}

    def _strategy_variable(self) -> dict[str, Any]:
        return {
            "title": "Capacity Provider Strategy",
            "description": "Where the task is placed. A base above 0 would put every run on that provider, "
            "as the worker starts one task at a time.",
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "capacityProvider": {"type": "string", "enum": list(self.capacity.capacity_providers)},
                    "weight": {"type": "integer", "minimum": 0, "maximum": 1000},
                    "base": {"type": "integer", "enum": [0], "default": 0},
                },
                # prefect-aws's own model requires all three.
                "required": ["capacityProvider", "weight", "base"],
            },
            "default": [
                {"capacityProvider": item.capacity_provider, "weight": item.weight, "base": 0} for item in self.strategy
            ],
        }

    def _flow_environment(self) -> dict[str, str]:
        return {
            # Finished tasks persist their results, so a rescheduled run does not execute them again.
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
            "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": f"s3-bucket/{self.result_block}",
            # Read by the engine in the task's container, so it belongs here and not into the worker.
            SIGTERM_BEHAVIOR: RESCHEDULE,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            **self.environment,
        }

    def _api_secret(self) -> dict[str, str]:
        keys = {
            "PREFECT_API_KEY": "prefect_api_key_secret_arn",
            "PREFECT_API_AUTH_STRING": "prefect_api_auth_string_secret_arn",
        }
        if self.api_secret_variable is None or self.api_secret_arn is None:
            return {}
        return {keys[self.api_secret_variable]: self.api_secret_arn}

    def _registry_credentials(self) -> dict[str, Any]:
        if self.registry_secret_arn is None:
            return {}
        return {"repositoryCredentials": {"credentialsParameter": self.registry_secret_arn}}

    def _mount_points(self) -> list[dict[str, Any]]:
        """Where the image writes, and file systems, in the words in which ECS describes them: prefect-aws must find
        them equal, or every run would register a revision."""
        writable = [(name, path, False) for name, path in self.writable_volumes.items()]
        shared = [(_efs(number), mount.container_path, mount.read_only) for number, mount in enumerate(self.mounts)]
        return [
            {"sourceVolume": name, "containerPath": path, "readOnly": read_only}
            for name, path, read_only in (*writable, *shared)
        ]

    def _job_configuration(self) -> dict[str, Any]:
        return {
            "name": "{{ name }}",
            "command": "{{ command }}",
            "env": "{{ env }}",
            "labels": "{{ labels }}",
            "cluster": self.cluster_arn,
            "vpc_id": self.vpc_id,
            "container_name": CONTAINER_NAME,
            "execution_role_arn": self.execution_role_arn,
            "configure_cloudwatch_logs": True,
            "cloudwatch_logs_prefix": STREAM_PREFIX,
            "cloudwatch_logs_options": {
                "awslogs-group": self.log_group_name,
                "awslogs-region": self.region,
                "awslogs-stream-prefix": STREAM_PREFIX,
                "awslogs-create-group": "false",  # the group exists; the role may not create one
            },
            # With these the worker takes its own credential out of the run's environment and has ECS inject it instead.
            **self._api_secret(),
            # One revision serves every worker and every run until something in it changes: RegisterTaskDefinition is
            # limited to one a second.
            "match_latest_revision_in_family": True,
            "auto_deregister_task_definition": False,
            "task_definition": self._task_definition(),
            "task_run_request": self._task_run_request(),
        }

    def _task_definition(self) -> dict[str, Any]:
        # prefect-aws knows EXTERNAL as a launch type, and then insists on FARGATE unless there is nothing said.
        compatible = [] if self.capacity.kind is CapacityKind.EXTERNAL else [self.capacity.kind.value]
        storage = {"ephemeralStorage": self._storage()} if self.ephemeral_storage_gib is not None else {}
        return {
            "family": self.family,
            # Sizes of single runs are overrides of RunTask, so they need no revision of their own.
            **(self._task_size() if self._has_task_size else {}),
            **storage,
            "networkMode": self._network_mode,
            **({"requiresCompatibilities": compatible} if compatible else {}),
            "runtimePlatform": {
                "cpuArchitecture": self.cpu_architecture,
                "operatingSystemFamily": "LINUX",
            },
            "executionRoleArn": self.execution_role_arn,
            "taskRoleArn": self.flow_role_arn,
            # ECS answers with this field whether it was given or not, and prefect-aws keeps False when it compares:
            # left out, no revision would ever match and every run would register one.
            "enableFaultInjection": False,
            **({"volumes": volumes} if (volumes := self._volumes()) else {}),
            "containerDefinitions": [self._container()],
        }

    @property
    def _has_task_size(self) -> bool:
        """Whether the task as a whole has a size; on an instance of an Auto Scaling group its container has one."""
        return self.capacity.kind in (CapacityKind.FARGATE, CapacityKind.MANAGED_INSTANCES)

    def _task_size(self) -> dict[str, str]:
        return {"cpu": str(self.cpu), "memory": str(self.memory_mib)}

    def _container(self) -> dict[str, Any]:
        container: dict[str, Any] = {
            "name": CONTAINER_NAME,
            "image": "{{ image }}",
            "essential": True,
            "stopTimeout": MAX_STOP_TIMEOUT_SECONDS,
            **self._registry_credentials(),
        }
        if self.writable_volumes:
            container["readonlyRootFilesystem"] = True
        if mounts := self._mount_points():
            container["mountPoints"] = mounts
        if not self._is_fargate:
            container.update(cpu=self.cpu, memory=self.memory_mib)
        if self.gpus:
            container["resourceRequirements"] = [{"type": "GPU", "value": str(self.gpus)}]
        if self.secrets:
            container["secrets"] = [{"name": name, "valueFrom": arn} for name, arn in sorted(self.secrets.items())]
        return container

    def _volumes(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in self.writable_volumes] + [
            {
                "name": _efs(number),
                "efsVolumeConfiguration": {
                    "fileSystemId": mount.file_system_id,
                    # ECS answers with it whether it was given or not; see enableFaultInjection.
                    "rootDirectory": "/",
                    "transitEncryption": "ENABLED",
                    "authorizationConfig": {"accessPointId": mount.access_point_id, "iam": "ENABLED"},
                },
            }
            for number, mount in enumerate(self.mounts)
        ]

    def _task_run_request(self) -> dict[str, Any]:
        # Managed Instances are always placed by a strategy; "EC2" has the worker give the container its size.
        launch_type = "EC2" if self.capacity.kind is CapacityKind.MANAGED_INSTANCES else self.capacity.kind.value
        # launchType stays: without it the worker would register a task definition without awsvpc. It drops it from the
        # RunTask call itself when there is a strategy.
        request: dict[str, Any] = {"launchType": launch_type}
        if self.strategy:
            request["capacityProviderStrategy"] = "{{ capacity_provider_strategy }}"
        request["cluster"] = self.cluster_arn
        if self._network_mode == "awsvpc":
            # Given here, not as the worker's own network_configuration: for that one it calls ec2:DescribeVpcs and
            # ec2:DescribeSubnets before every run, which would need `Resource: *`.
            request["networkConfiguration"] = {"awsvpcConfiguration": "{{ network_configuration }}"}
        container = {"name": CONTAINER_NAME, "command": "{{ command }}", "environment": "{{ env }}"}
        overrides: dict[str, Any] = {"containerOverrides": [container]}
        if self._has_task_size:
            overrides.update(cpu="{{ cpu }}", memory="{{ memory }}")
        if self._is_fargate:
            overrides["ephemeralStorage"] = "{{ ephemeral_storage }}"
        else:
            container.update(cpu="{{ cpu }}", memory="{{ memory }}")
        request["overrides"] = overrides
        # The worker adds the labels of pool, deployment and run to these tags, and its own; labels win.
        request["tags"] = [{"key": key, "value": value} for key, value in self.tags.items()] or "{{ labels }}"
        return request


def _efs(number: int) -> str:
    return f"efs-{number}"


def _fargate_pairs() -> list[dict[str, Any]]:
    """Which memory goes with which CPU, as conditions of a JSON schema."""
    return [
        {"if": {"properties": {"cpu": {"const": cpu}}}, "then": {"properties": {"memory": _memory_schema(sizes)}}}
        for cpu, sizes in FARGATE_SIZES.items()
    ]


def _memory_schema(sizes: Sequence[int]) -> dict[str, Any]:
    steps = {larger - smaller for smaller, larger in pairwise(sizes)}
    if len(steps) > 1:
        return {"enum": list(sizes)}
    # Shorter than to list them, in the template and in what Prefect says of a wrong one.
    return {"minimum": sizes[0], "maximum": sizes[-1], "multipleOf": steps.pop()}
