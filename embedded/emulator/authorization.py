"""IAM for ECS, by the book, and two corrections for everything else.

MiniStack authorises most ECS calls on the cluster's ARN, knows no ``ecs:cluster`` and never checks ``iam:PassRole``, so
a least-privilege policy written for AWS would be denied and a careless one allowed. ``required`` lists what AWS checks,
by the Service Authorization Reference; ``deny`` asks MiniStack's evaluator about each.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedded.emulator.credentials import TASKS_SERVICE
from embedded.emulator.inner import (
    Json,
    Response,
    account_and_region,
    app,
    arn_of,
    ecs,
    iam_actions,
    iam_evaluator,
    router,
)

_ON_TASK_DEFINITION = ("RunTask", "StartTask")
_ON_TASKS = ("StopTask", "DescribeTasks", "ExecuteCommand", "UpdateTaskProtection", "GetTaskProtection")
_ON_SERVICES = ("CreateService", "UpdateService", "DeleteService", "DescribeServices")
_ON_CLUSTERS = (
    "CreateCluster",
    "DeleteCluster",
    "DescribeClusters",
    "UpdateCluster",
    "UpdateClusterSettings",
    "PutClusterCapacityProviders",
    "RegisterContainerInstance",
    "DeregisterContainerInstance",
    "ListContainerInstances",
)
_ON_TAGGED = ("TagResource", "UntagResource", "ListTagsForResource")
# These take the cluster as a condition key only.
_WITH_CLUSTER_KEY = (
    *_ON_TASK_DEFINITION,
    *_ON_TASKS,
    *_ON_SERVICES,
    "ListTasks",
    "ListServices",
    "DescribeContainerInstances",
)


@dataclass(frozen=True)
class Check:
    """One question to IAM."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def required(
    operation: str, data: Json, *, account: str, region: str, definition: Mapping[str, Any] | None = None
) -> Iterator[Check]:
    """Everything that this ECS request needs to be allowed.

    :param definition: The task definition that the request would run, where it exists.
    """

    def arn(resource: str) -> str:
        return resource if resource.startswith("arn:") else f"arn:aws:ecs:{region}:{account}:{resource}"

    action = f"ecs:{operation}"
    cluster = arn(_prefixed("cluster", data.get("cluster") or "default"))
    cluster_name = cluster.rsplit("/", 1)[-1]
    context = {"ecs:cluster": cluster} if operation in _WITH_CLUSTER_KEY else {}

    if operation in _ON_TASK_DEFINITION:
        # A family alone means its newest revision, and that is what will run.
        named = _prefixed("task-definition", data.get("taskDefinition") or "*")
        resources = [definition["taskDefinitionArn"] if definition else arn(named)]
    elif operation in _ON_TASKS:
        names = data.get("tasks") or [data.get("task", "*")]
        resources = [arn(_prefixed(f"task/{cluster_name}", name)) for name in names]
    elif operation in _ON_SERVICES:
        names = data.get("services") or [data.get("service") or data.get("serviceName", "*")]
        resources = [arn(_prefixed(f"service/{cluster_name}", name)) for name in names]
    elif operation == "DescribeContainerInstances":
        names = data.get("containerInstances") or ["*"]
        resources = [arn(_prefixed(f"container-instance/{cluster_name}", name)) for name in names]
    elif operation in _ON_CLUSTERS:
        names = data.get("clusters") or [data.get("cluster") or data.get("clusterName") or "default"]
        resources = [arn(_prefixed("cluster", name)) for name in names]
    elif operation == "RegisterTaskDefinition":
        resources = [arn(f"task-definition/{data.get('family', '*')}:*")]
    elif operation in _ON_TAGGED:
        resources = [str(data.get("resourceArn") or "*")]
    else:  # DescribeTaskDefinition, DeregisterTaskDefinition, List…: AWS supports no resource there
        resources = ["*"]
    yield from (Check(action, resource, context) for resource in resources)

    if data.get("tags") and operation == "RunTask":
        yield Check("ecs:TagResource", arn(f"task/{cluster_name}/*"), {"ecs:CreateAction": operation})
    if data.get("tags") and operation == "RegisterTaskDefinition":
        yield Check("ecs:TagResource", resources[0], {"ecs:CreateAction": operation})
    for role in _passed_roles(operation, data, definition or {}):
        yield Check("iam:PassRole", role, {"iam:PassedToService": TASKS_SERVICE})


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith("arn:") else f"{prefix}/{name}"


