"""Small things in which MiniStack answers otherwise than AWS, and on which the app or its tools depend."""

import contextvars
import hashlib
import json
import time
from datetime import datetime
from typing import Any

from embedded.emulator.inner import Json, Response, account_and_region, ec2, ecr, ecs, lambda_svc, logs, refuse, ssm

_TRY_AGAIN_SECONDS = 0.1
_ECS_IMAGES = "/aws/service/ecs/optimized-ami/"

_describe_images = ecr._describe_images
_register_task_definition = ecs._register_task_definition
_matches_vpc_filters = ec2._matches_vpc_filters
_filter_log_events = logs._filter_log_events
_execute_function = lambda_svc._execute_function
_run_sqs_batch = lambda_svc._run_sqs_batch
_resolve_parameter_value = ssm.resolve_parameter_value
_throttled_until = contextvars.ContextVar("_throttled_until", default=0.0)


def install() -> None:
    ecr._describe_images = describe_images
    ecs._register_task_definition = register_task_definition
    ecs._ts_to_epoch = ts_to_epoch
    ec2._matches_vpc_filters = matches_vpc_filters
    logs._filter_log_events = filter_log_events
    lambda_svc._execute_function = execute_function
    lambda_svc._run_sqs_batch = run_sqs_batch
    ssm.resolve_parameter_value = resolve_parameter_value


def describe_images(data: Json) -> Response:
    """An image that is not there is an error on AWS, by which the CDK CLI knows that it has one to publish."""
    name = data.get("repositoryName", "")
    status, headers, body = answer = _describe_images(data)
    if status >= 400:
        return answer  # type: ignore[no-any-return]
    for wanted in data.get("imageIds") or []:
        if ecr._find_image(name, wanted) is None:
            account, _ = account_and_region()
            digest, tag = wanted.get("imageDigest", "null"), wanted.get("imageTag", "null")
            return refuse(
                "ImageNotFoundException",
                f"The image with imageId {{imageDigest:'{digest}', imageTag:'{tag}'}} does not exist within the "
                f"repository with name '{name}' in the registry with id '{account}'",
            )
    described = json.loads(body)
    for detail in described["imageDetails"]:
        # What a pull transfers; MiniStack tells the length of the manifest.
        stored = ecr._find_image(name, {"imageDigest": detail["imageDigest"]})
        detail["imageSizeInBytes"] = manifest_size(stored["imageManifest"])
    return status, headers, json.dumps(described).encode()


def manifest_size(manifest: str) -> int:
    """Bytes of the configuration and the layers that an image's manifest names."""
    document = json.loads(manifest or "{}")
    return sum(int(part.get("size", 0)) for part in (document.get("config", {}), *document.get("layers", [])))


def register_task_definition(data: Json) -> Response:
    """AWS answers with ``enableFaultInjection`` whether it was given or not; prefect-aws compares by it."""
    status, headers, body = answer = _register_task_definition(data)
    if status >= 400:
        return answer  # type: ignore[no-any-return]
    described = json.loads(body)
    stored = ecs._task_defs["{family}:{revision}".format(**described["taskDefinition"])]
    for definition in (stored, described["taskDefinition"]):
        definition["enableFaultInjection"] = bool(data.get("enableFaultInjection", False))
    return status, headers, json.dumps(described).encode()


def ts_to_epoch(value: Any) -> Any:
    """AWS tells the times of tasks in milliseconds; MiniStack cuts them to seconds."""
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) and value else value


def matches_vpc_filters(vpc: Json, filters: Json) -> bool:
    """``isDefault``, which the CDK CLI looks the default VPC up by, is another spelling of ``is-default``."""
    spelled = {"is-default" if name == "isDefault" else name: values for name, values in filters.items()}
    return bool(_matches_vpc_filters(vpc, spelled))


def filter_log_events(data: Json) -> Response:
    """MiniStack does not know ``logStreamNamePrefix``, and gives the events of Lambda functions no id."""
    prefix = data.get("logStreamNamePrefix")
    group = logs._log_groups.get(data.get("logGroupName", ""))
    if prefix is not None and group is not None:
        matching = [name for name in group["streams"] if name.startswith(prefix)]
        # No list at all would mean every stream.
        data = {**data, "logStreamNames": matching or ["\0"]}
    status, headers, body = answer = _filter_log_events(data)
    if status >= 400:
        return answer  # type: ignore[no-any-return]
    found = json.loads(body)
    for number, event in enumerate(found["events"]):
        event.setdefault("eventId", f"{event['logStreamName']}/{event['timestamp']}/{number}")
    return status, headers, json.dumps(found).encode()


def resolve_parameter_value(name_or_arn: str, *args: Any, **kwargs: Any) -> Any:
    """The public parameters in which AWS publishes the ECS-optimized images; their machines are only recorded."""
    if name_or_arn.startswith(_ECS_IMAGES):
        return f"ami-{hashlib.sha256(name_or_arn.encode()).hexdigest()[:17]}"
    return _resolve_parameter_value(name_or_arn, *args, **kwargs)


def run_sqs_batch(esm: Json, func_rec: Json, event: Json, batch: Any, queue_url: str, queue_name: str) -> None:
    """A batch whose function is throttled is tried again while nobody else sees its messages; MiniStack drops it."""
    hidden = min(float(message["visible_at"]) for message in batch) - time.time()
    token = _throttled_until.set(time.monotonic() + hidden - 1)
    try:
        _run_sqs_batch(esm, func_rec, event, batch, queue_url, queue_name)
    finally:
        _throttled_until.reset(token)


def execute_function(func: Json, event: Json) -> Any:
    """One invocation; see ``run_sqs_batch``."""
    while True:
        result = _execute_function(func, event)
        if not result.get("throttle") or time.monotonic() > _throttled_until.get():
            return result
        time.sleep(_TRY_AGAIN_SECONDS)
