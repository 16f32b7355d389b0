"""The function behind ``Custom::PrefectWorkPool``: a work pool and its block are what the stack says.

What it writes into the pool's description, ``[cdk-prefect-ecs OWNER RESOURCE]``, tells whose pool it is.
Nothing is ever deleted that was there before: what this resource found and adopted is noted in the same mark
and outlives it. A request that fails leaves Prefect as it was. The pool's queues are in ``work_queues``.
"""

import logging
import re
import time
import traceback
import urllib.parse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from .credential import CredentialError, CredentialReference, read_credential
from .custom_resource import send_response
from .prefect_api import PrefectApiClient, PrefectApiError
from .typed_properties import decode
from .work_queues import WantedQueue, sync_queues

logger: logging.Logger = logging.getLogger(__name__)

POOL_TYPE = "ecs"
BLOCK_TYPE = "s3-bucket"

# A deployment that cannot succeed fails within a minute. Undoing has time of its own, or a server that times
# out would be left half changed.
_WORK_SECONDS = 33.0
_DELETE_SECONDS = 20.0
_UNDO_SECONDS = 7.0
_RESPONSE_SECONDS = 8.0
_REQUEST_TIMEOUT_SECONDS = 10.0
# Grants made in the same deployment take a few seconds to work.
_ACCESS_PATIENCE_SECONDS = 10.0
# A server that has just started answers a moment before it has registered its block types.
_BLOCK_TYPE_PATIENCE_SECONDS = 5.0

_CREATE_FAILED = "/create-failed"  # no work pool may have a slash in its name
_UNRESTRICTED_NAME = re.compile(r"[^/%&<>]+")


class WorkPoolSyncError(Exception):
    """The request cannot be fulfilled; the message is for whoever reads the stack's events."""


@dataclass(frozen=True)
class ResultStorage:
    """The ``s3-bucket`` block document in which flow runs keep their results."""

    block_name: str
    bucket_name: str
    folder: str

    @property
    def data(self) -> dict[str, str]:
        return {"bucket_name": self.bucket_name, "bucket_folder": self.folder}


@dataclass(frozen=True)
class WorkPoolProperties:
    """The properties of the custom resource, decoded and checked."""

    api_url: str
    name: str
    owner: str
    description: str
    base_job_template: dict[str, Any]
    concurrency_limit: int | None
    result_storage: ResultStorage | None
    credential: CredentialReference | None
    delete_with_deployments: bool
    queues: tuple[WantedQueue, ...] = ()

    @classmethod
    def parse(cls, properties: Mapping[str, Any]) -> "WorkPoolProperties":
        """Read ``ResourceProperties``.

        :raises WorkPoolSyncError: naming the property that is missing or wrong.
        """
        try:
            values: dict[str, Any] = decode(properties)
        except ValueError as error:
            raise WorkPoolSyncError(f"a property of the work pool cannot be decoded: {error}") from None
        name, owner = _text(values, "Name"), _text(values, "Owner")
        if not _UNRESTRICTED_NAME.fullmatch(name):
            raise WorkPoolSyncError(f"Name is {name!r}; the name of a work pool has none of / % & < >")
        if name.lower().startswith("prefect"):
            raise WorkPoolSyncError(f"Name is {name!r}; Prefect keeps names that begin with 'prefect' to itself")
        if re.search(r"[\s\]]", owner):
            raise WorkPoolSyncError(f"Owner is {owner!r}; it has no white space and no ]")
        template = values.get("BaseJobTemplate")
        if not isinstance(template, dict) or not template:
            raise WorkPoolSyncError("BaseJobTemplate is missing")
        storage, credential = values.get("ResultStorage"), values.get("Credential")
        return cls(
            api_url=_text(values, "ApiUrl"),
            name=name,
            owner=owner,
            description=str(values.get("Description") or ""),
            base_job_template=template,
            concurrency_limit=_limit(values.get("ConcurrencyLimit")),
            result_storage=_result_storage(storage) if storage else None,
            credential=CredentialReference.parse(credential) if credential else None,
            delete_with_deployments=str(values.get("DeleteWithDeployments", False)).lower() == "true",
            queues=_queues(values.get("WorkQueues")),
        )


