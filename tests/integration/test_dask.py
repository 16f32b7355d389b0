"""Dask clusters for real: opened by a flow run on the embedded AWS with its own rights, and interrupted."""

import json
from collections.abc import Iterator
from uuid import UUID

import numpy as np
import pytest
from distributed import Client

import bootstrap
import resampling
from embedded.aws import Task
from embedded.deployed import DeployedApp, finished, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

FLOW = "rank-carriers/bootstrap"
REPLICATES, WORKERS, SEED = 120, 2, 3
PARAMETERS = {"replicates": REPLICATES, "workers": WORKERS, "seed": SEED, "seconds_per_batch": 1.5}
#: Give a lost worker up after a second, not after 15.
IMPATIENT = {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"}


@pytest.fixture(scope="module")
def app(undeployed: DeployedApp) -> Iterator[DeployedApp]:
    """The app with its flows. It goes with the module."""
    undeployed.deploy()
    undeployed.wait_for_worker()
    undeployed.deploy_flows()
    yield undeployed
    undeployed.delete_deployments()
    undeployed.destroy()


@pytest.fixture(scope="module")
def expected() -> list[bootstrap.Interval]:
    """What one process computes."""
    delays = resampling.read_delays()
    sizes = bootstrap.batch_sizes(REPLICATES)
    means = [resampling.resample(delays, batch, size, SEED) for batch, size in enumerate(sizes)]
    return bootstrap.summarise(list(delays), np.concatenate(means))


def dask_tasks(app: DeployedApp, role: str, *, after: int = 0) -> list[Task]:
    """Tasks of schedulers or workers, oldest first, without the first so many."""
    return [task for task in app.aws.tasks() if task.family == f"PrefectEmbedded-Execution-Dask-{role}"][after:]


def scheduler_address(app: DeployedApp, scheduler: Task) -> str:
    (attachment,) = app.describe_task(scheduler)["attachments"]
    details = {detail["name"]: detail["value"] for detail in attachment["details"]}
    return f"tcp://{details['privateIPv4Address']}:8786"


def wait_for_batches(app: DeployedApp, run_id: UUID, count: int, *, after: int = 0) -> None:
    """Wait until the newest cluster has drawn so many batches."""

    def running() -> Task | None:
        assert not app.prefect.read_flow_run(run_id).state.is_final()
        return next((task for task in dask_tasks(app, "scheduler", after=after) if task.last_status == "RUNNING"), None)

    scheduler = wait_for("a Dask scheduler", running, 120)

    def drawn(dask_scheduler: object = None) -> int:
        tasks = dask_scheduler.tasks  # type: ignore[attr-defined]
        return sum(key.startswith("resample") and task.state == "memory" for key, task in tasks.items())

    with Client(scheduler_address(app, scheduler), timeout=60) as client:
        wait_for(f"{count} batches", lambda: client.run_on_scheduler(drawn) >= count or None, 90)


def result(app: DeployedApp, run_id: UUID) -> list[bootstrap.Interval]:
    run = app.wait_for_final_state(run_id, 240)
    assert run.state is not None
    assert run.state_name == "Completed", run.state
    key = f"data/bootstrap/run={run_id}/intervals.json"
    body = app.aws.client("s3").get_object(Bucket=app.outputs()["BucketName"], Key=key)["Body"].read()
    found: list[bootstrap.Interval] = json.loads(body)
    return found


def definitions(app: DeployedApp) -> list[str]:
    found: list[str] = app.aws.client("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
    return [arn for arn in found if "Dask" in arn]


def test_a_lost_worker_does_not_lose_the_result(app: DeployedApp, expected: list[bootstrap.Interval]) -> None:
    before = definitions(app)
    run = app.start_run(FLOW, PARAMETERS, {"env": IMPATIENT})
    wait_for_batches(app, run.id, 3)
    app.aws.interrupt(dask_tasks(app, "worker")[0].arn)
    assert result(app, run.id) == expected

    (scheduler,), (lost, *others) = dask_tasks(app, "scheduler"), dask_tasks(app, "worker")
    assert scheduler.capacity_provider == "FARGATE"
    assert {worker.capacity_provider for worker in (lost, *others)} == {"FARGATE_SPOT"}
    assert lost.stop_code == "SpotInterruption"
    assert len(others) == WORKERS, "the lost worker was replaced"
    (attempt,) = app.attempts(run.id)
    assert attempt.capacity_provider == "FARGATE"
    assert finished(app.task_runs(run.id))["estimate"] == 1

    assert {task.last_status for task in (scheduler, lost, *others)} == {"STOPPED"}
    assert definitions(app) == before
    assert len(before) == 2, "those of the stack, and none is registered by a run"


def test_a_cluster_whose_flow_run_is_gone_ends_by_itself(app: DeployedApp, expected: list[bootstrap.Interval]) -> None:
    schedulers, workers = len(dask_tasks(app, "scheduler")), len(dask_tasks(app, "worker"))
    run = app.start_run(FLOW, PARAMETERS, {"env": {"DASK_CLOUDPROVIDER__ECS__SCHEDULER_TIMEOUT": "5 seconds"}})
    wait_for_batches(app, run.id, 1, after=schedulers)
    app.aws.interrupt(app.wait_for_attempt(run.id).arn, notice=False)

    def ended() -> bool | None:
        first = [
            *dask_tasks(app, "scheduler", after=schedulers)[:1],
            *dask_tasks(app, "worker", after=workers)[:WORKERS],
        ]
        return {task.last_status for task in first} == {"STOPPED"} or None

    wait_for("the cluster to end", ended, 120)
    assert result(app, run.id) == expected
    assert len(app.attempts(run.id)) == 2
    left = [task for role in ("scheduler", "worker") for task in dask_tasks(app, role) if task.last_status != "STOPPED"]
    assert left == []
