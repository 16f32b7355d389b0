"""The instance metadata service of one instance, version 2 only, as the launch template asks for it."""

import json
import secrets
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_CREDENTIALS = "/latest/meta-data/iam/security-credentials/"


class InstanceMetadata:
    """Hands a role's session out, to whoever brings a token.

    :param role: Name of the role.
    :param credentials: ``Credentials`` as STS gives them.
    """

    def __init__(self, role: str, credentials: Mapping[str, Any]) -> None:
        token = secrets.token_hex(16)
        document = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": credentials["AccessKeyId"],
            "SecretAccessKey": credentials["SecretAccessKey"],
            "Token": credentials["SessionToken"],
            "LastUpdated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Expiration": (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        refused: list[str] = []
        self.refused = refused
        """Paths that were asked for without a token, as version 1 did it."""

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer(200 if self.path == "/latest/api/token" else 404, token)

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") != token:
                    refused.append(self.path)
                    self._answer(401, "")
                elif self.path == _CREDENTIALS:
                    self._answer(200, role)
                elif self.path == _CREDENTIALS + role:
                    self._answer(200, json.dumps(document))
                else:
                    self._answer(404, "")

            def _answer(self, status: int, body: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
