"""`make flows` before it calls Prefect's CLI: where it deploys to, and what it says when that cannot be."""

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from botocore.exceptions import NoCredentialsError
from botocore.stub import Stubber
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from cdk_prefect_ecs.functions.credential import CredentialError, CredentialReference
from stacks.config import PLACEHOLDER_ID, OwnServer, SelfHostedApi
from stacks.environments import environment
from stacks.stored_secrets import ManagedSecret
from tools import deploy_flows
from tools.deploy_flows import FlowDeploymentError, Target

DEV = environment("dev")
EMBEDDED = environment("embedded")
TARGET = Target(bucket="some-bucket", work_pool="some-pool")


@pytest.fixture
def cloudformation() -> Iterator[Stubber]:
    client = boto3.client("cloudformation", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        yield stub


def stack(name: str, account: str = "123456789012", status: str = "CREATE_COMPLETE", **outputs: str) -> dict[str, Any]:
    listed = [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()]
    arn = f"arn:aws:cloudformation:us-east-1:{account}:stack/{name}/0"
    described = {"StackName": name, "StackId": arn, "StackStatus": status, "Outputs": listed}
    return {"Stacks": [described | {"CreationTime": "2026-01-01"}]}


# The target


def test_the_names_are_outputs_of_the_environments_stacks(cloudformation: Stubber) -> None:
    for answer in (
        stack("PrefectDev-Foundation", BucketName="some-bucket", LogGroupName="x"),
        stack("PrefectDev-Execution", WorkPoolName="some-pool", ClusterName="x"),
    ):
        cloudformation.add_response("describe_stacks", answer, {"StackName": answer["Stacks"][0]["StackName"]})
    target = deploy_flows.find_target(DEV, cloudformation.client)
    assert target == TARGET
    assert target.variables() == {"FLOW_BUCKET": "some-bucket", "FLOW_WORK_POOL": "some-pool"}


def test_a_stack_that_is_not_deployed(cloudformation: Stubber) -> None:
    cloudformation.add_client_error(
        "describe_stacks", "ValidationError", "Stack with id PrefectDev-Foundation does not exist"
    )
    with pytest.raises(
        FlowDeploymentError, match=r"PrefectDev-Foundation is not deployed in us-east-1 .* make deploy ENV=dev"
    ):
        deploy_flows.find_target(DEV, cloudformation.client)


def test_a_stack_that_may_not_be_read(cloudformation: Stubber) -> None:
    cloudformation.add_client_error("describe_stacks", "AccessDenied", "not for you")
    with pytest.raises(FlowDeploymentError, match=r"cannot read stack PrefectDev-Foundation: .*not for you"):
        deploy_flows.find_target(DEV, cloudformation.client)


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "UPDATE_IN_PROGRESS", "DELETE_FAILED"])
def test_a_stack_that_is_not_ready(cloudformation: Stubber, status: str) -> None:
    cloudformation.add_response("describe_stacks", stack("PrefectDev-Foundation", status=status, BucketName="b"))
    with pytest.raises(FlowDeploymentError, match=f"PrefectDev-Foundation is {status}; .* make deploy ENV=dev"):
        deploy_flows.find_target(DEV, cloudformation.client)


def test_credentials_of_another_account(cloudformation: Stubber) -> None:
    cloudformation.add_response("describe_stacks", stack("PrefectEmbedded-Foundation", BucketName="b"))
    with pytest.raises(FlowDeploymentError, match=r"in account 123456789012, but environment embedded is in 0{12}"):
        deploy_flows.find_target(EMBEDDED, cloudformation.client)


def test_no_credentials(cloudformation: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise NoCredentialsError

    monkeypatch.setattr(cloudformation.client, "describe_stacks", fail)
    with pytest.raises(FlowDeploymentError, match=r"Unable to locate credentials; check your AWS credentials"):
        deploy_flows.find_target(DEV, cloudformation.client)


# Prefect


@pytest.fixture
def prefect() -> Iterator[Callable[[int], SyncPrefectClient]]:
    """Clients of a server that answers every request with one status."""
    servers = []

    def answering(status: int) -> SyncPrefectClient:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return SyncPrefectClient(f"http://127.0.0.1:{server.server_port}/api")

    yield answering
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"no work pool 'some-pool' at http://127\.0\.0\.1:\d+/api.*stacks/environments\.py names"),
        (401, r"http://127\.0\.0\.1:\d+/api refused your credential \(401\); check PREFECT_API_KEY"),
        (403, r"refused your credential \(403\)"),
        (418, r"answered with an error \(418\)"),
    ],
)
def test_a_pool_that_cannot_be_read_says_why(
    prefect: Callable[[int], SyncPrefectClient], status: int, message: str
) -> None:
    with pytest.raises(FlowDeploymentError, match=message):
        deploy_flows.check_work_pool("some-pool", prefect(status))


def test_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    with pytest.raises(FlowDeploymentError, match=r"cannot reach the Prefect API at http://127\.0\.0\.1:9/api: "):
        deploy_flows.check_work_pool("some-pool", SyncPrefectClient("http://127.0.0.1:9/api"))


# The command


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of Prefect's CLI, which is not called here."""
    calls: list[Any] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append((command, options))
        return subprocess.CompletedProcess(command, len(calls) - 1, "half of it", "and no more")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_prefects_own_cli_deploys_all(called: list[Any]) -> None:
    deploy_flows.deploy(TARGET, {"PATH": "/bin"})
    ((command, options),) = called
    assert Path(command[0]).name == "prefect"
    assert command[1:] == ["--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml"]
    assert options["cwd"] == deploy_flows.FLOWS
    assert options["env"] == {"PATH": "/bin", "FLOW_BUCKET": "some-bucket", "FLOW_WORK_POOL": "some-pool"}


