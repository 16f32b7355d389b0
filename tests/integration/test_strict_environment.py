"""An environment as a security team wants it, deployed: own key, access logs, boundary and path of every role.

The embedded AWS keeps what is encrypted with which key; it does not ask KMS whether the caller may use it. That is
tested on the policies (tests/unit/library/test_encryption.py).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded import run_cdk
from embedded.deployed import DeployedApp, bucket_objects, finished, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

APPS = Path(__file__).parent / "apps"
ROOT = APPS.parent.parent.parent
FLIGHTS = "flights-etl/flights"
BOUNDARY = "team-boundary"
PATH = "/data-platform/"
STRICT = {"encryption_key": "own", "access_logs": True, "permissions_boundary": BOUNDARY, "role_path": PATH}


@pytest.fixture(scope="module")
def strict() -> Iterator[DeployedApp]:
    """The app with all of it on; its worker is online and its flows are deployed."""
    with DeployedApp.undeployed() as app:
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        app.aws.client("iam").create_policy(PolicyName=BOUNDARY, PolicyDocument=json.dumps(allow))
        run_cdk(
            ["deploy", "**", "--strict", "--output", str(app.aws.directory / "strict.out")],
            aws=app.aws,
            cwd=ROOT,
            app=f"{sys.executable} {APPS / 'variant.py'}",
            env={"PREFECT_API_URL": app.server.api_url, "VARIANT": json.dumps(STRICT), "PYTHONPATH": str(ROOT)},
        )
        app.wait_for_worker()
        app.deploy_flows()
        yield app


@pytest.fixture(scope="module")
def key_arn(strict: DeployedApp) -> str:
    (key,) = [each for each in strict.resources() if each["ResourceType"] == "AWS::KMS::Key"]
    arn: str = strict.aws.client("kms").describe_key(KeyId=key["PhysicalResourceId"])["KeyMetadata"]["Arn"]
    return arn


def physical_ids(app: DeployedApp, resource_type: str) -> list[str]:
    return [each["PhysicalResourceId"] for each in app.resources() if each["ResourceType"] == resource_type]


def test_every_role_has_boundary_and_path(strict: DeployedApp) -> None:
    iam = strict.aws.client("iam")
    names = physical_ids(strict, "AWS::IAM::Role")
    assert len(names) >= 9
    for name in names:
        role: Any = iam.get_role(RoleName=name)["Role"]
        assert role["Path"] == PATH
        assert role["Arn"].endswith(f":role{PATH}{name}")
        assert role["PermissionsBoundary"]["PermissionsBoundaryArn"].endswith(f":policy/{BOUNDARY}")


def test_run_completes_and_what_it_wrote_is_encrypted_with_the_key(strict: DeployedApp, key_arn: str) -> None:
    run = strict.start_run(FLIGHTS, {"months": [1, 2], "origins": ["LGA"]})
    done = strict.wait_for_final_state(run.id)
    assert done.state_name == "Completed", done.state
    bucket, s3 = strict.outputs()["BucketName"], strict.aws.client("s3")
    written = [*bucket_objects(strict.aws, bucket, "results/"), *bucket_objects(strict.aws, bucket, "data/")]
    assert len(written) > 2
    for name in written:
        head = s3.head_object(Bucket=bucket, Key=name)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key_arn)


def test_lazarus_reads_its_encrypted_queue(strict: DeployedApp, key_arn: str) -> None:
    """An interrupted run goes on, woken by an event that went through a queue with the key."""
    sqs = strict.aws.client("sqs")
    queues = physical_ids(strict, "AWS::SQS::Queue")
    assert len(queues) == 3
    for url in queues:
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["KmsMasterKeyId"])["Attributes"]
        assert attributes["KmsMasterKeyId"] == key_arn
    run = strict.start_run(FLIGHTS, {"months": [1, 2, 3, 4], "origins": ["LGA"], "seconds_per_month": 0.8})
    first = strict.wait_for_attempt(run.id)

    def some_finished() -> bool | None:
        return bool(finished(strict.task_runs(run.id))) or None

    wait_for("a task to finish", some_finished, 90)
    strict.aws.interrupt(first.arn)
    done = strict.wait_for_final_state(run.id)
    assert done.state_name == "Completed", done.state
    assert len(strict.attempts(run.id)) == 2


def test_log_groups_have_the_key(strict: DeployedApp, key_arn: str) -> None:
    names = physical_ids(strict, "AWS::Logs::LogGroup")
    assert len(names) == 3
    logs = strict.aws.client("logs")
    for name in names:
        (group,) = [
            each
            for each in logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
            if each["logGroupName"] == name
        ]
        assert group["kmsKeyId"] == key_arn


def test_bucket_logs_access_to_the_other_one(strict: DeployedApp) -> None:
    s3, bucket = strict.aws.client("s3"), strict.outputs()["BucketName"]
    (target,) = [name for name in physical_ids(strict, "AWS::S3::Bucket") if name != bucket]
    assert s3.get_bucket_logging(Bucket=bucket)["LoggingEnabled"]["TargetBucket"] == target
