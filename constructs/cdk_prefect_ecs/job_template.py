"""The base job template of an ECS work pool, as prefect-aws reads it. Pure rules: imports no CDK.

Two halves. `variables` is the JSON schema of what a deployment or a single run may set; Prefect's UI draws a form from
it and its API refuses what does not fit. `job_configuration` is what the worker does with it; whatever is not a
variable there is fixed by the infrastructure, because nothing else would be permitted to the worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cdk_prefect_ecs.capacity import CapacityWeight
from cdk_prefect_ecs.fargate import FARGATE_SIZES, MAX_STOP_TIMEOUT_SECONDS

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
class JobTemplate:
    """What the template is rendered from. All ids and ARNs may be CDK tokens."""

    family: str
    image: str
    cpu: int
    memory_mib: int
    cpu_architecture: str
    cluster_arn: str
    capacity_providers: Sequence[str]
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
            "network_configuration": {
                "title": "Network Configuration",
                "description": "Subnets, security groups and public address of the task.",
                "type": "object",
                "default": {
                    "subnets": list(self.subnet_ids),
                    "securityGroups": list(self.security_group_ids),
                    "assignPublicIp": "ENABLED" if self.assign_public_ip else "DISABLED",
                },
            },
        }
        if self.capacity_providers:
            properties["capacity_provider_strategy"] = self._strategy_variable()
        return {"type": "object", "properties": properties}

    def _strategy_variable(self) -> dict[str, Any]:
        return {
            "title": "Capacity Provider Strategy",
            "description": "Where the task is placed. A base above 0 would put every run on that provider, "
            "as the worker starts one task at a time.",
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "capacityProvider": {"type": "string", "enum": list(self.capacity_providers)},
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

    def _read_only_root(self) -> dict[str, Any]:
        """A read-only root and volumes where the image writes, in the words in which ECS describes them: prefect-aws
        must find them equal, or every run would register a revision."""
        if not self.writable_volumes:
            return {}
        return {
            "readonlyRootFilesystem": True,
            "mountPoints": [
                {"sourceVolume": name, "containerPath": path, "readOnly": False}
                for name, path in self.writable_volumes.items()
            ],
        }

    def _job_configuration(self) -> dict[str, Any]:
        placement: dict[str, Any] = {"launchType": "FARGATE"}
        if self.capacity_providers:
            # launchType stays: without it the worker would register a task definition without awsvpc. It drops it from
            # the RunTask call itself when there is a strategy.
            placement["capacityProviderStrategy"] = "{{ capacity_provider_strategy }}"
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
            "task_definition": {
                "family": self.family,
                # Sizes of single runs are overrides of RunTask, so they need no revision of their own.
                "cpu": str(self.cpu),
                "memory": str(self.memory_mib),
                "networkMode": "awsvpc",
                "requiresCompatibilities": ["FARGATE"],
                "runtimePlatform": {
                    "cpuArchitecture": self.cpu_architecture,
                    "operatingSystemFamily": "LINUX",
                },
                "executionRoleArn": self.execution_role_arn,
                "taskRoleArn": self.flow_role_arn,
                # ECS answers with this field whether it was given or not, and prefect-aws keeps False when it compares:
                # left out, no revision would ever match and every run would register one.
                "enableFaultInjection": False,
                "containerDefinitions": [
                    {
                        "name": CONTAINER_NAME,
                        "image": "{{ image }}",
                        "essential": True,
                        "stopTimeout": MAX_STOP_TIMEOUT_SECONDS,
                        **self._registry_credentials(),
                        **self._read_only_root(),
                    }
                ],
                **({"volumes": [{"name": name} for name in self.writable_volumes]} if self.writable_volumes else {}),
            },
            "task_run_request": {
                **placement,
                "cluster": self.cluster_arn,
                # Given here, not as the worker's own network_configuration: for that one it calls ec2:DescribeVpcs and
                # ec2:DescribeSubnets before every run, which would need `Resource: *`.
                "networkConfiguration": {"awsvpcConfiguration": "{{ network_configuration }}"},
                "overrides": {
                    "cpu": "{{ cpu }}",
                    "memory": "{{ memory }}",
                    "containerOverrides": [
                        {"name": CONTAINER_NAME, "command": "{{ command }}", "environment": "{{ env }}"}
                    ],
                },
                "tags": "{{ labels }}",
            },
        }
