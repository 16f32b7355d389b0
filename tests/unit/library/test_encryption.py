"""A key of one's own: what is encrypted with it, who may use it, and that nobody else may."""

from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Template
from library_helpers import (
    allow,
    assert_refused,
    cloud_api,
    make_parts,
    new_app,
    new_stack,
    only,
    plain,
    resource,
    statements,
    through,
)

from cdk_prefect_ecs import DaskAccess, FlowNetwork, FlowStorage, Lazarus, PrefectExecutionLayer, TaskEvents

KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ENCRYPT = ["kms:Decrypt", "kms:GenerateDataKey"]
LOG_GROUPS = "arn:<AWS::Partition>:logs:<AWS::Region>:<AWS::AccountId>:log-group:*"
POLICY = "AWS::IAM::Policy"


def a_layer(key_of: Any, **settings: Any) -> Template:
    stack = new_stack()
    PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=cloud_api(), encryption_key=key_of(stack), **settings
    )
    return Template.from_stack(stack)


@pytest.fixture(scope="module")
def own() -> Template:
    return a_layer(lambda stack: kms.Key(stack, "Key", enable_key_rotation=True))


@pytest.fixture(scope="module")
def imported() -> Template:
    return a_layer(lambda stack: kms.Key.from_key_arn(stack, "Key", KEY_ARN))


@pytest.fixture(scope="module")
def without() -> Template:
    return a_layer(lambda stack: None)


@pytest.mark.parametrize(("key", "arn"), [("own", "<Key.Arn>"), ("imported", KEY_ARN)])
def test_bucket_log_groups_and_queues_have_the_key(key: str, arn: str, request: pytest.FixtureRequest) -> None:
    template: Template = request.getfixturevalue(key)
    (rule,) = only(template, "AWS::S3::Bucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert plain(rule) == {
        "BucketKeyEnabled": True,
        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": arn},
    }
    log_groups = template.find_resources("AWS::Logs::LogGroup").values()
    queues = template.find_resources("AWS::SQS::Queue").values()
    assert (len(log_groups), len(queues)) == (3, 3)
    assert {plain(group["Properties"]["KmsKeyId"]) for group in log_groups} == {arn}
    assert {plain(queue["Properties"]["KmsMasterKeyId"]) for queue in queues} == {arn}


def test_key_lets_in_iam_and_two_services_for_what_they_do(own: Template) -> None:
    administration, *services = plain(only(own, "AWS::KMS::Key"))["KeyPolicy"]["Statement"]
    assert administration["Action"] == "kms:*"
    assert administration["Principal"] == {"AWS": "arn:<AWS::Partition>:iam::<AWS::AccountId>:root"}
    assert services == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "logs.<AWS::Region>.amazonaws.com"},
            "Action": ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
            "Resource": "*",
            "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": LOG_GROUPS}},
        },
        {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": ENCRYPT,
            "Resource": "*",
            "Condition": {"StringEquals": {"aws:SourceAccount": "<AWS::AccountId>"}},
        },
    ]


def uses_of(key: str, template: Template) -> dict[str, list[dict[str, Any]]]:
    """What each role may do with a key."""
    found: dict[str, list[dict[str, Any]]] = {}
    for policy in template.find_resources(POLICY).values():
        (role,) = plain(policy["Properties"]["Roles"])
        of_key = [
            statement
            for statement in statements(template, role.strip("<>"))
            if any(action.startswith("kms:") for action in statement["Action"])
        ]
        assert all(statement["Resource"] == [key] for statement in of_key)
        if of_key:
            found[role.strip("<>")] = of_key
    return found


@pytest.mark.parametrize(("key", "arn"), [("own", "<Key.Arn>"), ("imported", KEY_ARN)])
def test_two_roles_may_use_it_each_through_one_service(key: str, arn: str, request: pytest.FixtureRequest) -> None:
    """Flow runs their objects, Lazarus its queues. The worker, the ECS agent and the pool's function may not: what they
    write is a log, and that is encrypted by CloudWatch Logs."""
    assert uses_of(arn, request.getfixturevalue(key)) == {
        "PrefectFlowRole": [allow(ENCRYPT, arn, through("s3"))],
        "PrefectLazarusRole": [allow(ENCRYPT, arn, through("sqs"))],
    }


def test_queue_lets_in_its_rule_and_nothing_else(own: Template) -> None:
    policy = plain(resource(own, "PrefectLazarusTaskEventsQueuePolicy")["Properties"])["PolicyDocument"]["Statement"]
    (allowed,) = [statement for statement in policy if statement["Effect"] == "Allow"]
    assert allowed["Action"] == "sqs:SendMessage"
    assert allowed["Principal"] == {"Service": "events.amazonaws.com"}
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": "<PrefectLazarusTaskEventsRule.Arn>"}}


def test_a_key_changes_no_logical_id(own: Template, without: Template) -> None:
    """Turned on later, it replaces nothing: Lambda would refuse a second mapping of one queue to one function."""
    with_key = set(own.to_json()["Resources"])
    assert {name for name in with_key if not name.startswith("Key")} == set(without.to_json()["Resources"])


def test_without_a_key_nothing_of_kms_is_in_the_template(without: Template) -> None:
    assert "kms" not in str(without.to_json()).lower().replace("kmsmasterkeyid", "")


