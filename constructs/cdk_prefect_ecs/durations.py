"""Durations of the CDK as the numbers that the rules check."""

from __future__ import annotations

import aws_cdk as cdk

from cdk_prefect_ecs.settings import check_days


def seconds_of(name: str, duration: cdk.Duration) -> float:
    """A duration in seconds.

    :param name: What it is, for the message.
    :raises ValueError: A token: the rules cannot look at it.
    """
    if duration.is_unresolved():
        raise ValueError(f"{name} must be known at synth; got a token")
    return duration.to_seconds(integral=False)


def seconds_or_token(name: str, duration: cdk.Duration) -> float | None:
    """A duration in seconds; None for one that is known only at deploy.

    :param name: What it is, for the message.
    :raises ValueError: A token in another unit than seconds, which nobody can convert.
    """
    if not duration.is_unresolved():
        return duration.to_seconds(integral=False)
    _check_unit(name, duration, "seconds")
    return None


def check_whole_days(name: str, duration: cdk.Duration) -> None:
    """Check a time that S3 or ECR counts in days; one that is known only at deploy passes.

    :raises ValueError: As :func:`~cdk_prefect_ecs.settings.check_days`; a token in another unit than days, which
        nobody can convert.
    """
    if not duration.is_unresolved():
        check_days(name, duration.to_days(integral=False))
    else:
        _check_unit(name, duration, "days")


def _check_unit(name: str, duration: cdk.Duration, unit: str) -> None:
    if duration.unit_label() != unit:
        raise ValueError(f"{name} is a token in {duration.unit_label()}; make it with Duration.{unit}")
