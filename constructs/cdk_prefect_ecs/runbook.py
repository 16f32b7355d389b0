"""What each alarm means, and the first thing to do about it. Pure rules: imports no CDK.

docs/monitoring.md has a section for each of them, with what else to look at; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cdk_prefect_ecs.arguments import checked, is_token

#: Where the sections are, seen from this repository.
RUNBOOK: Final = "docs/monitoring.md"


@dataclass(frozen=True)
class Advice:
    """A sentence each."""

    means: str
    do: str


#: By the ids of the alarms, the most urgent first.
ADVICE: Final = MappingProxyType(
    {
        "NoWorker": Advice(
            "No worker polls the work pool: no flow run is started",
            "Read the worker's log; a rejected credential and an image that cannot be pulled are named there",
        ),
        "HeartbeatMissing": Advice(
            "Lazarus is not invoked any more, not even by its schedule: runs that lose their task stay as they are",
            "Look whether the rule EveryMinute is enabled and the function is active",
        ),
        "Errors": Advice(
            "Lazarus fails: flow runs that lose their task stay as they are",
            "Read its log; most often the Prefect API does not answer, or rejects the credential",
        ),
        "RunsWait": Advice(
            "Flow runs are due and no worker takes them",
            "Look for a paused pool or queue, a concurrency limit that is reached, and a worker that does not keep up",
        ),
        "GivenUp": Advice(
            "A flow run is given up: Lazarus rescheduled it as often as it may, and it is Crashed",
            "Read why in the run's own log, or in the table of given-up runs; mend it, and retry the run in Prefect",
        ),
        "CapacityShort": Advice(
            "Machines are short: many flow runs were switched to on-demand, or wait where no fallback is",
            "Nothing is lost, but on-demand costs about three times as much: add zones or sizes if it lasts",
        ),
        "OldestMessage": Advice(
            "Task events wait: Lazarus does not read its queue, and reschedules once a minute instead of at once",
            "Look whether its event source mapping is enabled, and at its errors and throttles",
        ),
        "Throttles": Advice(
            "Lazarus is throttled for minutes: it cannot keep up, or the account's quota of Lambda is used up",
            "Look at its duration, and at the concurrent executions of the account",
        ),
        "DeadLetters": Advice(
            "Task events that Lazarus could not deal with are put aside; its schedule tends the runs all the same",
            "Read one, and Lazarus's log of that time; then purge the queue",
        ),
    }
)


def described(alarm: str, *, subject: str | None = None, url: str = RUNBOOK) -> str:
    """The description of an alarm: what it means, what to do, and where there is more.

    :param subject: What it is about, to begin with.
    :param url: Where the runbook is.
    """
    advice = ADVICE[alarm]
    beginning = f"{subject}: " if subject else ""
    return f"{beginning}{advice.means}. {advice.do}. Runbook: {section(alarm, url=url)}"


def section(alarm: str, *, url: str = RUNBOOK) -> str:
    """Where the runbook speaks of an alarm: headings become anchors on GitHub and in most wikis like this."""
    return f"{url}#{alarm.lower()}"


@checked
def check_monitoring_settings(
    alarm_email: str | None,
    *,
    has_topic: bool,
    has_key: bool,
    leave_out: Collection[str],
    shortage: int,
    wait_seconds: float,
) -> None:
    """Check what monitoring is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.ExecutionMonitoring` documents.
    """
    if alarm_email is not None:
        if has_topic:
            raise ValueError(
                "alarm_email makes a topic, and alarm_topic is one; leave out alarm_email and subscribe with "
                "alarm_topic.add_subscription(…)"
            )
        check_email(alarm_email)
    elif has_key:
        raise ValueError(
            "encryption_key is that of the topic that alarm_email makes; give an alarm_email, or leave out "
            "encryption_key: an alarm_topic has its own"
        )
    unknown = sorted({*leave_out} - ADVICE.keys())
    if unknown:
        raise ValueError(f"leave_out names no alarm with {', '.join(unknown)}; use some of {', '.join(ADVICE)}")
    if shortage < 1:
        raise ValueError(f"shortage must be 1 or more flow runs in an hour; got {shortage}")
    if wait_seconds < 60:
        raise ValueError(
            "longest_wait must be at least a minute, as Lazarus looks once a minute for certain; "
            f"got {wait_seconds:g} seconds"
        )


def check_email(address: str) -> None:
    """Check an address that alarms go to, where it is known at synth.

    :raises ValueError: No address.
    """
    if is_token(address):
        return
    name, _, host = address.partition("@")
    if not name or "." not in host or "@" in host or not address.isprintable() or " " in address:
        raise ValueError(f"alarm_email must be an address such as on-call@example.com; got {address!r}")
