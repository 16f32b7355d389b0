"""The bucket for flow code, task results and data."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.durations import check_whole_days
from cdk_prefect_ecs.encryption import grant_key_use
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.removal import check_removal_policy

CODE_PREFIX: Final = "code/"
RESULTS_PREFIX: Final = "results/"
DATA_PREFIX: Final = "data/"


class FlowStorage(Construct):
    """Define the S3 bucket of flow runs: ``code/``, ``results/`` and ``data/``.

    Creates a versioned bucket, encrypted at rest, reachable over TLS only and closed to the public. Results
    are what lets a rescheduled flow run go on where it was: a finished task whose result is here is not executed again.

    :param result_expiration: Results are deleted this long after they were written. A run that is rescheduled later
        repeats its tasks. Default: 30 days.
    :param noncurrent_version_expiration: Overwritten and deleted objects can be brought back for this long, and are
        billed until then. Default: 7 days.
    :param encryption_key: Key of the objects, $1 a month and $0.03 for 10,000 calls at list price, few of them with the
        bucket key that is turned on; see :meth:`grant_flow_access`. Default: SSE-S3, free.
    :param access_logs: Whether S3 writes down who did what with the bucket, to a second bucket, best effort and some
        hours later. Free but for the storage. Default: False.
    :param access_log_expiration: Access logs are deleted after this. Default: 365 days.
    :param removal_policy: What becomes of the bucket when it leaves the stack. Default: it is retained.
    :param auto_delete_objects: With ``removal_policy`` DESTROY, empty the bucket so that it can be deleted. Both keys
        are needed to lose data. Default: False.
    :raises ValueError: ``auto_delete_objects`` without DESTROY; a policy SNAPSHOT; an expiration of anything but whole
        days; one of access logs without access logs.
    """

    bucket: s3.IBucket
    """The bucket."""
    access_log_bucket: s3.Bucket | None
    """The bucket of its access logs; None without them."""
    encryption_key: kms.IKey | None
    """Key of the objects; None for SSE-S3."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        result_expiration: cdk.Duration | None = None,
        noncurrent_version_expiration: cdk.Duration | None = None,
        encryption_key: kms.IKey | None = None,
        access_logs: bool = False,
        access_log_expiration: cdk.Duration | None = None,
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
        if access_log_expiration is not None and not access_logs:
            raise ValueError("access_log_expiration is for access logs, which are off; set access_logs=True too")
        access_log_expiration = access_log_expiration or cdk.Duration.days(365)
        check_whole_days("access_log_expiration", access_log_expiration)
        super().__init__(scope, construct_id)

        self.encryption_key = encryption_key

        def new_bucket(bucket_id: str, key: kms.IKey | None, rules: list[s3.LifecycleRule]) -> s3.Bucket:
            return s3.Bucket(
                self,
                bucket_id,
                encryption=s3.BucketEncryption.KMS if key else s3.BucketEncryption.S3_MANAGED,
                encryption_key=key,
                # One call of KMS for many objects instead of one for each.
                bucket_key_enabled=True if key else None,
                enforce_ssl=True,
                minimum_tls_version=1.2,
                block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
                object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
                versioned=True,
                removal_policy=removal_policy,
                auto_delete_objects=auto_delete_objects,
                lifecycle_rules=rules,
            )

        self._own = new_bucket(
            "Bucket",
            encryption_key,
            [
                s3.LifecycleRule(id="results", prefix=RESULTS_PREFIX, expiration=result_expiration),
                s3.LifecycleRule(
                    id="old-versions",
                    noncurrent_version_expiration=noncurrent_version_expiration,
                    expired_object_delete_marker=True,
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
                ),
            ],
        )
        self.bucket = self._own
        self.access_log_bucket = None
        if access_logs:
            # S3 delivers access logs to buckets with SSE-S3 only. Source: "Enabling Amazon S3 server access logging",
            # Amazon S3 User Guide.
            rule = s3.LifecycleRule(
                id="access-logs",
                expiration=access_log_expiration,
                noncurrent_version_expiration=cdk.Duration.days(1),
            )
            self.access_log_bucket = new_bucket("AccessLogs", None, [rule])
            self._log_access_to(self.access_log_bucket)

    @staticmethod
    @checked
    def from_bucket(scope: Construct, construct_id: str, *, bucket: s3.IBucket) -> FlowStorage:
        """Use an existing bucket, of this app or imported. Nothing about it is changed: what expires, and when, is said
        where it is defined.

        Flow runs read all of it, and write ``results/`` and ``data/``.

        :param bucket: The bucket. One with a key of its own brings it along: ``s3.Bucket.from_bucket_attributes(…,
            encryption_key=key)``.
        """
        return _ExistingStorage(scope, construct_id, bucket=bucket)

    @property
    def bucket_name(self) -> str:
        """Name of the bucket."""
        return self.bucket.bucket_name

    @checked
    def grant_flow_access(self, grantee: iam.IGrantable) -> iam.Grant:
        """Grant what flow runs need: list the bucket, read all of it, write ``results/`` and ``data/``.

        Flow runs cannot change ``code/``: a run that was taken over cannot alter what the next one executes. Nothing
        can be deleted: neither Prefect nor prefect-aws does, and results expire by themselves. Flows that tidy up take
        a grant of their own, such as ``bucket.grant_delete(role, "data/*")``. With a key of your own they may use it,
        through S3 only; the policy of an imported key has to leave that to IAM.
        """
        read = iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.bucket.bucket_arn]
        )
        objects = iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:GetObject"], resource_arns=[self.bucket.arn_for_objects("*")]
        )
        write = iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3:PutObject", "s3:AbortMultipartUpload"],
            resource_arns=[
                self.bucket.arn_for_objects(f"{RESULTS_PREFIX}*"),
                self.bucket.arn_for_objects(f"{DATA_PREFIX}*"),
            ],
        )
        return self._with_key(read.combine(objects).combine(write), grantee)

    @checked
    def grant_deploy_code(self, grantee: iam.IGrantable) -> iam.Grant:
        """Grant what ``prefect deploy`` needs to upload flow code: write ``code/``. Nothing can be read or deleted.

        Flow runs execute what is there: whoever has this decides what they do.
        """
        return self._with_key(
            iam.Grant.add_to_principal(
                grantee=grantee,
                actions=["s3:PutObject", "s3:AbortMultipartUpload"],
                resource_arns=[self.bucket.arn_for_objects(f"{CODE_PREFIX}*")],
            ),
            grantee,
        )

    def _with_key(self, granted: iam.Grant, grantee: iam.IGrantable) -> iam.Grant:
        if self.encryption_key is None:
            return granted
        # An upload in parts takes Decrypt too. Source: "Uploading and copying objects using multipart upload in Amazon
        # S3", Amazon S3 User Guide.
        actions = ["kms:Decrypt", "kms:GenerateDataKey"]
        return granted.combine(grant_key_use(self.encryption_key, grantee, self, service="s3", actions=actions))

    def _log_access_to(self, target: s3.Bucket) -> None:
        # Not the CDK's server_access_logs_bucket: without its feature flags that uses an ACL, which the bucket refuses.
        target.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("logging.s3.amazonaws.com")],
                actions=["s3:PutObject"],
                resources=[target.arn_for_objects("*")],
                conditions={
                    "ArnLike": {"aws:SourceArn": self.bucket.bucket_arn},
                    "StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account},
                },
            )
        )
        bucket = self._own.node.default_child
        assert isinstance(bucket, s3.CfnBucket)
        bucket.logging_configuration = s3.CfnBucket.LoggingConfigurationProperty(
            destination_bucket_name=target.bucket_name
        )


class _ExistingStorage(FlowStorage):
    @checked_construct
    def __init__(self, scope: Construct, construct_id: str, *, bucket: s3.IBucket) -> None:
        Construct.__init__(self, scope, construct_id)
        self.bucket = bucket
        self.access_log_bucket = None
        self.encryption_key = bucket.encryption_key
