"""Secrets by reference in the app's configuration, and what becomes of them in its templates."""

import json
import re
from typing import Any

import pytest
from aws_cdk.assertions import Template
from stack_helpers import new_stage

from stacks.config import CloudApi, EnvironmentConfig, PoolConfig, SelfHostedApi
from stacks.stored_secrets import ManagedSecret, SecureString, StoredSecret

UUID = "01234567-89ab-cdef-0123-456789abcdef"
URL = "https://prefect.example.com/api"
ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf"
DATABASE_ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:database-GhIjKl"
KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY_ARN = KEY_ARN.replace("1234abcd", "5678abcd")
PARAMETER = "arn:aws:ssm:us-east-1:{AccountId}:parameter"


def test_credential_is_in_a_parameter_or_in_a_secret() -> None:
    assert CloudApi(UUID, UUID, "/prefect/key").credential == SecureString("/prefect/key")
    secret = ManagedSecret(ARN, "api_key")
    assert CloudApi(UUID, UUID, api_key_secret=secret).credential == secret
    assert SelfHostedApi(URL, auth_string_secret=secret).credential == secret
    assert SelfHostedApi(URL, auth_string_parameter="/prefect/auth").credential == SecureString("/prefect/auth")
    assert SelfHostedApi(URL).credential is None


def test_credential_in_two_places_or_in_none_is_refused() -> None:
    secret = ManagedSecret(ARN)
    with pytest.raises(ValueError, match="api_key_parameter and api_key_secret are two places for one credential"):
        CloudApi(UUID, UUID, "/prefect/key", api_key_secret=secret)
    with pytest.raises(ValueError, match="auth_string_parameter and auth_string_secret are two places"):
        SelfHostedApi(URL, "/prefect/auth", auth_string_secret=secret)
    with pytest.raises(ValueError, match="wants an API key: name its api_key_parameter or its api_key_secret"):
        CloudApi(UUID, UUID)
    with pytest.raises(ValueError, match="parameter_key_arn is the key of api_key_parameter; set that too"):
        CloudApi(UUID, UUID, parameter_key_arn=KEY_ARN, api_key_secret=secret)
    with pytest.raises(ValueError, match="'/prefect//key' is not an SSM parameter name"):
        CloudApi(UUID, UUID, "/prefect//key")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SecureString("a b"), "'a b' is not an SSM parameter name"),
        (lambda: SecureString("/a", "alias/mine"), "named by the ARN of the key"),
        (lambda: ManagedSecret("prefect"), "complete ARN"),
        (lambda: ManagedSecret(ARN, ""), "field '' is not one"),
        (lambda: ManagedSecret(ARN, key_arn="alias/mine"), "named by the ARN of the key"),
    ],
)
def test_references_that_are_none(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_value_in_place_of_a_reference_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="flow_secrets: DB_PASSWORD must say where its value is stored") as error:
        PoolConfig("etl", flow_secrets={"DB_PASSWORD": "hunter2"})  # type: ignore[dict-item]
    assert "hunter2" not in str(error.value)


def test_credential_among_the_flow_secrets_is_refused() -> None:
    with pytest.raises(ValueError, match="secrets must not hold PREFECT_API_KEY"):
        PoolConfig("etl", flow_secrets={"PREFECT_API_KEY": SecureString("/prefect/key")})


@pytest.mark.parametrize(
    ("api", "flow_secret"),
    [
        (CloudApi(UUID, UUID, api_key_secret=ManagedSecret(ARN, key_arn=KEY_ARN)), SecureString("/token")),
        (CloudApi(UUID, UUID, "/prefect/key"), SecureString("/token", KEY_ARN)),
        (CloudApi(UUID, UUID, "/prefect/key"), ManagedSecret(ARN, key_arn=KEY_ARN)),
    ],
)
def test_key_of_another_region_is_refused(api: CloudApi, flow_secret: StoredSecret) -> None:
    pool = PoolConfig("etl", flow_secrets={"TOKEN": flow_secret})
    with pytest.raises(ValueError, match="a KMS key works in its own region only, here eu-west-1; got arn:aws:kms:us"):
        EnvironmentConfig(name="dev", region="eu-west-1", api=api, pool=pool)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    config = EnvironmentConfig(
        name="secret",
        region="us-east-1",
        api=CloudApi(UUID, UUID, api_key_secret=ManagedSecret(ARN, "api_key", KEY_ARN)),
        pool=PoolConfig(
            "etl",
            flow_secrets={
                "DB_PASSWORD": ManagedSecret(DATABASE_ARN, "password", OTHER_KEY_ARN),
                "TOKEN": SecureString("/team/token", KEY_ARN),
            },
        ),
        more_pools=(PoolConfig("ml", flow_secrets={"TOKEN": SecureString("plain")}), PoolConfig("bare")),
    )
    return dict(Template.from_stack(new_stage(config).execution).to_json()["Resources"])


