"""What a platform or security team asks of an environment: boundary, path, keys, access logs."""

import dataclasses
import re
from functools import cache
from typing import Any

import pytest
from aws_cdk.assertions import Template
from stack_helpers import ROOT, new_stage

from stacks.config import OWN_KEY, CloudApi, EnvironmentConfig, SelfHostedApi
from stacks.environments import ENVIRONMENTS, environment
from stacks.stage import PrefectStage

KEY = "arn:aws:kms:us-east-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
OTHER_KEY = "arn:aws:kms:us-east-1:123456789012:key/fedcba98-7654-3210-fedc-ba9876543210"
BOUNDARY = "arn:aws:iam::123456789012:policy/platform/team-boundary"
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def changed(name: str, **changes: Any) -> EnvironmentConfig:
    return dataclasses.replace(environment(name), **changes)


def of_type(resource_type: str, *templates: Template) -> dict[str, dict[str, Any]]:
    return {
        key: dict(value["Properties"])
        for template in templates
        for key, value in template.find_resources(resource_type).items()
    }


def templates(stage: PrefectStage) -> tuple[Template, Template]:
    return Template.from_stack(stage.foundation), Template.from_stack(stage.execution)


@cache
def encrypted(setting: str) -> tuple[Template, Template]:
    """An environment whose data is lost with it, which has the most of Lambda functions, with flow logs and Dask."""
    return templates(new_stage(changed("embedded", encryption_key=setting, access_logs=True, flow_logs=True)))


# Boundary and path


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("boundary", ["team-boundary", BOUNDARY])
def test_every_role_of_both_stacks_has_boundary_and_path(name: str, boundary: str) -> None:
    account = environment(name).account
    arn = boundary.replace("123456789012", account) if account else boundary
    made = templates(new_stage(changed(name, permissions_boundary=arn, role_path="/data-platform/")))
    foundation, execution = (of_type("AWS::IAM::Role", template) for template in made)
    assert any("VpcRestrictDefaultSG" in role for role in foundation)  # made by the CDK, and no iam.Role to it
    assert len(execution) >= 5
    for logical_id, role in {**foundation, **execution}.items():
        assert role.get("Path") == "/data-platform/", logical_id
        assert f":policy/{arn.rpartition(':policy/')[2]}" in str(role.get("PermissionsBoundary")), logical_id


def test_nothing_is_said_of_paths_and_boundaries_unless_asked() -> None:
    for template in templates(new_stage(environment("dev"))):
        for role in of_type("AWS::IAM::Role", template).values():
            assert not {"Path", "PermissionsBoundary"} & role.keys()


# Keys


@pytest.mark.parametrize("setting", [OWN_KEY, KEY])
def test_everything_that_keeps_data_has_the_key(setting: str) -> None:
    made = encrypted(setting)
    log_groups, queues = (of_type(kind, *made) for kind in ("AWS::Logs::LogGroup", "AWS::SQS::Queue"))
    assert (len(log_groups), len(queues)) == (4, 3)
    assert all("KmsKeyId" in group for group in log_groups.values())
    assert all("KmsMasterKeyId" in queue for queue in queues.values())
    algorithms = {
        name: bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]["ServerSideEncryptionByDefault"]
        for name, bucket in of_type("AWS::S3::Bucket", *made).items()
    }
    assert {name[:10]: value["SSEAlgorithm"] for name, value in algorithms.items()} == {
        "StorageBuc": "aws:kms",
        "StorageAcc": "AES256",  # access logs: S3 delivers to no other
    }


def test_key_of_the_environment_is_rotated_and_kept_as_the_data_is() -> None:
    for name, policy in (("prod", "Retain"), ("dev", "Delete")):
        foundation, execution = templates(new_stage(changed(name, encryption_key=OWN_KEY)))
        ((logical_id, key),) = foundation.find_resources("AWS::KMS::Key").items()
        assert logical_id == "Key961B73FD"
        assert key["Properties"]["EnableKeyRotation"] is True
        assert key["DeletionPolicy"] == policy
        execution.resource_count_is("AWS::KMS::Key", 0)


def test_foundation_does_not_depend_on_what_uses_its_key() -> None:
    stage = new_stage(changed("dev", encryption_key=OWN_KEY))
    key = of_type("AWS::KMS::Key", Template.from_stack(stage.foundation))["Key961B73FD"]
    principals = [str(statement["Principal"]) for statement in key["KeyPolicy"]["Statement"]]
    assert [("root" in each, "logs." in each, "events." in each) for each in principals] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_a_key_that_exists_is_used_and_not_made() -> None:
    foundation, execution = encrypted(KEY)
    for template in (foundation, execution):
        template.resource_count_is("AWS::KMS::Key", 0)
    assert {group["KmsKeyId"] for group in of_type("AWS::Logs::LogGroup", foundation, execution).values()} == {KEY}


