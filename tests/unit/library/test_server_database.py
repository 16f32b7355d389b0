"""The database of a Prefect server."""

from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import assert_no_ingress, assert_refused, imported_vpc, new_stack, only, plain, resource

from cdk_prefect_ecs import FlowNetwork, ServerDatabase

INSTANCE = "AWS::RDS::DBInstance"


def database(stack: cdk.Stack, **kwargs: Any) -> ServerDatabase:
    network = kwargs.pop("network", None) or FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    return ServerDatabase(stack, "Database", network=network, **kwargs)


def made(**kwargs: Any) -> Template:
    stack = new_stack()
    database(stack, **kwargs)
    return Template.from_stack(stack)


@pytest.fixture(scope="module")
def template() -> Template:
    return made()


def test_defaults(template: Template) -> None:
    instance = plain(only(template, INSTANCE))
    assert instance.pop("MasterUserPassword") == ("{{resolve:secretsmanager:<DatabaseSecret>:SecretString:password::}}")
    assert instance == {
        "AllocatedStorage": "20",
        "AutoMinorVersionUpgrade": True,
        "BackupRetentionPeriod": 7,
        "CopyTagsToSnapshot": True,
        "DBInstanceClass": "db.t4g.micro",
        "DBName": "prefect",
        "DBSubnetGroupName": "<DatabaseInstanceSubnetGroup>",
        "DeletionProtection": True,
        "Engine": "postgres",
        "EngineVersion": "17",
        "MasterUsername": "prefect",
        "MaxAllocatedStorage": 100,
        "MultiAZ": False,
        "PubliclyAccessible": False,
        "StorageEncrypted": True,
        "StorageType": "gp3",
        "VPCSecurityGroups": ["<DatabaseSecurityGroup.GroupId>"],
    }
    subnets = only(template, "AWS::RDS::DBSubnetGroup")["SubnetIds"]
    assert subnets == ["subnet-private-1", "subnet-private-2"]


def test_the_instance_is_kept_with_what_it_needs(template: Template) -> None:
    for name in ("DatabaseInstance", "DatabaseInstanceSubnetGroup", "DatabaseSecret", "DatabaseSecurityGroup"):
        kept = resource(template, name)
        assert (kept["DeletionPolicy"], kept["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_nobody_reaches_it_and_it_reaches_nobody(template: Template) -> None:
    assert_no_ingress(template)
    group = resource(template, "DatabaseSecurityGroup")["Properties"]
    assert [rule["CidrIp"] for rule in group["SecurityGroupEgress"]] == ["255.255.255.255/32"]


def test_the_password_is_generated(template: Template) -> None:
    secret = only(template, "AWS::SecretsManager::Secret")
    generated = secret["GenerateSecretString"]
    assert generated["SecretStringTemplate"] == '{"username":"prefect"}'
    assert generated["GenerateStringKey"] == "password"
    assert "SecretString" not in secret


def test_everything_set() -> None:
    stack = new_stack()
    key = kms.Key(stack, "Key")
    found = database(
        stack,
        database_name="team_prefect",
        instance_type=ec2.InstanceType("m7g.large"),
        storage_gib=50,
        max_storage_gib=50,
        multi_az=True,
        backup_retention=cdk.Duration.days(35),
        encryption_key=key,
        deletion_protection=False,
        removal_policy=cdk.RemovalPolicy.SNAPSHOT,
    )
    assert found.instance is not None
    assert found.database_name == "team_prefect"
    template = Template.from_stack(stack)
    instance = plain(only(template, INSTANCE))
    assert instance["DBName"] == "team_prefect"
    assert instance["DBInstanceClass"] == "db.m7g.large"
    assert instance["AllocatedStorage"] == "50"
    assert "MaxAllocatedStorage" not in instance
    assert (instance["MultiAZ"], instance["BackupRetentionPeriod"], instance["DeletionProtection"]) == (True, 35, False)
    assert instance["KmsKeyId"] == plain(only(template, "AWS::SecretsManager::Secret"))["KmsKeyId"] == "<Key.Arn>"
    assert resource(template, "DatabaseInstance")["DeletionPolicy"] == "Snapshot"
    assert resource(template, "DatabaseSecret")["DeletionPolicy"] == "Delete"


def test_two_keys_to_lose_it() -> None:
    template = made(deletion_protection=False, removal_policy=cdk.RemovalPolicy.DESTROY)
    for name in ("DatabaseInstance", "DatabaseSecret"):
        assert resource(template, name)["DeletionPolicy"] == "Delete"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"database_name": "team-prefect"}, "database_name must begin with a letter and have up to 63"),
        ({"database_name": ""}, "got ''"),
        ({"storage_gib": 19}, "from storage_gib, at least 20, up to max_storage_gib, at most 65536; got 19 and 100"),
        ({"storage_gib": 200}, "got 200 and 100"),
        ({"max_storage_gib": 70000}, "got 20 and 70000"),
        ({"backup_retention": cdk.Duration.days(0)}, "backup_retention must be whole days from 1 to 35; got 0 days"),
        ({"backup_retention": cdk.Duration.hours(36)}, "got 1.5 days"),
        ({"removal_policy": cdk.RemovalPolicy.DESTROY}, "removal_policy DESTROY deletes the database, which"),
        ({"removal_policy": cdk.RemovalPolicy.SNAPSHOT}, "set deletion_protection=False too to lose it"),
    ],
)
def test_refused(given: dict[str, Any], words: str) -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    assert_refused(stack, lambda: database(stack, network=network, **given), words)


def test_one_zone_is_refused() -> None:
    stack = new_stack()
    zone = ec2.SubnetSelection(availability_zones=["us-east-1a"], subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack), vpc_subnets=zone)
    assert_refused(stack, lambda: database(stack, network=network), "in at least two zones", "the network has 1")


def test_an_existing_database() -> None:
    stack = new_stack()
    secret = secretsmanager.Secret(stack, "Login")
    found = ServerDatabase.from_existing(stack, "Database", host="db.acme.internal", secret=secret)
    assert (found.host, found.port, found.database_name) == ("db.acme.internal", "5432", "prefect")
    assert found.secret is secret
    assert found.instance is None
    assert list(found.connections.security_groups) == []
    Template.from_stack(stack).resource_count_is(INSTANCE, 0)


def test_an_existing_database_that_is_known_at_deploy() -> None:
    stack = new_stack()
    name = cdk.CfnParameter(stack, "Name")
    found = ServerDatabase.from_existing(
        stack,
        "Database",
        host=cdk.Fn.import_value("Host"),
        database_name=name.value_as_string,
        secret=secretsmanager.Secret(stack, "Login"),
    )
    assert stack.resolve(found.host) == {"Fn::ImportValue": "Host"}
    assert stack.resolve(found.database_name) == {"Ref": "Name"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": 0}, "port must be from 1 to 65535; got 0"),
        ({"database_name": "a-b"}, "database_name must begin"),
        ({"host": ""}, "host must be a name or an address by itself, such as db.acme.internal; got ''"),
        ({"host": "postgres://db.acme.internal"}, "got 'postgres://db.acme.internal'"),
    ],
)
def test_an_existing_database_that_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    stack = new_stack()
    secret = secretsmanager.Secret(stack, "Login")
    assert_refused(
        stack,
        lambda: ServerDatabase.from_existing(
            stack, "Database", **({"host": "db.acme.internal", "secret": secret} | given)
        ),
        words,
    )
