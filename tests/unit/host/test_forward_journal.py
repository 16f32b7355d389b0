"""From the journal to CloudWatch Logs: nothing is lost, and PutLogEvents is never given what it refuses."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st

from cdk_prefect_ecs.host import forward_journal
from cdk_prefect_ecs.host.forward_journal import Entry, LogStream, batches, forward, journalctl

DAY_MS = 24 * 3600 * 1000


def line(number: int, message: Any = "hello", timestamp_us: int = 1_700_000_000_000_000) -> str:
    fields = {"__CURSOR": f"c{number}", "__REALTIME_TIMESTAMP": str(timestamp_us + number), "MESSAGE": message}
    return json.dumps(fields) + "\n"


class Written(LogStream):
    """A stream that keeps what is written, or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.entries: list[Entry] = []
        self._fails = fails

    def write(self, entries: Any) -> None:
        if self._fails:
            raise OSError("CloudWatch is away")
        self.entries += entries


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_journal, "COLLECT_SECONDS", 0.01)


def test_entries_are_forwarded_in_order_and_the_last_one_is_remembered(tmp_path: Path) -> None:
    stream, cursor = Written(), tmp_path / "cursor"
    forward(io.StringIO("".join(line(n, f"line {n}") for n in range(500))), stream, cursor)
    assert [entry.message for entry in stream.entries] == [f"line {n}" for n in range(500)]
    assert cursor.read_text() == "c499"


def test_what_did_not_arrive_is_not_remembered(tmp_path: Path) -> None:
    cursor = tmp_path / "cursor"
    with pytest.raises(OSError, match="CloudWatch is away"):
        forward(io.StringIO(line(1)), Written(fails=True), cursor)
    assert not cursor.exists()


def test_it_goes_on_after_the_cursor(tmp_path: Path) -> None:
    cursor = tmp_path / "cursor"
    assert "--after-cursor=c7" not in journalctl(cursor)
    cursor.write_text("c7")
    command = journalctl(cursor)
    assert command[-1] == "--after-cursor=c7"
    assert {"--unit=prefect-worker.service", "--unit=cloud-final.service", "--no-tail", "--follow"} <= set(command)


def test_a_line_as_journalctl_prints_it() -> None:
    assert Entry.parse(line(1)) == Entry("c1", 1_700_000_000_000, "hello")
    assert Entry.parse(line(1, [104, 105, 255])) == Entry("c1", 1_700_000_000_000, "hi�")


@pytest.mark.parametrize("message", ["", "  ", None])
def test_an_empty_line_is_left_out(message: str | None) -> None:
    assert Entry.parse(line(1, message)) is None


def test_a_line_too_long_is_cut_between_characters() -> None:
    entry = Entry.parse(line(1, "é" * 200_000))
    assert entry is not None
    assert entry.size <= forward_journal.MAX_EVENT_BYTES
    assert set(entry.message) == {"é"}


@given(
    st.lists(
        st.builds(
            Entry,
            cursor=st.just("c"),
            timestamp_ms=st.integers(0, 3 * DAY_MS),
            message=st.sampled_from(["x", "é" * 100_000, "y" * 250_000]),
        ),
        max_size=40,
    )
)
def test_batches_keep_the_limits_of_put_log_events(entries: list[Entry]) -> None:
    made = list(batches(entries))
    assert [entry for batch in made for entry in batch] == entries
    for batch in made:
        assert 0 < len(batch) <= 10_000
        assert sum(entry.size for entry in batch) <= 1_048_576


@given(st.lists(st.integers(0, 30).map(lambda tenth: tenth * DAY_MS // 10), max_size=40))
def test_no_batch_spans_a_day(times: list[int]) -> None:
    for batch in batches([Entry("c", time, "x") for time in times]):
        stamps = [entry.timestamp_ms for entry in batch]
        assert max(stamps) - min(stamps) < DAY_MS


@pytest.fixture
def logs() -> Iterator[tuple[Any, Stubber]]:
    client = boto3.client("logs", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="y")
    with Stubber(client) as stubber:
        yield client, stubber
        stubber.assert_no_pending_responses()


def test_stream_is_made_or_found(logs: tuple[Any, Stubber]) -> None:
    client, stubber = logs
    asked = {"logGroupName": "/prefect", "logStreamName": "worker/host/i-1"}
    stubber.add_response("create_log_stream", {}, asked)
    stubber.add_client_error("create_log_stream", "ResourceAlreadyExistsException")
    stream = LogStream(client, "/prefect", "worker/host/i-1")
    stream.create()
    stream.create()


def test_events_are_written_in_the_order_of_time(logs: tuple[Any, Stubber]) -> None:
    client, stubber = logs
    events = [{"timestamp": 1, "message": "b"}, {"timestamp": 2, "message": "a"}]
    stubber.add_response("put_log_events", {}, {"logGroupName": "/prefect", "logStreamName": ANY, "logEvents": events})
    LogStream(client, "/prefect", "worker/host/i-1").write([Entry("c1", 2, "a"), Entry("c2", 1, "b")])
