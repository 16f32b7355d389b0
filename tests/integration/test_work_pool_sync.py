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

from cdk_prefect_ecs.capacity import CapacityKind, FlowCapacity, SpotPolicy
from cdk_prefect_ecs.functions import credential, work_pool_sync
from cdk_prefect_ecs.functions.prefect_api import PrefectApiClient, PrefectApiError
from cdk_prefect_ecs.functions.typed_properties import encode
from cdk_prefect_ecs.job_template import JobTemplate
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
        return {"Parameter": {"Name": Name, "Type": "SecureString", "Value": self.key}}

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


# Queues


def queue(name: str, priority: int, limit: int | None = None) -> dict[str, Any]:
    return {"Name": name, "Priority": encode(priority), "ConcurrencyLimit": encode(limit)}


def queues(stack: Stack) -> dict[str, tuple[int, int | None]]:
    found = stack.api.post(f"/work_pools/{stack.name}/queues/filter", {})
    return {item["name"]: (item["priority"], item["concurrency_limit"]) for item in found}


def test_queues_are_made_with_their_priorities(stack: Stack) -> None:
    response = stack.send("Create", WorkQueues=[queue("urgent", 1, 5), queue("normal", 2), queue("night", 9)])

    assert response["Status"] == "SUCCESS", response["Reason"]
    found = queues(stack)
    assert {name: found[name] for name in ("urgent", "normal", "night")} == {
        "urgent": (1, 5),
        "normal": (2, None),
        "night": (9, None),
    }
    assert found["default"][0] > 2  # Prefect's own makes room


def test_queues_change_places_and_limits(stack: Stack) -> None:
    stack.send("Create", WorkQueues=[queue("a", 1), queue("b", 2, 7), queue("c", 3), queue("default", 4)])

    response = stack.send("Update", WorkQueues=[queue("c", 1, 1), queue("default", 2, 0), queue("b", 3), queue("a", 4)])

    assert response["Status"] == "SUCCESS", response["Reason"]
    assert queues(stack) == {"c": (1, 1), "default": (2, 0), "b": (3, None), "a": (4, None)}
    before = queues(stack)
    stack.send("Update", WorkQueues=[queue("c", 1, 1), queue("default", 2, 0), queue("b", 3), queue("a", 4)])
    assert queues(stack) == before


def test_a_queue_that_the_stack_has_no_more_is_deleted(stack: Stack) -> None:
    stack.send("Create", WorkQueues=[queue("urgent", 1), queue("night", 2)])
    stack.api.post(f"/work_pools/{stack.name}/queues", {"name": "by-hand"})

    assert stack.send("Update", WorkQueues=[queue("urgent", 1)])["Status"] == "SUCCESS"
    assert set(queues(stack)) == {"urgent", "by-hand", "default"}
    assert stack.send("Update")["Status"] == "SUCCESS"
    assert set(queues(stack)) == {"by-hand", "default"}


def test_a_queue_that_deployments_or_runs_use_is_left(stack: Stack) -> None:
    stack.send("Create", WorkQueues=[queue("urgent", 1), queue("night", 2)])
    flow = stack.api.post("/flows/", {"name": f"flow-of-{stack.name}"})
    used = {"name": "d", "flow_id": flow["id"], "work_pool_name": stack.name, "work_queue_name": "urgent"}
    deployment = stack.api.post("/deployments/", used)
    in_night = {"name": "e", "flow_id": flow["id"], "work_pool_name": stack.name, "work_queue_name": "night"}
    gone = stack.api.post("/deployments/", in_night)
    stack.api.post(f"/deployments/{gone['id']}/create_flow_run", {"state": {"type": "RUNNING"}})
    stack.api.delete(f"/deployments/{gone['id']}")

    response = stack.send("Update", WorkQueues=[queue("other", 1)])

    assert response["Status"] == "SUCCESS"
    assert "left its queue 'urgent': 1 deployment uses it" in response["Reason"]
    assert "left its queue 'night': 1 unfinished run uses it" in response["Reason"]
    assert set(queues(stack)) == {"other", "urgent", "night", "default"}
    # Once nothing uses it, the next deployment that changes the pool takes it away.
    stack.api.delete(f"/deployments/{deployment['id']}")
    assert "'urgent'" not in stack.send("Update", WorkQueues=[queue("other", 3)])["Reason"]
    assert "urgent" not in queues(stack)


