import time

from prefect import flow


@flow(log_prints=True)
def slow() -> None:
    print("the flow is at work")
    try:
        time.sleep(100)
    except BaseException as error:
        print(f"the flow was told: {type(error).__name__}", flush=True)
        raise
