"""CloudWatch in the embedded AWS: metrics in logs, and when an alarm is raised."""

import json
from datetime import UTC, datetime

import pytest

from cdk_prefect_ecs.functions.lazarus_metrics import Counts
from embedded.emulator.alarm_rules import Rule, state, supports
from embedded.emulator.metrics import Datum, embedded

NOW = 167 * 60.0  # a minute begins


def rule(**more: object) -> Rule:
    settings: dict[str, object] = {
        "statistic": "Sum", "comparison": "GreaterThanOrEqualToThreshold", "threshold": 1.0, "period": 60.0,
        "periods": 3, "to_alarm": 2, "missing": "notBreaching",
    }  # fmt: skip
    return Rule(**{**settings, **more})  # type: ignore[arg-type]


def minutes_ago(*values: tuple[float, float]) -> list[tuple[float, float]]:
    return [(NOW - minutes * 60, value) for minutes, value in values]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], "OK"),
        ([(0.5, 1)], "OK"),
        ([(0.5, 1), (1.5, 1)], "ALARM"),
        ([(0.5, 1), (2.5, 1)], "ALARM"),
        ([(0.2, 0.5), (0.8, 0.5), (1.5, 0.6), (1.6, 0.6)], "ALARM"),  # the sum of a period
        ([(0.5, 1), (3.5, 1)], "OK"),  # too long ago
        ([(0, 1), (0.5, 1)], "ALARM"),  # the period that has just begun
        ([(0, 1), (2.5, 1)], "OK"),
        ([(0.9, 1), (1.1, 1)], "ALARM"),  # on both sides of a minute's end
        ([(0.1, 1), (0.9, 1)], "OK"),
    ],
)
def test_some_of_the_last_periods(points: list[tuple[float, float]], expected: str) -> None:
    assert state(rule(), minutes_ago(*points), NOW, "INSUFFICIENT_DATA") == expected


@pytest.mark.parametrize(
    ("missing", "before", "expected"),
    [
        ("breaching", "OK", "ALARM"),
        ("notBreaching", "ALARM", "OK"),
        ("ignore", "ALARM", "ALARM"),
        ("ignore", "OK", "OK"),
        ("missing", "ALARM", "INSUFFICIENT_DATA"),
    ],
)
def test_no_data_at_all(missing: str, before: str, expected: str) -> None:
    assert state(rule(missing=missing), [], NOW, before) == expected


@pytest.mark.parametrize("before", ["OK", "ALARM"])
def test_where_missing_data_would_decide_an_alarm_stays_what_it_is(before: str) -> None:
    assert state(rule(missing="ignore"), minutes_ago((0.5, 1)), NOW, before) == before
    assert state(rule(missing="ignore"), minutes_ago((0.5, 0), (1.5, 0)), NOW, before) == "OK"
    assert state(rule(missing="ignore"), minutes_ago((0.5, 1), (1.5, 1)), NOW, before) == "ALARM"


@pytest.mark.parametrize(
    ("statistic", "comparison", "expected"),
    [
        ("Maximum", "GreaterThanThreshold", "ALARM"),
        ("Minimum", "LessThanThreshold", "ALARM"),
        ("Average", "LessThanOrEqualToThreshold", "ALARM"),
        ("SampleCount", "LessThanThreshold", "OK"),
        ("SampleCount", "GreaterThanOrEqualToThreshold", "ALARM"),
    ],
)
def test_statistics_and_comparisons(statistic: str, comparison: str, expected: str) -> None:
    one = rule(statistic=statistic, comparison=comparison, threshold=2.0, periods=1, to_alarm=1)
    assert state(one, minutes_ago((0.5, 1), (0.6, 3)), NOW, "OK") == expected


def test_what_the_rules_do_not_know_is_left_to_ministack() -> None:
    assert supports("Sum", "LessThanThreshold")
    assert not supports("p90", "LessThanThreshold")
    assert not supports(None, "LessThanThreshold")
    assert not supports("Sum", "GreaterThanUpperThreshold")


def test_metrics_in_a_line_of_lazarus() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    line = Counts(given_up=2, seconds_to_reschedule=[1.5, 2.5]).embedded_metrics("etl", now)
    found = {datum.name: datum for datum in embedded(line)}
    assert found["GivenUp"] == Datum("PrefectOnEcs", "GivenUp", "Count", {"WorkPool": "etl"}, (2.0,), now.timestamp())
    assert found["SecondsFromStopToReschedule"].values == (1.5, 2.5)
    assert found["Fallbacks"].values == (0.0,)


def test_each_set_of_dimensions_is_a_metric_and_other_lines_are_none() -> None:
    directive = {"Namespace": "N", "Dimensions": [["A"], ["A", "B"], []], "Metrics": [{"Name": "M"}]}
    line = json.dumps({"_aws": {"Timestamp": 1000, "CloudWatchMetrics": [directive]}, "A": "a", "B": "b", "M": 1})
    assert [datum.dimensions for datum in embedded(line)] == [{"A": "a"}, {"A": "a", "B": "b"}, {}]
    assert {datum.unit for datum in embedded(line)} == {"None"}
    assert list(embedded("START RequestId: 1")) == []
