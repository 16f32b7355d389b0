"""Read the credential of the Prefect API from the user's own parameter or secret."""

import base64
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

logger: logging.Logger = logging.getLogger(__name__)

SSM_PARAMETER = "SsmParameter"
SECRETS_MANAGER = "SecretsManager"

_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"})
_MISSING = frozenset({"ParameterNotFound", "ParameterVersionNotFound", "ResourceNotFoundException"})


class CredentialError(Exception):
    """The credential cannot be read; the message says why, and never what it is."""


@dataclass(frozen=True)
class CredentialReference:
    """Where the credential of the Prefect API is stored.

    :param kind: ``SsmParameter`` or ``SecretsManager``.
    :param identifier: Name or ARN.
    :param field: The field to take when the stored value is a JSON object. None: the value is the credential.
    :param scheme: ``Bearer`` for an API key, ``Basic`` for the auth string (``user:password``) of a
        self-hosted server.
    """

    kind: Literal["SsmParameter", "SecretsManager"]
    identifier: str
    field: str | None = None
    scheme: Literal["Bearer", "Basic"] = "Bearer"

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "CredentialReference":
        """Read ``{"Kind": …, "Id": …, "Field": …, "Scheme": …}``."""
        kind, identifier = value.get("Kind"), value.get("Id")
        scheme = value.get("Scheme") or "Bearer"
        if kind not in (SSM_PARAMETER, SECRETS_MANAGER):
            raise CredentialError(f"Credential.Kind is {kind!r}; allowed: {SSM_PARAMETER}, {SECRETS_MANAGER}")
        if not isinstance(identifier, str) or not identifier:
            raise CredentialError("Credential.Id is missing: the name or ARN of the parameter or secret")
        if scheme not in ("Bearer", "Basic"):
            raise CredentialError(f"Credential.Scheme is {scheme!r}; allowed: Bearer, Basic")
        field = value.get("Field") or None
        return cls(kind, identifier, field, "Basic" if scheme == "Basic" else "Bearer")

    @property
    def region(self) -> str:
        """The region of the ARN, else that of the function."""
        parts = self.identifier.split(":")
        if parts[0] == "arn" and len(parts) > 3 and parts[3]:
            return parts[3]
        return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"

    @property
    def source(self) -> str:
        """What to call it in a sentence."""
        noun = "SSM parameter" if self.kind == SSM_PARAMETER else "Secrets Manager secret"
        return f"{noun} {self.identifier!r}" + (f", field {self.field!r}" if self.field else "")


@dataclass(frozen=True, repr=False)
class Credential:
    """An ``Authorization`` header and where it came from."""

    authorization_header: str
    source: str

    def __repr__(self) -> str:
        return f"Credential(source={self.source!r})"


def read_credential(reference: CredentialReference, *, patience_seconds: float = 0.0) -> Credential:
    """Read the credential and make the header of it.

    :param patience_seconds: As for :func:`read_secret`.
    :raises CredentialError: when it cannot be read or cannot be a credential.
    """
    value = read_secret(reference, patience_seconds=patience_seconds)
    return Credential(_header(reference, value), reference.source)


def read_secret(reference: CredentialReference, *, patience_seconds: float = 0.0) -> str:
    """Read what is stored, as it is: ECS hands the same to worker and flow runs.

    :param patience_seconds: How long to repeat a denied call: the policy of a role made in the same
        deployment takes a few seconds to work everywhere.
    :raises CredentialError: when it cannot be read, is empty or ends in a line break.
    """
    until = time.monotonic() + patience_seconds
    pause = 1.0
    while True:
        try:
            stored = _read(reference)
            break
        except Exception as error:
            if _code(error) not in _DENIED or time.monotonic() + pause > until:
                raise _explained(reference, error) from None
            logger.info("May not read %s yet; trying again in %g s.", reference.source, pause)
        time.sleep(pause)
        pause *= 2
    return _field_of(reference, stored)


