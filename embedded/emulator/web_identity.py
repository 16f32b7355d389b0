"""Tokens of OIDC issuers, checked as STS checks them before it looks at a role's trust policy.

MiniStack holds the conditions of a trust policy against whatever a token says, and asks nothing else: neither whether
the account has a provider for the issuer, nor who signed the token, whom it is for and how long it is good. AWS fetches
the keys of an issuer from where the issuer publishes them; here ``/_embedded/issuer`` takes them.
"""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from embedded.emulator.inner import Json, Response, app, iam, sts

_OPERATION = "AssumeRoleWithWebIdentity"
_DEFAULT_SECONDS = 3600


class RefusedTokenError(Exception):
    """What STS answers instead of credentials."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def response(self) -> Response:
        body = (
            '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
            f"<Code>{self.code}</Code><Message>{escape(str(self))}</Message></Error></ErrorResponse>"
        )
        return 400, {"Content-Type": "text/xml"}, body


@dataclass
class Issuers:
    """The keys that issuers sign with."""

    _keys: dict[tuple[str, str], rsa.RSAPublicKey] = field(default_factory=dict)

    def publish(self, issuer: str, key_set: Json) -> None:
        """What an issuer serves at its ``jwks_uri``."""
        for key in key_set["keys"]:
            numbers = rsa.RSAPublicNumbers(e=_number(key["e"]), n=_number(key["n"]))
            self._keys[issuer, key["kid"]] = numbers.public_key()

    def key(self, issuer: str, key_id: str) -> rsa.RSAPublicKey | None:
        """The key of an issuer; None where it has published none with this id."""
        return self._keys.get((issuer, key_id))


def check(token: str, issuers: Issuers, provider_of: Callable[[str], Json | None], *, now: float) -> None:
    """Check everything about a token but what the trust policy says of it.

    :param provider_of: The account's OIDC provider for the URL of an issuer.
    :raises RefusedTokenError: As AWS refuses it.
    """
    try:
        signed, _, signature = token.rpartition(".")
        header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
        issuer, expires, audience = str(claims["iss"]), float(claims["exp"]), claims["aud"]
        given = _decoded(signature)
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedTokenError("InvalidIdentityToken", "The ID Token provided is not a valid JWT.") from error
    provider = provider_of(issuer)
    if provider is None:
        raise RefusedTokenError("InvalidIdentityToken", f"No OpenIDConnect provider found in your account for {issuer}")
    key = issuers.key(issuer, str(header.get("kid"))) if header.get("alg") == "RS256" else None
    if key is None:
        raise RefusedTokenError(
            "InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider"
        )
    try:
        key.verify(given, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise RefusedTokenError("InvalidIdentityToken", "Token signature invalid") from error
    if expires <= now:
        raise RefusedTokenError(
            "ExpiredTokenException", f"Token expired: current date/time {now:.0f} must be before {expires:.0f}"
        )
    if not {audience} & set(provider["ClientIDList"]):
        raise RefusedTokenError("InvalidIdentityToken", "Incorrect token audience")


def install(issuers: Issuers) -> None:
    """Check tokens where IAM is enforced, before MiniStack asks the trust policy."""

    async def handle(method: str, path: str, headers: Json, body: bytes, query: Json) -> Any:
        parameters = {**query, **parse_qs(body.decode(errors="replace"))}
        given = {name: str(values[0]) for name, values in parameters.items() if isinstance(values, list) and values}
        if app.AUTH and given.get("Action") == _OPERATION:
            try:
                _check_request(given, issuers)
            except RefusedTokenError as error:
                return error.response()
        return await sts.handle_request(method, path, headers, body, query)

    app.SERVICE_HANDLERS["sts"] = handle


def _check_request(given: dict[str, str], issuers: Issuers) -> None:
    role_arn = given.get("RoleArn", "")
    account = role_arn.removeprefix("arn:aws:iam::").partition(":")[0]

    def provider_of(issuer: str) -> Json | None:
        name = issuer.removeprefix("https://")
        found: Json | None = iam._oidc_providers.get_scoped(
            account, None, f"arn:aws:iam::{account}:oidc-provider/{name}"
        )
        return found

    check(given.get("WebIdentityToken", ""), issuers, provider_of, now=time.time())
    role = iam._roles.get_scoped(account, None, role_arn.rsplit("/", 1)[-1]) or {}
    seconds = int(given.get("DurationSeconds") or _DEFAULT_SECONDS)
    if seconds > int(role.get("MaxSessionDuration") or _DEFAULT_SECONDS):
        raise RefusedTokenError(
            "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
        )


def _number(text: str) -> int:
    return int.from_bytes(_decoded(text), "big")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
