"""What ECS says about tasks, in a queue."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.durations import seconds_or_token
from cdk_prefect_ecs.encryption import let_events_encrypt
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.runbook import described
from cdk_prefect_ecs.settings import check_task_events_settings

#: A reader that is throttled counts as having received the message; it must not end up among the dead letters for that.
_MAX_RECEIVES: Final = 20


class TaskEvents(Construct):
    """Define a queue with the ECS task events of one cluster that matter to its flow runs: a Spot notice, and a stop.

    Creates an EventBridge rule (events of AWS services are free), a queue with a dead-letter queue, both encrypted
    and reachable over TLS only, and two alarms: dead letters, and messages that nobody reads. A cluster with
    many tasks costs fractions of a cent.

    :param cluster: The cluster.
    :param visibility_timeout: How long a message is hidden from other readers once one has it; six times the time-out
        of the function that reads it, as Lambda advises. Default: 6 minutes.
    :param oldest_message_alarm: Alarm when a message waits longer than this; longer than ``visibility_timeout``, or one
        failed reading would raise it. Default: 15 minutes.
    :param encryption_key: Key of the queues; EventBridge is let use it, and an imported key's policy has to do so
        itself, see docs/security.md. Default: SSE-SQS, free.
    :raises ValueError: A ``visibility_timeout`` below a minute or above 12 hours, an ``oldest_message_alarm`` that is
        not longer; anything but whole seconds.
    """

    queue: sqs.Queue
    """The queue."""
    dead_letter_queue: sqs.Queue
    """Messages that could not be dealt with."""
    rule: events.Rule
    """The rule that fills the queue."""
    alarms: list[cloudwatch.Alarm]
    """Dead letters; messages that nobody reads. Add your own actions."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: FlowCluster,
        visibility_timeout: cdk.Duration | None = None,
        oldest_message_alarm: cdk.Duration | None = None,
        encryption_key: kms.IKey | None = None,
    ) -> None:
        visibility_timeout = visibility_timeout or cdk.Duration.minutes(6)
        oldest = oldest_message_alarm or cdk.Duration.minutes(15)
        check_task_events_settings(
            seconds_or_token("visibility_timeout", visibility_timeout), seconds_or_token("oldest_message_alarm", oldest)
        )
        super().__init__(scope, construct_id)
        encryption = sqs.QueueEncryption.KMS if encryption_key else sqs.QueueEncryption.SQS_MANAGED
        self.dead_letter_queue = sqs.Queue(
            self,
            "DeadLetterQueue",
            encryption=encryption,
            encryption_master_key=encryption_key,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            encryption=encryption,
            encryption_master_key=encryption_key,
            enforce_ssl=True,
            visibility_timeout=visibility_timeout,
            retention_period=cdk.Duration.days(1),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letter_queue, max_receive_count=_MAX_RECEIVES),
        )
        self.rule = events.Rule(
            self,
            "Rule",
            description="ECS task events for Lazarus: Spot notice and stop",
            event_pattern=events.EventPattern(
                source=["aws.ecs"],
                detail_type=["ECS Task State Change"],
                detail={
                    "clusterArn": [cluster.cluster_arn],
                    # The stop code of the notice is missing from some events; the reason is not. See
                    # https://github.com/aws/containers-roadmap/issues/773
                    "$or": [
                        {"lastStatus": ["STOPPED"]},
                        {"stopCode": ["TerminationNotice"]},
                        {"stoppedReason": ["Your Spot Task was interrupted."]},
                    ],
                },
            ),
            targets=[targets.SqsQueue(self._target(encryption_key), dead_letter_queue=self.dead_letter_queue)],
        )
        if encryption_key is not None:
            # The queue is in this stack; the CDK cannot tell that from its ARN.
            cdk.Annotations.of(self.rule).acknowledge_warning("@aws-cdk/aws-events:ruleUnresolvedEnvironment")
            let_events_encrypt(encryption_key, self)
            self.queue.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[iam.ServicePrincipal("events.amazonaws.com")],
                    actions=["sqs:SendMessage"],
                    resources=[self.queue.queue_arn],
                    conditions={"ArnEquals": {"aws:SourceArn": self.rule.rule_arn}},
                )
            )
        self.alarms = [
            cloudwatch.Alarm(
                self,
                "DeadLetters",
                alarm_description=described("DeadLetters"),
                metric=self.dead_letter_queue.metric_approximate_number_of_messages_visible(
                    period=cdk.Duration.minutes(1), statistic=cloudwatch.Stats.MAXIMUM
                ),
                threshold=1,
                evaluation_periods=1,
                comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
            cloudwatch.Alarm(
                self,
                "OldestMessage",
                alarm_description=described("OldestMessage"),
                metric=self.queue.metric_approximate_age_of_oldest_message(
                    period=cdk.Duration.minutes(1), statistic=cloudwatch.Stats.MAXIMUM
                ),
                threshold=oldest.to_seconds(),
                evaluation_periods=1,
                comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
        ]

    def _target(self, encryption_key: kms.IKey | None) -> sqs.IQueue:
        """The queue as the CDK's target should see it: of one with a key it would let in every rule of the account."""
        if encryption_key is None:
            return self.queue
        return sqs.Queue.from_queue_arn(self, "Target", self.queue.queue_arn)