def test_queues_are_put_back_when_the_request_fails(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.send("Create", WorkQueues=[queue("a", 1, 3), queue("b", 2)])
    before = queues(stack)
    patch = PrefectApiClient.patch

    def refuse_priorities(client: PrefectApiClient, path: str, body: Any = None) -> Any:
        if "priority" in body and path.endswith("/queues/b"):
            monkeypatch.undo()
            monkeypatch.setattr(credential, "aws_client", lambda service, region: stack)
            raise PrefectApiError("the server had enough", status=500)
        return patch(client, path, body)

    monkeypatch.setattr(PrefectApiClient, "patch", refuse_priorities)
    response = stack.send("Update", WorkQueues=[queue("c", 1), queue("b", 2), queue("a", 3, 4)])

    assert response["Status"] == "FAILED"
    assert "the server had enough" in response["Reason"]
    assert queues(stack) == before


# Sizes: our own template's schema, as the server reads it


@pytest.fixture
def sized(stack: Stack) -> Stack:
    fargate = FlowCapacity("Fargate", CapacityKind.FARGATE, "FARGATE", "FARGATE_SPOT")
    stack.template = JobTemplate(
        family="etl",
        image="prefecthq/prefect-aws:1",
        cpu=1024,
        memory_mib=2048,
        cpu_architecture="X86_64",
        cluster_arn="arn:aws:ecs:us-east-1:123456789012:cluster/flows",
        capacity=fargate,
        strategy=SpotPolicy.SPOT.strategy(),
        vpc_id="vpc-1",
        subnet_ids=["subnet-1"],
        security_group_ids=["sg-1"],
        assign_public_ip=True,
        execution_role_arn="arn:aws:iam::123456789012:role/execution",
        flow_role_arn="arn:aws:iam::123456789012:role/flow",
        log_group_name="flows",
        region="us-east-1",
        result_block="results",
    ).render()
    assert stack.send("Create")["Status"] == "SUCCESS"
    return stack


@pytest.mark.parametrize(
    ("job_variables", "refusal"),
    [
        ({"cpu": 16384, "memory": 122880}, None),
        ({"memory": 8192}, None),
        ({"cpu": 256, "memory": 512, "ephemeral_storage": {"sizeInGiB": 200}}, None),
        ({"cpu": 4096}, "2048 is less than the minimum of 8192"),
        ({"cpu": 256, "memory": 4096}, "4096 is not one of [512, 1024, 2048]"),
        ({"memory": 16384}, "16384 is greater than the maximum of 8192"),
        ({"ephemeral_storage": {"sizeInGiB": 10}}, "10 is less than the minimum of 21"),
    ],
)
def test_the_server_refuses_an_impossible_size_before_a_run_starts(
    sized: Stack, job_variables: dict[str, Any], refusal: str | None
) -> None:
    flow = sized.api.post("/flows/", {"name": f"flow-of-{sized.name}"})
    body = {"name": "d", "flow_id": flow["id"], "work_pool_name": sized.name}
    deployment = sized.api.post("/deployments/", body)
    requests = (
        (f"/deployments/{deployment['id']}/create_flow_run", {"job_variables": job_variables}),
        ("/deployments/", {**body, "name": "sized", "job_variables": job_variables}),
    )
    for path, wanted in requests:
        if refusal is None:
            assert sized.api.post(path, wanted)["job_variables"] == job_variables
            continue
        with pytest.raises(PrefectApiError) as error:
            sized.api.post(path, wanted)
        assert error.value.status == 422
        assert refusal in error.value.detail


def test_the_form_of_the_ui_names_the_field_that_is_wrong(sized: Stack) -> None:
    """By the endpoint that the UI's forms ask."""
    schema = sized.template["variables"]
    for values, answer in (
        ({"cpu": 4096, "memory": 8192}, {"errors": [], "valid": True}),
        (
            {"cpu": 4096, "memory": 2048},
            {"errors": [{"property": "memory", "errors": ["2048 is less than the minimum of 8192"]}], "valid": False},
        ),
    ):
        assert sized.api.post("/ui/schemas/validate", {"schema": schema, "values": values}) == answer
