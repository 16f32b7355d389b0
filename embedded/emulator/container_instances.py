"""Machines that register themselves with a cluster, as the ECS agent on a machine of one's own does.

A task that is placed by launch type needs one, and is refused without. The instances of capacity providers are not
among them: a provider has as many as its tasks need.
"""

import json
import threading
import uuid
from typing import Final

from embedded.emulator.inner import Json, arn_of, iam, responses
from embedded.emulator.references import RefusedError, resolve_cluster

#: The attribute of a machine that is none of AWS's. Source: "External instances", Amazon ECS Developer Guide.
EXTERNAL: Final = "ecs.capability.external"
NONE_FOUND: Final = "No Container Instances were found in your cluster."

# The policy of AWS with which an agent registers its machine; MiniStack has no such policy.
_AGENT_POLICY: Final = "service-role/AmazonEC2ContainerServiceforEC2Role"
_AGENT_ACTIONS: Final = (
    "ec2:DescribeTags",
    "ecs:CreateCluster",
    "ecs:DeregisterContainerInstance",
    "ecs:DiscoverPollEndpoint",
    "ecs:Poll",
    "ecs:RegisterContainerInstance",
    "ecs:StartTelemetrySession",
    "ecs:UpdateContainerInstancesState",
    "ecs:Submit*",
    "ecr:GetAuthorizationToken",
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
)


def install() -> None:
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": list(_AGENT_ACTIONS), "Resource": "*"}],
    }
    record = iam._make_aws_managed_record(_AGENT_POLICY, json.dumps(document))
    iam._aws_managed_policies[record["Arn"]] = record


class ContainerInstances:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, Json] = {}  # by ARN

    def for_launch(self, launch_type: str | None, cluster: Json) -> str | None:
        """The machine for a task of this launch type; None where ECS needs none that has registered itself.

        :raises RefusedError: There is none.
        """
        if launch_type not in ("EC2", "EXTERNAL"):
            return None
        for record in self._of(cluster):
            if _is_external(record) == (launch_type == "EXTERNAL"):
                return str(record["containerInstanceArn"])
        raise RefusedError("InvalidParameterException", NONE_FOUND)

    # The API

    def register(self, data: Json) -> Json:
        cluster = resolve_cluster(data.get("cluster"))
        arn = arn_of("ecs", f"container-instance/{cluster['clusterName']}/{uuid.uuid4().hex}")
        record = {
            "containerInstanceArn": arn,
            "status": "ACTIVE",
            "agentConnected": True,
            "registeredAt": responses.now_iso(),
            "attributes": data.get("attributes") or [],
            "registeredResources": data.get("totalResources") or [],
        }
        with self._lock:
            self._records[arn] = record
        self._recount(cluster)
        return {"containerInstance": record}

    def deregister(self, data: Json) -> Json:
        cluster = resolve_cluster(data.get("cluster"))
        record = self._named(cluster, data.get("containerInstance", ""))
        if record is None:
            raise RefusedError("InvalidParameterException", "The referenced container instance was not found.")
        with self._lock:
            self._records.pop(record["containerInstanceArn"], None)
        self._recount(cluster)
        return {"containerInstance": {**record, "status": "INACTIVE"}}

    def arns(self, data: Json) -> Json:
        cluster = resolve_cluster(data.get("cluster"))
        return {"containerInstanceArns": [record["containerInstanceArn"] for record in self._of(cluster)]}

    def describe(self, data: Json) -> Json:
        cluster = resolve_cluster(data.get("cluster"))
        found = {name: self._named(cluster, name) for name in data.get("containerInstances") or []}
        return {
            "containerInstances": [record for record in found.values() if record],
            "failures": [{"arn": name, "reason": "MISSING"} for name, record in found.items() if not record],
        }

    def _of(self, cluster: Json) -> list[Json]:
        prefix = arn_of("ecs", f"container-instance/{cluster['clusterName']}/")
        with self._lock:
            return [record for arn, record in self._records.items() if arn.startswith(prefix)]

    def _named(self, cluster: Json, name: str) -> Json | None:
        """By ARN or id."""
        for record in self._of(cluster):
            if name.rsplit("/", 1)[-1] == record["containerInstanceArn"].rsplit("/", 1)[-1]:
                return record
        return None

    def _recount(self, cluster: Json) -> None:
        cluster["registeredContainerInstancesCount"] = len(self._of(cluster))


def _is_external(record: Json) -> bool:
    return any(attribute["name"] == EXTERNAL for attribute in record["attributes"])
