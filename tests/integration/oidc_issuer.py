"""An OIDC issuer such as the one of GitHub Actions: it signs tokens for jobs."""

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


class OidcIssuer:
    """An issuer with one key.

    :param url: Its URL: the ``iss`` of its tokens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def key_set(self) -> dict[str, Any]:
        """What it publishes at its ``jwks_uri``."""
        numbers = self._key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "kid": "1",
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "n": _encoded(numbers.n.to_bytes(256, "big")),
                    "e": _encoded(numbers.e.to_bytes(3, "big")),
                }
            ]
        }

    def token(self, subject: str, *, audience: str = "sts.amazonaws.com", good_for: float = 300) -> str:
        """A token for one job."""
        now = time.time()
        claims = {"iss": self.url, "sub": subject, "aud": audience, "iat": now, "exp": now + good_for}
        header = {"alg": "RS256", "kid": "1", "typ": "JWT"}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
