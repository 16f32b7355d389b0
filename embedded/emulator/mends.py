"""Small things in which MiniStack answers otherwise than AWS, and on which the app or its tools depend."""

import json

from embedded.emulator.inner import Json, Response, ec2, ecs, logs

_register_task_definition = ecs._register_task_definition
_matches_vpc_filters = ec2._matches_vpc_filters
_filter_log_events = logs._filter_log_events


def install() -> None:
    ecs._register_task_definition = register_task_definition
    ec2._matches_vpc_filters = matches_vpc_filters
    logs._filter_log_events = filter_log_events


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
