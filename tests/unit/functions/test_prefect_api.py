import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from function_fakes import API_KEY, Answer, HttpServer, Request

from cdk_prefect_ecs.functions.prefect_api import PrefectApiClient, PrefectApiError

Start = Callable[[Callable[[Request], Answer]], HttpServer]
SOURCE = "SSM parameter '/prefect/api-key'"


def client(url: str, *, seconds: float = 1.0, timeout: float = 5.0, header: str | None = "") -> PrefectApiClient:
    return PrefectApiClient(
        url,
        f"Bearer {API_KEY}" if header == "" else header,
        timeout_seconds=timeout,
        deadline=time.monotonic() + seconds,
        credential_source=SOURCE,
    )


def failure(call: Callable[[], Any]) -> PrefectApiError:
    with pytest.raises(PrefectApiError) as caught:
        call()
    assert API_KEY not in str(caught.value) + caught.value.detail + repr(caught.value)
    return caught.value


def answers(*script: Answer) -> Callable[[Request], Answer]:
    """Give the answers in turn; the last one for ever."""
    remaining = list(script)
    return lambda _: remaining.pop(0) if len(remaining) > 1 else remaining[0]


@pytest.fixture
def raw_server() -> Iterator[Callable[[bytes | None], str]]:
    """A listener that sends these bytes and hangs up, or, for None, says nothing."""
    listeners: list[socket.socket] = []

    def start(reply: bytes | None) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        open_connections = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                open_connections.append(connection)
                if reply is not None:
                    connection.recv(65536)
                    connection.sendall(reply)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api"

    yield start
    for listener in listeners:
        listener.close()


def test_sends_json_and_the_credential(http_server: Start) -> None:
    server = http_server(answers(Answer(200, {"ok": True})))

    assert client(f"{server.url}/api/").post("/things/", {"a": None}) == {"ok": True}

    (request,) = server.requests
    assert (request.method, request.path, request.json) == ("POST", "/api/things/", {"a": None})
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert request.headers["content-type"] == "application/json"
    # Prefect drops fields for clients that it takes for old ones, and firewalls drop Python's default.
    assert request.headers["user-agent"] == "cdk-prefect-ecs"


def test_methods_and_empty_answers(http_server: Start) -> None:
    server = http_server(answers(Answer(204)))
    api = client(server.url)

    assert [api.get("/a"), api.patch("/a", {}), api.delete("/a")] == [None, None, None]
    assert [r.method for r in server.requests] == ["GET", "PATCH", "DELETE"]


def test_no_credential_no_header(http_server: Start) -> None:
    server = http_server(answers(Answer(200, [])))
    client(server.url, header=None).get("/a")

    assert "authorization" not in server.requests[0].headers


def test_wrong_credential(http_server: Start) -> None:
    server = http_server(answers(Answer(401, {"exception_message": "Unauthorized"})))
    error = failure(lambda: client(f"{server.url}/api").get("/a"))

    assert error.status == 401
    assert f"{server.url}/api rejected the credential read from {SOURCE} (401)" in str(error)
    assert len(server.requests) == 1


def test_missing_credential(http_server: Start) -> None:
    server = http_server(answers(Answer(401, {})))

    assert "wants a credential (401) and none is configured" in str(
        failure(lambda: client(server.url, header=None).get("/a"))
    )


def test_forbidden_says_why(http_server: Start) -> None:
    server = http_server(answers(Answer(403, {"detail": "no such right"})))
    message = str(failure(lambda: client(server.url).get("/a")))

    assert "refused GET /a (403): no such right." in message
    assert SOURCE in message


def test_not_found_keeps_status_and_detail(http_server: Start) -> None:
    server = http_server(answers(Answer(404, {"detail": "Work pool 'x' not found."})))
    error = failure(lambda: client(server.url).get("/work_pools/x"))

    assert (error.status, error.detail) == (404, "Work pool 'x' not found.")


