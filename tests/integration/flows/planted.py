"""A flow that is handed secrets, and tells of them no more than a hash."""

import hashlib
import os

from gated import gate, record, step
from prefect import flow
from prefect.runtime import flow_run


@flow
def planted(bucket: str) -> list[str]:
    """A step, a gate that a test opens, and another step.

    Args:
        bucket: Where the records and the gate are.
    """
    prefix = f"data/gated/{flow_run.id}"
    for name in ("PLANTED_PASSWORD", "PLANTED_TOKEN"):
        record(bucket, f"{prefix}/handed/{name}/{hashlib.sha256(os.environ[name].encode()).hexdigest()}")
    names = [step(bucket, prefix, "one")]
    gate(bucket, prefix)
    return [*names, step(bucket, prefix, "two")]
