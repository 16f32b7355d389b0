from collections.abc import Mapping
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk.assertions import Template
from library_helpers import imported_vpc, new_stack, only, plain, resource

from cdk_prefect_ecs import FlowCluster, TaskEvents

ALARM = "AWS::CloudWatch::Alarm"
CLUSTER_ARN = "<Cluster.Arn>"
REASON = "Your Spot Task was interrupted."


def cluster(stack: cdk.Stack, construct_id: str = "Cluster") -> FlowCluster:
    return FlowCluster(stack, construct_id, vpc=imported_vpc(stack, construct_id=f"{construct_id}Vpc"))


@pytest.fixture(scope="module")
def task_events() -> TaskEvents:
    stack = new_stack()
    return TaskEvents(stack, "TaskEvents", cluster=cluster(stack))


@pytest.fixture(scope="module")
def template(task_events: TaskEvents) -> Template:
    return Template.from_stack(cdk.Stack.of(task_events))


@pytest.fixture(scope="module")
def pattern(template: Template) -> dict[str, Any]:
    return dict(plain(only(template, "AWS::Events::Rule"))["EventPattern"])


def matches(pattern: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Whether EventBridge would match: of its pattern language exact values, nested fields and ``$or``."""
    for key, wanted in pattern.items():
        if key == "$or":
            found = any(matches(alternative, event) for alternative in wanted)
        elif isinstance(wanted, Mapping):
            found = isinstance(event.get(key), Mapping) and matches(wanted, event[key])
        else:
            assert all(isinstance(value, str) for value in wanted), f"{wanted} is more than this matcher knows"
            found = event.get(key) in wanted
        if not found:
            return False
    return True


def event(**changes: Any) -> dict[str, Any]:
    """An event of ECS about a task of our cluster that runs, changed."""
    detail = {
        "clusterArn": CLUSTER_ARN,
        "taskArn": f"{CLUSTER_ARN}/1",
        "lastStatus": "RUNNING",
        "desiredStatus": "RUNNING",
        "capacityProviderName": "FARGATE_SPOT",
    }
    return {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": detail | changes}


def test_pattern_is_exact(pattern: dict[str, Any]) -> None:
    assert pattern == {
        "source": ["aws.ecs"],
        "detail-type": ["ECS Task State Change"],
        "detail": {
            "clusterArn": [CLUSTER_ARN],
            "$or": [
                {"lastStatus": ["STOPPED"]},
                {"stopCode": ["TerminationNotice"]},
                {"stoppedReason": [REASON]},
            ],
        },
    }


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"desiredStatus": "STOPPED", "stopCode": "TerminationNotice", "stoppedReason": REASON}, id="notice"
        ),
        pytest.param({"desiredStatus": "STOPPED", "stoppedReason": REASON}, id="notice by its reason alone"),
        pytest.param({"desiredStatus": "STOPPED", "stopCode": "TerminationNotice"}, id="notice by its code alone"),
        pytest.param({"lastStatus": "STOPPED", "stopCode": "SpotInterruption", "stoppedReason": REASON}, id="stopped"),
        pytest.param({"lastStatus": "STOPPED", "stopCode": "EssentialContainerExited"}, id="exited"),
        pytest.param({"lastStatus": "STOPPED", "stopCode": "TaskFailedToStart"}, id="never started"),
        pytest.param({"lastStatus": "STOPPED"}, id="stopped without a word"),
    ],
)
def test_matches(pattern: dict[str, Any], changes: dict[str, Any]) -> None:
    assert matches(pattern, event(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        *(
            pytest.param({"lastStatus": status}, id=status)
            for status in ("PROVISIONING", "PENDING", "ACTIVATING", "RUNNING")
        ),
        *(
            pytest.param({"lastStatus": status, "desiredStatus": "STOPPED", "stopCode": "UserInitiated"}, id=status)
            for status in ("DEACTIVATING", "STOPPING", "DEPROVISIONING")
        ),
        pytest.param({"clusterArn": "<Other.Arn>", "lastStatus": "STOPPED"}, id="stop in another cluster"),
        pytest.param({"clusterArn": "<Other.Arn>", "stopCode": "TerminationNotice"}, id="notice in another cluster"),
    ],
)
def test_leaves_alone(pattern: dict[str, Any], changes: dict[str, Any]) -> None:
    assert not matches(pattern, event(**changes))


@pytest.mark.parametrize(
    "outside", [{"source": "my.app"}, {"detail-type": "ECS Container Instance State Change"}, {"detail": "STOPPED"}]
)
def test_leaves_other_events_alone(pattern: dict[str, Any], outside: dict[str, Any]) -> None:
    assert not matches(pattern, event(lastStatus="STOPPED") | outside)


def test_the_rule_fills_the_queue_and_loses_nothing(template: Template) -> None:
    rule = plain(only(template, "AWS::Events::Rule"))
    assert rule["State"] == "ENABLED"
    assert rule["Targets"] == [
        {
            "Id": "Target0",
            "Arn": "<TaskEventsQueue.Arn>",
            "DeadLetterConfig": {"Arn": "<TaskEventsDeadLetterQueue.Arn>"},
        }
    ]


def test_queues_are_encrypted_and_the_dead_are_kept(template: Template) -> None:
    template.resource_count_is("AWS::SQS::Queue", 2)
    assert plain(resource(template, "TaskEventsQueue")["Properties"]) == {
        "SqsManagedSseEnabled": True,
        "VisibilityTimeout": 360,
        "MessageRetentionPeriod": 24 * 3600,
        # 20 times six minutes: well within a day, and throttled readers kill no message.
        "RedrivePolicy": {"deadLetterTargetArn": "<TaskEventsDeadLetterQueue.Arn>", "maxReceiveCount": 20},
    }
    assert resource(template, "TaskEventsDeadLetterQueue")["Properties"] == {
        "SqsManagedSseEnabled": True,
        "MessageRetentionPeriod": 14 * 24 * 3600,
    }


def tls_only(queue: str) -> dict[str, Any]:
    return {
        "Effect": "Deny",
        "Principal": {"AWS": "*"},
        "Action": "sqs:*",
        "Resource": queue,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def test_queue_policies_are_exact(template: Template) -> None:
    template.resource_count_is("AWS::SQS::QueuePolicy", 2)
    from_the_rule = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Condition": {"ArnEquals": {"aws:SourceArn": "<TaskEventsRule.Arn>"}},
    }
    for queue, actions in (
        ("TaskEventsQueue", ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"]),
        ("TaskEventsDeadLetterQueue", "sqs:SendMessage"),
    ):
        policy = plain(resource(template, f"{queue}Policy")["Properties"])
        assert policy["Queues"] == [f"<{queue}>"]
        statements = policy["PolicyDocument"]["Statement"]
        for statement in statements:
            statement.pop("Sid", None)
        arn = f"<{queue}.Arn>"
        assert statements == [tls_only(arn), from_the_rule | {"Action": actions, "Resource": arn}]


def test_alarms_are_exact(template: Template) -> None:
    template.resource_count_is(ALARM, 2)
    common = {
        "Namespace": "AWS/SQS",
        "Period": 60,
        "Statistic": "Maximum",
        "EvaluationPeriods": 1,
        "TreatMissingData": "notBreaching",
    }
    for alarm, expected in (
        (
            "TaskEventsDeadLetters",
            {
                "MetricName": "ApproximateNumberOfMessagesVisible",
                "Dimensions": [{"Name": "QueueName", "Value": "<TaskEventsDeadLetterQueue.QueueName>"}],
                "ComparisonOperator": "GreaterThanOrEqualToThreshold",
                "Threshold": 1,
            },
        ),
        (
            "TaskEventsOldestMessage",
            {
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": "<TaskEventsQueue.QueueName>"}],
                "ComparisonOperator": "GreaterThanThreshold",
                "Threshold": 900,
            },
        ),
    ):
        properties = plain(resource(template, alarm)["Properties"])
        assert len(properties.pop("AlarmDescription")) > 20
        assert properties == common | expected


def test_alarms_are_there_to_be_given_actions(task_events: TaskEvents) -> None:
    assert [alarm.node.id for alarm in task_events.alarms] == ["DeadLetters", "OldestMessage"]
    assert all(isinstance(alarm, cloudwatch.Alarm) for alarm in task_events.alarms)


def test_nobody_else_is_let_in_and_nothing_else_is_made(template: Template) -> None:
    types = {found["Type"] for found in template.to_json()["Resources"].values()}
    assert {each for each in types if not each.startswith("AWS::ECS::")} == {
        "AWS::Events::Rule",
        "AWS::SQS::Queue",
        "AWS::SQS::QueuePolicy",
        ALARM,
    }


def test_everything_set() -> None:
    stack = new_stack()
    made = TaskEvents(
        stack,
        "TaskEvents",
        cluster=cluster(stack),
        visibility_timeout=cdk.Duration.seconds(90),
        oldest_message_alarm=cdk.Duration.minutes(15),
    )
    template = Template.from_stack(stack)
    assert resource(template, "TaskEventsQueue")["Properties"]["VisibilityTimeout"] == 90
    assert resource(template, "TaskEventsOldestMessage")["Properties"]["Threshold"] == 900
    assert plain(stack.resolve([made.queue.queue_arn, made.dead_letter_queue.queue_arn, made.rule.rule_arn])) == [
        "<TaskEventsQueue.Arn>",
        "<TaskEventsDeadLetterQueue.Arn>",
        "<TaskEventsRule.Arn>",
    ]


def test_a_token_passes_as_a_time() -> None:
    stack = new_stack()
    seconds = cdk.CfnParameter(stack, "Seconds", type="Number").value_as_number
    TaskEvents(stack, "TaskEvents", cluster=cluster(stack), oldest_message_alarm=cdk.Duration.seconds(seconds))
    assert resource(Template.from_stack(stack), "TaskEventsOldestMessage")["Properties"]["Threshold"] == {
        "Ref": "Seconds"
    }


def test_two_in_one_stack_are_of_two_clusters() -> None:
    stack = new_stack()
    for name in ("Blue", "Green"):
        TaskEvents(stack, f"{name}Events", cluster=cluster(stack, name))
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::SQS::Queue", 4)
    template.resource_count_is(ALARM, 4)
    for name in ("Blue", "Green"):
        rule = plain(resource(template, f"{name}EventsRule")["Properties"])
        assert rule["EventPattern"]["detail"]["clusterArn"] == [f"<{name}Cluster.Arn>"]
        assert [target["Arn"] for target in rule["Targets"]] == [f"<{name}EventsQueue.Arn>"]