def flat(value: Any) -> str:
    """A string of the template with its pseudo parameters."""
    if isinstance(value, str):
        return value
    if "Ref" in value:
        return "{" + str(value["Ref"]).removeprefix("AWS::") + "}"
    return "".join(map(flat, value["Fn::Join"][1]))


def job(template: dict[str, Any], pool: str) -> dict[str, Any]:
    (found,) = [
        resource["Properties"]["BaseJobTemplate"]["job_configuration"]
        for resource in template.values()
        if resource["Type"] == "Custom::PrefectWorkPool" and resource["Properties"]["Name"] == pool
    ]
    return dict(found)


def secrets(template: dict[str, Any], pool: str) -> dict[str, str]:
    (container,) = job(template, pool)["task_definition"]["containerDefinitions"]
    return {secret["name"]: flat(secret["valueFrom"]) for secret in container.get("secrets", [])}


def test_each_pool_has_its_own_secrets(template: dict[str, Any]) -> None:
    assert secrets(template, "etl") == {
        "DB_PASSWORD": f"{DATABASE_ARN}:password::",
        "TOKEN": f"{PARAMETER}/team/token",
    }
    assert secrets(template, "ml") == {"TOKEN": f"{PARAMETER}/plain"}
    assert secrets(template, "bare") == {}


def test_credential_of_the_api_is_a_field_of_a_secret(template: dict[str, Any]) -> None:
    for pool in ("etl", "ml", "bare"):
        assert job(template, pool)["prefect_api_key_secret_arn"] == f"{ARN}:api_key::"
    workers = [
        container
        for resource in template.values()
        if resource["Type"] == "AWS::ECS::TaskDefinition"
        for container in resource["Properties"]["ContainerDefinitions"]
    ]
    assert len(workers) == 3
    for worker in workers:
        assert worker["Secrets"] == [{"Name": "PREFECT_API_KEY", "ValueFrom": f"{ARN}:api_key::"}]


def test_only_the_agents_role_may_read_the_flow_secrets(template: dict[str, Any]) -> None:
    readers = {
        role["Ref"]
        for resource in template.values()
        if resource["Type"] == "AWS::IAM::Policy" and re.search("team/token|database-", json.dumps(resource))
        for role in resource["Properties"]["Roles"]
    }
    assert len(readers) == 1
    assert readers.pop().startswith("PrefectExecutionRole")


def users(template: dict[str, Any], key: str, service: str) -> set[str]:
    """The roles that may decrypt with a key through a service, and check that nobody may without one."""
    found = set()
    for resource in template.values():
        if resource["Type"] != "AWS::IAM::Policy":
            continue
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
            if key not in statement["Resource"]:  # one, or a list
                continue
            assert statement["Action"] == "kms:Decrypt"
            if statement["Condition"] == {"StringEquals": {"kms:ViaService": f"{service}.us-east-1.amazonaws.com"}}:
                found |= {re.sub(r"[0-9A-F]{8}$", "", role["Ref"]) for role in resource["Properties"]["Roles"]}
    return {re.sub(r"^WorkPoolSync.*Role$", "WorkPoolSync", name) for name in found}


def test_readers_may_decrypt_with_the_key_and_nobody_else(template: dict[str, Any]) -> None:
    agent = "PrefectExecutionRole"
    assert users(template, KEY_ARN, "secretsmanager") == {agent, "PrefectLazarusRole", "WorkPoolSync"}
    assert users(template, KEY_ARN, "ssm") == {agent}
    assert users(template, OTHER_KEY_ARN, "secretsmanager") == {agent}
    assert users(template, OTHER_KEY_ARN, "ssm") == set()
