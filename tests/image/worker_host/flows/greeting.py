"""A flow to see that the worker starts flow runs."""

from prefect import flow, task


@flow
def greeting(name: str) -> str:
    return compose(name)


@task
def compose(name: str) -> str:
    return f"Hello, {name}!"
