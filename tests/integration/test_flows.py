"""The flows for real: deployed by `make flows`' own code, executed on the embedded AWS, and interrupted."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import joblib
import numpy as np
import pandas as pd
import pytest
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.exceptions import PrefectHTTPStatusError

import flights
from embedded import launching
from embedded.deployed import DeployedApp, bucket_objects, finished, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
HOURS = 24
SPOT = "SpotInterruption"


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
def bucket(app: DeployedApp) -> str:
    return app.outputs()["BucketName"]


def completed(app: DeployedApp, run_id: UUID, *interrupted_by: str) -> list[dict[str, Any]]:
    """Wait for a run and check that it completed after these interruptions, with one task after the other.

    :returns: What ECS says of its tasks.
    """
    run = app.wait_for_final_state(run_id, 240)
    assert run.state_name == "Completed", run.state
    tasks = app.attempts(run_id)
    assert [task.stop_code for task in tasks[:-1]] == list(interrupted_by)
    for elder, younger in pairwise(tasks):
        assert elder.stopped_at is not None
        assert elder.stopped_at <= younger.created_at
    return [app.describe_task(task) for task in tasks]


def sizes(tasks: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """CPU, memory and capacity provider of tasks."""
    return {(task["cpu"], task["memory"], task["capacityProviderName"]) for task in tasks}


def versions(app: DeployedApp, bucket: str, prefix: str) -> Counter[str]:
    """How often each object below a prefix was written: the bucket keeps every version."""
    pages = app.aws.client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
    return Counter(version["Key"] for page in pages for version in page.get("Versions", []))


def read(app: DeployedApp, bucket: str, key: str) -> bytes:
    content: bytes = app.aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    return content


def artifacts(app: DeployedApp, run_id: UUID) -> dict[str, Artifact]:
    """What a run shows in the UI, by key. Persisted results are artifacts without a key."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return {found.key: found for found in app.prefect.read_artifacts(artifact_filter=wanted) if found.key}


def log_lines(app: DeployedApp, run_id: UUID) -> list[str]:
    """What all attempts of a run wrote to CloudWatch Logs."""
    logs, group = app.aws.client("logs"), app.outputs()["LogGroupName"]
    return [
        event["message"]
        for task in app.attempts(run_id)
        for event in logs.filter_log_events(logGroupName=group, logStreamNames=[f"flow-run/prefect/{task.id}"])[
            "events"
        ]
    ]


def test_flights_shows_a_table_and_a_plot(app: DeployedApp) -> None:
    run = app.start_run("flights-etl/flights", {"months": [1], "origins": ["LGA"]})
    completed(app, run.id)
    found = artifacts(app, run.id)
    assert {key: artifact.type for key, artifact in found.items()} == {
        "flights-late-by-carrier": "table",
        "flights-late-by-hour": "markdown",
    }
    assert str(found["flights-late-by-hour"].data).startswith("![Late arrivals by hour](data:image/png;base64,iVBOR")


def test_fan_out_over_files_goes_on_where_it_was(app: DeployedApp, bucket: str) -> None:
    s3, inbox = app.aws.client("s3"), "data/weather/inbox"
    names = [f"{airport}/{month:02d}" for airport in ("EWR", "JFK", "LGA") for month in range(1, 9)]
    for name in names:
        airport, _, month = name.partition("/")
        hours = [f"{airport},2013-{month}-01T{hour:02d}:00:00Z,50,60,10,0,1012,10\n" for hour in range(HOURS)]
        content = "origin,time_hour,temp,humid,wind_speed,precip,pressure,visib\n" + "".join(hours)
        s3.put_object(Bucket=bucket, Key=f"{inbox}/{name}.csv", Body=content.encode())
    run = app.start_run("weather-files/weather", {"seconds_per_file": 4})
    first = app.wait_for_attempt(run.id)

    def some_are_done() -> set[str] | None:
        done = {name for name in finished(app.task_runs(run.id)) if name.startswith("clean-")}
        return done if len(done) >= 4 else None

    done = wait_for("four files to be clean", some_are_done, 120)
    assert len(done) < len(names) / 2
    app.aws.interrupt(first.arn)
    late = f"{inbox}/EWR/09.csv"
    s3.put_object(Bucket=bucket, Key=late, Body=b"this one came later\n")
    tasks = completed(app, run.id, SPOT)
    assert sizes(tasks) == {("1024", "2048", "FARGATE_SPOT")}

    executed = finished(app.task_runs(run.id))
    assert set(executed.values()) == {1}, "a file that was done was done again"
    assert sorted(executed) == sorted(["list-files", "manifest", *(f"clean-{name}" for name in names)])
    assert sum(task_run.state_name == "Cached" for task_run in app.task_runs(run.id)) >= 5
    output = f"data/weather/run={run.id}"
    written = versions(app, bucket, f"{output}/clean/")
    assert set(written) == {f"{output}/clean/{name}.parquet" for name in names}
    assert {written[f"{output}/clean/{name.removeprefix('clean-')}.parquet"] for name in done} == {1}
    manifest = json.loads(read(app, bucket, f"{output}/manifest.json"))
    assert manifest["rejected"] == {}
    assert [file["rows"] for file in manifest["cleaned"]] == [HOURS] * len(names)
    daily = pd.read_parquet(BytesIO(read(app, bucket, f"{output}/daily.parquet")))
    assert daily["temp"].tolist() == [10.0] * len(names)
    s3.delete_object(Bucket=bucket, Key=late)


