import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from function_fakes import API_KEY

from cdk_prefect_ecs.functions import credential
from cdk_prefect_ecs.functions.credential import (
    Credential,
    CredentialError,
    CredentialReference,
    aws_client,
    read_credential,
)

PARAMETER = CredentialReference("SsmParameter", "/prefect/api-key")
SECRET = CredentialReference("SecretsManager", "prefect/auth", scheme="Basic")


class FakeClient:
    """Answer both services' calls with one value, or raise."""

    def __init__(self, value: str | bytes | Exception, kind: str = "SecureString") -> None:
        self.value, self.kind, self.calls = value, kind, 0

    def _take(self) -> Any:
        self.calls += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def get_parameter(self, **_: Any) -> dict[str, Any]:
        return {"Parameter": {"Type": self.kind, "Value": self._take()}}

    def get_secret_value(self, **_: Any) -> dict[str, Any]:
        value = self._take()
        return {"SecretBinary": value} if isinstance(value, bytes) else {"SecretString": value}


Store = Callable[..., FakeClient]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    def put(value: str | bytes | Exception, kind: str = "SecureString") -> FakeClient:
        client = FakeClient(value, kind)
        monkeypatch.setattr(credential, "aws_client", lambda service, region: client)
        return client

    return put


def client_error(code: str, message: str = "said AWS") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Get")


def refusal(reference: CredentialReference) -> str:
    with pytest.raises(CredentialError) as caught:
        read_credential(reference)
    assert API_KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_api_key_from_a_parameter(store: Store) -> None:
    store(API_KEY)
    found = read_credential(PARAMETER)

    assert found.authorization_header == f"Bearer {API_KEY}"
    assert found.source == "SSM parameter '/prefect/api-key'"
    assert API_KEY not in repr(found)


def test_auth_string_from_a_secret(store: Store) -> None:
    store("admin:pä ss")

    assert read_credential(SECRET).authorization_header == "Basic " + base64.b64encode("admin:pä ss".encode()).decode()


