"""A flow to see that the worker starts flow runs, and starts one again that was interrupted."""

import time

from prefect import flow, task


@flow
def greeting(name: str, pause: float = 0) -> str:
    return deliver(compose(name), pause)


@task(persist_result=True)
def compose(name: str) -> str:
    return f"Hello, {name}!"


@task
def deliver(text: str, pause: float) -> str:
    time.sleep(pause)
    return text
