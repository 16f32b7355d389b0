"""Dask clusters for real: opened by a flow run on the embedded AWS with its own rights, and interrupted."""

from collections.abc import Iterator

import pytest

from embedded.aws import Task
from embedded.deployed import DeployedApp, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

FLOW = "rank-carriers/bootstrap"
REPLICATES, WORKERS, SEED = 120, 2, 3
#: Give a lost worker up at once, not after 15 seconds.
IMPATIENT = {"env": {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"}}


@pytest.fixture(scope="module")
def app(undeployed: DeployedApp) -> Iterator[DeployedApp]:
    """The app with its flows. It goes with the module."""
    undeployed.deploy()
    undeployed.wait_for_worker()
    undeployed.deploy_flows()
    yield undeployed
    undeployed.delete_deployments()
    undeployed.destroy()


def dask_tasks(app: DeployedApp, role: str, status: str | None = None) -> list[Task]:
    """Tasks of schedulers or workers, oldest first."""
    found = [task for task in app.aws.tasks() if task.family.endswith(f"-{role}")]
    return [task for task in found if status in (None, task.last_status)]


def wait_for_workers(app: DeployedApp, count: int) -> list[Task]:
    def running() -> list[Task] | None:
        tasks = dask_tasks(app, "worker", "RUNNING")
        return tasks if len(tasks) == count else None

    return wait_for(f"{count} Dask workers to be running", running, 90)


def test_a_lost_worker_does_not_lose_the_result(app: DeployedApp) -> None:
    before = app.aws.client("ecs").list_task_definitions()["taskDefinitionArns"]
    run = app.start_run(
        FLOW,
        {"replicates": REPLICATES, "workers": WORKERS, "seed": SEED, "seconds_per_batch": 3.0},
        IMPATIENT,
    )
    first, second = wait_for_workers(app, 2)
    app.aws.interrupt(first.arn)
    done = app.wait_for_final_state(run.id)
    print(
        app.aws.client("logs").filter_log_events(
            logGroupName=app.outputs()["LogGroupName"], logStreamNamePrefix="dask/"
        )
    )
    print(done.state)
    for t in app.aws.tasks():
        print(t)
