"""What requests to ECS name, and the refusal when it is not there."""

from collections.abc import Callable

from embedded.emulator.inner import Json, Response, ecs, refuse, reply


class RefusedError(Exception):
    """ECS would answer this request with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def response(self) -> Response:
        return refuse(self.code, str(self))


def answered(handler: Callable[[Json], Json]) -> Callable[[Json], Response]:
    """Answer a request with what the handler returns, or with its refusal."""

    def handle(data: Json) -> Response:
        try:
            return reply(handler(data))
        except RefusedError as error:
            return error.response()

    return handle


def cluster_name(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]


def resolve_cluster(reference: str | None) -> Json:
    """The ACTIVE cluster, or AWS's refusal (MiniStack would make it on the spot)."""
    name = ecs._resolve_cluster_name(reference or "default")
    cluster = ecs._clusters.get(name) if name else None
    if cluster is None or cluster["status"] != "ACTIVE":
        raise RefusedError("ClusterNotFoundException", "Cluster not found.")
    found: Json = cluster
    return found


def resolve_definition(reference: str) -> Json:
    definition = ecs._task_defs.get(ecs._resolve_td_key(reference) or "")
    if definition is None:
        raise RefusedError("ClientException", f"Unable to find task definition: {reference}")
    found: Json = definition
    return found
