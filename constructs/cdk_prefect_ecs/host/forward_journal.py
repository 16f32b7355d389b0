"""Forward the worker's journal to CloudWatch Logs: what follows the journal is systemd's, what writes is boto3.

Why not the CloudWatch agent: it takes a hundred megabytes and more of the one gigabyte, and reads the journal since
2026 only. An entry is never lost, not in a restart and not while CloudWatch is out of reach: the journal keeps it, and
the cursor of the last one that arrived is kept on disk. An entry may arrive twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from cdk_prefect_ecs.host.settings import HostSettings, instance_id

# Limits of PutLogEvents. Source: PutLogEvents, Amazon CloudWatch Logs API Reference.
MAX_EVENTS: Final = 10_000
MAX_BATCH_BYTES: Final = 1_048_576
MAX_EVENT_BYTES: Final = 262_144
EVENT_OVERHEAD_BYTES: Final = 26
MAX_SPAN_MS: Final = 24 * 3600 * 1000

#: How long lines are collected before they are sent.
COLLECT_SECONDS: Final = 2.0
UNITS: Final = ("cloud-final.service", "prefect-worker.service", "prefect-worker-health.service")


@dataclass(frozen=True)
class Entry:
    """One line of the journal."""

    cursor: str
    timestamp_ms: int
    message: str

    @classmethod
    def parse(cls, line: str) -> Entry | None:
        """Read a line of ``journalctl --output=json``; None for one without a message, which CloudWatch refuses."""
        fields = json.loads(line)
        message = fields.get("MESSAGE")
        if isinstance(message, list):  # bytes that are not text
            message = bytes(message).decode(errors="replace")
        if not message or not message.strip():
            return None
        encoded = message.encode()[: MAX_EVENT_BYTES - EVENT_OVERHEAD_BYTES]
        text = encoded.decode(errors="ignore")
        return cls(fields["__CURSOR"], int(fields["__REALTIME_TIMESTAMP"]) // 1000, text)

    @property
    def size(self) -> int:
        """What it counts in a batch, in bytes."""
        return len(self.message.encode()) + EVENT_OVERHEAD_BYTES


def batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The entries in pieces that PutLogEvents takes, each in the order of time."""
    batch: list[Entry] = []
    size = earliest = latest = 0
    for entry in entries:
        # The clock may have been set back between two entries.
        span = max(latest, entry.timestamp_ms) - min(earliest, entry.timestamp_ms)
        full = len(batch) == MAX_EVENTS or size + entry.size > MAX_BATCH_BYTES or span >= MAX_SPAN_MS
        if batch and full:
            yield batch
            batch, size = [], 0
        if not batch:
            earliest = latest = entry.timestamp_ms
        batch.append(entry)
        size += entry.size
        earliest, latest = min(earliest, entry.timestamp_ms), max(latest, entry.timestamp_ms)
    if batch:
        yield batch


class LogStream:
    """A stream of a log group in CloudWatch."""

    def __init__(self, client: Any, group: str, name: str) -> None:
        self._client = client
        self._group = group
        self._name = name

    def create(self) -> None:
        """Make the stream unless it is there."""
        with contextlib.suppress(self._client.exceptions.ResourceAlreadyExistsException):
            self._client.create_log_stream(logGroupName=self._group, logStreamName=self._name)

    def write(self, entries: Sequence[Entry]) -> None:
        """Write entries; they are there when this returns."""
        for batch in batches(entries):
            # CloudWatch wants them in the order of time.
            ordered = sorted(batch, key=lambda entry: entry.timestamp_ms)
            self._client.put_log_events(
                logGroupName=self._group,
                logStreamName=self._name,
                logEvents=[{"timestamp": entry.timestamp_ms, "message": entry.message} for entry in ordered],
            )


def forward(lines: IO[str], stream: LogStream, cursor_file: Path) -> None:
    """Forward what ``journalctl`` prints until it ends."""
    waiting: queue.Queue[str | None] = queue.Queue(maxsize=MAX_EVENTS)

    def read() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        collected = [waiting.get()]
        time.sleep(COLLECT_SECONDS)
        while not waiting.empty():
            collected.append(waiting.get())
        ended = None in collected
        entries = [entry for line in collected if line is not None and (entry := Entry.parse(line))]
        if entries:
            stream.write(entries)
            keep(cursor_file, entries[-1].cursor)


def keep(cursor_file: Path, cursor: str) -> None:
    """Write the cursor so that it is there as a whole or not at all."""
    new = cursor_file.with_suffix(".new")
    new.write_text(cursor)
    new.replace(cursor_file)


def journalctl(cursor_file: Path) -> list[str]:
    """The command that follows the journal, from where it was left or from its beginning."""
    follow = ["journalctl", "--follow", "--output=json", "--no-tail", *(f"--unit={unit}" for unit in UNITS)]
    return [*follow, f"--after-cursor={cursor_file.read_text()}"] if cursor_file.exists() else follow


def main() -> int:
    """Called by the unit; returns the exit code."""
    import boto3
    from botocore.config import Config

    settings = HostSettings.read()
    cursor_file = Path(os.environ["STATE_DIRECTORY"]) / "cursor"
    config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 10})
    client = boto3.client("logs", region_name=settings.region, config=config)
    stream = LogStream(client, settings.log_group_name, f"worker/host/{instance_id()}")
    stream.create()
    with subprocess.Popen(journalctl(cursor_file), stdout=subprocess.PIPE, text=True) as journal:
        assert journal.stdout is not None
        try:
            forward(journal.stdout, stream, cursor_file)
        finally:
            journal.kill()
    print("journalctl ended", file=sys.stderr)
    return 1  # systemd starts it again


if __name__ == "__main__":
    sys.exit(main())
