"""From methods to IAM actions: botocore's models, s3transfer's source and the Service Authorization Reference."""

import pytest
from ministack.core import iam_actions

from tools.permissions.operations import _ACTIONS_OF_S3, action, actions, cli_calls, operations
from tools.permissions.reference import UnknownActionError, actions_documented_as, filled_arn, find_action


@pytest.mark.parametrize(
    ("service", "method", "expected"),
    [
        ("ecs", "run_task", {"ecs:RunTask"}),
        ("logs", "get_log_events", {"logs:GetLogEvents"}),
        ("ssm", "get_parameter", {"ssm:GetParameter"}),
        ("lambda", "invoke", {"lambda:InvokeFunction"}),  # the reference names the operation at the action
        ("s3", "list_objects_v2", {"s3:ListBucket"}),
        ("s3", "head_object", {"s3:GetObject"}),
        ("s3", "download_file", {"s3:GetObject"}),
        ("s3", "upload_fileobj", {"s3:PutObject", "s3:AbortMultipartUpload"}),
    ],
)
def test_actions_of_methods(service: str, method: str, expected: set[str]) -> None:
    assert actions(service, method) == expected


def test_a_transfer_is_what_s3transfer_calls() -> None:
    assert operations("s3", "upload_file") == {
        "PutObject",
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
    }
    assert operations("s3", "download_file") == {"HeadObject", "GetObject"}


def test_an_operation_without_an_action_is_an_error() -> None:
    with pytest.raises(UnknownActionError, match="no action for s3:CopyObject"):
        action("s3", "CopyObject")


@pytest.mark.parametrize(
    ("operation", "method", "path", "query"),
    [
        ("HeadObject", "HEAD", "/bucket/key", {}),
        ("CreateMultipartUpload", "POST", "/bucket/key", {"uploads": [""]}),
        ("UploadPart", "PUT", "/bucket/key", {"uploadId": ["1"], "partNumber": ["1"]}),
        ("CompleteMultipartUpload", "POST", "/bucket/key", {"uploadId": ["1"]}),
    ],
)
def test_what_the_reference_does_not_say_of_s3_somebody_else_says_too(
    operation: str, method: str, path: str, query: dict[str, list[str]]
) -> None:
    said = iam_actions.extract_iam_action("s3", method, path, {}, b"", query)
    assert said == _ACTIONS_OF_S3[operation]


def test_every_exception_is_needed() -> None:
    for operation, name in _ACTIONS_OF_S3.items():
        assert actions_documented_as("s3", operation) == []
        with pytest.raises(UnknownActionError):
            find_action(f"s3:{operation}")
        assert find_action(name).name == name


def test_commands_of_the_aws_cli() -> None:
    script = """
        aws s3 cp --only-show-errors s3://bucket/key /tmp/file
        aws logs put-log-events --log-group-name g
    """
    assert cli_calls(script) == {("s3", "download_file"), ("logs", "put_log_events")}
    with pytest.raises(ValueError, match="aws s3 sync is no operation"):
        cli_calls("aws s3 sync . s3://bucket")


def test_the_reference_knows_resources() -> None:
    run = find_action("ecs:RunTask")
    assert run.accepts("arn:aws:ecs:us-east-1:111122223333:task-definition/etl:*")
    assert run.accepts("*")
    assert not run.accepts("arn:aws:ecs:us-east-1:111122223333:cluster/flows")
    describe = find_action("ecs:DescribeTaskDefinition")
    assert describe.accepts("*")
    assert not describe.accepts("arn:aws:ecs:us-east-1:111122223333:task-definition/etl:1")
    write = find_action("logs:PutLogEvents")
    assert write.accepts("arn:aws:logs:us-east-1:111122223333:log-group:flows:*")
    assert not write.accepts("arn:aws:logs:us-east-1:111122223333:log-group:flows")
    assert not find_action("s3:ListBucket").accepts("arn:aws:s3:::bucket/key")


def test_the_reference_knows_conditions() -> None:
    run = find_action("ecs:RunTask")
    assert run.knows("ecs:cluster")
    assert run.knows("aws:RequestTag/team")
    assert run.knows("aws:SourceVpc")
    assert not run.knows("ecs:CreateAction")
    assert not run.knows("iam:PassedToService")
    assert not find_action("sqs:GetQueueUrl").knows("aws:ResourceTag/team")


def test_an_action_that_does_not_exist_is_an_error() -> None:
    for name in ("ecs:Fly", "teapot:Boil"):
        with pytest.raises(UnknownActionError, match=name):
            find_action(name)


def test_an_arn_is_filled_in() -> None:
    arn = filled_arn("ecs", "cluster", name="flows", account="111122223333", region="us-east-1")
    assert arn == "arn:aws:ecs:us-east-1:111122223333:cluster/flows"