def _passed_roles(operation: str, data: Json, definition: Mapping[str, Any]) -> list[str]:
    """The roles that the caller hands to ECS: who registers or runs a task passes the roles it will have."""
    if operation == "RegisterTaskDefinition":
        source: Mapping[str, Any] = data
    elif operation in _ON_TASK_DEFINITION:
        overrides = {key: value for key, value in (data.get("overrides") or {}).items() if value}
        source = {**definition, **overrides}
    else:
        return []
    return [source[key] for key in ("executionRoleArn", "taskRoleArn") if source.get(key)]


def resource_tags(arn: str) -> dict[str, str]:
    """The tags of something in ECS as conditions see them; MiniStack knows none of tasks."""
    return {f"aws:ResourceTag/{tag['key']}": str(tag["value"]) for tag in ecs._tags.get(arn) or []}


def deny(operation: str, data: Json, *, headers: Mapping[str, str], query: Json, body: bytes) -> Response | None:
    """AWS's refusal of this request, or None when the caller may."""
    account, region = account_and_region()
    access_key = router.extract_access_key_id(headers, query)
    tags = iam_actions.request_tag_context("ecs", f"ecs:{operation}", body, query)
    definition = ecs._task_defs.get(ecs._resolve_td_key(data.get("taskDefinition") or "") or "")
    for check in required(operation, data, account=account, region=region, definition=definition):
        denied = iam_evaluator.enforce(
            access_key,
            check.action,
            "ecs",
            region,
            resource_arn=check.resource,
            service_context={**tags, **resource_tags(check.resource), **check.context},
        )
        if isinstance(denied, iam_evaluator.EvalResult):
            refusal: Response = iam_actions.access_denied_response(
                "ecs",
                check.action,
                denied.principal_arn,
                "",
                headers=headers,
                resource_arn=check.resource,
                explicit_deny=denied.decision == "Deny",
            )
            return refusal
    return None


def more_exactly(service: str, resource: str, data: Json) -> str:
    """The resource that AWS asks about, where MiniStack stays vague."""
    if service == "logs" and (stream := data.get("logStreamName")) and ":log-group:" in resource:
        return f"{resource}:log-stream:{stream}"
    if service == "ecr" and len(names := data.get("repositoryNames") or []) == 1:
        return arn_of("ecr", f"repository/{names[0]}")
    if service == "ssm" and len(names := data.get("Names") or []) == 1 and not names[0].startswith("arn:"):
        return arn_of("ssm", f"parameter/{names[0].lstrip('/')}")
    return resource


def install() -> None:
    """Correct MiniStack's checks. ECS is left to ``deny``: its own handler calls that."""
    extract_action = iam_actions.extract_iam_action

    def extract_iam_action(service: str, *args: Any, **kwargs: Any) -> Any:
        # None makes MiniStack verify the signature and go on; the ECS handler then authorises.
        return None if service == "ecs" else extract_action(service, *args, **kwargs)

    iam_actions.extract_iam_action = extract_iam_action

    extract_resource_arn = iam_actions.extract_resource_arn

    def extract_resource_of(service: str, method: str, path: str, headers: Json, body: bytes, *args: Any) -> Any:
        resource = extract_resource_arn(service, method, path, headers, body, *args)
        return more_exactly(service, resource, body_of(body))

    iam_actions.extract_resource_arn = extract_resource_of

    pin = iam_evaluator.pin_request_origin

    def pin_request_origin(source_ip: str, _secure_transport: bool) -> None:
        # Loopback counts as TLS: nobody can listen in, and every bucket and queue of a decent stack denies plain HTTP.
        pin(source_ip, True)

    iam_evaluator.pin_request_origin = app.pin_request_origin = pin_request_origin

    respond = iam_actions.access_denied_response

    def access_denied_response(service: str, action: str, principal_arn: str, request_id: str, **details: Any) -> Any:
        # AWS's denials name the resource; without it nobody knows which ARN the policy must have.
        resource = details.get("resource_arn") or "*"
        if not (details.get("message") or details.get("error_code") or details.get("resource_policy_arn")):
            named = f'"{resource}"' if service == "s3" else resource
            details["message"] = iam_actions.identity_denial_message(
                action, principal_arn, named, bool(details.get("explicit_deny"))
            )
        return respond(service, action, principal_arn, request_id, **details)

    iam_actions.access_denied_response = access_denied_response


def operation_of(headers: Mapping[str, str]) -> str:
    return headers.get("x-amz-target", "").rsplit(".", 1)[-1]


def body_of(body: bytes) -> Json:
    try:
        data = json.loads(body or b"{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