def test_validation_errors_without_the_request(http_server: Start) -> None:
    body = {
        "exception_message": "Invalid request received.",
        "exception_detail": [
            {
                "loc": ["body", "base_job_template"],
                "msg": "Value error, undeclared variable(s): y.",
                "input": {"big": 1},
            },
            {"loc": ["body", "concurrency_limit"], "msg": "Input should be greater than or equal to 0"},
        ],
        "request_body": {"password": "hunter22"},
    }
    server = http_server(answers(Answer(422, body)))
    message = str(failure(lambda: client(server.url).post("/work_pools/", {})))

    assert message.endswith(
        "answered 422 to POST /work_pools/: base_job_template: undeclared variable(s): y.; "
        "concurrency_limit: Input should be greater than or equal to 0"
    )


def test_long_details_are_cut(http_server: Start) -> None:
    server = http_server(answers(Answer(422, {"detail": "word " * 1000})))

    assert len(str(failure(lambda: client(server.url).get("/a")))) < 800


@pytest.mark.parametrize(
    "script",
    [
        [Answer(429, {"detail": "slow down"}, {"Retry-After": "0"}), Answer(200, "done")],
        [Answer(500, b"oops"), Answer(502), Answer(503, {}), Answer(200, "done")],
        [Answer(200, b'"trunc', {"Content-Length": "4000", "Connection": "close"}), Answer(200, "done")],
    ],
    ids=["429", "5xx", "cut off"],
)
def test_temporary_failures_are_repeated(http_server: Start, script: list[Answer]) -> None:
    server = http_server(answers(*script))

    assert client(server.url, seconds=5).get("/a") == "done"
    assert len(server.requests) == len(script)


def test_retry_after_is_honoured(http_server: Start) -> None:
    server = http_server(answers(Answer(503, {}, {"Retry-After": "1"}), Answer(200, "done")))
    started = time.monotonic()

    assert client(server.url, seconds=5).get("/a") == "done"
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("value", ["3600", "Wed, 01 Jan 2200 00:00:00 GMT"])
def test_no_waiting_past_the_deadline(http_server: Start, value: str) -> None:
    server = http_server(answers(Answer(429, {}, {"Retry-After": value})))
    started = time.monotonic()
    error = failure(lambda: client(server.url, seconds=30).get("/a"))

    assert "asked for fewer requests at GET /a (429)" in str(error)
    assert time.monotonic() - started < 2


def test_lasting_failure_ends_at_the_deadline(http_server: Start) -> None:
    server = http_server(answers(Answer(500, {"exception_message": "Internal Server Error"})))
    started = time.monotonic()
    error = failure(lambda: client(server.url, seconds=0.5).get("/a"))

    assert "failed at GET /a (500): Internal Server Error" in str(error)
    assert time.monotonic() - started < 1
    assert len(server.requests) > 2


def test_connection_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
    message = str(failure(lambda: client(url, seconds=0.2).get("/a")))

    assert message.startswith(f"cannot reach the Prefect API at {url}: connection refused. Check")
    assert "VPC of a private server" in message
    assert "/api?" in message


def test_unknown_host() -> None:
    message = str(failure(lambda: client("http://prefect.invalid/api", seconds=0.2).get("/a")))

    assert "the host name 'prefect.invalid' is not known" in message


def test_slow_server(raw_server: Callable[[bytes | None], str]) -> None:
    started = time.monotonic()
    error = failure(lambda: client(raw_server(None), seconds=0.6, timeout=0.2).get("/a"))

    assert "no answer within 0.2 s" in str(error)
    assert error.status is None
    assert time.monotonic() - started < 1


def test_trickling_server_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.05)

        threading.Thread(target=serve, daemon=True).start()
        started = time.monotonic()
        failure(lambda: client(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.4, timeout=0.3).get("/a"))

    assert time.monotonic() - started < 0.8


def test_not_http(raw_server: Callable[[bytes | None], str]) -> None:
    assert "does not speak HTTP" in str(failure(lambda: client(raw_server(b"SSH-2.0\r\n")).get("/a")))


def test_tls_to_a_plain_port(http_server: Start) -> None:
    url = http_server(answers(Answer(200, "x"))).url.replace("http:", "https:")

    assert "no TLS there" in str(failure(lambda: client(url).get("/a")))


def test_hang_up(raw_server: Callable[[bytes | None], str]) -> None:
    message = str(failure(lambda: client(raw_server(b""), seconds=0.3).get("/a")))

    assert "the connection was closed before an answer came" in message


