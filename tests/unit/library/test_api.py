import json
import re
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import (
    ACCOUNT_ID,
    API_KEY_ARN,
    CLOUD_URL,
    WORKSPACE_ID,
    allow,
    cloud_api,
    imported_vpc,
    in_order,
    new_stack,
    plain,
    statements,
    through,
)

from cdk_prefect_ecs import ApiSecret, PrefectApi

SECRET_ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf"
KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def self_hosted(secret: ApiSecret | None = None) -> PrefectApi:
    return PrefectApi.self_hosted("https://prefect.example.com/api", auth_string=secret)


def granted(api: PrefectApi, stack: cdk.Stack) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the ECS agent's and a function's role get."""
    agent = iam.Role(stack, "Agent", assumed_by=iam.AccountRootPrincipal())
    function = iam.Role(stack, "Function", assumed_by=iam.AccountRootPrincipal())
    injected, read = api.grant_inject_secret(stack, agent), api.grant_read_secret(stack, function)
    assert len(injected.principal_statements) == len(read.principal_statements) >= (api.secret is not None)
    template = Template.from_stack(stack)
    return statements(template, "Agent"), statements(template, "Function")


def test_cloud() -> None:
    api = cloud_api()
    assert (api.url, api.scheme, api.secret_variable, api.vpc) == (CLOUD_URL, "Bearer", "PREFECT_API_KEY", None)


@pytest.mark.parametrize("name", ["account_id", "workspace_id"])
@pytest.mark.parametrize("value", ["", "my-team", ACCOUNT_ID[:-1], f"{ACCOUNT_ID}/", f" {ACCOUNT_ID}"])
def test_cloud_refuses_ids_that_are_none(name: str, value: str) -> None:
    ids = {"account_id": ACCOUNT_ID, "workspace_id": WORKSPACE_ID} | {name: value}
    with pytest.raises(ValueError, match=re.escape(f"{name} must be a UUID")) as error:
        PrefectApi.cloud(**ids, api_key=PrefectApi.ssm_secure_string("/key"))
    assert repr(value) in str(error.value)


def test_cloud_takes_tokens() -> None:
    stack = new_stack()
    api = PrefectApi.cloud(
        account_id=cdk.CfnParameter(stack, "AccountId").value_as_string,
        workspace_id=cdk.Fn.import_value("workspace"),
        api_key=PrefectApi.ssm_secure_string("/key"),
    )
    assert stack.resolve(api.url) == {
        "Fn::Join": [
            "",
            [
                "https://api.prefect.cloud/api/accounts/",
                {"Ref": "AccountId"},
                "/workspaces/",
                {"Fn::ImportValue": "workspace"},
            ],
        ]
    }


def test_self_hosted_without_a_credential() -> None:
    stack = new_stack()
    api = self_hosted()
    assert (api.url, api.scheme, api.secret) == ("https://prefect.example.com/api", "Basic", None)
    assert api.ecs_secrets(stack) == {}
    assert api.function_reference(stack) is None
    assert granted(api, stack) == ([], [])


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://10.0.0.1:4200/api", "http://10.0.0.1:4200/api"),
        ("https://prefect.example.com/api/", "https://prefect.example.com/api"),
        ("https://example.com/prefect/api", "https://example.com/prefect/api"),
    ],
)
def test_self_hosted_urls(url: str, kept: str) -> None:
    assert PrefectApi.self_hosted(url).url == kept


def test_self_hosted_takes_a_token() -> None:
    stack = new_stack()
    url = cdk.CfnParameter(stack, "Url").value_as_string
    assert stack.resolve(PrefectApi.self_hosted(url).url) == {"Ref": "Url"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must be http:// or https:// with a host"),
        ("prefect.example.com/api", "got 'prefect.example.com/api'"),
        ("ftp://prefect.example.com/api", "must be http:// or https://"),
        ("https:///api", "with a host"),
        ("https://prefect.example.com", "ends in /api"),
        ("https://prefect.example.com/api/v2", "got 'https://prefect.example.com/api/v2'"),
        ("https://prefect.example.com/api?key=1", "must not have a query or fragment"),
        ("https://prefect.example.com/api#x", "must not have a query or fragment"),
    ],
)
def test_self_hosted_refuses_urls(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        PrefectApi.self_hosted(url)


def test_a_credential_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="must not hold a credential") as error:
        PrefectApi.self_hosted("https://user:hunter2@prefect.example.com/api")
    assert "hunter2" not in str(error.value)


def test_cloud_over_privatelink() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    subnets = ec2.SubnetSelection(availability_zones=["us-east-1a"])
    api = PrefectApi.cloud(
        account_id=ACCOUNT_ID,
        workspace_id=WORKSPACE_ID,
        api_key=PrefectApi.ssm_secure_string("/prefect/api-key"),
        vpc=vpc,
        vpc_subnets=subnets,
    )
    assert api.url == f"https://api.private.prefect.cloud/api/accounts/{ACCOUNT_ID}/workspaces/{WORKSPACE_ID}"
    assert (api.vpc, api.vpc_subnets, api.is_cloud) == (vpc, subnets, True)
    with pytest.raises(ValueError, match="pass vpc too"):
        PrefectApi.cloud(
            account_id=ACCOUNT_ID,
            workspace_id=WORKSPACE_ID,
            api_key=PrefectApi.ssm_secure_string("/prefect/api-key"),
            vpc_subnets=subnets,
        )


def test_subnets_need_their_vpc() -> None:
    stack = new_stack()
    with pytest.raises(ValueError, match="vpc_subnets selects subnets of a VPC; pass vpc too"):
        PrefectApi.self_hosted("https://prefect.example.com/api", vpc_subnets=cdk.aws_ec2.SubnetSelection())
    assert PrefectApi.self_hosted("https://prefect.example.com/api", vpc=imported_vpc(stack)).vpc is not None


@pytest.mark.parametrize("name", ["", "/", "a b", "/prefect//key", "/prefect/key/", "prefect:key", "arn:aws:ssm:x"])
def test_refuses_parameter_names(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is not an SSM parameter name")):
        PrefectApi.ssm_secure_string(name)


@pytest.mark.parametrize(
    ("name", "arn_end"),
    [("/prefect/api-key", "parameter/prefect/api-key"), ("prefect-key", "parameter/prefect-key")],
)
def test_secure_string(name: str, arn_end: str) -> None:
    stack = new_stack()
    secret = PrefectApi.ssm_secure_string(name)
    api = self_hosted(secret)
    arn = f"arn:<AWS::Partition>:ssm:<AWS::Region>:<AWS::AccountId>:{arn_end}"
    assert plain(stack.resolve(secret.value_from(stack))) == arn
    assert plain(stack.resolve(api.ecs_secrets(stack)["PREFECT_API_AUTH_STRING"].arn)) == arn
    assert api.function_reference(stack) == {"Kind": "SsmParameter", "Id": name, "Scheme": "Basic"}
    assert granted(api, stack) == ([allow("ssm:GetParameters", arn)], [allow("ssm:GetParameter", arn)])


def test_secure_string_with_a_key_of_its_own() -> None:
    stack = new_stack()
    key = kms.Key.from_key_arn(stack, "Key", KEY_ARN)
    secret = PrefectApi.ssm_secure_string("/prefect/api-key", encryption_key=key)
    agent, function = granted(self_hosted(secret), stack)
    assert agent == in_order([allow("ssm:GetParameters", API_KEY_ARN), allow("kms:Decrypt", KEY_ARN, through("ssm"))])
    assert function == in_order([allow("ssm:GetParameter", API_KEY_ARN), allow("kms:Decrypt", KEY_ARN, through("ssm"))])


def test_a_parameter_name_must_be_known_at_synth() -> None:
    name = cdk.Fn.import_value("Name")
    with pytest.raises(ValueError, match=r"must be known at synth: .* such as /prefect/api-key"):
        PrefectApi.ssm_secure_string(name)


def test_secrets_manager() -> None:
    stack = new_stack()
    imported = secretsmanager.Secret.from_secret_complete_arn(stack, "Secret", SECRET_ARN)
    secret = PrefectApi.secrets_manager(imported)
    api = self_hosted(secret)
    assert secret.value_from(stack) == SECRET_ARN
    assert api.ecs_secrets(stack)["PREFECT_API_AUTH_STRING"].arn == SECRET_ARN
    assert api.function_reference(stack) == {"Kind": "SecretsManager", "Id": SECRET_ARN, "Scheme": "Basic"}
    read = [allow("secretsmanager:GetSecretValue", SECRET_ARN)]
    assert granted(api, stack) == (read, read)


def test_field_of_a_json_secret_with_a_key_of_its_own() -> None:
    stack = new_stack()
    imported = secretsmanager.Secret.from_secret_attributes(
        stack,
        "Secret",
        secret_complete_arn=SECRET_ARN,
        encryption_key=kms.Key.from_key_arn(stack, "Key", KEY_ARN),
    )
    secret = PrefectApi.secrets_manager(imported, field="api_key")
    api = PrefectApi.cloud(account_id=ACCOUNT_ID, workspace_id=WORKSPACE_ID, api_key=secret)
    assert secret.value_from(stack) == f"{SECRET_ARN}:api_key::"
    assert api.ecs_secrets(stack)["PREFECT_API_KEY"].arn == f"{SECRET_ARN}:api_key::"
    assert api.function_reference(stack) == {
        "Kind": "SecretsManager",
        "Id": SECRET_ARN,
        "Field": "api_key",
        "Scheme": "Bearer",
    }
    decrypt = allow("kms:Decrypt", KEY_ARN, through("secretsmanager"))
    read = in_order([allow("secretsmanager:GetSecretValue", SECRET_ARN), decrypt])
    assert granted(api, stack) == (read, read)


@pytest.mark.parametrize("field", ["", "a:b"])
def test_field_that_ecs_cannot_take_is_refused(field: str) -> None:
    secret = secretsmanager.Secret.from_secret_complete_arn(new_stack(), "Secret", SECRET_ARN)
    with pytest.raises(ValueError, match=f"field {field!r} is not one that ECS can take out of a secret"):
        PrefectApi.secrets_manager(secret, field=field)


def test_secret_without_its_complete_arn_is_refused() -> None:
    stack = new_stack()
    partial = SECRET_ARN.removesuffix("-AbCdEf")
    for secret in (
        secretsmanager.Secret.from_secret_name_v2(stack, "ByName", "prefect"),
        secretsmanager.Secret.from_secret_partial_arn(stack, "Partial", partial),
    ):
        with pytest.raises(
            ValueError, match=r"secret 'prefect' must be imported by its complete ARN.*from_secret_comp"
        ):
            PrefectApi.secrets_manager(secret)


def test_secret_of_the_same_stack_stays_a_reference() -> None:
    stack = new_stack()
    created = secretsmanager.Secret(stack, "Secret")
    api = self_hosted(PrefectApi.secrets_manager(created))
    agent, function = granted(api, stack)
    assert agent == function == [allow("secretsmanager:GetSecretValue", "<Secret>")]
    assert "{{resolve:" not in json.dumps(Template.from_stack(stack).to_json())


def test_key_tells_apis_apart() -> None:
    stack = new_stack()
    keys = [
        cloud_api().key(stack),
        cloud_api("/other").key(stack),
        self_hosted().key(stack),
        self_hosted(PrefectApi.ssm_secure_string("/other")).key(stack),
    ]
    assert len(set(keys)) == 4
    assert cloud_api().key(stack) == keys[0]
