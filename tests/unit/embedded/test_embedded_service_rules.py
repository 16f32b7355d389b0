import pytest

from embedded.emulator.backoff import Backoff, delay
from embedded.emulator.services import Plan, failure_threshold, plan


def test_delays_double_up_to_a_minute() -> None:
    assert [delay(n) for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert delay(10_000) == 60


def test_only_quick_deaths_in_a_row_slow_the_service_down() -> None:
    backoff = Backoff()
    backoff.died(lived=0.1, now=100)
    assert not backoff.ready(100.5)
    assert backoff.ready(101)
    backoff.died(lived=0.1, now=101)
    assert not backoff.ready(102.9)
    backoff.died(lived=3600, now=5000)
    assert backoff.failures == 0
    assert backoff.ready(5000)


def step(**given: int) -> Plan:
    base = {"desired": 1, "new": 0, "steady": 0, "old": 0, "leaving": 0, "minimum_percent": 100, "maximum_percent": 200}
    return plan(**{**base, **given})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Plan(start=1)),
        ({"desired": 0}, Plan()),
        ({"desired": 0, "new": 2, "steady": 2}, Plan(stop_new=2)),
        ({"new": 1, "steady": 1}, Plan()),
        # the new one beside the old one, then the old one goes
        ({"old": 1}, Plan(start=1)),
        ({"old": 1, "new": 1}, Plan()),
        ({"old": 1, "new": 1, "steady": 1}, Plan(stop_old=1)),
        # at most one at a time: first the old one goes, and has gone, then the new one starts
        ({"old": 1, "minimum_percent": 0, "maximum_percent": 100}, Plan(stop_old=1)),
        ({"leaving": 1, "minimum_percent": 0, "maximum_percent": 100}, Plan()),
        ({"minimum_percent": 0, "maximum_percent": 100}, Plan(start=1)),
        # four tasks, half may be missing, none more allowed
        ({"desired": 4, "old": 4, "minimum_percent": 50, "maximum_percent": 100}, Plan(stop_old=2)),
        ({"desired": 4, "old": 2, "minimum_percent": 50, "maximum_percent": 100}, Plan(start=2)),
        (
            {"desired": 4, "old": 2, "new": 2, "steady": 2, "minimum_percent": 50, "maximum_percent": 100},
            Plan(stop_old=2),
        ),
        # a lost task is replaced although its remains are still there
        ({"leaving": 1}, Plan(start=1)),
        ({"desired": 2, "new": 3, "steady": 3}, Plan(stop_new=1)),
    ],
)
def test_one_step_of_a_deployment(given: dict[str, int], expected: Plan) -> None:
    assert step(**given) == expected


def test_the_breaker_waits_for_three_failures_at_least() -> None:
    assert [failure_threshold(n) for n in (0, 1, 6, 7, 10, 1000)] == [3, 3, 3, 4, 5, 200]
