"""What every worker is told, wherever it runs."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.work_pool import WorkPool

DEFAULT_POLL_SECONDS = 5


#: prefect-aws's own retries, on top of boto's. Together they stay below a minute, so that Lazarus waits long enough.
#: Without Spot capacity more attempts to start a task would only put off the fallback.
_RETRIES: Final = {
    "PREFECT_INTEGRATIONS_AWS_ECS_WORKER_CREATE_TASK_RUN_MAX_ATTEMPTS": "3",
    "PREFECT_INTEGRATIONS_AWS_ECS_WORKER_REGISTER_TASK_DEFINITION_MAX_ATTEMPTS": "6",
}


def worker_environment(*, api: PrefectApi, work_pool: WorkPool, poll_interval: cdk.Duration) -> dict[str, str]:
    """Environment variables of a worker.

    :param api: The Prefect API to poll.
    :param work_pool: The pool to serve.
    :param poll_interval: How often the worker asks for runs that are due.
    """
    return {
        "PREFECT_API_URL": api.url,
        "PREFECT_WORKER_QUERY_SECONDS": f"{poll_interval.to_seconds(integral=False):g}",
        # Prefect's default of 10 takes runs that long before they are due, which would undo Lazarus's back-off.
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        "PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME": work_pool.observer_queue_name,
        # Bursts of runs meet the limits of RunTask (20/s) and RegisterTaskDefinition (1/s): slow down, go on.
        "AWS_RETRY_MODE": "adaptive",
        "AWS_MAX_ATTEMPTS": "10",
        **_RETRIES,
    }