def test_field_of_a_secret(store: Store) -> None:
    store(json.dumps({"key": API_KEY, "other": 1}))
    reference = CredentialReference("SecretsManager", "prefect/auth", "key")

    assert read_credential(reference) == Credential(
        f"Bearer {API_KEY}", "Secrets Manager secret 'prefect/auth', field 'key'"
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_line_break_at_the_end_is_refused_as_the_worker_would_get_it_too(store: Store, end: str, scheme: str) -> None:
    store(API_KEY + end)

    message = refusal(CredentialReference("SsmParameter", "/k", scheme=scheme))  # type: ignore[arg-type]
    assert message.startswith("SSM parameter '/k' ends in a line break, with which ECS would hand it to worker and")
    assert message.endswith(
        "`printf %s` wrote: aws ssm put-parameter --overwrite --name '/k' --type SecureString --value file://value.txt "
        "--region us-east-1"
    )


def test_field_of_a_secret_is_mended_with_all_its_fields(store: Store) -> None:
    store(json.dumps({"key": f"{API_KEY}\n"}))
    assert refusal(CredentialReference("SecretsManager", "s", "key")).endswith(
        "aws secretsmanager put-secret-value --secret-id 's' --secret-string file://all-fields.json --region us-east-1"
    )
    store("")
    assert refusal(SECRET).endswith("--secret-id 'prefect/auth' --secret-string file://value.txt --region us-east-1")


def test_missing_parameter_says_how_to_create_it(store: Store) -> None:
    store(client_error("ParameterNotFound"))

    assert refusal(PARAMETER) == (
        "SSM parameter '/prefect/api-key' does not exist in us-east-1. Create it: aws ssm put-parameter "
        "--name '/prefect/api-key' --type SecureString --value 'YOUR_API_KEY' --region us-east-1"
    )


def test_missing_secret_says_how_to_create_it(store: Store) -> None:
    store(client_error("ResourceNotFoundException"))
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prefect/auth-AbCdEf"
    message = refusal(CredentialReference("SecretsManager", arn, "key"))

    assert "does not exist in eu-west-1" in message
    assert (
        "aws secretsmanager create-secret --name 'prefect/auth' --secret-string '{\"key\": \"YOUR_API_KEY\"}' "
        "--region eu-west-1" in message
    )


def test_parameter_arn(store: Store) -> None:
    store(client_error("ParameterNotFound"))
    message = refusal(CredentialReference("SsmParameter", "arn:aws:ssm:eu-west-1:123456789012:parameter/prefect/key"))

    assert "--name '/prefect/key'" in message
    assert "--region eu-west-1" in message


@pytest.mark.parametrize("kind", ["String", "StringList"])
def test_plain_text_parameters_are_refused(store: Store, kind: str) -> None:
    store(API_KEY, kind)
    message = refusal(PARAMETER)

    assert f"is a {kind}, which" in message
    assert "--type SecureString" in message


@pytest.mark.parametrize(
    ("stored", "reference", "message"),
    [
        (
            "\n",
            PARAMETER,
            "SSM parameter '/prefect/api-key' is empty. Store the credential there: aws ssm put-parameter",
        ),
        ("  ", SECRET, "is empty"),
        (API_KEY, CredentialReference("SecretsManager", "s", "key"), "is not a JSON object"),
        (f'["{API_KEY}"]', CredentialReference("SecretsManager", "s", "key"), "is not a JSON object"),
        (
            json.dumps({API_KEY: "x"}),
            CredentialReference("SecretsManager", "s", "key"),
            "is missing; other fields there: 1. Add it: aws secretsmanager put-secret-value",
        ),
        ('{"key": 7}', CredentialReference("SecretsManager", "s", "key"), "is not a string"),
        ('{"key": ""}', CredentialReference("SecretsManager", "s", "key"), "field 'key' is empty"),
        (API_KEY.encode(), SECRET, "is binary"),
        (f"Bearer {API_KEY}", PARAMETER, "Store the key alone, without 'Bearer'"),
        (f"{API_KEY}\n{API_KEY}", PARAMETER, "a line break"),
        (f"{API_KEY}…", PARAMETER, "another character that no key has"),
    ],
)
def test_values_that_are_no_credential(
    store: Store, stored: str | bytes, reference: CredentialReference, message: str
) -> None:
    store(stored)

    assert message in refusal(reference)


def test_access_denied(store: Store) -> None:
    client = store(client_error("AccessDeniedException", "role X may not ssm:GetParameter"))
    message = refusal(PARAMETER)

    assert "not allowed to read SSM parameter '/prefect/api-key' in us-east-1" in message
    assert "ssm:GetParameter on it, and kms:Decrypt" in message
    assert "role X may not" in message
    assert client.calls == 1


def test_access_denied_at_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client = store(client_error("AccessDeniedException"))

    def grant(_: float) -> None:
        client.value = API_KEY

    monkeypatch.setattr(credential.time, "sleep", grant)

    assert read_credential(PARAMETER, patience_seconds=5).authorization_header == f"Bearer {API_KEY}"
    assert client.calls == 2


def test_other_answers_of_aws(store: Store) -> None:
    store(client_error("InvalidRequestException", "the secret is marked for deletion " + "x" * 999))
    message = refusal(SECRET)

    assert "cannot read Secrets Manager secret 'prefect/auth' in us-east-1" in message
    assert "marked for deletion" in message
    assert len(message) < 500


def test_service_out_of_reach(store: Store) -> None:
    store(EndpointConnectionError(endpoint_url="https://ssm.us-east-1.amazonaws.com/"))

    assert "reaches SSM only by NAT or an interface endpoint" in refusal(PARAMETER)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"Kind": "File", "Id": "x"}, "Credential.Kind is 'File'"),
        ({"Kind": "SsmParameter"}, "Credential.Id is missing"),
        ({"Kind": "SsmParameter", "Id": "x", "Scheme": "Digest"}, "Credential.Scheme is 'Digest'"),
    ],
)
def test_references_that_are_none(value: dict[str, str], message: str) -> None:
    with pytest.raises(CredentialError, match=message):
        CredentialReference.parse(value)


def test_reference_defaults() -> None:
    assert CredentialReference.parse({"Kind": "SsmParameter", "Id": "/k"}) == CredentialReference(
        "SsmParameter", "/k", None, "Bearer"
    )


def test_real_client_is_quick_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    client = aws_client("ssm", "eu-west-1")

    assert client.meta.region_name == "eu-west-1"
    assert client.meta.config.connect_timeout == 3
