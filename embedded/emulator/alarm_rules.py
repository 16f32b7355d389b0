"""When an alarm of CloudWatch is raised: pure rules. MiniStack's own look at neither dimensions nor periods.

Source: "Alarm evaluation" and "Configuring how CloudWatch alarms treat missing data", Amazon CloudWatch User Guide.
"""

import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_BREACHES: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "Sum": sum,
    "Maximum": max,
    "Minimum": min,
    "Average": lambda values: sum(values) / len(values),
    "SampleCount": lambda values: float(len(values)),
}


@dataclass(frozen=True)
class Rule:
    """What an alarm looks at; periods are in seconds."""

    statistic: str
    comparison: str
    threshold: float
    period: float
    periods: int
    to_alarm: int
    missing: str = "missing"


def supports(statistic: str | None, comparison: str) -> bool:
    """Whether these rules know such an alarm; percentiles and bands of anomalies they do not."""
    return statistic in _STATISTICS and comparison in _BREACHES


def state(rule: Rule, points: Sequence[tuple[float, float]], now: float, before: str) -> str:
    """The state of an alarm.

    :param points: Time and value of every sample of its metric.
    :param before: Its state so far.
    """
    by_period: dict[int, list[float]] = defaultdict(list)
    for time, value in points:
        by_period[int(time // rule.period)].append(value)
    last = int(now // rule.period)
    if last not in by_period:
        last -= 1  # the period that has just begun counts when there is something in it
    breaching = missing = 0
    for period in range(last, last - rule.periods, -1):
        if period in by_period:
            breaching += _BREACHES[rule.comparison](_STATISTICS[rule.statistic](by_period[period]), rule.threshold)
        elif rule.missing == "breaching":
            breaching += 1
        elif rule.missing != "notBreaching":
            missing += 1
    if breaching >= rule.to_alarm:
        return "ALARM"
    if missing == rule.periods:
        return before if rule.missing == "ignore" else "INSUFFICIENT_DATA"
    if breaching + missing < rule.to_alarm:
        return "OK"
    return before  # the data that is missing would decide