def test_redirects_are_not_followed(http_server: Start) -> None:
    other = http_server(answers(Answer(200, "stolen")))
    server = http_server(answers(Answer(307, b"", {"Location": f"{other.url}/api/a?token=1"})))
    message = str(failure(lambda: client(server.url).get("/a")))

    assert f"redirects GET /a to {other.url}/api/a (307)" in message
    assert "token=1" not in message
    assert other.requests == []


@pytest.mark.parametrize("header", [f"Bearer {API_KEY}", "Basic " + base64.b64encode(b"admin:pass word").decode()])
def test_a_server_that_echoes_the_credential(http_server: Start, header: str) -> None:
    spoken = ["admin:pass word", "pass word"] if header.startswith("Basic") else [API_KEY]
    server = http_server(answers(Answer(400, {"detail": " ".join(["bad header", header, *spoken])})))
    error = failure(lambda: client(server.url, header=header).get("/a"))

    assert "bad header" in error.detail
    for secret in (header.split()[1], *spoken):
        assert secret not in str(error)
        assert secret not in error.detail


def test_repr_shows_no_credential() -> None:
    assert repr(client("https://prefect.example/api")) == "PrefectApiClient('https://prefect.example/api')"


def test_csrf_protection(http_server: Start) -> None:
    def respond(request: Request) -> Answer:
        if request.path.startswith("/csrf-token?client="):
            return Answer(200, {"token": "t0ken"})
        if request.headers.get("prefect-csrf-token") != "t0ken":
            return Answer(403, {"detail": "Missing CSRF token."})
        return Answer(200, "done")

    server = http_server(respond)
    api = client(server.url)

    assert [api.post("/a", {}), api.post("/a", {})] == ["done", "done"]
    assert api.with_deadline(time.monotonic() + 1).post("/a", {}) == "done"
    assert [r.method for r in server.requests] == ["POST", "GET", "POST", "POST", "POST"]


# -- what answers at the root ----------------------------------------------------------------------------------


def test_server_version(http_server: Start) -> None:
    server = http_server(answers(Answer(200, "3.8.8")))

    assert client(server.url).server_version() == "3.8.8"
    assert server.requests[0].path == "/admin/version"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, {"detail": "Not Found"}),
        Answer(200, b"<html>Prefect</html>", {"Content-Type": "text/html"}),
        Answer(200, {"message": "hello"}),
    ],
    ids=["404", "html", "other json"],
)
def test_not_a_prefect_api(http_server: Start, answer: Answer) -> None:
    server = http_server(answers(answer))
    message = str(failure(client(server.url).server_version))

    assert message.startswith(f"{server.url} is not a Prefect API (GET /admin/version answered")
    assert message.endswith("Self-hosted URLs end in /api")


def test_cloud_has_no_version(http_server: Start) -> None:
    server = http_server(answers(Answer(200, []), Answer(404, {"detail": "Not Found"})))
    api = client(server.url)
    api.is_cloud = True

    assert api.server_version() == "Prefect Cloud"
    assert (server.requests[0].method, server.requests[0].path) == ("POST", "/work_pools/filter")
    assert "Check the account id and the workspace id" in str(failure(api.server_version))


@pytest.mark.parametrize(
    ("url", "cloud"),
    [
        ("https://api.prefect.cloud/api/accounts/a/workspaces/w", True),
        ("https://prefect.cloud.example/api", False),
        ("https://notprefect.cloud/api", False),
    ],
)
def test_which_hosts_are_cloud(url: str, cloud: bool) -> None:
    assert client(url).is_cloud is cloud


@pytest.mark.parametrize(
    "url",
    ["", "prefect.example/api", "ftp://h/api", "http://", "http://h:x/api", "http://h/api?a=1", "http://h /api"],
)
def test_urls_that_are_none(url: str) -> None:
    assert "not the URL of a Prefect API" in str(failure(lambda: client(url)))


def test_no_password_in_the_url() -> None:
    message = str(failure(lambda: client("http://admin:hunter22@prefect/api")))

    assert "must not carry a user name or password" in message
    assert "hunter22" not in message


def test_honours_the_proxy(http_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = http_server(answers(Answer(200, "through the proxy")))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")

    assert client("http://prefect.invalid/api").get("/a") == "through the proxy"
    assert proxy.requests[0].path == "http://prefect.invalid/api/a"
