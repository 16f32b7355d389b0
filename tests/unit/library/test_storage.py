from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Template
from library_helpers import allow, assert_refused, cloud_api, in_order, new_stack, only, plain, statements

from cdk_prefect_ecs import FlowStorage, PrefectExecutionLayer

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

BUCKET = "<StorageBucket.Arn>"


@pytest.fixture(scope="module")
def template() -> Template:
    stack = new_stack()
    storage = FlowStorage(stack, "Storage")
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    storage.grant_flow_access(role).assert_success()
    return Template.from_stack(stack)


def test_default_bucket_is_private_versioned_and_encrypted(template: Template) -> None:
    bucket = only(template, "AWS::S3::Bucket")
    assert bucket["PublicAccessBlockConfiguration"] == {
        "BlockPublicAcls": True,
        "BlockPublicPolicy": True,
        "IgnorePublicAcls": True,
        "RestrictPublicBuckets": True,
    }
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert bucket["BucketEncryption"] == {
        "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    }
    assert "BucketName" not in bucket


def test_default_bucket_is_reached_over_tls_only(template: Template) -> None:
    policy = plain(only(template, "AWS::S3::BucketPolicy"))["PolicyDocument"]["Statement"]
    assert [(s["Effect"], s["Action"], s["Principal"], s["Resource"], s["Condition"]) for s in policy] == [
        ("Deny", "s3:*", {"AWS": "*"}, [BUCKET, f"{BUCKET}/*"], {"Bool": {"aws:SecureTransport": "false"}}),
        ("Deny", "s3:*", {"AWS": "*"}, [BUCKET, f"{BUCKET}/*"], {"NumericLessThan": {"s3:TlsVersion": 1.2}}),
    ]


def test_default_lifecycle(template: Template) -> None:
    assert only(template, "AWS::S3::Bucket")["LifecycleConfiguration"]["Rules"] == [
        {"Id": "results", "Status": "Enabled", "Prefix": "results/", "ExpirationInDays": 30},
        {
            "Id": "old-versions",
            "Status": "Enabled",
            "ExpiredObjectDeleteMarker": True,
            "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        },
    ]


def test_default_bucket_is_retained(template: Template) -> None:
    bucket = next(iter(template.find_resources("AWS::S3::Bucket").values()))
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")
    template.resource_count_is("Custom::S3AutoDeleteObjects", 0)


def test_flow_access_is_exact(template: Template) -> None:
    assert statements(template, "Role") == in_order(
        [
            allow("s3:ListBucket", BUCKET),
            allow("s3:GetObject", f"{BUCKET}/*"),
            allow(
                ["s3:PutObject", "s3:AbortMultipartUpload"],
                [f"{BUCKET}/results/*", f"{BUCKET}/data/*"],
            ),
        ]
    )


def test_everything_set() -> None:
    stack = new_stack()
    FlowStorage(
        stack,
        "Storage",
        result_expiration=cdk.Duration.days(5),
        noncurrent_version_expiration=cdk.Duration.days(1),
        removal_policy=cdk.RemovalPolicy.DESTROY,
        auto_delete_objects=True,
    )
    template = Template.from_stack(stack)
    rules = only(template, "AWS::S3::Bucket")["LifecycleConfiguration"]["Rules"]
    assert rules[0]["ExpirationInDays"] == 5
    assert rules[1]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    assert next(iter(template.find_resources("AWS::S3::Bucket").values()))["DeletionPolicy"] == "Delete"
    template.resource_count_is("Custom::S3AutoDeleteObjects", 1)


def test_destroy_alone_keeps_what_is_in_the_bucket() -> None:
    stack = new_stack()
    FlowStorage(stack, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY)
    Template.from_stack(stack).resource_count_is("Custom::S3AutoDeleteObjects", 0)


def test_a_token_passes_as_expiration() -> None:
    stack = new_stack()
    days = cdk.CfnParameter(stack, "Days", type="Number").value_as_number
    FlowStorage(stack, "Storage", result_expiration=cdk.Duration.days(days))
    rules = only(Template.from_stack(stack), "AWS::S3::Bucket")["LifecycleConfiguration"]["Rules"]
    assert rules[0]["ExpirationInDays"] == {"Ref": "Days"}


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"auto_delete_objects": True}, ("auto_delete_objects needs removal_policy DESTROY", "got RETAIN")),
        (
            {"result_expiration": cdk.Duration.hours(23)},
            ("result_expiration must be a whole number of days", "got 0.958333 days"),
        ),
        ({"result_expiration": cdk.Duration.hours(36)}, ("whole number of days, 1 to 2147483647", "got 1.5 days")),
        (
            {"noncurrent_version_expiration": cdk.Duration.minutes(1)},
            ("noncurrent_version_expiration must be a whole number of days", "got 0.000694444 days"),
        ),
    ],
)
def test_refuses(kwargs: dict[str, Any], words: tuple[str, ...]) -> None:
    stack = new_stack()
    assert_refused(stack, lambda: FlowStorage(stack, "Storage", **kwargs), *words)


