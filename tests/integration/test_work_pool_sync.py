"""The work pool function against a real Prefect server with basic auth."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cdk_prefect_ecs.functions import credential, work_pool_sync
from cdk_prefect_ecs.functions.prefect_api import PrefectApiClient, PrefectApiError
from cdk_prefect_ecs.functions.typed_properties import encode
from embedded.prefect_server import PrefectServer

pytestmark = pytest.mark.integration

OWNER = "123456789012/us-east-1/PrefectDev-Execution"


@pytest.fixture(scope="module")
def server() -> Iterator[PrefectServer]:
    with PrefectServer.start() as running:
        yield running


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """The template with which prefect-aws itself would create an ECS work pool."""
    spec = importlib.util.find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    found: dict[str, Any] = json.loads(file.read_text())["prefect-aws"]["ecs"]["default_base_job_configuration"]
    found["variables"]["properties"]["cpu"]["default"] = 1024
    return found


class Stack:
    """One resource of one stack, as CloudFormation drives it."""

    def __init__(self, server: PrefectServer, template: dict[str, Any], name: str) -> None:
        self.server, self.template, self.name = server, template, name
        self.logical_id = "WorkPool1234"
        header = "Basic " + base64.b64encode(str(server.auth_string).encode()).decode()
        self.api = PrefectApiClient(server.api_url, header, deadline=time.monotonic() + 300)
        self.key = str(server.auth_string)
        self.properties: dict[str, Any] = {}

    def get_parameter(self, *, Name: str, WithDecryption: bool) -> dict[str, Any]:  # noqa: N803
        """This is also the SSM client."""
        return {"Parameter": {"Name": Name, "Type": "SecureString", "Value": f"{self.key}\n"}}

    def send(self, kind: str, *, physical_id: str | None = None, **changes: Any) -> dict[str, Any]:
        properties = {
            "ServiceToken": "arn:aws:lambda:us-east-1:123456789012:function:sync",
            "ApiUrl": self.server.api_url,
            "Credential": {"Kind": "SsmParameter", "Id": "/prefect/auth", "Scheme": "Basic"},
            "Name": self.name,
            "Description": "by a test",
            "ConcurrencyLimit": encode(None),
            "BaseJobTemplate": encode(self.template),
            "ResultStorage": {"BlockName": f"{self.name}-results", "BucketName": "a-bucket", "Folder": "results"},
            "Owner": OWNER,
            **changes,
        }
        event = {
            "RequestType": kind,
            "StackId": "stack",
            "RequestId": "request",
            "LogicalResourceId": self.logical_id,
            "ResourceProperties": properties,
        }
        if kind != "Create":
            event["PhysicalResourceId"] = physical_id or self.name
        if kind == "Update":
            event["OldResourceProperties"] = self.properties
        self.properties = properties
        response = _answered(event)
        assert self.key not in json.dumps(response)
        return response

    def pool(self, name: str | None = None) -> dict[str, Any] | None:
        return self._read(f"/work_pools/{name or self.name}")

    def block(self) -> dict[str, Any] | None:
        return self._read(f"/block_types/slug/s3-bucket/block_documents/name/{self.name}-results")

    def deploy(self) -> str:
        flow = self.api.post("/flows/", {"name": f"flow-of-{self.name}"})
        deployment = {"name": "d", "flow_id": flow["id"], "work_pool_name": self.name}
        return str(self.api.post("/deployments/", deployment)["id"])

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.api.get(path)
        except PrefectApiError as error:
            if error.status == 404:
                return None
            raise
        return found


def _answered(event: dict[str, Any]) -> dict[str, Any]:
    """Invoke the function; return what it PUT to the ResponseURL."""
    received: list[dict[str, Any]] = []

    class Bucket(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Bucket) as bucket:
        threading.Thread(target=bucket.serve_forever, args=(0.01,), daemon=True).start()
        work_pool_sync.handler({**event, "ResponseURL": f"http://127.0.0.1:{bucket.server_port}/"}, None)
        bucket.shutdown()
    (response,) = received
    return response


@pytest.fixture
def stack(
    server: PrefectServer, template: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Stack:
    name = request.function.__name__.removeprefix("test_").replace("_", "-")
    made = Stack(server, template, name)
    monkeypatch.setattr(credential, "aws_client", lambda service, region: made)
    return made


def test_create_and_read_back(stack: Stack) -> None:
    response = stack.send("Create", ConcurrencyLimit=encode(3))

    assert response["Status"] == "SUCCESS", response["Reason"]
    assert response["PhysicalResourceId"] == stack.name
    pool = stack.pool()
    assert pool is not None
    assert response["Data"] == {
        "PoolId": pool["id"],
        "PoolName": stack.name,
        "BlockName": f"{stack.name}-results",
        "ServerVersion": "3.8.8",
    }
    assert json.dumps(pool["base_job_template"], sort_keys=True) == json.dumps(stack.template, sort_keys=True)
    assert (pool["type"], pool["concurrency_limit"], pool["is_paused"]) == ("ecs", 3, False)
    assert pool["description"] == f"by a test\n\n[cdk-prefect-ecs {OWNER} WorkPool1234]"


def test_update(stack: Stack) -> None:
    stack.send("Create")
    stack.template["variables"]["properties"]["cpu"]["default"] = 2048
    storage = {"BlockName": f"{stack.name}-results", "BucketName": "another", "Folder": ""}
    response = stack.send("Update", Description="changed", ResultStorage=storage)

    assert "updated" in response["Reason"]
    pool, block = stack.pool(), stack.block()
    assert pool is not None
    assert pool["base_job_template"] == stack.template
    assert pool["description"].startswith("changed\n")
    assert block is not None
    assert block["data"] == {"bucket_name": "another", "bucket_folder": ""}


def test_repeating_changes_nothing(stack: Stack) -> None:
    stack.send("Create")
    before = stack.pool(), stack.block()

    assert "found up to date" in stack.send("Update")["Reason"]
    assert "found up to date" in stack.send("Create")["Reason"]
    assert (stack.pool(), stack.block()) == before


def test_concurrency_limit_set_and_cleared(stack: Stack) -> None:
    limits = []
    for kind, limit in (("Create", None), ("Update", 7), ("Update", 0), ("Update", None)):
        assert stack.send(kind, ConcurrencyLimit=encode(limit))["Status"] == "SUCCESS"
        pool = stack.pool()
        assert pool is not None
        limits.append(pool["concurrency_limit"])

    assert limits == [None, 7, 0, None]


def test_rename(stack: Stack) -> None:
    stack.send("Create")
    renamed = f"{stack.name}-2"

    assert stack.send("Update", Name=renamed)["PhysicalResourceId"] == renamed
    assert stack.pool() is not None

    assert stack.send("Delete")["Status"] == "SUCCESS"
    assert stack.pool() is None
    assert stack.pool(renamed) is not None


def test_delete(stack: Stack) -> None:
    stack.send("Create")
    response = stack.send("Delete")

    assert f"work pool '{stack.name}' deleted; block s3-bucket/{stack.name}-results deleted" in response["Reason"]
    assert (stack.pool(), stack.block()) == (None, None)
    assert "gone already" in stack.send("Delete")["Reason"]


def test_delete_with_deployments(stack: Stack) -> None:
    stack.send("Create")
    deployment_id = stack.deploy()

    assert "1 deployment uses it" in stack.send("Delete")["Reason"]
    pool = stack.pool()
    assert pool is not None
    assert pool["description"] == "by a test"
    assert stack.block() is not None

    # The stack comes back: the pool was there before it, so it stays again, deployments and all.
    assert "adopted" in stack.send("Create")["Reason"]
    assert "existed before" in stack.send("Delete", DeleteWithDeployments=encode(True))["Reason"]
    assert stack.api.get(f"/deployments/{deployment_id}")["work_pool_name"] == stack.name


def test_delete_in_spite_of_deployments(stack: Stack) -> None:
    stack.send("Create")
    deployment_id = stack.deploy()
    response = stack.send("Delete", DeleteWithDeployments=encode(True))

    assert "deployments that have no work pool now: 1" in response["Reason"]
    assert stack.pool() is None
    assert stack.api.get(f"/deployments/{deployment_id}")["work_pool_name"] is None


def test_adoption(stack: Stack) -> None:
    stack.api.post(
        "/work_pools/", {"name": stack.name, "type": "ecs", "description": "by hand", "concurrency_limit": 2}
    )

    assert "adopted" in stack.send("Create")["Reason"]
    pool = stack.pool()
    assert pool is not None
    assert pool["base_job_template"] == stack.template
    assert pool["concurrency_limit"] is None
    assert pool["description"].endswith("WorkPool1234 adopted=pool]")

    assert "existed before this stack" in stack.send("Delete")["Reason"]
    assert stack.pool() is not None


def test_other_type(stack: Stack) -> None:
    stack.api.post("/work_pools/", {"name": stack.name, "type": "process"})
    response = stack.send("Create")

    assert "has the type 'process', not 'ecs'" in response["Reason"]
    stack.send("Delete", physical_id=response["PhysicalResourceId"])
    assert stack.pool() is not None
    assert stack.block() is None


def test_foreign_owner(stack: Stack) -> None:
    stack.send("Create")
    response = stack.send("Create", Owner="123456789012/us-east-1/Another")

    assert response["Status"] == "FAILED"
    assert f"is managed by {OWNER}; choose another name or destroy that stack" in response["Reason"]
    assert "managed by" in stack.send("Delete", Owner="123456789012/us-east-1/Another")["Reason"]
    assert stack.pool() is not None


def test_wrong_key(stack: Stack) -> None:
    stack.key = "admin:wrong"
    response = stack.send("Create")

    assert (response["Status"], response["PhysicalResourceId"]) == ("FAILED", f"{stack.name}/create-failed")
    assert "rejected the credential read from SSM parameter '/prefect/auth' (401)" in response["Reason"]


def test_wrong_address(stack: Stack) -> None:
    reason = stack.send("Create", ApiUrl=stack.server.ui_url)["Reason"]

    assert f"{stack.server.ui_url} is not a Prefect API" in reason


def test_template_that_prefect_refuses(stack: Stack) -> None:
    stack.template = {"job_configuration": {"x": "{{ y }}"}, "variables": {"properties": {"z": {}}}}
    response = stack.send("Create")

    assert response["Status"] == "FAILED"
    assert "undeclared variable(s): y" in response["Reason"]
    assert (stack.pool(), stack.block()) == (None, None)


def test_failed_update_keeps_pool_and_block(stack: Stack) -> None:
    stack.send("Create")
    before = stack.pool(), stack.block()
    stack.template = {"job_configuration": {"x": "{{ y }}"}, "variables": {"properties": {"z": {}}}}
    storage = {"BlockName": f"{stack.name}-results", "BucketName": "another", "Folder": ""}

    assert stack.send("Update", ResultStorage=storage)["Status"] == "FAILED"
    after = stack.pool(), stack.block()
    for found_before, found_after in zip(before, after, strict=True):
        assert found_before is not None
        assert found_after is not None
        assert {**found_before, "updated": ...} == {**found_after, "updated": ...}


def test_block_is_loadable(stack: Stack) -> None:
    """As a flow run loads its result storage."""
    stack.send("Create")
    program = (
        "import json, sys, warnings\n"
        "from prefect.blocks.core import Block\n"
        "from prefect_aws import S3Bucket\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    named, any_ = S3Bucket.load(sys.argv[1], _sync=True), Block.load(f's3-bucket/{sys.argv[1]}', _sync=True)\n"
        "said = [str(w.message) for w in caught if 'schema' in str(w.message)]\n"
        "print(json.dumps([type(any_).__name__, named.bucket_name, named.bucket_folder, any_.bucket_name, said]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"{stack.name}-results"],
        env={**os.environ, **stack.server.environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["S3Bucket", "a-bucket", "results", "a-bucket", []]