@dataclass(frozen=True)
class Mark:
    """What the pool's description says about who manages it.

    :param owner: The stack, as ``ACCOUNT/REGION/STACK``.
    :param resource: Logical id of the resource in it.
    :param adopted: What the resource found when it was created, and therefore leaves: "pool", "block".
    """

    owner: str
    resource: str
    adopted: frozenset[str] = frozenset()

    _PATTERN = re.compile(
        r"\s*\[cdk-prefect-ecs (?P<owner>[^\s\]]+) (?P<resource>\w+)(?: adopted=(?P<adopted>[a-z,]+))?\]\s*\Z"
    )

    def __str__(self) -> str:
        adopted = f" adopted={','.join(sorted(self.adopted))}" if self.adopted else ""
        return f"[cdk-prefect-ecs {self.owner} {self.resource}{adopted}]"

    @classmethod
    def split(cls, description: str | None) -> "tuple[str, Mark | None]":
        """Take a description apart into the user's text and the mark."""
        found = cls._PATTERN.search(description or "")
        if found is None:
            return description or "", None
        adopted = frozenset((found["adopted"] or "").split(",")) - {""}
        return (description or "")[: found.start()], cls(found["owner"], found["resource"], adopted)

    def appended_to(self, text: str) -> str:
        """A description with the mark at its end."""
        return f"{text}\n\n{self}" if text else str(self)


@dataclass
class _Outcome:
    physical_resource_id: str
    reason: str
    data: dict[str, str] = field(default_factory=dict)


def handler(event: Mapping[str, Any], context: Any) -> None:
    """Fulfil one request of CloudFormation and answer it once.

    Every failure of Create and Update is reported in a sentence. Delete always succeeds: a stack must go away
    even when its Prefect server went first.
    """
    logging.getLogger(__name__.rpartition(".")[0]).setLevel(logging.INFO)
    started = time.monotonic()
    request_type = event["RequestType"]
    physical_id = str(event.get("PhysicalResourceId") or f"{_requested_name(event)}{_CREATE_FAILED}")
    logger.info("%s of %s (%s).", request_type, event["LogicalResourceId"], physical_id)
    status: Any = "SUCCESS"
    try:
        limit = _DELETE_SECONDS if request_type == "Delete" else _WORK_SECONDS
        margin = _UNDO_SECONDS + _RESPONSE_SECONDS
        deadline = started + max(1.0, min(limit, _seconds_of(context) - margin))
        outcome = (_delete if request_type == "Delete" else _create_or_update)(event, deadline)
        logger.info("%s", outcome.reason)
    except (WorkPoolSyncError, PrefectApiError, CredentialError) as error:
        outcome = _Outcome(physical_id, f"{error}")
        logger.error("%s", error)
        status = "FAILED"
    except Exception as error:
        # What its message holds is unknown, so the stack's events get its kind, and the log its place.
        frames = "; ".join(
            f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)
        )
        logger.error("Unexpected %s at %s.", type(error).__name__, frames)
        outcome = _Outcome(
            physical_id, f"unexpected {type(error).__name__}; this is a bug of cdk-prefect-ecs, see the log"
        )
        status = "FAILED"
    if request_type == "Delete" and status == "FAILED":
        outcome.reason = f"left the work pool as it is: {outcome.reason}"
        logger.warning("The stack must be deletable, so this counts as success. %s", outcome.reason)
        status = "SUCCESS"
    send_response(
        event,
        context,
        status,
        physical_resource_id=outcome.physical_resource_id,
        reason=outcome.reason,
        data=outcome.data,
    )


# -- create and update ---------------------------------------------------------------------------------------