def test_training_goes_on_from_its_checkpoint(app: DeployedApp, bucket: str) -> None:
    epochs = 8
    run = app.start_run("train-digits/digits", {"epochs": epochs, "seconds_per_epoch": 2})
    undisturbed = app.start_run("train-digits/digits", {"epochs": epochs})
    first = app.wait_for_attempt(run.id)
    checkpoints = f"results/checkpoints/{run.id}/train/"
    wait_for(
        "three epochs to be saved", lambda: versions(app, bucket, checkpoints).total() >= 3 or None, 120, interval=0.1
    )
    app.aws.interrupt(first.arn, notice=False)
    tasks = completed(app, run.id, SPOT)
    assert sizes(tasks) == {("1024", "2048", "FARGATE_SPOT")}
    completed(app, undisturbed.id)

    # One version for each save, and one save for each epoch: none was trained again after it had been saved.
    assert versions(app, bucket, checkpoints).total() == epochs
    assert sorted(versions(app, bucket, checkpoints)) == [f"{checkpoints}0", f"{checkpoints}1"]
    lines = log_lines(app, run.id)
    (went_on,) = (line for line in lines if "going on after epoch" in line)
    saved = int(went_on.rpartition(" ")[2])
    assert 3 <= saved < epochs
    second = lines[lines.index(went_on) :]
    trained = [int(line.partition("epoch ")[2].partition(":")[0]) for line in second if ": accuracy" in line]
    assert trained == list(range(saved + 1, epochs + 1))
    assert finished(app.task_runs(run.id)) == {"train": 1, "evaluate": 1, "publish-history": 1}

    models = [
        joblib.load(BytesIO(read(app, bucket, f"data/digits/run={run_id}/model.joblib")))
        for run_id in (run.id, undisturbed.id)
    ]
    assert np.array_equal(models[0].coef_, models[1].coef_), "an interruption changed the model"
    tables = [artifacts(app, run_id)["digits-training"] for run_id in (run.id, undisturbed.id)]
    assert tables[0].data == tables[1].data
    assert len(json.loads(str(tables[0].data))) == epochs
    assert tables[0].description == tables[1].description


def test_finished_subflows_are_not_run_again(app: DeployedApp, bucket: str) -> None:
    parameters = {"months": [1, 2, 3], "seconds_per_month": 2}
    run = app.start_run("compare-airports/airports", parameters)
    first = app.wait_for_attempt(run.id)

    def subflows() -> dict[str, FlowRun]:
        wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        found = app.prefect.read_flow_runs(flow_run_filter=wanted)
        assert len({subflow.name for subflow in found}) == len(found), "a subflow was run again as another run"
        return {subflow.name: subflow for subflow in found}

    def in_the_second() -> FlowRun | None:
        second = subflows().get("flights-JFK")
        done = second is not None and "extract-01" in finished(app.task_runs(second.id))
        return subflows()["flights-EWR"] if done else None

    before = wait_for("the second subflow to be at work", in_the_second, 120)
    assert before.state_name == "Completed"
    app.aws.interrupt(first.arn, notice=False)  # on-demand machines fail too
    tasks = completed(app, run.id, "InfrastructureHealth")
    assert sizes(tasks) == {("512", "1024", "FARGATE")}

    found = subflows()
    assert sorted(found) == ["flights-EWR", "flights-JFK", "flights-LGA"]
    assert {subflow.state_name for subflow in found.values()} == {"Completed"}
    assert [found[f"flights-{airport}"].run_count for airport in ("EWR", "JFK", "LGA")] == [1, 2, 1]
    assert found["flights-EWR"].end_time == before.end_time
    for subflow in found.values():
        executed = finished(app.task_runs(subflow.id))
        assert set(executed.values()) == {1}, f"{subflow.name} executed a finished task again"
        assert len(executed) == 2 * 3 + 3
    airports = pd.read_parquet(BytesIO(read(app, bucket, f"data/airports/run={run.id}/airports.parquet")))
    assert sorted(airports["origin"]) == ["EWR", "JFK", "LGA"]
    flown = flights.clean(flights.read_source(flights.KEYS + flights.MEASURES, [1, 2, 3], ["EWR", "JFK", "LGA"]))
    assert airports["flights"].sum() == len(flown)
    assert "airports-compared" in artifacts(app, run.id)


