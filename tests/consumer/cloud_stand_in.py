"""Prefect Cloud as far as its addresses and its authentication go, in front of a Prefect server."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

API_KEY = "pnu_consumer"
_PREFIX = "/api/accounts/01234567-89ab-cdef-0123-456789abcdef/workspaces/fedcba98-7654-3210-fedc-ba9876543210"
_NOT_HANDED_ON = {"host", "authorization", "connection", "transfer-encoding", "content-length"}


@contextmanager
def cloud_stand_in(api_url: str, auth_string: str) -> Iterator[str]:
    """The URL of a workspace whose API takes the API key and is that of the server."""
    server = urlsplit(api_url)
    basic = "Basic " + base64.b64encode(auth_string.encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {API_KEY}":
                self._answer(401, [], b'{"detail": "Invalid authentication credentials"}')
            elif not self.path.startswith(_PREFIX):
                self._answer(404, [], b'{"detail": "Not Found"}')
            else:
                connection = http.client.HTTPConnection(str(server.hostname), server.port, timeout=60)
                headers = {key: value for key, value in self.headers.items() if key.lower() not in _NOT_HANDED_ON}
                path = server.path + self.path.removeprefix(_PREFIX)
                connection.request(self.command, path, body, headers | {"Authorization": basic})
                answer = connection.getresponse()
                self._answer(answer.status, answer.getheaders(), answer.read())
                connection.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on  # noqa: N815

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for key, value in headers:
                if key.lower() not in _NOT_HANDED_ON:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the tests' own output is enough."""

    stand_in = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=stand_in.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{stand_in.server_port}{_PREFIX}"
    finally:
        stand_in.shutdown()
        stand_in.server_close()
        thread.join()
