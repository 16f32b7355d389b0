"""How a host asks after its worker."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cdk_prefect_ecs.functions.credential import Credential, CredentialError
from cdk_prefect_ecs.host import check_worker
from cdk_prefect_ecs.host.settings import HostSettings

Answer = Callable[[BaseHTTPRequestHandler, bytes], tuple[int, Any]]
SETTINGS = HostSettings(
    work_pool_name="my pool",
    environment={},
    credential=None,
    secret_variable="PREFECT_API_KEY",
    log_group_name="/prefect",
    region="eu-west-1",
)


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield http.server_port
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_worker, "_PAUSE_SECONDS", 0.01)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


def on_port(port: int) -> HostSettings:
    return replace(SETTINGS, environment={"PREFECT_WORKER_WEBSERVER_PORT": str(port)})


def at_api(port: int, credential: dict[str, str] | None = None) -> HostSettings:
    return replace(SETTINGS, environment={"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}, credential=credential)


def test_worker_that_answers_polls() -> None:
    with server(lambda request, _: (200 if request.path == "/health" else 404, "OK")) as port:
        assert check_worker.polls(on_port(port))


def test_worker_that_says_no_or_nothing_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def answer(request: BaseHTTPRequestHandler, _: bytes) -> tuple[int, Any]:
        asked.append(request.path)
        return 503, "no"

    with server(answer) as port:
        assert not check_worker.polls(on_port(port))
    assert asked == ["/health"] * 3
    assert not check_worker.polls(on_port(port))
    assert "503" in capsys.readouterr().err


def test_worker_that_was_busy_is_left_alone() -> None:
    answers = iter([503, 200])
    with server(lambda *_: (next(answers), "")) as port:
        assert check_worker.polls(on_port(port))


def test_online_is_what_prefect_says_of_this_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    answers = iter([[], [{"name": "i-0"}], [{"name": "i-0"}, {"name": "i-1"}]])

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        if request.path.startswith("/api/csrf-token"):
            return 422, {"detail": "disabled"}
        asked.append((request.command, request.path, request.headers["Authorization"], json.loads(body)))
        return 200, next(answers)

    monkeypatch.setattr(
        check_worker, "read_credential", lambda *_, **__: Credential("Basic YWRtaW46cGFzcw==", "SSM parameter '/x'")
    )
    with server(answer) as port:
        assert check_worker.wait_until_online(at_api(port, {"Kind": "SsmParameter", "Id": "/x"}), "i-1", 10)
    assert len(asked) == 3
    assert asked[0] == (
        "POST",
        "/api/work_pools/my%20pool/workers/filter",
        "Basic YWRtaW46cGFzcw==",
        {"workers": {"status": {"any_": ["ONLINE"]}}},
    )


def test_a_worker_that_never_comes_is_not_waited_for_forever(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda *_: (200, [])) as port:
        assert not check_worker.wait_until_online(at_api(port), "i-1", 0.05)
    assert "i-1 was not online within 0 s; see its log" in capsys.readouterr().err


def test_main_says_why_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: Any) -> bool:
        raise CredentialError("it does not exist")

    monkeypatch.setattr(check_worker.HostSettings, "read", lambda: SETTINGS)
    monkeypatch.setattr(check_worker, "wait_until_online", refuse)
    assert check_worker.main(["--online"]) == 1
    assert "The worker is not online: it does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("well", "code"), [(True, 0), (False, 1)])
def test_main_tells_by_its_exit_code(monkeypatch: pytest.MonkeyPatch, well: bool, code: int) -> None:
    monkeypatch.setattr(check_worker.HostSettings, "read", lambda: SETTINGS)
    monkeypatch.setattr(check_worker, "polls", lambda _: well)
    monkeypatch.setattr(check_worker, "wait_until_online", lambda *_: well)
    assert check_worker.main([]) == code
    assert check_worker.main(["--online"]) == code
