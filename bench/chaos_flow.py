"""The flow that `bench.spot_chaos` runs on both sides: it does nothing but take time and keep a journal of it.

Every execution of a task appends lines to the journal: its start, a heartbeat every 0.2 s, its end. Whatever any
attempt of a run did, and when, can be read there afterwards, also when the attempt was killed.
"""

import json
import os
import time

from prefect import flow, task

HEARTBEAT_SECONDS = 0.2
STEPS = 6
STEP_SECONDS = 1.0
ITEM_SECONDS = (1.0, 2.0, 3.0)


def note(journal: str, kind: str, name: str) -> None:
    line = json.dumps({"at": time.time(), "process": os.getpid(), "kind": kind, "name": name}) + "\n"
    # One write to a file that is only appended to: lines of attempts that overlap do not mix.
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def work(journal: str, name: str, seconds: float) -> None:
    note(journal, "start", name)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(HEARTBEAT_SECONDS, left))
        note(journal, "beat", name)
    note(journal, "end", name)


@task(task_run_name="step-{number}")
def step(number: int, journal: str) -> int:
    work(journal, f"step-{number}", STEP_SECONDS)
    return number


@task(task_run_name="item-{number}")
def item(number: int, journal: str) -> int:
    work(journal, f"item-{number}", ITEM_SECONDS[number])
    return number


@flow
def chaos(journal: str) -> int:
    """Six tasks one after the other, then three at once: 9 s of work."""
    note(journal, "flow", "begins")
    total = sum(step(number, journal) for number in range(STEPS))
    total += sum(item.map(list(range(len(ITEM_SECONDS))), journal=journal).result())
    note(journal, "flow", "ends")
    return total