def _create_or_update(event: Mapping[str, Any], deadline: float) -> _Outcome:
    wanted = WorkPoolProperties.parse(event["ResourceProperties"])
    client = _client(wanted, deadline, patience_seconds=_ACCESS_PATIENCE_SECONDS)
    version = client.server_version()
    if re.match(r"[012]\.", version):
        raise WorkPoolSyncError(f"the server at {client.url} runs Prefect {version}; cdk-prefect-ecs needs Prefect 3")
    if _previous(event, "ApiUrl") not in (None, wanted.api_url):
        logger.warning("The API was another one before; the work pool there is left.")

    # Everything that can be refused is refused before anything changes.
    owners = {wanted.owner, _previous(event, "Owner")}
    pool: Mapping[str, Any] | None = _find_pool(client, wanted.name)
    mark = _check_may_manage(pool, wanted, owners)
    own = mark if mark is not None and mark.resource == event["LogicalResourceId"] else None
    block = _Block.look_up(client, wanted.result_storage) if wanted.result_storage else None

    adopted = _adopted(own, event, pool=pool, block=block)
    description = Mark(wanted.owner, event["LogicalResourceId"], adopted).appended_to(wanted.description)
    fields = {
        "description": description,
        "base_job_template": wanted.base_job_template,
        "concurrency_limit": wanted.concurrency_limit,
    }
    with ExitStack() as undo:
        if block is not None:
            block.write(client, undo)
        if pool is None:
            pool = _create_pool(client, wanted, fields, undo)
            what = "created"
        else:
            changed = _update_pool(client, wanted.name, pool, fields, undo)
            what = "adopted" if own is None else "updated" if changed else "found up to date"
        left: list[str] = []
        if wanted.queues or _previous(event, "WorkQueues"):
            own_mark = str(Mark(wanted.owner, event["LogicalResourceId"]))
            left = sync_queues(client, wanted.name, wanted.queues, own_mark, undo, _queue_undo(client))
        undo.pop_all()
    for sentence in left:
        logger.warning("%s", sentence)
    return _Outcome(
        wanted.name,
        f"work pool {wanted.name!r} {what} at {client.url} (Prefect {version.removeprefix('Prefect ')})"
        + "".join(f"; {sentence}" for sentence in left),
        {
            "PoolId": str(pool["id"]),
            "PoolName": wanted.name,
            "BlockName": wanted.result_storage.block_name if wanted.result_storage else "",
            "ServerVersion": version,
        },
    )


def _check_may_manage(pool: Mapping[str, Any] | None, wanted: WorkPoolProperties, owners: set[Any]) -> Mark | None:
    if pool is None:
        return None
    if pool["type"] != POOL_TYPE:
        raise WorkPoolSyncError(
            f"a work pool named {wanted.name!r} exists and has the type {pool['type']!r}, not "
            f"{POOL_TYPE!r}; choose another name or delete it"
        )
    _, mark = Mark.split(pool["description"])
    if mark is not None and mark.owner not in owners:
        raise WorkPoolSyncError(
            f"the work pool {wanted.name!r} is managed by {mark.owner}; choose another name or destroy that stack"
        )
    return mark


def _adopted(
    own: Mark | None,
    event: Mapping[str, Any],
    *,
    pool: Mapping[str, Any] | None,
    block: "_Block | None",
) -> frozenset[str]:
    """What was there before this resource: from its mark, else from what is there now."""
    adopted = set()
    if pool is not None and (own is None or "pool" in own.adopted):
        adopted.add("pool")
    if block is not None and block.document is not None:
        before = _previous(event, "ResultStorage") or {}
        same_block = event["RequestType"] == "Create" or before.get("BlockName") == block.wanted.block_name
        if own is None or "block" in own.adopted or not same_block:
            adopted.add("block")
    return frozenset(adopted)


