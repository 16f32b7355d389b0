"""The bucket for flow code, task results and data."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.durations import check_whole_days
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.removal import check_removal_policy

CODE_PREFIX: Final = "code/"
RESULTS_PREFIX: Final = "results/"
DATA_PREFIX: Final = "data/"


class FlowStorage(Construct):
    """Define the S3 bucket of flow runs: ``code/``, ``results/`` and ``data/``.

    Creates a versioned bucket, encrypted at rest (SSE-S3), reachable over TLS only and closed to the public. Results
    are what lets a rescheduled flow run go on where it was: a finished task whose result is here is not executed again.

    :param result_expiration: Results are deleted this long after they were written. A run that is rescheduled later
        repeats its tasks. Default: 30 days.
    :param noncurrent_version_expiration: Overwritten and deleted objects can be brought back for this long, and are
        billed until then. Default: 7 days.
    :param removal_policy: What becomes of the bucket when it leaves the stack. Default: it is retained.
    :param auto_delete_objects: With ``removal_policy`` DESTROY, empty the bucket so that it can be deleted. Both keys
        are needed to lose data. Default: False.
    :raises ValueError: ``auto_delete_objects`` without DESTROY; a policy SNAPSHOT; an expiration of anything but whole
        days.
    """

    bucket: s3.Bucket
    """The bucket."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        result_expiration: cdk.Duration | None = None,
        noncurrent_version_expiration: cdk.Duration | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
        auto_delete_objects: bool = False,
    ) -> None:
        check_removal_policy(
            removal_policy, auto_delete=auto_delete_objects, auto_delete_name="auto_delete_objects", what="objects"
        )
        result_expiration = result_expiration or cdk.Duration.days(30)
        noncurrent_version_expiration = noncurrent_version_expiration or cdk.Duration.days(7)
        check_whole_days("result_expiration", result_expiration)
        check_whole_days("noncurrent_version_expiration", noncurrent_version_expiration)
        super().__init__(scope, construct_id)

        self.bucket = s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            removal_policy=removal_policy,
            auto_delete_objects=auto_delete_objects,
            lifecycle_rules=[
                s3.LifecycleRule(id="results", prefix=RESULTS_PREFIX, expiration=result_expiration),
                s3.LifecycleRule(
                    id="old-versions",
                    noncurrent_version_expiration=noncurrent_version_expiration,
                    expired_object_delete_marker=True,
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
                ),
            ],
        )

    @property
    def bucket_name(self) -> str:
        """Name of the bucket."""
        return self.bucket.bucket_name

    @checked
    def grant_flow_access(self, grantee: iam.IGrantable) -> iam.Grant:
        """Grant what flow runs need: list the bucket, read all of it, write ``results/`` and ``data/``.

        Flow runs cannot change ``code/``: a run that was taken over cannot alter what the next one executes. Nothing
        can be deleted for good, as object versions are out of reach.
        """
        read = iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.bucket.bucket_arn]
        )
        objects = iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:GetObject"], resource_arns=[self.bucket.arn_for_objects("*")]
        )
        write = iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            resource_arns=[
                self.bucket.arn_for_objects(f"{RESULTS_PREFIX}*"),
                self.bucket.arn_for_objects(f"{DATA_PREFIX}*"),
            ],
        )
        return read.combine(objects).combine(write)
