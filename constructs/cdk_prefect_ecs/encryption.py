"""KMS keys of your own: which service and which role may use them, and for what."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct, IConstruct


def grant_key_use(
    key: kms.IKey,
    grantee: iam.IGrantable,
    scope: IConstruct,
    *,
    service: str,
    actions: Sequence[str] = ("kms:Decrypt",),
) -> iam.Grant:
    """Grant using a key through one service only: what the key protects elsewhere stays closed.

    The grant is part of the role. The key's own policy has to leave the decision to IAM, as that of ``kms.Key`` does,
    and of every key that the console makes.

    :param service: The service that calls KMS for the grantee, such as ``ssm``.
    """
    return iam.Grant.add_to_principal(
        grantee=grantee,
        actions=list(actions),
        resource_arns=[key.key_arn],
        conditions={"StringEquals": {"kms:ViaService": f"{service}.{cdk.Stack.of(scope).region}.amazonaws.com"}},
    )


def new_log_group(
    scope: Construct,
    construct_id: str,
    *,
    encryption_key: kms.IKey | None,
    removal_policy: cdk.RemovalPolicy,
    retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
) -> logs.LogGroup:
    """A log group, with a key that CloudWatch Logs may use. Readers need no right to the key: the service decrypts.

    :param encryption_key: None: CloudWatch Logs encrypts with a key of its own. An imported key's policy has to let the
        service in already, see docs/security.md.
    """
    if encryption_key is not None:
        stack = cdk.Stack.of(scope)
        log_groups = stack.format_arn(
            service="logs", resource="log-group", resource_name="*", arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
        )
        # Source: "Encrypt log data in CloudWatch Logs using AWS KMS", Amazon CloudWatch Logs User Guide.
        encryption_key.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal(f"logs.{stack.region}.amazonaws.com")],
                actions=["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
                resources=["*"],
                conditions={"ArnLike": {"kms:EncryptionContext:aws:logs:arn": log_groups}},
            )
        )
    return logs.LogGroup(
        scope, construct_id, retention=retention, removal_policy=removal_policy, encryption_key=encryption_key
    )


def let_events_encrypt(key: kms.IKey, scope: Construct) -> None:
    """Let EventBridge put messages of this account into queues with this key. An imported key's policy has to let it
    already."""
    # Source: "Amazon SQS permissions", Amazon EventBridge User Guide. Not by the rule's ARN: a key is in a stack of its
    # own, which must not depend on the rule's.
    key.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[iam.ServicePrincipal("events.amazonaws.com")],
            actions=["kms:Decrypt", "kms:GenerateDataKey"],
            resources=["*"],
            conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(scope).account}},
        )
    )


def let_alarms_encrypt(key: kms.IKey, scope: Construct) -> None:
    """Let the alarms of CloudWatch publish to topics of this account and region with this key. An imported key's policy
    has to let them already."""
    topics = cdk.Stack.of(scope).format_arn(service="sns", resource="*")
    # Source: "Why didn't I receive an SNS notification for my CloudWatch alarm trigger?", AWS re:Post; the context is
    # from "Key management", Amazon SNS Developer Guide.
    key.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            actions=["kms:Decrypt", "kms:GenerateDataKey*"],
            resources=["*"],
            conditions={"ArnLike": {"kms:EncryptionContext:aws:sns:topicArn": topics}},
        )
    )