def _create_pool(
    client: PrefectApiClient, wanted: WorkPoolProperties, fields: Mapping[str, Any], undo: ExitStack
) -> Mapping[str, Any]:
    def remove() -> None:
        rescue = _for_undo(client)
        # Looked up again: the request may have timed out and still been served, or somebody else was faster.
        found = _find_pool(rescue, wanted.name)
        if found is not None and found["description"] == fields["description"]:
            rescue.delete(_pool_path(wanted.name))

    _on_failure(undo, f"delete the work pool {wanted.name!r} again", remove)
    body = {"name": wanted.name, "type": POOL_TYPE, **fields}
    try:
        return _object(client.post("/work_pools/", body), "work pool")
    except PrefectApiError as error:
        if error.status != 409:
            raise
        # A repeated request meets the pool that its first attempt made.
        pool = _find_pool(client, wanted.name)
        if pool is None or pool["description"] != fields["description"]:
            raise WorkPoolSyncError(
                f"somebody else has just created a work pool named {wanted.name!r}; deploy again"
            ) from None
        return pool


def _update_pool(
    client: PrefectApiClient, name: str, pool: Mapping[str, Any], fields: Mapping[str, Any], undo: ExitStack
) -> bool:
    before = {key: pool[key] for key, value in fields.items() if pool[key] != value}
    if not before:
        return False
    _on_failure(undo, f"restore the work pool {name!r}", lambda: _for_undo(client).patch(_pool_path(name), before))
    client.patch(_pool_path(name), {key: fields[key] for key in before})
    return True


