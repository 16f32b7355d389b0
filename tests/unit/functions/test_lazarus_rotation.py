"""The function keeps its credential between invocations, and reads it anew when it is rejected."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from function_fakes import Answer, Context, FakeSsm, HttpServer, Request

from cdk_prefect_ecs.functions import lazarus
from cdk_prefect_ecs.functions.credential import CredentialError
from cdk_prefect_ecs.functions.lazarus import Lazarus, handler
from cdk_prefect_ecs.functions.lazarus_rules import Run, State, Task
from cdk_prefect_ecs.functions.lazarus_world import FlowRuns, Seen
from cdk_prefect_ecs.functions.prefect_api import PrefectApiClient, PrefectApiError


class NoTasks:
    """An ECS cluster without tasks."""

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"taskArns": []}]


class Stored(FakeSsm):
    """The parameter, and how often it was read."""

    def __init__(self, value: str) -> None:
        self.value, self.reads = value, 0

    def get_parameter(self, **asked: Any) -> dict[str, Any]:
        self.reads += 1
        return super().get_parameter(**asked)


class Prefect:
    """A server without flow runs, that accepts one key."""

    def __init__(self, accepted: str) -> None:
        self.accepted, self.status = accepted, 401
        self.server = HttpServer(self.respond)

    def respond(self, request: Request) -> Answer:
        ok = request.headers.get("authorization") == f"Bearer {self.accepted}"
        return Answer(200, []) if ok else Answer(self.status, {"exception_message": "Unauthorized"})


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Prefect]:
    fake = Prefect("pnu_old")
    for name, value in {
        "API_URL": f"{fake.server.url}/api",
        "CLUSTER_ARN": "arn:aws:ecs:us-east-1:123456789012:cluster/flows",
        "LOG_GROUP": "/flows",
        "STREAM_PREFIX": "flow-run/prefect",
        "CREDENTIAL": json.dumps({"Kind": "SsmParameter", "Id": "/prefect/api-key"}),
        "POOLS": json.dumps({"etl": {"family": "etl", "maxReschedules": 3, "patienceSeconds": 90}}),
    }.items():
        monkeypatch.setenv(name, value)
    yield fake
    fake.server.close()


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Stored:
    parameter = Stored("pnu_old")
    monkeypatch.setattr("cdk_prefect_ecs.functions.credential.aws_client", lambda service, region: parameter)
    monkeypatch.setattr(lazarus, "aws_client", lambda service, region: NoTasks())
    monkeypatch.setattr(lazarus, "_CACHE", {})
    return parameter


def test_credential_is_read_once(prefect: Prefect, stored: Stored) -> None:
    for _ in range(3):
        handler({}, Context())
    assert stored.reads == 1


@pytest.mark.parametrize("status", [401, 403])
def test_rotated_credential_is_used_by_the_same_invocation(prefect: Prefect, stored: Stored, status: int) -> None:
    handler({}, Context())
    prefect.accepted = stored.value = "pnu_new"
    prefect.status = status
    handler({}, Context())
    handler({}, Context())
    assert stored.reads == 2


def test_credential_that_is_rejected_is_read_anew_by_every_invocation(prefect: Prefect, stored: Stored) -> None:
    handler({}, Context())
    prefect.accepted = "pnu_new"
    for reads in (2, 3):
        with pytest.raises(PrefectApiError, match="rejected the credential read from SSM parameter '/prefect/api-key'"):
            handler({}, Context())
        assert stored.reads == reads
    stored.value = "pnu_new"
    handler({}, Context())
    assert stored.reads == 4


def test_other_troubles_of_the_api_leave_the_credential(prefect: Prefect, stored: Stored) -> None:
    handler({}, Context())
    prefect.accepted, prefect.status = "pnu_new", 404
    with pytest.raises(PrefectApiError, match="answered 404"):
        handler({}, Context())
    assert stored.reads == 1


def test_missing_credential_is_said(prefect: Prefect, stored: Stored) -> None:
    stored.value = " "
    with pytest.raises(CredentialError, match="SSM parameter '/prefect/api-key' is empty"):
        handler({}, Context())


def test_last_words_of_a_container_do_not_hold_the_credential() -> None:
    class Log:
        def last_words(self, _: Task) -> str:
            # What h11 says of a key that ends in a line break.
            return "httpx.LocalProtocolError: Illegal header value b'Bearer pnu_old\\n'"

    api = PrefectApiClient("http://127.0.0.1:1/api", "Bearer pnu_old", deadline=0)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    run = Run("r", "run", State("s", "PENDING", "Pending", now), "task")
    looking = Lazarus(FlowRuns(api, ["etl"], "cluster"), Log(), {}, deadline=0)  # type: ignore[arg-type]
    assert looking._last_words(Seen(run, "etl", {}, ()), Task("task", "STOPPED", now)) == (
        "\nLast lines of its container's log:\nhttpx.LocalProtocolError: Illegal header value b'Bearer ***\\n'"
    )


@pytest.mark.usefixtures("stored")
def test_pools_are_observed_where_somebody_watches_and_not_at_every_event(
    prefect: Prefect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def observed() -> bool:
        handler({}, Context())
        metrics = json.loads(capsys.readouterr().out)
        assert ("WorkersOnline" in metrics) == ("SecondsWaiting" in metrics) == ("TasksOnSpot" in metrics)
        return "WorkersOnline" in metrics

    assert not observed()
    monkeypatch.setenv("OBSERVE", "true")
    assert observed()
    assert not observed()  # a moment later
    monkeypatch.setitem(lazarus._CACHE, "observe", lazarus._CACHE["observe"] - 20)
    assert observed()
