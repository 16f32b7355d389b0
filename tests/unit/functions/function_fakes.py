"""Fakes for the functions: a scripted HTTP server, a small Prefect API, and CloudFormation's end of a request."""

import itertools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "pnu_0123456789abcdefSECRET"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def encoded(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None and self.status == 204 else json.dumps(self.body).encode()


class HttpServer:
    """Answer every request with what ``respond`` returns, and remember it."""

    def __init__(self, respond: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.respond = respond
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(length))
                outer.requests.append(request)
                answer = outer.respond(request)
                body = answer.encoded
                self.send_response(answer.status)
                for key, value in {"Content-Length": str(len(body)), **answer.headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class FakePrefect:
    """As much of Prefect's API as the functions call, with its answers; ``broken`` replaces single answers."""

    def __init__(self) -> None:
        self.pools: dict[str, dict[str, Any]] = {}
        self.blocks: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, int] = {}
        self.schemas: list[dict[str, Any]] | None = [
            {"id": "schema-old", "version": "0.4.14", "fields": _fields()},
            {"id": "schema-new", "version": "0.7.12", "fields": _fields()},
            {"id": "schema-strange", "version": "9.0", "fields": {"properties": {"bucket": {}}}},
        ]
        self.version = "3.8.8"
        self.authorization: str | None = f"Bearer {API_KEY}"
        self.broken: dict[tuple[str, str], Answer] = {}
        self._ids = itertools.count(1)
        self.server = HttpServer(self.respond)
        self.api_url = f"{self.server.url}/api"

    def add_pool(self, name: str, **values: Any) -> dict[str, Any]:
        self.pools[name] = {
            "id": f"pool-{next(self._ids)}",
            "name": name,
            "type": "ecs",
            "description": None,
            "base_job_template": {},
            "concurrency_limit": None,
            "storage_configuration": {"default_result_storage_block_id": None},
            **values,
        }
        return self.pools[name]

    def add_block(self, name: str, **data: str) -> dict[str, Any]:
        self.blocks[name] = {"id": f"block-{next(self._ids)}", "name": name, "data": data}
        return self.blocks[name]

    @property
    def writes(self) -> list[tuple[str, str]]:
        reads = ("/filter", "/count")
        return [
            (r.method, r.path.removeprefix("/api"))
            for r in self.server.requests
            if r.method != "GET" and not r.path.endswith(reads)
        ]

    def respond(self, request: Request) -> Answer:
        path = request.path.removeprefix("/api")
        if path == request.path:
            return Answer(404, {"detail": "Not Found"})
        if self.authorization is not None and request.headers.get("authorization") != self.authorization:
            return Answer(401, {"exception_message": "Unauthorized"})
        broken = self.broken.get((request.method, path))
        if broken is not None and not broken.headers.get("X-After"):
            return broken
        answer = self._route(request, path)
        return broken or answer

    def _route(self, request: Request, path: str) -> Answer:
        method = request.method
        if path == "/admin/version":
            return Answer(200, self.version)
        if path == "/work_pools/filter":
            offset, limit = request.json.get("offset", 0), request.json["limit"]
            return Answer(200, list(self.pools.values())[offset : offset + limit])
        if path == "/work_pools/":
            body = request.json
            if body["name"] in self.pools:
                return Answer(409, {"detail": "A work pool with this name already exists."})
            return Answer(201, self.add_pool(**body))
        if found := re.fullmatch(r"/work_pools/([^/]+)", path):
            pool = self.pools.get(found[1])
            if pool is None:
                return Answer(404, {"detail": f'Work pool "{found[1]}" not found.'})
            if method == "PATCH":
                pool.update(request.json)
                return Answer(204)
            if method == "DELETE":
                del self.pools[found[1]]
                return Answer(204)
            return Answer(200, pool)
        if path == "/deployments/count":
            names = request.json["work_pools"]["name"]["any_"]
            return Answer(200, sum(self.deployments.get(name, 0) for name in names))
        if path == "/block_types/slug/s3-bucket":
            if self.schemas is None:
                return Answer(404, {"detail": "Block type not found"})
            return Answer(200, {"id": "type-s3"})
        if path == "/block_schemas/filter":
            return Answer(200, self.schemas)
        if found := re.fullmatch(r"/block_types/slug/s3-bucket/block_documents/name/(.+)", path):
            block = self.blocks.get(found[1])
            return Answer(200, block) if block else Answer(404, {"detail": "Block document not found"})
        if path == "/block_documents/":
            body = request.json
            block = self.add_block(body["name"], **body["data"])
            block["schema"] = body["block_schema_id"]
            return Answer(201, block)
        if found := re.fullmatch(r"/block_documents/(.+)", path):
            block = next(b for b in self.blocks.values() if b["id"] == found[1])
            if method == "PATCH":
                block["data"].update(request.json["data"])
            else:
                del self.blocks[block["name"]]
            return Answer(204)
        return Answer(404, {"detail": "Not Found"})


def _fields() -> dict[str, Any]:
    return {"properties": {"bucket_name": {}, "credentials": {}, "bucket_folder": {}}}


class Context:
    log_stream_name = "2026/01/01/[$LATEST]abc"
    remaining_seconds = 60.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.remaining_seconds * 1000)


class FakeSsm:
    """An SSM client with one parameter."""

    value = API_KEY
    type = "SecureString"

    def get_parameter(self, *, Name: str, WithDecryption: bool) -> dict[str, Any]:  # noqa: N803
        assert WithDecryption
        return {"Parameter": {"Name": Name, "Type": self.type, "Value": self.value}}
