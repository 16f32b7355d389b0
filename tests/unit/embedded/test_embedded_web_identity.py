"""Tokens of OIDC issuers, as STS checks them before it asks the trust policy."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from embedded.emulator.web_identity import Issuers, RefusedTokenError, check

ISSUER = "https://token.actions.githubusercontent.com"
NOW = 1_800_000_000
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CLAIMS = {"iss": ISSUER, "sub": "repo:acme/etl:environment:prod", "aud": "sts.amazonaws.com", "exp": NOW + 300}
PROVIDER = {"Url": ISSUER, "ClientIDList": ["sts.amazonaws.com"]}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def token(*, key: rsa.RSAPrivateKey = KEY, header: dict[str, Any] | None = None, **claims: Any) -> str:
    head = {"alg": "RS256", "kid": "1"} | (header or {})
    signed = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(CLAIMS | claims).encode())}"
    return f"{signed}.{encoded(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


@pytest.fixture(scope="module")
def issuers() -> Issuers:
    numbers = KEY.public_key().public_numbers()
    known = Issuers()
    known.publish(ISSUER, {"keys": [{"kid": "1", "kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}]})
    return known


def refusal(text: str, issuers: Issuers, provider: dict[str, Any] | None = PROVIDER) -> tuple[str, str]:
    with pytest.raises(RefusedTokenError) as refused:
        check(text, issuers, lambda _: provider, now=NOW)
    status, headers, body = refused.value.response()
    assert (status, headers["Content-Type"]) == (400, "text/xml")
    assert f"<Code>{refused.value.code}</Code>" in str(body)
    return refused.value.code, str(refused.value)


def test_a_good_token_passes_whatever_its_subject(issuers: Issuers) -> None:
    asked: list[str] = []

    def provider_of(issuer: str) -> dict[str, Any]:
        asked.append(issuer)
        return PROVIDER

    check(token(sub="repo:evil/etl:environment:prod"), issuers, provider_of, now=NOW)  # the trust policy's to say
    assert asked == [ISSUER]


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "....", token().rpartition(".")[0]])
def test_no_token(issuers: Issuers, text: str) -> None:
    assert refusal(text, issuers) == ("InvalidIdentityToken", "The ID Token provided is not a valid JWT.")


def test_an_account_without_a_provider(issuers: Issuers) -> None:
    code, message = refusal(token(), issuers, None)
    assert (code, message) == ("InvalidIdentityToken", f"No OpenIDConnect provider found in your account for {ISSUER}")


@pytest.mark.parametrize(
    "text", [token(header={"kid": "2"}), token(header={"alg": "none"}), token(header={"alg": "HS256"})]
)
def test_a_key_that_the_issuer_has_not(issuers: Issuers, text: str) -> None:
    code, message = refusal(text, issuers)
    assert code == "InvalidIdentityToken"
    assert "retrieve verification key" in message


def test_another_signature(issuers: Issuers) -> None:
    assert refusal(token(key=OTHER_KEY), issuers) == ("InvalidIdentityToken", "Token signature invalid")


def test_other_claims_than_were_signed(issuers: Issuers) -> None:
    head, _, signature = token().split(".")
    _, body, _ = token(sub="repo:evil/etl:environment:prod").split(".")
    assert refusal(f"{head}.{body}.{signature}", issuers) == ("InvalidIdentityToken", "Token signature invalid")


def test_a_token_that_is_too_old(issuers: Issuers) -> None:
    code, message = refusal(token(exp=NOW), issuers)
    assert code == "ExpiredTokenException"
    assert message.startswith("Token expired")


def test_a_token_for_somebody_else(issuers: Issuers) -> None:
    assert refusal(token(aud="https://github.com/acme"), issuers) == (
        "InvalidIdentityToken",
        "Incorrect token audience",
    )