def test_rule_fills_the_queue_with_the_key_as_it_does_without(own: Template, without: Template) -> None:
    targets = [
        plain(resource(each, "PrefectLazarusTaskEventsRule")["Properties"]["Targets"]) for each in (own, without)
    ]
    assert targets[0] == targets[1]
    mappings = [only(each, "AWS::Lambda::EventSourceMapping") for each in (own, without)]
    assert mappings[0] == mappings[1]


def test_everything_set_apart_from_the_layer() -> None:
    stack = new_stack()
    key = kms.Key(stack, "Key")
    network = FlowNetwork(stack, "Network", flow_log_retention=logs.RetentionDays.ONE_DAY, flow_log_encryption_key=key)
    parts = make_parts(stack=cdk.Stack(new_app(), "Other"))
    DaskAccess(parts.stack, "Dask", cluster=parts.cluster, network=parts.network, encryption_key=_imported(parts.stack))
    assert plain(resource(Template.from_stack(stack), "NetworkFlowLogGroup")["Properties"]["KmsKeyId"]) == "<Key.Arn>"
    assert network.mode == "public"
    dask = resource(Template.from_stack(parts.stack), "DaskLogGroup")
    assert dask["Properties"]["KmsKeyId"] == KEY_ARN


def test_lazarus_reads_a_queue_with_a_key_of_its_own() -> None:
    parts = make_parts()
    key = _imported(parts.stack)
    events = TaskEvents(parts.stack, "Events", cluster=parts.cluster, encryption_key=key)
    Lazarus(
        parts.stack,
        "Lazarus",
        cluster=parts.cluster,
        api=parts.api,
        work_pool=parts.pool(),
        log_group=parts.log_group,
        task_events=events,
    )
    template = Template.from_stack(parts.stack)
    assert uses_of(KEY_ARN, template) == {"LazarusRole": [allow("kms:Decrypt", KEY_ARN, through("sqs"))]}
    assert "KmsMasterKeyId" not in resource(template, "LazarusDeadLetterQueue")["Properties"]


def test_storage_grants_its_key_to_those_it_lets_in_and_through_s3_only() -> None:
    stack = new_stack()
    storage = FlowStorage(stack, "Storage", encryption_key=_imported(stack))
    for name in ("Reader", "Stranger"):
        iam.Role(stack, name, assumed_by=iam.AccountRootPrincipal())
    storage.grant_flow_access(stack.node.find_child("Reader"))  # type: ignore[arg-type]
    assert uses_of(KEY_ARN, Template.from_stack(stack)) == {"Reader": [allow(ENCRYPT, KEY_ARN, through("s3"))]}


def test_access_logs_go_to_a_bucket_that_only_s3_writes_to() -> None:
    stack = new_stack()
    storage = FlowStorage(stack, "Storage", encryption_key=_imported(stack), access_logs=True)
    template = Template.from_stack(stack)
    assert storage.access_log_bucket is not None
    bucket = plain(resource(template, "StorageBucket")["Properties"])
    assert bucket["LoggingConfiguration"] == {"DestinationBucketName": "<StorageAccessLogs>"}
    target = resource(template, "StorageAccessLogs")
    assert target["DeletionPolicy"] == "Retain"
    # S3 delivers to nothing else.
    assert target["Properties"]["BucketEncryption"] == {
        "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    }
    assert target["Properties"]["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"] == 365
    assert all(target["Properties"]["PublicAccessBlockConfiguration"].values())
    policy = plain(resource(template, "StorageAccessLogsPolicy")["Properties"])["PolicyDocument"]["Statement"]
    (allowed,) = [statement for statement in policy if statement["Effect"] == "Allow"]
    assert allowed == {
        "Effect": "Allow",
        "Principal": {"Service": "logging.s3.amazonaws.com"},
        "Action": "s3:PutObject",
        "Resource": "<StorageAccessLogs.Arn>/*",
        "Condition": {
            "ArnLike": {"aws:SourceArn": "<StorageBucket.Arn>"},
            "StringEquals": {"aws:SourceAccount": "<AWS::AccountId>"},
        },
    }


def test_access_logs_do_not_depend_on_feature_flags() -> None:
    """Without them the CDK would use an ACL, which a bucket of this kind refuses."""
    stack = cdk.Stack(cdk.App(analytics_reporting=False, builtin_cloud_formation_validation=False), "Test")
    FlowStorage(stack, "Storage", access_logs=True)
    target = resource(Template.from_stack(stack), "StorageAccessLogs")
    assert "AccessControl" not in target["Properties"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"access_log_expiration": cdk.Duration.days(1)},
            ("access_log_expiration is for access logs, which are off; set access_logs=True too",),
        ),
        (
            {"access_logs": True, "access_log_expiration": cdk.Duration.hours(1)},
            ("access_log_expiration must be a whole number of days", "0.0416667 days"),
        ),
    ],
)
def test_storage_refuses(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    stack = new_stack()
    assert_refused(stack, lambda: FlowStorage(stack, "Storage", **settings), *words)


def _imported(stack: cdk.Stack) -> kms.IKey:
    return kms.Key.from_key_arn(stack, "ImportedKey", KEY_ARN)
