"""The app on an embedded AWS whose tasks are containers: the image it builds is the image that runs."""

from collections.abc import Iterator

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from embedded import EmbeddedAws, PrefectServer
from embedded.aws import Task
from embedded.deployed import DeployedApp, finished, wait_for
from embedded.task_containers import containers_of, left_of

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

FLIGHTS = "flights-etl/flights"
LONG = 240.0


@pytest.fixture(scope="module")
def app(image: str) -> Iterator[DeployedApp]:
    """The app, deployed with its own image; its worker is online and its flows are deployed."""
    with EmbeddedAws.start(runtime="podman") as aws, PrefectServer.start() as server:
        app = DeployedApp(aws, server)
        app.store_secret()
        app.bootstrap()
        app.deploy()
        app.wait_for_worker(LONG)
        app.deploy_flows()
        yield app
        app.delete_deployments()
        app.destroy()
        assert left_of(aws) == []


def test_what_the_deployment_built_is_in_ecr_and_runs_the_worker(app: DeployedApp) -> None:
    ecr = app.aws.client("ecr")
    (repository,) = ecr.describe_repositories()["repositories"]
    (published,) = ecr.describe_images(repositoryName=repository["repositoryName"])["imageDetails"]
    with pytest.raises(ecr.exceptions.ImageNotFoundException):
        ecr.describe_images(repositoryName=repository["repositoryName"], imageIds=[{"imageTag": "another"}])

    def healthy() -> Task | None:
        workers = [task for task in app.aws.tasks() if task.group.startswith("service:")]
        return next((task for task in workers if task.health_status == "HEALTHY"), None)

    worker = wait_for("the worker to be healthy", healthy, LONG)
    (container,) = containers_of(worker)
    assert container.image == f"{repository['repositoryUri']}:{published['imageTags'][0]}"
    assert container.digest == published["imageDigest"]
    assert (container.user, container.read_only, container.capabilities) == ("10001:10001", True, ())
    assert app.describe_task(worker)["containers"][0]["imageDigest"] == published["imageDigest"]


def test_deploying_again_publishes_nothing(app: DeployedApp) -> None:
    printed = app.deploy()
    assert printed.count("(no changes)") == 2


def test_interrupted_run_goes_on_where_it_was(app: DeployedApp) -> None:
    run = app.start_run(FLIGHTS, {"seconds_per_month": 1.0})
    first = app.wait_for_attempt(run.id, timeout=LONG)
    (container,) = containers_of(first)
    assert (container.user, container.read_only) == ("10001:10001", True)

    def begun() -> bool | None:
        return sum(name.startswith("extract-") for name in finished(app.task_runs(run.id))) >= 3 or None

    wait_for("three months", begun, LONG)
    app.aws.interrupt(first.arn)
    done = app.wait_for_final_state(run.id, LONG)
    assert done.state_name == "Completed", done.state

    def stopped() -> list[Task] | None:
        tasks = app.attempts(run.id)
        return tasks if all(task.stopped_at for task in tasks) else None

    attempts = wait_for("both tasks to stop", stopped, LONG)
    assert [task.stop_code for task in attempts] == ["SpotInterruption", "EssentialContainerExited"]
    assert attempts[0].exit_codes.popitem()[1] == 1, "SIGTERM reached the engine, which relinquished the run"
    assert set(finished(app.task_runs(run.id)).values()) == {1}, "a finished task was executed again"
    assert any(task_run.state_name == "Cached" for task_run in app.task_runs(run.id))


def words_of_lazarus(app: DeployedApp, run: FlowRun) -> str:
    """Why it rescheduled the run, which is then cancelled."""

    def told() -> str | None:
        states = app.prefect.read_flow_run_states(run.id)
        return next((s.message for s in states if (s.message or "").startswith("Lazarus: (failure)")), None)

    words = wait_for("Lazarus's words", told, LONG)
    app.prefect.set_flow_run_state(run.id, Cancelled(), force=True)
    return words


def test_image_that_cannot_be_pulled_is_told_by_lazarus(app: DeployedApp) -> None:
    run = app.start_run(FLIGHTS, job_variables={"image": "docker.io/acme/no-such-flows:1"})
    words = words_of_lazarus(app, run)
    assert "its task could not start (CannotPullContainerError: " in words
    assert "docker.io/acme/no-such-flows:1: not found)" in words
    assert {task.stop_code for task in app.attempts(run.id)} == {"TaskFailedToStart"}


def test_run_that_needs_more_memory_is_told_so_by_lazarus(app: DeployedApp) -> None:
    greedy = "python -c \"held = ['x' * 2**20 for _ in range(4000)]\""
    run = app.start_run(FLIGHTS, job_variables={"command": greedy, "cpu": 256, "memory": 512})
    assert "it ran out of memory; give it more (job variable memory)" in words_of_lazarus(app, run)
