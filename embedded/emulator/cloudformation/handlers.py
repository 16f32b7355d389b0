"""How a CloudFormation type is given to MiniStack."""

from collections.abc import Callable
from typing import Any

from embedded.emulator.inner import Json, provisioners

Created = tuple[str, Json]
"""Physical id and the attributes for Fn::GetAtt."""
Create = Callable[[str, Json, str], Created]
Update = Callable[[str, Json, Json, str], Created]
Delete = Callable[[str, Json], None]

# Maps whose keys are the user's own and keep their case.
_USER_KEYED = {"Options", "DockerLabels", "Labels", "DriverOpts"}


def add(resource_type: str, *, create: Create, update: Update | None = None, delete: Delete) -> None:
    """Add a type unless MiniStack has learnt it by itself in the meantime."""
    provisioners._RESOURCE_HANDLERS.setdefault(
        resource_type, {"create": create, "delete": delete, **({"update": update} if update else {})}
    )


def keep(physical_id: str, _old: Json, _new: Json, _stack: str) -> Created:
    """An update that changes nothing worth emulating."""
    return physical_id, {}


def extend(resource_type: str, extra: Callable[[str, Json], Json]) -> None:
    """Run ``extra(physical id, properties)`` after create and update; what it returns are further attributes."""
    handlers = provisioners._RESOURCE_HANDLERS[resource_type]
    for name, properties_at in (("create", 1), ("update", 2)):
        if name in handlers:
            handlers[name] = _extended(handlers[name], properties_at, extra)


def _extended(
    handler: Callable[..., Any], properties_at: int, extra: Callable[[str, Json], Json]
) -> Callable[..., Any]:
    def extended(*args: Any, **kwargs: Any) -> Created:
        physical_id, attributes = handler(*args, **kwargs)[:2]
        return physical_id, {**extra(physical_id, args[properties_at]), **(attributes or {})}

    return extended


def checked(response: Any, what: str) -> Any:
    """The body of a successful answer; a refusal fails the resource with AWS's own words."""
    status, _, body = response
    if status >= 400:
        text = body.decode() if isinstance(body, bytes) else str(body)
        raise ValueError(f"{what}: {text}")
    return body


def camel(value: Any) -> Any:
    """PascalCase properties as the service's own API spells them."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if isinstance(value, dict):
        return {k[:1].lower() + k[1:]: (v if k in _USER_KEYED else camel(v)) for k, v in value.items()}
    return value