@dataclass(frozen=True)
class _Block:
    """The block document as wanted and as found."""

    wanted: ResultStorage
    type_id: str
    schema_id: str
    document: Mapping[str, Any] | None

    @classmethod
    def look_up(cls, client: PrefectApiClient, wanted: ResultStorage) -> "_Block":
        type_id = _block_type_id(client)
        schemas = client.post("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [type_id]}}})
        fitting = [schema for schema in schemas if wanted.data.keys() <= schema["fields"].get("properties", {}).keys()]
        if not fitting:
            raise _block_type_missing(client)
        # A server may know the schemas of several releases of prefect-aws.
        newest = max(fitting, key=lambda schema: [int(n) for n in re.findall(r"\d+", str(schema.get("version")))])
        return cls(wanted, type_id, str(newest["id"]), _find_block(client, wanted.block_name))

    def write(self, client: PrefectApiClient, undo: ExitStack) -> None:
        name = self.wanted.block_name
        if self.document is None:
            _on_failure(undo, f"delete the block {BLOCK_TYPE}/{name} again", lambda: self._remove(_for_undo(client)))
            body = {
                "name": name,
                "data": self.wanted.data,
                "block_schema_id": self.schema_id,
                "block_type_id": self.type_id,
            }
            try:
                client.post("/block_documents/", body)
            except PrefectApiError as error:
                found = _find_block(client, name) if error.status == 409 else None
                if found is None or found["data"] != self.wanted.data:
                    raise
            logger.info("Block %s/%s created.", BLOCK_TYPE, name)
            return
        path, data = f"/block_documents/{self.document['id']}", self.document["data"]
        if {key: data.get(key, "") for key in self.wanted.data} == self.wanted.data:
            return
        before = {key: data.get(key, "") for key in self.wanted.data}
        _on_failure(
            undo,
            f"restore the block {BLOCK_TYPE}/{name}",
            lambda: _for_undo(client).patch(path, {"data": before}),
        )
        # Merged by the server: credentials that somebody gave to the block stay.
        client.patch(path, {"data": self.wanted.data})
        logger.info("Block %s/%s updated.", BLOCK_TYPE, name)

    def _remove(self, client: PrefectApiClient) -> None:
        found = _find_block(client, self.wanted.block_name)
        if found is not None and found["data"] == self.wanted.data:
            client.delete(f"/block_documents/{found['id']}")


def _block_type_id(client: PrefectApiClient) -> str:
    until = time.monotonic() + _BLOCK_TYPE_PATIENCE_SECONDS
    while True:
        try:
            return str(client.get(f"/block_types/slug/{BLOCK_TYPE}")["id"])
        except PrefectApiError as error:
            if error.status != 404:
                raise
            if time.monotonic() > min(until, client.deadline):
                raise _block_type_missing(client) from None
        time.sleep(0.5)


def _block_type_missing(client: PrefectApiClient) -> WorkPoolSyncError:
    return WorkPoolSyncError(
        f"{client.url} has no block type {BLOCK_TYPE!r}, which keeps the results of flow runs. Register it "
        "with this API: prefect block register -m prefect_aws"
    )


# -- delete --------------------------------------------------------------------------------------------------


def _delete(event: Mapping[str, Any], deadline: float) -> _Outcome:
    physical_id = str(event["PhysicalResourceId"])
    if physical_id.endswith(_CREATE_FAILED):
        return _Outcome(physical_id, "nothing to delete: the work pool was never created")
    wanted = WorkPoolProperties.parse(event["ResourceProperties"])
    client = _client(wanted, deadline, patience_seconds=0.0)
    client.server_version()
    pool = _find_pool(client, physical_id)
    if pool is None:
        return _Outcome(physical_id, f"the work pool {physical_id!r} is gone already")
    text, mark = Mark.split(pool["description"])
    if (
        pool["type"] != POOL_TYPE
        or mark is None
        or (mark.owner, mark.resource) != (wanted.owner, event["LogicalResourceId"])
    ):
        whose = f"is managed by {mark.owner} ({mark.resource})" if mark else "no longer carries the mark of this stack"
        return _Outcome(physical_id, f"left the work pool {physical_id!r}: it {whose}")

    if "pool" in mark.adopted:
        return _release(client, physical_id, text, "it existed before this stack")
    filter_ = {"work_pools": {"name": {"any_": [physical_id]}}}
    deployments = int(client.post("/deployments/count", filter_))
    if deployments and not wanted.delete_with_deployments:
        plural = "1 deployment uses" if deployments == 1 else f"{deployments} deployments use"
        return _release(client, physical_id, text, f"{plural} it")
    try:
        client.delete(_pool_path(physical_id))
    except PrefectApiError as error:
        if error.status != 404:
            raise
    done = f"work pool {physical_id!r} deleted"
    if deployments:
        done += f"; deployments that have no work pool now: {deployments}"
    if wanted.result_storage is not None and "block" not in mark.adopted:
        try:
            done += f"; {_delete_block(client, wanted.result_storage)}"
        except PrefectApiError as error:
            done += f"; its block is left: {error}"
    return _Outcome(physical_id, done)


def _release(client: PrefectApiClient, name: str, text: str, why: str) -> _Outcome:
    """Leave the pool, and take the mark away so that another stack may adopt it."""
    client.patch(_pool_path(name), {"description": text})
    return _Outcome(
        name,
        f"left the work pool {name!r}: {why}. Delete it when you want to: prefect work-pool delete '{name}'",
    )


def _delete_block(client: PrefectApiClient, storage: ResultStorage) -> str:
    label = f"block {BLOCK_TYPE}/{storage.block_name}"
    document = _find_block(client, storage.block_name)
    if document is None:
        return f"{label} is gone already"
    if _filled(document["data"]) != _filled(storage.data):
        return f"left the {label}: it was changed"
    # A pool that was renamed hands its block to its successor.
    if _is_used(client, str(document["id"]), f"{BLOCK_TYPE}/{storage.block_name}"):
        return f"left the {label}: another work pool uses it"
    client.delete(f"/block_documents/{document['id']}")
    return f"{label} deleted"


def _filled(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value}


def _is_used(client: PrefectApiClient, block_id: str, reference: str) -> bool:
    page = 200
    offset = 0
    while True:
        pools = client.post("/work_pools/filter", {"limit": page, "offset": offset})
        if any(_holds(pool, {block_id, reference}) for pool in pools):
            return True
        if len(pools) < page:
            return False
        offset += page


def _holds(value: Any, texts: set[str]) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, texts) for item in value.values())
    if isinstance(value, list):
        return any(_holds(item, texts) for item in value)
    return isinstance(value, str) and value in texts


