from prefect import flow


@flow
def failing() -> None:
    raise RuntimeError("on purpose")


failing()