def aws_client(service: str, region: str) -> Any:
    """Make a boto3 client that gives up in seconds."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
    return boto3.client(cast(Any, service), region_name=region, config=config)


def _read(reference: CredentialReference) -> str:
    if reference.kind == SSM_PARAMETER:
        client = aws_client("ssm", reference.region)
        parameter = client.get_parameter(Name=reference.identifier, WithDecryption=True)["Parameter"]
        if parameter["Type"] != "SecureString":
            raise CredentialError(
                f"{reference.source} is a {parameter['Type']}, which anyone with read access to the "
                "parameter list sees in plain text. Delete it and store it encrypted: "
                f"{_how_to_create(reference)}"
            )
        return str(parameter["Value"])
    client = aws_client("secretsmanager", reference.region)
    secret = client.get_secret_value(SecretId=reference.identifier)
    if "SecretString" not in secret:
        raise CredentialError(f"{reference.source} is binary; store text: {_how_to_create(reference)}")
    return str(secret["SecretString"])


def _field_of(reference: CredentialReference, text: str) -> str:
    if reference.field is None:
        value: Any = text
    else:
        try:
            fields = json.loads(text)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise CredentialError(f"{reference.source} is asked for, but what is stored there is not a JSON object")
        if reference.field not in fields:
            # The names of the others stay untold: in a form of key and value, some put the secret first.
            raise CredentialError(
                f"{reference.source} is missing; other fields there: {len(fields)}. Add it: {_how_to_change(reference)}"
            )
        value = fields[reference.field]
        if not isinstance(value, str):
            raise CredentialError(f"{reference.source} is not a string")
    if not value.strip():
        raise CredentialError(f"{reference.source} is empty. Store the credential there: {_how_to_change(reference)}")
    if value != value.rstrip("\r\n"):
        # Taken off here, it would still be there for worker and flow runs: theirs would be rejected.
        raise CredentialError(
            f"{reference.source} ends in a line break, with which ECS would hand it to worker and flow runs. Store it "
            f"without one, from a file that `printf %s` wrote: {_how_to_change(reference)}"
        )
    return str(value)


def _header(reference: CredentialReference, value: str) -> str:
    if reference.scheme == "Basic":
        return "Basic " + base64.b64encode(value.encode()).decode()
    # Anything else cannot be sent in a header, and http.client would print it in its exception.
    if not all("!" <= character <= "~" for character in value):
        raise CredentialError(
            f"{reference.source} is not an API key: it has a space, a line break or another character that "
            "no key has. Store the key alone, without 'Bearer' or quotes"
        )
    return f"Bearer {value}"


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _explained(reference: CredentialReference, error: Exception) -> CredentialError:
    if isinstance(error, CredentialError):
        return error
    code, where = _code(error), f"{reference.source} in {reference.region}"
    if code in _MISSING:
        return CredentialError(
            f"{reference.source} does not exist in {reference.region}. Create it: {_how_to_create(reference)}"
        )
    if code in _DENIED:
        action = "ssm:GetParameter" if reference.kind == SSM_PARAMETER else "secretsmanager:GetSecretValue"
        return CredentialError(
            f"not allowed to read {where}. The function's role needs {action} on it, and kms:Decrypt on its "
            f"key if that is a customer managed one. AWS says: {_shortened(error)}"
        )
    if code:
        return CredentialError(f"cannot read {where}: {_shortened(error)}")
    service = "SSM" if reference.kind == SSM_PARAMETER else "Secrets Manager"
    return CredentialError(
        f"cannot read {where}: {_shortened(error)} A function inside a VPC reaches {service} only by NAT or "
        "an interface endpoint."
    )


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 300 else text[:299] + "…"
    return text if text.endswith((".", "…")) else text + "."


def _how_to_create(reference: CredentialReference) -> str:
    placeholder = "YOUR_API_KEY" if reference.scheme == "Bearer" else "USER:PASSWORD"
    if reference.field:
        placeholder = json.dumps({reference.field: placeholder})
    if reference.kind == SSM_PARAMETER:
        command = f"aws ssm put-parameter --name '{_parameter(reference)}' --type SecureString --value '{placeholder}'"
    else:
        # The last six characters of an ARN are AWS's own.
        name = re.sub(r"-\w{6}$", "", reference.identifier.partition(":secret:")[2]) or reference.identifier
        command = f"aws secretsmanager create-secret --name '{name}' --secret-string '{placeholder}'"
    return f"{command} --region {reference.region}"


def _how_to_change(reference: CredentialReference) -> str:
    if reference.kind == SSM_PARAMETER:
        name = _parameter(reference)
        command = f"aws ssm put-parameter --overwrite --name '{name}' --type SecureString --value file://value.txt"
    else:
        # Of a secret with fields, all are replaced at once.
        file = "all-fields.json" if reference.field else "value.txt"
        secret = reference.identifier
        command = f"aws secretsmanager put-secret-value --secret-id '{secret}' --secret-string file://{file}"
    return f"{command} --region {reference.region}"


def _parameter(reference: CredentialReference) -> str:
    return reference.identifier.partition(":parameter")[2] or reference.identifier
