"""A flow that waits at a gate, so that a test decides where it is when its machine goes.

What it does is recorded below ``data/gated/FLOW_RUN_ID/`` in the bucket, independent of what Prefect believes.
"""

import time
import uuid

import boto3
from prefect import flow, task
from prefect.runtime import flow_run


@flow
def gated(bucket: str, nested: bool = False, background: bool = False) -> list[str]:
    """Two steps, a gate that a test opens, and a third step.

    Args:
        bucket: Where the records and the gate are.
        nested: Put the gate into a subflow.
        background: Leave a task to a task worker before the gate.
    """
    prefix = f"data/gated/{flow_run.id}"
    names = [step(bucket, prefix, "one"), step(bucket, prefix, "two")]
    if background:
        errand.delay()
    if nested:
        room(bucket, prefix)
    else:
        gate(bucket, prefix)
    return [*names, step(bucket, prefix, "three")]


@flow
def room(bucket: str, prefix: str) -> None:
    """A subflow around the gate."""
    step(bucket, prefix, "inside")
    gate(bucket, prefix)


@task(task_run_name="{name}")
def step(bucket: str, prefix: str, name: str) -> str:
    """Record that this was executed, once for each time."""
    record(bucket, f"{prefix}/executed/{name}")
    return name


@task
def errand() -> None:
    """Something for a task worker, of which there is none."""


@task(tags={"gate"})
def gate(bucket: str, prefix: str) -> None:
    """Wait until the gate is open."""
    record(bucket, f"{prefix}/reached")
    s3 = boto3.client("s3")
    while not s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/open").get("Contents"):
        time.sleep(0.1)


def record(bucket: str, prefix: str) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{uuid.uuid4()}", Body=b"")