@pytest.mark.parametrize(
    "api",
    [
        CloudApi(UUID, UUID, "/prefect/key", OTHER_KEY),
        SelfHostedApi("https://prefect.example.com/api", "/prefect/auth", parameter_key_arn=OTHER_KEY),
    ],
)
def test_only_those_that_read_the_credential_may_decrypt_it(api: CloudApi | SelfHostedApi) -> None:
    execution = Template.from_stack(new_stage(changed("dev", api=api)).execution)
    readers = {
        policy["Roles"][0]["Ref"]: statement
        for policy in of_type("AWS::IAM::Policy", execution).values()
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Resource"] == OTHER_KEY
    }
    assert sorted(re.sub(r"[0-9A-F]{8}(Role)?", "", role) for role in readers) == [
        "PrefectExecutionRole",
        "PrefectLazarusRole",
        "WorkPoolSync",
    ]
    for statement in readers.values():
        assert statement["Action"] == "kms:Decrypt"
        assert statement["Condition"] == {"StringEquals": {"kms:ViaService": "ssm.us-east-1.amazonaws.com"}}


def test_access_logs_of_production_and_where_they_are_asked_for() -> None:
    buckets = {name: environment(name).access_logs for name in ENVIRONMENTS}
    assert buckets == {"dev": False, "staging": False, "prod": True, "embedded": False}
    foundation = Template.from_stack(new_stage(environment("prod")).foundation)
    assert list(of_type("AWS::S3::Bucket", foundation)) == ["StorageBucket5CB7C8EA", "StorageAccessLogs96FB524C"]


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role_path": "team"}, "environment dev: a role path begins and ends with a slash"),
        ({"role_path": ""}, "such as /data-platform/; got ''"),
        ({"permissions_boundary": "team boundary"}, "is the name of a managed policy of the account, such as"),
        ({"permissions_boundary": "arn:aws:iam::123456789012:role/x"}, "got 'arn:aws:iam::123456789012:role/x'"),
        (
            {"permissions_boundary": BOUNDARY, "account": "999999999999"},
            "environment dev: a permissions boundary is a policy of the account 999999999999 or of AWS; got arn:aws",
        ),
        ({"encryption_key": "mine"}, "a KMS key is named by the ARN of the key, not of an alias, such as"),
        ({"encryption_key": "arn:aws:kms:us-east-1:123456789012:alias/data"}, "not of an alias"),
        (
            {"encryption_key": KEY.replace("us-east-1", "eu-west-1")},
            "works in its own region only, here us-east-1; got",
        ),
        (
            {"api": CloudApi(UUID, UUID, "/key", KEY.replace("us-east-1", "eu-west-1"))},
            "environment dev: a KMS key works in its own region only",
        ),
    ],
)
def test_environment_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        changed("dev", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"role_path": "/"},
        {"role_path": "/a/b-c/"},
        {"permissions_boundary": "path/team-boundary"},
        {"permissions_boundary": BOUNDARY},
        {"permissions_boundary": BOUNDARY, "account": "123456789012"},
        {"permissions_boundary": "arn:aws:iam::aws:policy/PowerUserAccess", "account": "123456789012"},
        {"permissions_boundary": "arn:aws-us-gov:iam::123456789012:policy/team"},
        {"encryption_key": KEY},
        {"encryption_key": OWN_KEY},
    ],
)
def test_what_an_environment_may_say(changes: dict[str, Any]) -> None:
    assert {name: getattr(changed("dev", **changes), name) for name in changes} == changes


def test_apis_refuse_a_key_without_sense() -> None:
    with pytest.raises(ValueError, match="ARN of the key"):
        CloudApi(UUID, UUID, "/key", "alias/data")
    with pytest.raises(ValueError, match="ARN of the key"):
        SelfHostedApi("https://prefect.example.com/api", "/auth", parameter_key_arn="alias/data")
    with pytest.raises(ValueError, match="parameter_key_arn is the key of auth_string_parameter; set that too"):
        SelfHostedApi("https://prefect.example.com/api", parameter_key_arn=KEY)


def test_settings_that_the_documentation_names_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    example = re.findall(r"```python\n(EnvironmentConfig.*?)```", text, re.DOTALL)[0]
    fields = {field.name for field in dataclasses.fields(EnvironmentConfig)}
    named = re.findall(r"(\w+)=", example)
    assert named == ["permissions_boundary", "role_path", "encryption_key", "access_logs"]
    assert set(named) <= fields
    assert "parameter_key_arn" in text
    assert {"parameter_key_arn"} <= {field.name for field in dataclasses.fields(CloudApi)}
