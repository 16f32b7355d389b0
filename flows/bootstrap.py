"""How sure we can be that one carrier is later than another: a computation that outgrows one task.

The bootstrap draws the year's flights again and again. That is spread over a Dask cluster, opened for one task and gone
with it; its workers can be on Spot. What was on a lost worker is computed again by another.
"""

import json
from typing import Annotated, TypedDict

import numpy as np
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from pydantic import Field

import resampling
import storage
from dask_cluster import DaskCluster
from resampling import read_delays, resample
from storage import Address

REPLICATES_PER_BATCH = 10  # a few seconds of work, all that a lost worker costs


class Interval(TypedDict):
    carrier: str
    low: float
    high: float


@flow
def rank_carriers(
    output: Address,
    replicates: Annotated[int, Field(ge=REPLICATES_PER_BATCH, le=100_000)] = 1000,
    workers: Annotated[int, Field(ge=1, le=100)] = 4,
    seed: Annotated[int, Field(ge=0)] = 0,
    seconds_per_batch: Annotated[float, Field(ge=0, le=600)] = 0.0,
) -> list[Interval]:
    """Estimate the mean arrival delay of each carrier, in minutes, with 95 % confidence.

    Args:
        output: Where the intervals go: `s3://bucket/prefix`, or a local directory.
        replicates: How often all flights are drawn.
        workers: Workers of the Dask cluster.
        seed: The same seed and replicates make the same intervals.
        seconds_per_batch: Pretend that a batch of replicates takes this long.
    """
    intervals = estimate(replicates, workers, seed, seconds_per_batch)
    storage.write(f"{output.rstrip('/')}/run={flow_run.id}/intervals.json", json.dumps(intervals).encode())
    create_table_artifact(
        key="carriers-by-delay",
        table=[dict(interval) for interval in intervals],
        description="Mean arrival delay in minutes, 95 % confidence",
    )
    return intervals


@task(task_run_name="estimate", retries=2, retry_delay_seconds=10)
def estimate(replicates: int, workers: int, seed: int, seconds: float) -> list[Interval]:
    """Draw on a Dask cluster."""
    with DaskCluster(workers) as cluster, cluster.get_client() as client:
        get_run_logger().info("%s with %d workers", cluster.scheduler_address, workers)
        client.upload_file(resampling.__file__)
        # Submitted, not scattered: Dask can read again what was lost with a worker, and not what it was only handed.
        delays = client.submit(read_delays)
        batches = client.map(
            resample,
            [delays] * len(batch_sizes(replicates)),
            range(len(batch_sizes(replicates))),
            batch_sizes(replicates),
            seed=seed,
            seconds=seconds,
        )
        means = np.concatenate(client.gather(batches))
        carriers = client.submit(list, delays).result()
    return summarise(carriers, means)


def batch_sizes(replicates: int) -> list[int]:
    whole, rest = divmod(replicates, REPLICATES_PER_BATCH)
    return [REPLICATES_PER_BATCH] * whole + [rest] * (rest > 0)


def summarise(carriers: list[str], means: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[Interval]:
    """The middle 95 % of each carrier's means, latest carriers first."""
    low, high = np.percentile(means, [2.5, 97.5], axis=0).round(2)
    intervals = [
        Interval(carrier=carrier, low=float(bottom), high=float(top))
        for carrier, bottom, top in zip(carriers, low, high, strict=True)
    ]
    return sorted(intervals, key=lambda interval: -interval["low"])
