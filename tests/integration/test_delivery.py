"""The app deployed from CI: workflows take their roles with tokens that GitHub signs, and the real CDK CLI works with
those roles alone. Whoever is not named gets none, and neither role can do anything else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from oidc_issuer import OidcIssuer
from test_access_denied import DENIED, Deployed, deployed  # noqa: F401 - a fixture

from embedded import run_cdk
from embedded.cdk import cdk_environment
from embedded.deployed import DeployedApp
from stacks.environments import EMBEDDED_AUTH_PARAMETER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
STACK = "PrefectEmbedded-Delivery"
GITHUB = "https://token.actions.githubusercontent.com"
#: The jobs that are trusted, by the output that has the ARN of their role.
DEPLOY, DIFF = "DeployRoleArn", "DiffRoleArn"
JOBS = {DEPLOY: "repo:acme/etl:environment:prod", DIFF: "repo:acme/etl:pull_request"}
#: What the changed app takes away.
CHANGE = {"diff_on_pull_requests": False}
REMOVED = "[-] AWS::IAM::Role DiffRole22A114D0 destroy"


@dataclass
class Delivery:
    """The app with the roles of its workflows, and GitHub, which signs for jobs."""

    app: DeployedApp
    assemblies: Path
    roles: Mapping[str, str]
    issuer: OidcIssuer
    credentials: dict[str, dict[str, str]] = field(default_factory=dict)

    def take(self, role: str, token: str, **more: Any) -> dict[str, str]:
        """Credentials of a role for a token, as variables; asked for as a job does, who has no others."""
        sts = boto3.client(
            "sts",
            endpoint_url=self.app.aws.endpoint,
            region_name=self.app.aws.region,
            config=Config(signature_version=UNSIGNED),
        )
        try:
            taken = sts.assume_role_with_web_identity(
                RoleArn=self.roles[role], RoleSessionName="job", WebIdentityToken=token, **more
            )["Credentials"]
        finally:
            sts.close()
        return {
            "AWS_ACCESS_KEY_ID": taken["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": taken["SecretAccessKey"],
            "AWS_SESSION_TOKEN": taken["SessionToken"],
        }

    def job(self, role: str) -> dict[str, str]:
        """Credentials of the job that a role is for."""
        if role not in self.credentials:
            self.credentials[role] = self.take(role, self.issuer.token(JOBS[role]))
        return self.credentials[role]

    def cdk(self, role: str, *arguments: str, assembly: str = "changed") -> subprocess.CompletedProcess[str]:
        """The CDK CLI with a role and nothing else."""
        return run_cdk(
            [*arguments, "--no-color"],
            aws=self.app.aws,
            cwd=ROOT,
            app=str(self.assemblies / assembly),
            env=self.job(role),
            check=False,
        )

    def client(self, role: str, service: str) -> Any:
        job = self.job(role)
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.app.aws.endpoint,
            region_name=self.app.aws.region,
            aws_access_key_id=job["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=job["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=job["AWS_SESSION_TOKEN"],
        )

    def resources(self) -> set[str]:
        """Types of the resources of the stack."""
        found = self.app.aws.client("cloudformation").list_stack_resources(StackName=STACK)["StackResourceSummaries"]
        return {f"{each['LogicalResourceId'][:4]} {each['ResourceType']}" for each in found}


@pytest.fixture(scope="module")
def app() -> Iterator[DeployedApp]:
    """One of its own, as workflows change it."""
    with DeployedApp.undeployed() as mine:
        yield mine.deploy_all()


@pytest.fixture(scope="module")
def delivery(app: DeployedApp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """The app, deployed once by a person, with the stack that lets workflows do it from then on."""
    assemblies = tmp_path_factory.mktemp("delivery")
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "integration" / "apps" / "delivery.py")],
        env={
            **cdk_environment(app.aws),
            "PREFECT_API_URL": app.server.api_url,
            "PYTHONPATH": str(ROOT),
            "DELIVERIES": json.dumps({"first": {}, "changed": CHANGE}),
            "OUT": str(assemblies),
            "CDK_VALIDATION": "false",
        },
        check=True,
        capture_output=True,
    )
    run_cdk(["deploy", "**"], aws=app.aws, cwd=ROOT, app=str(assemblies / "first"))
    cloudformation = app.aws.client("cloudformation")
    outputs = cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]["Outputs"]
    issuer = OidcIssuer(GITHUB)
    app.aws.publish_keys(GITHUB, issuer.key_set)
    yield Delivery(app, assemblies, {each["OutputKey"]: each["OutputValue"] for each in outputs}, issuer)
    cloudformation.delete_stack(StackName=STACK)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=STACK)


# Who gets a role


@pytest.mark.parametrize(
    ("role", "subject"),
    [
        (DEPLOY, "repo:acme/etl:pull_request"),
        (DEPLOY, "repo:acme/etl:environment:staging"),
        (DEPLOY, "repo:acme/etl:ref:refs/heads/main"),
        (DEPLOY, "repo:acme/other:environment:prod"),
        (DEPLOY, "repo:other/etl:environment:prod"),
        (DEPLOY, "repo:Acme/etl:environment:prod"),
        (DEPLOY, "repo:acme/etl:environment:prod:x"),
        (DEPLOY, "repo:acme@1/etl@2:environment:prod"),
        (DIFF, "repo:acme/etl:environment:prod"),
        (DIFF, "repo:other/etl:pull_request"),
    ],
)
def test_jobs_that_are_not_named_get_no_role(delivery: Delivery, role: str, subject: str) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        delivery.take(role, delivery.issuer.token(subject))


REFUSED: dict[str, tuple[str, Callable[[OidcIssuer], str]]] = {
    "made out to another": (
        "Incorrect token audience",
        lambda issuer: issuer.token(JOBS[DEPLOY], audience="https://github.com/acme"),
    ),
    "expired": ("ExpiredToken", lambda issuer: issuer.token(JOBS[DEPLOY], good_for=-1)),
    "signed by somebody else": ("Token signature invalid", lambda _: OidcIssuer(GITHUB).token(JOBS[DEPLOY])),
    "of an issuer without a provider": (
        "No OpenIDConnect provider found in your account for https://gitlab.com",
        lambda _: OidcIssuer("https://gitlab.com").token(JOBS[DEPLOY]),
    ),
    "none": ("not a valid JWT", lambda _: "token"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_tokens_that_are_not_good_are_refused(delivery: Delivery, what: str) -> None:
    message, token = REFUSED[what]
    with pytest.raises(ClientError, match=message):
        delivery.take(DEPLOY, token(delivery.issuer))


def test_a_session_lasts_no_longer_than_the_role_allows(delivery: Delivery) -> None:
    delivery.take(DEPLOY, delivery.issuer.token(JOBS[DEPLOY]), DurationSeconds=2 * 3600)
    with pytest.raises(ClientError, match="exceeds the MaxSessionDuration"):
        delivery.take(DIFF, delivery.issuer.token(JOBS[DIFF]), DurationSeconds=2 * 3600)


# What a role can do by itself


@pytest.mark.parametrize("what", [name for name in DENIED if name != "take another role"])
@pytest.mark.parametrize("role", JOBS)
def test_neither_role_can_do_anything_by_itself(
    delivery: Delivery,
    deployed: Deployed,  # noqa: F811
    role: str,
    what: str,
) -> None:
    service, ask = DENIED[what]
    client = delivery.client(role, service)
    with pytest.raises(ClientError) as refused:
        ask(client, deployed)
    client.close()
    assert refused.value.response["Error"]["Code"] in (
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
    ), refused.value


def may_take(sts: Any, arn: str) -> bool:
    try:
        sts.assume_role(RoleArn=arn, RoleSessionName="job")
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("role", "names"),
    # This environment builds no image.
    [(DEPLOY, {"lookup", "deploy", "file-publishing"}), (DIFF, {"lookup"})],
)
def test_a_role_takes_the_roles_of_the_bootstrap_that_it_is_for(delivery: Delivery, role: str, names: set[str]) -> None:
    aws, sts = delivery.app.aws, delivery.client(role, "sts")
    arns = {
        name: f"arn:aws:iam::{aws.account}:role/cdk-hnb659fds-{name}-role-{aws.account}-{aws.region}"
        for name in ("lookup", "deploy", "file-publishing", "image-publishing", "cfn-exec")
    }
    assert {name for name, arn in arns.items() if may_take(sts, arn)} == names
    sts.close()


def test_flow_code_and_credential_are_for_the_deploy_role(delivery: Delivery) -> None:
    bucket = delivery.app.outputs()["BucketName"]
    deploying, reading = (delivery.client(role, "s3") for role in (DEPLOY, DIFF))
    deploying.put_object(Bucket=bucket, Key="code/control", Body=b"x")
    for client, key in ((deploying, "data/x"), (deploying, "results/x"), (reading, "code/x")):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.put_object(Bucket=bucket, Key=key, Body=b"x")
    for client in (deploying, reading):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.get_object(Bucket=bucket, Key="code/control")
        client.close()
    parameters = {role: delivery.client(role, "ssm") for role in JOBS}
    parameters[DEPLOY].get_parameter(Name=EMBEDDED_AUTH_PARAMETER, WithDecryption=True)
    with pytest.raises(ClientError, match="AccessDenied"):
        parameters[DIFF].get_parameter(Name=EMBEDDED_AUTH_PARAMETER, WithDecryption=True)
    for client in parameters.values():
        client.close()


# What the CDK CLI does with it


def test_a_pull_request_sees_what_would_change_and_can_change_nothing(delivery: Delivery) -> None:
    before = delivery.resources()
    seen = delivery.cdk(DIFF, "diff", "**", "--method=template")
    assert seen.returncode == 0, seen.stdout
    assert REMOVED in seen.stdout
    assert "Number of stacks with differences: 1" in seen.stdout
    # Everything was looked up with the role for it.
    assert "could not be used to assume" not in seen.stdout
    failed = delivery.cdk(DIFF, "deploy", "**")
    assert failed.returncode != 0
    assert "AccessDenied" in failed.stdout
    assert delivery.resources() == before


def test_without_a_method_a_diff_falls_back_to_templates(delivery: Delivery) -> None:
    seen = delivery.cdk(DIFF, "diff", "PrefectEmbedded/Delivery", "--exclusively")
    assert seen.returncode == 0, seen.stdout
    assert "Could not create a change set, will base the diff on template differences" in seen.stdout
    assert REMOVED in seen.stdout
    insisting = delivery.cdk(DIFF, "diff", "PrefectEmbedded/Delivery", "--exclusively", "--method=change-set")
    assert insisting.returncode != 0


@pytest.mark.slow
def test_a_workflow_deploys_flows_with_the_stored_credential(delivery: Delivery, tmp_path: Path) -> None:
    """`make flows` as CI runs it: without a Prefect profile, and with the deploy role alone."""
    delivery.app.delete_deployments()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PREFECT_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tools.deploy_flows", "embedded", "--stored-credential"],
        cwd=ROOT,
        env={
            **inherited,
            **delivery.app.aws.environment(),
            **delivery.job(DEPLOY),
            "PREFECT_API_URL": delivery.app.server.api_url,  # the address of the embedded environment is no other's
            "PREFECT_HOME": str(tmp_path),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "DO_NOT_TRACK": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert delivery.app.server.auth_string not in done.stdout + done.stderr
    names = {deployment.name for deployment in delivery.app.prefect.read_deployments()}
    assert {"flights", "weather"} <= names
    assert delivery.app.prefect.read_deployment_by_name("flights-etl/flights").work_pool_name == "etl"


def test_a_workflow_deploys(delivery: Delivery) -> None:
    """Last, as it takes the other role away."""
    done = delivery.cdk(DEPLOY, "deploy", "**")
    assert done.returncode == 0, done.stdout
    assert "could not be used to assume" not in done.stdout
    assert delivery.resources() == {
        "Depl AWS::IAM::OIDCProvider",
        "Depl AWS::IAM::Policy",
        "Depl AWS::IAM::Role",
    }
    with pytest.raises(ClientError, match="AccessDenied"):
        delivery.take(DIFF, delivery.issuer.token(JOBS[DIFF]))
    clean = delivery.cdk(DEPLOY, "diff", "**", "--fail")
    assert clean.returncode == 0, clean.stdout
    assert "There were no differences" in clean.stdout
    assert "Could not create a change set" not in clean.stdout