# -- small parts ---------------------------------------------------------------------------------------------


def _client(wanted: WorkPoolProperties, deadline: float, *, patience_seconds: float) -> PrefectApiClient:
    credential = None
    if wanted.credential is not None:
        credential = read_credential(wanted.credential, patience_seconds=patience_seconds)
    return PrefectApiClient(
        wanted.api_url,
        credential.authorization_header if credential else None,
        timeout_seconds=_REQUEST_TIMEOUT_SECONDS,
        deadline=deadline,
        credential_source=credential.source if credential else None,
    )


def _for_undo(client: PrefectApiClient) -> PrefectApiClient:
    """The same API with fresh time, once for each thing undone."""
    return client.with_deadline(time.monotonic() + _UNDO_SECONDS / 2)


def _on_failure(undo: ExitStack, what: str, action: Callable[[], object]) -> None:
    def attempt() -> None:
        logger.warning("The request failed: about to %s.", what)
        try:
            action()
        except Exception as error:
            # The first failure is the one to report.
            said = str(error) if isinstance(error, PrefectApiError) else type(error).__name__
            logger.error("Could not %s: %s", what, said)

    undo.callback(attempt)


def _queue_undo(client: PrefectApiClient) -> Callable[[ExitStack, str, Callable[[PrefectApiClient], object]], None]:
    return lambda undo, what, action: _on_failure(undo, what, lambda: action(_for_undo(client)))


def _pool_path(name: str) -> str:
    return f"/work_pools/{urllib.parse.quote(name, safe='')}"


def _find_pool(client: PrefectApiClient, name: str) -> dict[str, Any] | None:
    return _found(lambda: _object(client.get(_pool_path(name)), "work pool"))


def _find_block(client: PrefectApiClient, name: str) -> dict[str, Any] | None:
    path = f"/block_types/slug/{BLOCK_TYPE}/block_documents/name/{urllib.parse.quote(name, safe='')}"
    return _found(lambda: _object(client.get(path), "block document"))


def _found(read: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return read()
    except PrefectApiError as error:
        if error.status == 404:
            return None
        raise


def _object(answer: Any, what: str) -> dict[str, Any]:
    if not isinstance(answer, dict) or "id" not in answer:
        raise WorkPoolSyncError(f"the Prefect API answered something that is no {what}; is this Prefect 3?")
    return answer


def _previous(event: Mapping[str, Any], key: str) -> Any:
    """A property of the resource before this update; None when there is none or it cannot be read."""
    try:
        return decode((event.get("OldResourceProperties") or {}).get(key))
    except ValueError:
        return None


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        raise WorkPoolSyncError(f"{key} is missing")
    return value


def _limit(value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        limit = int(value)
    except (TypeError, ValueError):
        limit = -1
    if limit < 0:
        raise WorkPoolSyncError(f"ConcurrencyLimit is {value!r}; it is a whole number of 0 or more")
    return limit


def _queues(value: Any) -> tuple[WantedQueue, ...]:
    try:
        return tuple(WantedQueue.parse(raw) for raw in value or ())
    except ValueError as error:
        raise WorkPoolSyncError(f"WorkQueues: {error}") from None


def _result_storage(value: Any) -> ResultStorage:
    if not isinstance(value, dict):
        raise WorkPoolSyncError("ResultStorage has the fields BlockName, BucketName and Folder")
    return ResultStorage(
        block_name=_text(value, "BlockName"),
        bucket_name=_text(value, "BucketName"),
        folder=str(value.get("Folder") or ""),
    )


def _requested_name(event: Mapping[str, Any]) -> str:
    properties = event.get("ResourceProperties")
    name = properties.get("Name") if isinstance(properties, Mapping) else None
    return name if isinstance(name, str) and name else str(event["LogicalResourceId"])


def _seconds_of(context: Any) -> float:
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return remaining() / 1000 if callable(remaining) else 60.0