def test_a_deployment_that_fails_shows_what_the_cli_said(called: list[Any]) -> None:
    deploy_flows.deploy(TARGET, {}, capture=True)
    with pytest.raises(FlowDeploymentError, match=r"prefect deploy failed:\nhalf of itand no more"):
        deploy_flows.deploy(TARGET, {}, capture=True)
    with pytest.raises(FlowDeploymentError, match=r"prefect deploy failed; it says why above"):
        deploy_flows.deploy(TARGET, {})


def test_a_file_that_is_not_there_is_said_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy_flows.main(["dev", "--file", "other.yaml"]) == 1
    message = "error: there is no other.yaml in flows/; use one of prefect-baked.yaml, prefect.yaml\n"
    assert capsys.readouterr().err == message


def test_an_unknown_environment_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy_flows.main(["nowhere"]) == 1
    assert "error: unknown environment 'nowhere'; use one of dev," in capsys.readouterr().err


def test_without_a_prefect_api_nothing_is_deployed(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deploy_flows, "find_target", lambda *_: TARGET)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert deploy_flows.main(["dev"]) == 1
    assert "error: no Prefect API is configured; log in with: prefect cloud login" in capsys.readouterr().err
    assert called == []


# The environment's own API, for CI


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[CredentialReference]:
    """What was read of SSM and Secrets Manager, which are not asked here."""
    asked: list[CredentialReference] = []

    def read_secret(reference: CredentialReference) -> str:
        asked.append(reference)
        return "the-credential"

    monkeypatch.setattr(deploy_flows, "read_secret", read_secret)
    return asked


def test_the_api_of_the_environment_with_its_stored_key(read: list[CredentialReference]) -> None:
    assert deploy_flows.environments_api(DEV, TARGET) == {
        "PREFECT_API_URL": f"https://api.prefect.cloud/api/accounts/{PLACEHOLDER_ID}/workspaces/{PLACEHOLDER_ID}",
        "PREFECT_API_KEY": "the-credential",
    }
    assert read == [CredentialReference("SsmParameter", "/prefect/dev/api-key")]


def test_a_server_of_ones_own_with_a_field_of_a_secret(read: list[CredentialReference]) -> None:
    secret = ManagedSecret("arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf", "auth")
    api = SelfHostedApi("https://prefect.example.com/api", auth_string_secret=secret)
    assert deploy_flows.environments_api(dataclasses.replace(DEV, api=api), TARGET) == {
        "PREFECT_API_URL": "https://prefect.example.com/api",
        "PREFECT_API_AUTH_STRING": "the-credential",
    }
    assert read == [CredentialReference("SecretsManager", secret.arn, "auth")]


def test_a_server_that_was_made_with_the_environment(cloudformation: Stubber, read: list[CredentialReference]) -> None:
    arn, url = (
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:auth-AbCdEf",
        "http://prefect.dev.internal:4200/api",
    )
    config = dataclasses.replace(DEV, api=OwnServer(), network="nat")
    for answer in (
        stack("PrefectDev-Foundation", BucketName="some-bucket"),
        stack("PrefectDev-Execution", WorkPoolName="some-pool", ApiUrl=url, AuthSecretArn=arn),
    ):
        cloudformation.add_response("describe_stacks", answer, {"StackName": answer["Stacks"][0]["StackName"]})
    target = deploy_flows.find_target(config, cloudformation.client)
    there = {"PREFECT_API_AUTH_STRING": "the-credential"}
    assert deploy_flows.environments_api(config, target) == {"PREFECT_API_URL": url, **there}
    forwarded = "http://127.0.0.1:4200/api"
    assert deploy_flows.environments_api(config, target, forwarded=forwarded) == {"PREFECT_API_URL": forwarded, **there}
    assert read == [CredentialReference("SecretsManager", arn)] * 2


def test_a_server_that_asks_for_no_credential(read: list[CredentialReference]) -> None:
    api = SelfHostedApi("https://prefect.example.com/api")
    assert deploy_flows.environments_api(dataclasses.replace(DEV, api=api), TARGET) == {"PREFECT_API_URL": api.url}
    assert read == []


def test_a_credential_that_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: CredentialReference) -> str:
        raise CredentialError("SSM parameter '/prefect/dev/api-key' does not exist")

    monkeypatch.setattr(deploy_flows, "read_secret", refuse)
    with pytest.raises(FlowDeploymentError, match="SSM parameter '/prefect/dev/api-key' does not exist"):
        deploy_flows.environments_api(DEV, TARGET)


def test_with_the_stored_credential_no_profile_is_needed(
    called: list[Any],
    read: list[CredentialReference],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(deploy_flows, "find_target", lambda *_: TARGET)
    monkeypatch.setattr(deploy_flows, "check_work_pool", lambda *_: None)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")  # of the workflow; the environment's counts
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert deploy_flows.main(["dev", "--stored-credential"]) == 0
    ((_, options),) = called
    assert options["env"]["PREFECT_API_KEY"] == "the-credential"
    assert options["env"]["PREFECT_API_URL"].startswith("https://api.prefect.cloud/api/accounts/")
    assert (options["env"]["AWS_REGION"], read[0].region) == ("us-east-1", "us-east-1")
    assert "the-credential" not in capsys.readouterr().out
