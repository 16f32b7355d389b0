import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from function_fakes import API_KEY, Answer, Context, FakePrefect, FakeSsm, HttpServer, Request

from cdk_prefect_ecs.functions import custom_resource, work_pool_sync
from cdk_prefect_ecs.functions.typed_properties import encode
from cdk_prefect_ecs.functions.work_pool_sync import Mark, handler

TEMPLATE = {
    "job_configuration": {"cpu": "{{ cpu }}", "env": {"PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": "s3-bucket/etl-results"}},
    "variables": {"properties": {"cpu": {"type": "integer", "default": 1024}}, "required": []},
}
OTHER_TEMPLATE = {"job_configuration": {"memory": 1}, "variables": {"properties": {"memory": {}}}}
OWNER = "123456789012/us-east-1/PrefectProd-Execution"
DATA = {"bucket_name": "flow-bucket", "bucket_folder": "results"}
MARK = f"[cdk-prefect-ecs {OWNER} Pool1234]"


class Stack:
    """CloudFormation's end: sends requests, keeps the responses."""

    def __init__(self, prefect: FakePrefect, start: Callable[[Callable[[Request], Answer]], HttpServer]) -> None:
        self.prefect = prefect
        self.bucket = start(lambda _: self.answers.pop(0) if self.answers else Answer(200))
        self.answers: list[Answer] = []
        self.context = Context()
        self.logical_id = "Pool1234"

    def properties(self, **changes: Any) -> dict[str, Any]:
        values = {
            "ServiceToken": "arn:aws:lambda:us-east-1:123456789012:function:sync",
            "ApiUrl": self.prefect.api_url,
            "Credential": {"Kind": "SsmParameter", "Id": "/prefect/api-key", "Scheme": "Bearer"},
            "Name": "etl",
            "Description": "Flow runs on Fargate",
            "ConcurrencyLimit": encode(None),
            "BaseJobTemplate": encode(TEMPLATE),
            "ResultStorage": {"BlockName": "etl-results", "BucketName": "flow-bucket", "Folder": "results"},
            "Owner": OWNER,
            "DeleteWithDeployments": encode(False),
            **changes,
        }
        return {key: value for key, value in values.items() if value is not ...}

    def request(self, kind: str, **event: Any) -> dict[str, Any]:
        sent = len(self.bucket.requests)
        handler(
            {
                "RequestType": kind,
                "ResponseURL": f"{self.bucket.url}/response?Signature=s3cr3t",
                "StackId": "stack-id",
                "RequestId": "request-id",
                "LogicalResourceId": self.logical_id,
                "ResourceType": "Custom::PrefectWorkPool",
                **event,
            },
            self.context,
        )
        assert len(self.bucket.requests) == sent + 1, "exactly one response"
        response = self.bucket.requests[-1]
        assert (response.method, response.headers["content-type"]) == ("PUT", "")
        assert len(response.body) <= 4096
        assert API_KEY not in response.body.decode()
        answer: dict[str, Any] = response.json
        echoed = (answer["StackId"], answer["RequestId"], answer["LogicalResourceId"])
        assert echoed == ("stack-id", "request-id", self.logical_id)
        assert answer["Reason"].endswith(f"(log stream: {self.context.log_stream_name})")
        return answer

    def create(self, **changes: Any) -> dict[str, Any]:
        return self.request("Create", ResourceProperties=self.properties(**changes))

    def update(self, *, physical_id: str = "etl", old: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        return self.request(
            "Update",
            PhysicalResourceId=physical_id,
            ResourceProperties=self.properties(**changes),
            OldResourceProperties=self.properties(**(old or {})),
        )

    def delete(self, *, physical_id: str = "etl", **changes: Any) -> dict[str, Any]:
        return self.request("Delete", PhysicalResourceId=physical_id, ResourceProperties=self.properties(**changes))


@pytest.fixture
def stack(prefect: FakePrefect, ssm: FakeSsm, http_server: Any, caplog: pytest.LogCaptureFixture) -> Iterator[Stack]:
    caplog.set_level(logging.DEBUG)
    yield Stack(prefect, http_server)
    assert API_KEY not in caplog.text
    assert "s3cr3t" not in caplog.text


def succeeded(response: dict[str, Any], physical_id: str = "etl") -> str:
    assert (response["Status"], response["PhysicalResourceId"]) == ("SUCCESS", physical_id), response["Reason"]
    return str(response["Reason"])


def failed(response: dict[str, Any], physical_id: str = "etl/create-failed") -> str:
    assert (response["Status"], response["PhysicalResourceId"]) == ("FAILED", physical_id), response["Reason"]
    return str(response["Reason"])


# -- create ----------------------------------------------------------------------------------------------------


def test_create(stack: Stack) -> None:
    response = stack.create(ConcurrencyLimit=encode(5))

    assert succeeded(response).startswith(f"work pool 'etl' created at {stack.prefect.api_url} (Prefect 3.8.8)")
    pool, block = stack.prefect.pools["etl"], stack.prefect.blocks["etl-results"]
    assert response["Data"] == {
        "PoolId": pool["id"],
        "PoolName": "etl",
        "BlockName": "etl-results",
        "ServerVersion": "3.8.8",
    }
    assert pool["type"] == "ecs"
    assert pool["base_job_template"] == TEMPLATE
    assert pool["concurrency_limit"] == 5
    assert pool["description"] == f"Flow runs on Fargate\n\n{MARK}"
    assert block["data"] == DATA
    # The newest schema that has the fields, not the one registered last.
    assert block["schema"] == "schema-new"


def test_create_without_result_storage(stack: Stack) -> None:
    response = stack.create(ResultStorage=...)

    assert response["Data"]["BlockName"] == ""
    assert stack.prefect.blocks == {}


def test_create_at_an_open_server(stack: Stack) -> None:
    stack.prefect.authorization = None

    succeeded(stack.create(Credential=...))


def test_create_again_changes_nothing(stack: Stack) -> None:
    """Lambda may repeat an invocation."""
    stack.create()
    written = stack.prefect.writes

    assert "found up to date" in succeeded(stack.create())
    assert stack.prefect.writes == written
    assert "adopted" not in stack.prefect.pools["etl"]["description"]


@pytest.mark.parametrize("raw", [7, "7", "json:7"])
def test_concurrency_limit_in_any_spelling(stack: Stack, raw: Any) -> None:
    stack.create(ConcurrencyLimit=raw)

    assert stack.prefect.pools["etl"]["concurrency_limit"] == 7


def test_adopts_a_pool(stack: Stack) -> None:
    pool = stack.prefect.add_pool("etl", description="by hand", base_job_template=OTHER_TEMPLATE, concurrency_limit=3)
    stack.prefect.add_block("etl-results", bucket_name="elsewhere", bucket_folder="", credentials="kept")

    assert "work pool 'etl' adopted" in succeeded(stack.create())
    assert pool["base_job_template"] == TEMPLATE
    assert pool["concurrency_limit"] is None
    assert pool["description"] == f"Flow runs on Fargate\n\n{MARK[:-1]} adopted=block,pool]"
    assert stack.prefect.blocks["etl-results"]["data"] == {**DATA, "credentials": "kept"}


@pytest.mark.parametrize("type_", ["process", "ecs:push"])
def test_pool_of_another_type(stack: Stack, type_: str) -> None:
    stack.prefect.add_pool("etl", type=type_)

    assert f"exists and has the type {type_!r}, not 'ecs'" in failed(stack.create())
    assert stack.prefect.writes == []


def test_pool_of_another_owner(stack: Stack) -> None:
    stack.prefect.add_pool("etl", description="x\n\n[cdk-prefect-ecs 1/us-east-1/Other Pool1234]")
    reason = failed(stack.create())

    assert "is managed by 1/us-east-1/Other; choose another name or destroy that stack" in reason
    assert stack.prefect.writes == []


def test_missing_block_type(stack: Stack) -> None:
    stack.prefect.schemas = None

    assert "prefect block register -m prefect_aws" in failed(stack.create())
    assert stack.prefect.writes == []


def test_block_type_without_a_fitting_schema(stack: Stack) -> None:
    stack.prefect.schemas = [{"id": "s", "version": "9", "fields": {}}]

    assert "has no block type 's3-bucket'" in failed(stack.create())


def test_block_type_registered_a_moment_later(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    schemas, stack.prefect.schemas = stack.prefect.schemas, None
    monkeypatch.setattr(work_pool_sync, "_BLOCK_TYPE_PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(work_pool_sync.time, "sleep", lambda _: setattr(stack.prefect, "schemas", schemas))

    succeeded(stack.create())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Name": ...}, "Name is missing"),
        ({"Name": "a/b"}, "none of / % & < >"),
        ({"Name": "Prefect-etl"}, "keeps names that begin with 'prefect'"),
        ({"ApiUrl": ...}, "ApiUrl is missing"),
        ({"ApiUrl": "prefect"}, "not the URL of a Prefect API: 'prefect'"),
        ({"Owner": "a b"}, "Owner is 'a b'"),
        ({"BaseJobTemplate": ...}, "BaseJobTemplate is missing"),
        ({"BaseJobTemplate": {"a": "json:{"}}, "cannot be decoded: not JSON after 'json:'"),
        ({"ConcurrencyLimit": "json:-1"}, "ConcurrencyLimit is -1"),
        ({"ConcurrencyLimit": "many"}, "ConcurrencyLimit is 'many'"),
        ({"ResultStorage": {"BlockName": "b"}}, "BucketName is missing"),
        ({"Credential": {"Kind": "File"}}, "Credential.Kind is 'File'"),
    ],
)
def test_properties_that_are_wrong(stack: Stack, changes: dict[str, Any], reason: str) -> None:
    response = stack.create(**changes)

    assert response["Status"] == "FAILED"
    assert reason in response["Reason"]
    assert stack.prefect.writes == []


def test_wrong_key(stack: Stack) -> None:
    stack.prefect.authorization = "Bearer another"

    assert "rejected the credential read from SSM parameter '/prefect/api-key' (401)" in failed(stack.create())


def test_plain_text_parameter(stack: Stack, ssm: FakeSsm) -> None:
    ssm.type = "String"

    assert "--type SecureString" in failed(stack.create())


def test_wrong_url(stack: Stack) -> None:
    url = stack.prefect.server.url

    assert f"{url} is not a Prefect API" in failed(stack.create(ApiUrl=url))


def test_unreachable_api_fails_in_time(stack: Stack) -> None:
    url = stack.prefect.api_url
    stack.prefect.server.close()
    started = time.monotonic()

    assert f"cannot reach the Prefect API at {url}: connection refused" in failed(stack.create())
    assert time.monotonic() - started < 3


def test_little_time_left(stack: Stack) -> None:
    stack.context.remaining_seconds = 3

    succeeded(stack.create())


def test_prefect_2(stack: Stack) -> None:
    stack.prefect.version = "2.20.0"

    assert "runs Prefect 2.20.0; cdk-prefect-ecs needs Prefect 3" in failed(stack.create())


def test_unexpected_errors_are_reported_without_their_message(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError(API_KEY)

    monkeypatch.setattr(work_pool_sync, "read_credential", explode)

    assert "unexpected RuntimeError; this is a bug of cdk-prefect-ecs" in failed(stack.create())
    assert "explode" in caplog.text


def test_answers_that_are_no_prefect(stack: Stack) -> None:
    stack.prefect.broken["GET", "/work_pools/etl"] = Answer(200, ["?"])

    assert "something that is no work pool" in failed(stack.create())


# -- nothing half made -----------------------------------------------------------------------------------------

AFTER = {"X-After": "the request was served"}


def test_failed_create_of_the_pool_leaves_no_block(stack: Stack) -> None:
    stack.prefect.broken["POST", "/work_pools/"] = Answer(422, {"detail": "Validation failed for field 'cpu'"})

    assert "answered 422 to POST /work_pools/: Validation failed for field 'cpu'" in failed(stack.create())
    assert stack.prefect.pools == {}
    assert stack.prefect.blocks == {}


def test_pool_that_was_created_all_the_same_is_removed(stack: Stack) -> None:
    stack.prefect.broken["POST", "/work_pools/"] = Answer(201, b"<garbage>", AFTER)

    failed(stack.create())
    assert stack.prefect.pools == {}
    assert stack.prefect.blocks == {}


def test_somebody_else_was_faster(stack: Stack) -> None:
    fake = stack.prefect

    def let_them_in_first(request: Request) -> Answer:
        if request.path.endswith("/work_pools/"):
            fake.add_pool("etl", description="theirs")
        return FakePrefect.respond(fake, request)

    fake.server.respond = let_them_in_first

    assert "somebody else has just created a work pool named 'etl'" in failed(stack.create())
    assert fake.pools["etl"]["description"] == "theirs"
    assert fake.blocks == {}


def test_a_repeated_create_meets_its_own_pool(stack: Stack) -> None:
    fake, served = stack.prefect, []

    def lose_the_first_answer(request: Request) -> Answer:
        answer = FakePrefect.respond(fake, request)
        if request.method == "POST" and request.path.endswith(("/work_pools/", "/block_documents/")):
            served.append(request.path)
            return Answer(502) if served.count(request.path) == 1 else answer
        return answer

    fake.server.respond = lose_the_first_answer

    succeeded(stack.create())
    assert len(served) == 4
    assert fake.pools["etl"]["base_job_template"] == TEMPLATE


def test_failed_block_leaves_no_pool(stack: Stack) -> None:
    stack.prefect.broken["POST", "/block_documents/"] = Answer(422, {"detail": "Block document name must only …"})

    assert "Block document name must only" in failed(stack.create())
    assert stack.prefect.pools == {}


def test_failed_adoption_restores(stack: Stack) -> None:
    stack.prefect.add_pool("etl", description="by hand", base_job_template=OTHER_TEMPLATE, concurrency_limit=3)
    stack.prefect.add_block("etl-results", bucket_name="elsewhere", bucket_folder="")
    before = json.dumps([stack.prefect.pools, stack.prefect.blocks])
    first = [Answer(200, b"<garbage>", AFTER)]
    fake = stack.prefect

    def break_the_first_patch(request: Request) -> Answer:
        answer = FakePrefect.respond(fake, request)
        return first.pop() if first and (request.method, request.path) == ("PATCH", "/api/work_pools/etl") else answer

    fake.server.respond = break_the_first_patch

    failed(stack.create())
    assert json.dumps([fake.pools, fake.blocks]) == before


def test_when_undoing_fails_too_the_first_failure_is_reported(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    stack.prefect.broken["POST", "/work_pools/"] = Answer(422, {"detail": "the reason"})
    stack.prefect.broken["DELETE", "/block_documents/block-1"] = Answer(403, {"detail": "no"})

    assert "the reason" in failed(stack.create())
    assert "Could not delete the block s3-bucket/etl-results again" in caplog.text


# -- update ----------------------------------------------------------------------------------------------------


def test_update(stack: Stack) -> None:
    stack.create(ConcurrencyLimit=encode(5))
    response = stack.update(
        BaseJobTemplate=encode(OTHER_TEMPLATE),
        Description=...,
        ResultStorage={"BlockName": "etl-results", "BucketName": "new", "Folder": "results"},
    )

    assert "work pool 'etl' updated" in succeeded(response)
    pool = stack.prefect.pools["etl"]
    assert pool["base_job_template"] == OTHER_TEMPLATE
    assert pool["concurrency_limit"] is None
    assert pool["description"] == MARK
    assert stack.prefect.blocks["etl-results"]["data"] == {"bucket_name": "new", "bucket_folder": "results"}


def test_update_recreates_what_was_deleted(stack: Stack) -> None:
    succeeded(stack.update())

    assert "etl" in stack.prefect.pools
    assert "etl-results" in stack.prefect.blocks


def test_update_after_the_stack_got_another_owner_string(stack: Stack) -> None:
    stack.create()
    succeeded(stack.update(Owner="123456789012/us-east-1/New", old={"Owner": OWNER}))

    assert "us-east-1/New Pool1234]" in stack.prefect.pools["etl"]["description"]


def test_failed_update_leaves_the_pool_as_it_was(stack: Stack) -> None:
    stack.create()
    before = json.dumps([stack.prefect.pools, stack.prefect.blocks])
    stack.prefect.broken["PATCH", "/work_pools/etl"] = Answer(422, {"detail": "undeclared variable(s): y"})

    reason = failed(
        stack.update(
            BaseJobTemplate=encode(OTHER_TEMPLATE),
            ResultStorage={"BlockName": "etl-results", "BucketName": "new", "Folder": "results"},
        ),
        "etl",
    )

    assert "undeclared variable(s): y" in reason
    assert json.dumps([stack.prefect.pools, stack.prefect.blocks]) == before


def test_refused_update_writes_nothing(stack: Stack) -> None:
    stack.create()
    stack.prefect.pools["etl"]["description"] = "[cdk-prefect-ecs 1/us-east-1/Other Pool1234]"
    written = stack.prefect.writes

    failed(stack.update(BaseJobTemplate=encode(OTHER_TEMPLATE)), "etl")
    assert stack.prefect.writes == written


def test_unreadable_old_properties_do_not_matter(stack: Stack) -> None:
    stack.create()

    succeeded(stack.update(old={"ApiUrl": "json:{", "Owner": "json:{", "ResultStorage": {"BlockName": "json:{"}}))


def test_rename(stack: Stack) -> None:
    stack.create()
    succeeded(stack.update(Name="etl-2"), "etl-2")
    assert set(stack.prefect.pools) == {"etl", "etl-2"}

    reason = succeeded(stack.delete())

    assert set(stack.prefect.pools) == {"etl-2"}
    assert "left the block s3-bucket/etl-results: another work pool uses it" in reason
    assert "etl-results" in stack.prefect.blocks


def test_failed_rename_keeps_the_old_pool(stack: Stack) -> None:
    stack.create()
    stack.prefect.broken["POST", "/work_pools/"] = Answer(201, b"<garbage>", AFTER)

    failed(stack.update(Name="etl-2"), "etl")
    assert set(stack.prefect.pools) == {"etl"}
    assert "etl-results" in stack.prefect.blocks


# -- delete ----------------------------------------------------------------------------------------------------


def test_delete(stack: Stack) -> None:
    stack.create()

    assert "work pool 'etl' deleted; block s3-bucket/etl-results deleted" in succeeded(stack.delete())
    assert stack.prefect.pools == {}
    assert stack.prefect.blocks == {}


def test_delete_twice(stack: Stack) -> None:
    stack.create()
    stack.delete()

    assert "gone already" in succeeded(stack.delete())


def test_delete_after_a_failed_create_is_nothing(stack: Stack) -> None:
    stack.prefect.add_pool("etl", type="process")
    physical_id = stack.create()["PhysicalResourceId"]
    asked = len(stack.prefect.server.requests)

    assert "never created" in succeeded(stack.delete(physical_id=physical_id), physical_id)
    assert len(stack.prefect.server.requests) == asked


def test_delete_after_a_create_without_a_name(stack: Stack) -> None:
    physical_id = stack.create(Name=...)["PhysicalResourceId"]

    assert physical_id == "Pool1234/create-failed"
    succeeded(stack.delete(physical_id=physical_id, Name=...), physical_id)


def test_deployments_keep_the_pool(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    stack.create()
    stack.prefect.deployments["etl"] = 2

    reason = succeeded(stack.delete())
    assert "left the work pool 'etl': 2 deployments use it. Delete it when you want to" in reason
    assert "2 deployments use it" in caplog.text
    assert "etl-results" in stack.prefect.blocks
    # Another stack may have it now.
    assert stack.prefect.pools["etl"]["description"] == "Flow runs on Fargate"


def test_delete_with_deployments(stack: Stack) -> None:
    stack.create()
    stack.prefect.deployments["etl"] = 1

    assert "deployments that have no work pool now: 1" in succeeded(stack.delete(DeleteWithDeployments=encode(True)))
    assert stack.prefect.pools == {}


def test_adopted_things_outlive_the_stack(stack: Stack) -> None:
    """Also when CloudFormation rolls a stack back whose pool was adopted a minute ago."""
    stack.prefect.add_pool("etl", description="by hand")
    stack.prefect.add_block("etl-results", **DATA)
    stack.create()
    stack.update(ConcurrencyLimit=encode(1))

    assert "it existed before this stack" in succeeded(stack.delete(DeleteWithDeployments=encode(True)))
    assert stack.prefect.pools["etl"]["description"] == "Flow runs on Fargate"
    assert "etl-results" in stack.prefect.blocks


def test_adopted_block_outlives_its_pool(stack: Stack) -> None:
    stack.prefect.add_block("etl-results", **DATA)
    stack.create()
    assert stack.prefect.pools["etl"]["description"].endswith(" adopted=block]")
    stack.update(ConcurrencyLimit=encode(1))

    assert succeeded(stack.delete()).startswith("work pool 'etl' deleted (log")
    assert stack.prefect.pools == {}
    assert "etl-results" in stack.prefect.blocks


def test_block_that_an_update_found_outlives_its_pool(stack: Stack) -> None:
    stack.create()
    stack.prefect.add_block("shared", **DATA)
    storage = {"BlockName": "shared", "BucketName": "flow-bucket", "Folder": "results"}
    stack.update(ResultStorage=storage)
    stack.delete(ResultStorage=storage)

    assert stack.prefect.pools == {}
    assert "shared" in stack.prefect.blocks


def test_changed_block_is_left(stack: Stack) -> None:
    stack.create()
    stack.prefect.blocks["etl-results"]["data"]["credentials"] = "somebody's"

    assert "left the block s3-bucket/etl-results: it was changed" in succeeded(stack.delete())


def test_block_that_is_another_pools_default_is_left(stack: Stack) -> None:
    stack.create(BaseJobTemplate=encode(OTHER_TEMPLATE))
    for number in range(250):
        stack.prefect.add_pool(f"other-{number}")
    block_id = stack.prefect.blocks["etl-results"]["id"]
    stack.prefect.pools["other-249"]["storage_configuration"] = {"default_result_storage_block_id": block_id}

    assert "another work pool uses it" in succeeded(stack.delete())


def test_block_that_cannot_be_deleted(stack: Stack) -> None:
    stack.create()
    stack.prefect.broken["DELETE", "/block_documents/block-1"] = Answer(403, {"detail": "no"})

    assert "work pool 'etl' deleted; its block is left" in succeeded(stack.delete())


def test_foreign_pool_is_left(stack: Stack) -> None:
    stack.create()
    stack.prefect.pools["etl"]["description"] = "[cdk-prefect-ecs 1/us-east-1/Other Pool1234]"

    assert "it is managed by 1/us-east-1/Other" in succeeded(stack.delete())
    assert "etl" in stack.prefect.pools


def test_unmarked_pool_is_left(stack: Stack) -> None:
    stack.create()
    stack.prefect.pools["etl"]["description"] = "edited by hand"

    assert "no longer carries the mark" in succeeded(stack.delete())
    assert "etl" in stack.prefect.pools


def test_renaming_the_construct_keeps_the_pool(stack: Stack) -> None:
    """CloudFormation creates the new resource, then deletes the old one, both with the same pool."""
    stack.create()
    stack.logical_id = "Renamed5678"
    succeeded(stack.create())
    stack.logical_id = "Pool1234"

    assert "(Renamed5678)" in succeeded(stack.delete())
    assert "etl" in stack.prefect.pools


def test_rolling_back_a_renamed_construct_keeps_the_pool(stack: Stack) -> None:
    """Then the new resource goes, and the old one still has the pool."""
    stack.create()
    stack.logical_id = "Renamed5678"
    stack.create()

    assert "it existed before" in succeeded(stack.delete())
    assert "etl" in stack.prefect.pools


def test_delete_when_the_server_is_gone(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    stack.create()
    stack.prefect.server.close()

    assert "left the work pool as it is: cannot reach" in succeeded(stack.delete())
    assert "The stack must be deletable" in caplog.text


def test_delete_when_the_credential_is_gone(stack: Stack, ssm: FakeSsm) -> None:
    stack.create()
    ssm.value = ""

    assert "is empty" in succeeded(stack.delete())


def test_delete_with_properties_nobody_can_read(stack: Stack) -> None:
    succeeded(stack.request("Delete", PhysicalResourceId="etl"))
    succeeded(stack.delete(BaseJobTemplate="json:{"))


# -- the response ----------------------------------------------------------------------------------------------


def test_response_is_repeated(stack: Stack) -> None:
    stack.answers = [Answer(503), Answer(500)]
    with pytest.raises(AssertionError, match="exactly one response"):
        stack.create()

    assert [json.loads(r.body)["Status"] for r in stack.bucket.requests] == ["SUCCESS"] * 3


@pytest.mark.parametrize(("status", "attempts"), [(503, custom_resource._ATTEMPTS), (403, 1)])
def test_response_that_is_not_taken(stack: Stack, status: int, attempts: int) -> None:
    stack.answers = [Answer(status)] * 9
    with pytest.raises(OSError, match=f"could not be delivered: HTTP {status}"):
        stack.create()

    assert len(stack.bucket.requests) == attempts


def test_long_reasons_are_cut(stack: Stack) -> None:
    reason = failed(stack.create(Owner="ä " * 3000))

    assert len(reason) < 1100


# -- the mark --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "Two\nlines", "has [brackets]", "[cdk-prefect-ecs a b] in front"])
@pytest.mark.parametrize("adopted", [frozenset(), frozenset({"pool"}), frozenset({"pool", "block"})])
def test_mark_round_trip(text: str, adopted: frozenset[str]) -> None:
    mark = Mark(OWNER, "Pool1234", adopted)

    assert Mark.split(mark.appended_to(text)) == (text, mark)


def test_no_mark() -> None:
    assert Mark.split(None) == ("", None)
    assert Mark.split("by hand [cdk-prefect-ecs]") == ("by hand [cdk-prefect-ecs]", None)


# -- the asset -------------------------------------------------------------------------------------------------


def test_runs_on_the_standard_library_alone() -> None:
    """Lambda finds the folder ``functions`` at the root of the asset, and neither the CDK nor this package."""
    root = Path(work_pool_sync.__file__).parent.parent
    program = f"import sys; sys.path.insert(0, {str(root)!r}); from functions.work_pool_sync import handler"

    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


@pytest.mark.parametrize(
    ("queues", "problem"),
    [
        ([{"Priority": "json:1"}], "each of WorkQueues has the fields Name, Priority and ConcurrencyLimit"),
        (["urgent"], "each of WorkQueues has the fields"),
        ([{"Name": "urgent"}], "queue 'urgent': Priority and ConcurrencyLimit are whole numbers"),
        ([{"Name": "urgent", "Priority": "1", "ConcurrencyLimit": "few"}], "queue 'urgent': Priority and"),
    ],
)
def test_queues_that_cannot_be_read_are_refused(stack: Stack, queues: list[Any], problem: str) -> None:
    assert f"WorkQueues: {problem}" in failed(stack.create(WorkQueues=queues))
    assert stack.prefect.writes == []
