"""A flow of somebody else's, as short as can be."""

import os

from prefect import flow, task


@task
def missing(names: list[str]) -> list[str]:
    return [name for name in names if not os.environ.get(name)]


@flow
def hello(names: list[str]) -> None:
    """Fail unless these variables are set."""
    if absent := missing(names):
        raise RuntimeError(f"without a value: {absent}")