# Sizes, queues and the command line


def prefect(app: DeployedApp, *arguments: str) -> str:
    """Prefect's own CLI, as a user has it."""
    result = subprocess.run(
        [str(launching.VENV_BIN / "prefect"), "--no-prompt", *arguments],
        env={**os.environ, **app.server.environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_size_of_one_run_comes_from_the_command_line_and_its_queue_is_served(app: DeployedApp) -> None:
    name = "from-the-command-line"
    sized = ("--job-variable", "cpu=2048", "--job-variable", "memory=5120")
    prefect(app, "deployment", "run", "train-digits/digits", *sized, "--param", "epochs=1", "--flow-run-name", name)
    (run,) = app.prefect.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    assert run.work_queue_name == "training"
    assert sizes(completed(app, run.id)) == {("2048", "5120", "FARGATE_SPOT")}
    queues = app.prefect.read_work_queues(work_pool_name=app.outputs()["WorkPoolName"])
    assert {queue.name for queue in queues} == {"default", "files", "training"}


def test_image_of_a_deployment_reaches_its_tasks(app: DeployedApp) -> None:
    deployment = app.prefect.read_deployment_by_name("train-digits/digits")
    variables = {**deployment.job_variables, "image": "ghcr.io/acme/training:1.4.2"}
    app.prefect.update_deployment(deployment.id, DeploymentUpdate(job_variables=variables))
    (attempt,) = completed(app, app.start_run("train-digits/digits", {"epochs": 1}).id)
    app.prefect.update_deployment(deployment.id, DeploymentUpdate(job_variables=deployment.job_variables))
    (container,) = attempt["containers"]
    assert container["image"] == "ghcr.io/acme/training:1.4.2"


def test_parameters_that_do_not_fit_are_refused_by_the_api(app: DeployedApp) -> None:
    with pytest.raises(PrefectHTTPStatusError, match=r"Validation failed for field 'epochs'.* 0 is less than"):
        app.start_run("train-digits/digits", {"epochs": 0})


# Changed, and deployed again


def test_a_change_of_the_code_needs_no_image(app: DeployedApp, bucket: str) -> None:
    before = {key: read(app, bucket, key) for key in bucket_objects(app.aws, bucket, "code/")}
    assert set(before) == {f"code/flows/{file.name}" for file in (ROOT / "flows").glob("*.py")}
    changed = before["code/flows/training.py"].replace(b"epoch %d: accuracy", b"changed epoch %d: accuracy")
    app.aws.client("s3").put_object(Bucket=bucket, Key="code/flows/training.py", Body=changed)
    run = app.start_run("train-digits/digits", {"epochs": 1})
    completed(app, run.id)
    assert [line for line in log_lines(app, run.id) if "changed epoch 1: accuracy" in line]

    # `make flows` as a user says it: it finds the stacks, the pool and the bucket by itself.
    command = [sys.executable, "-m", "tools.deploy_flows", "embedded"]
    environment = {**os.environ, **app.aws.environment(), **app.server.environment()}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"to work pool etl, code to s3://{bucket}/code/" in printed
    assert {key: read(app, bucket, key) for key in before} == before

    environment["PREFECT_API_AUTH_STRING"] = "admin:wrong"
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "refused your credential (401)" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_deployment_of_baked_code_downloads_nothing(app: DeployedApp) -> None:
    environment = {**os.environ, **app.aws.environment(), **app.server.environment()}
    command = [sys.executable, "-m", "tools.deploy_flows", "embedded", "--file", "prefect-baked.yaml"]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    deployment = app.prefect.read_deployment_by_name("flights-etl/flights-baked")
    (step,) = deployment.pull_steps or []
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "/opt/flows"}}
    assert deployment.entrypoint == "flights.py:flights_etl"