def test_two_in_one_stack_grant_apart() -> None:
    stack = new_stack()
    one, _ = FlowStorage(stack, "One"), FlowStorage(stack, "Two")
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    one.grant_flow_access(role)
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::S3::Bucket", 2)
    assert "Two" not in str(statements(template, "Role"))


def test_imported_role_is_granted() -> None:
    stack = new_stack()
    role = iam.Role.from_role_arn(stack, "Role", "arn:aws:iam::123456789012:role/flows")
    FlowStorage(stack, "Storage").grant_flow_access(role)
    policy = only(Template.from_stack(stack), "AWS::IAM::Policy")
    assert policy["Roles"] == ["flows"]
    assert len(policy["PolicyDocument"]["Statement"]) == 3


# An existing bucket


def with_existing_bucket(**attributes: Any) -> tuple[Template, FlowStorage]:
    """A layer on a bucket of somebody else."""
    stack = new_stack()
    key = kms.Key.from_key_arn(stack, "Key", KEY) if attributes.pop("with_key", False) else None
    bucket = s3.Bucket.from_bucket_attributes(stack, "Lake", bucket_name="lake", encryption_key=key)
    storage = FlowStorage.from_bucket(stack, "Storage", bucket=bucket)
    assert (storage.bucket, storage.bucket_name, storage.access_log_bucket) == (bucket, "lake", None)
    PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api(), storage=storage)
    return Template.from_stack(stack), storage


def test_an_existing_bucket_is_used_and_not_changed() -> None:
    template, storage = with_existing_bucket()
    assert storage.encryption_key is None
    template.resource_count_is("AWS::S3::Bucket", 0)
    template.resource_count_is("AWS::S3::BucketPolicy", 0)
    pool = str(plain(only(template, "Custom::PrefectWorkPool")))
    assert "'lake'" in pool
    lake = "arn:<AWS::Partition>:s3:::lake"
    assert statements(template, "PrefectFlowRole") == in_order(
        [
            allow("s3:ListBucket", lake),
            allow("s3:GetObject", f"{lake}/*"),
            allow(["s3:PutObject", "s3:AbortMultipartUpload"], [f"{lake}/results/*", f"{lake}/data/*"]),
        ]
    )


def test_an_existing_bucket_brings_its_key_along() -> None:
    template, storage = with_existing_bucket(with_key=True)
    assert storage.encryption_key is not None
    (through_s3,) = [each for each in statements(template, "PrefectFlowRole") if "kms:Decrypt" in each["Action"]]
    assert through_s3["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert through_s3["Resource"] == [KEY]
    assert through_s3["Condition"] == {"StringEquals": {"kms:ViaService": "s3.<AWS::Region>.amazonaws.com"}}


def test_a_bucket_of_the_app_is_used() -> None:
    stack = new_stack()
    storage = FlowStorage.from_bucket(stack, "Storage", bucket=s3.Bucket(stack, "Mine"))
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    storage.grant_flow_access(role)
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::S3::Bucket", 1)
    assert allow("s3:ListBucket", "<Mine.Arn>") in statements(template, "Role")
