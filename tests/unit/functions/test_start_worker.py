"""What the worker's container says of its credential before it becomes the worker."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from function_fakes import API_KEY, Answer, HttpServer, Request

from cdk_prefect_ecs.container import start_worker
from cdk_prefect_ecs.container.start_worker import refusal

Start = Callable[[Callable[[Request], Answer]], HttpServer]
SOURCE = "SSM parameter '/prefect/api-key'"
AUTH = "admin:pä ss"


def said(url: str, **secret: str) -> str | None:
    found = refusal(SOURCE, {"PREFECT_API_URL": f"{url}/api", **secret}, "my pool")
    for value in secret.values():
        assert not value.strip() or value.strip() not in (found or "")
    return found


def accepts_nothing(_: Request) -> Answer:
    raise AssertionError("nothing was to be sent")


@pytest.mark.parametrize(
    ("secret", "header"),
    [
        ({"PREFECT_API_KEY": API_KEY}, f"Bearer {API_KEY}"),
        ({"PREFECT_API_AUTH_STRING": AUTH}, f"Basic {base64.b64encode(AUTH.encode()).decode()}"),
    ],
)
@pytest.mark.parametrize("status", [200, 404, 500])
def test_credential_that_is_not_rejected_passes(
    http_server: Start, secret: dict[str, str], header: str, status: int
) -> None:
    server = http_server(lambda _: Answer(status, {}))
    assert said(server.url, **secret) is None
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/api/work_pools/my%20pool")
    assert request.headers["authorization"] == header


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_credential_is_named_by_its_source(http_server: Start, status: int) -> None:
    server = http_server(lambda _: Answer(status, {}))
    assert said(server.url, PREFECT_API_KEY=API_KEY) == (
        f"The worker does not start: {SOURCE} was rejected by the Prefect API at {server.url}/api ({status}). "
        "Once the right one is stored it starts by itself."
    )


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        ({}, "is empty"),
        ({"PREFECT_API_KEY": ""}, "is empty"),
        ({"PREFECT_API_AUTH_STRING": " \n"}, "is empty"),
        ({"PREFECT_API_KEY": f"{API_KEY}\n"}, "has a line break or another control character in it"),
        ({"PREFECT_API_AUTH_STRING": f"{AUTH}\r\n"}, "has a line break"),
        ({"PREFECT_API_KEY": f"Bearer {API_KEY}"}, "has a space or another character in it that no API key has"),
        ({"PREFECT_API_KEY": f"{API_KEY}…"}, "that no API key has"),
    ],
)
def test_value_that_cannot_be_a_credential_is_said_to_be_none_and_sent_nowhere(
    http_server: Start, secret: dict[str, str], what: str
) -> None:
    server = http_server(accepts_nothing)
    reason = said(server.url, **secret) or ""
    assert reason.startswith(f"The worker does not start: {SOURCE} ")
    assert what in reason
    assert server.requests == []


def test_credential_is_not_carried_elsewhere(http_server: Start) -> None:
    elsewhere = http_server(accepts_nothing)
    server = http_server(lambda _: Answer(302, {}, {"Location": elsewhere.url}))
    assert said(server.url, PREFECT_API_KEY=API_KEY) is None
    assert elsewhere.requests == []


def test_api_out_of_reach_is_left_to_prefect(http_server: Start) -> None:
    server = http_server(accepts_nothing)
    server.close()
    assert said(server.url, PREFECT_API_KEY=API_KEY) is None


def run(server: HttpServer, value: str) -> subprocess.CompletedProcess[str]:
    """As ECS does: the text of the program in the command, the credential in the environment."""
    program = Path(start_worker.__file__).read_text()
    worker = [sys.executable, "-c", "import sys; print('started', *sys.argv[1:])", "--pool", "etl"]
    environment = {"PREFECT_API_URL": f"{server.url}/api", "PREFECT_API_KEY": value, "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", program, SOURCE, "etl", *worker]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_program_becomes_the_worker_or_ends_with_one_line(http_server: Start) -> None:
    def respond(request: Request) -> Answer:
        return Answer(200 if request.headers["authorization"] == f"Bearer {API_KEY}" else 401, {})

    server = http_server(respond)
    started = run(server, API_KEY)
    assert (started.returncode, started.stdout, started.stderr) == (0, "started --pool etl\n", "")
    refused = run(server, "pnu_another")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert "was rejected by" in refused.stderr
