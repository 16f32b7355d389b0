"""The cluster that flows open, against a Fargate in this process."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from dask_fakes import PUBLIC_ADDRESS, FakeFargate
from distributed import Client

import dask_cluster
from dask_cluster import DaskCluster

CLUSTER = "arn:aws:ecs:us-east-1:111122223333:cluster/prefect"
SETTINGS = {
    "REGION_NAME": "us-east-1",
    "CLUSTER_ARN": CLUSTER,
    "EXECUTION_ROLE_ARN": "arn:aws:iam::111122223333:role/execution",
    "TASK_ROLE_ARN": "arn:aws:iam::111122223333:role/task",
    "CLOUDWATCH_LOGS_GROUP": "/prefect",
    "VPC": "vpc-1",
    "SUBNETS": "['subnet-1', 'subnet-2']",
    "SECURITY_GROUPS": "['sg-1']",
    "TAGS": "{'dask-access': 'etl'}",
    "ENVIRONMENT": "{'OF_ALL': 'tasks'}",
    "FARGATE_SPOT": "True",
    "SCHEDULER_TIMEOUT": "60 seconds",
    "SKIP_CLEANUP": "True",
    "WORKER_CPU": "2048",
    "WORKER_MEM": "8192",
    "SCHEDULER_TASK_DEFINITION_ARN": "etl-scheduler",
    "WORKER_TASK_DEFINITION_ARN": "etl-worker",
    "FARGATE_USE_PRIVATE_IP": "False",
}
VARIABLES = {f"DASK_CLOUDPROVIDER__ECS__{name}": value for name, value in SETTINGS.items()}


@pytest.fixture
def fargate(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFargate]:
    monkeypatch.setattr(dask_cluster, "SECONDS_BETWEEN_ATTEMPTS", 0.1)
    monkeypatch.delenv("EXTRA_PIP_PACKAGES", raising=False)
    fargate = FakeFargate()
    with fargate.serve(VARIABLES):
        yield fargate


def wait_until(done: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers_of(client: Client) -> dict[str, str]:
    """Address and name of every worker that the scheduler knows."""
    return {address: str(worker["name"]) for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()}


def test_it_computes_at_a_private_address_and_nothing_is_left(fargate: FakeFargate) -> None:
    with DaskCluster(2) as cluster, cluster.get_client() as client:
        assert cluster.scheduler_address.endswith(":8786")
        assert PUBLIC_ADDRESS not in cluster.scheduler_address
        assert client.gather(client.map(abs, range(-3, 0))) == [3, 2, 1]
        assert len(fargate.running()) == 3
    assert fargate.running() == []


def test_scheduler_on_demand_workers_on_spot_and_what_was_handed_in(
    fargate: FakeFargate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTRA_PIP_PACKAGES", "dask distributed")
    with DaskCluster(1):
        pass
    scheduler, worker = (dict(call.arguments) for call in fargate.made("run_task"))
    assert scheduler["capacityProviderStrategy"] == [{"capacityProvider": "FARGATE"}]
    assert worker["capacityProviderStrategy"] == [{"capacityProvider": "FARGATE_SPOT"}]
    assert [scheduler["taskDefinition"], worker["taskDefinition"]] == ["etl-scheduler", "etl-worker"]
    for request in (scheduler, worker):
        assert request["cluster"] == CLUSTER
        assert request["networkConfiguration"]["awsvpcConfiguration"] == {
            "subnets": ["subnet-1", "subnet-2"],
            "securityGroups": ["sg-1"],
            "assignPublicIp": "ENABLED",
        }
        assert {"key": "dask-access", "value": "etl"} in request["tags"]
        (override,) = request["overrides"]["containerOverrides"]
        assert override["environment"] == [
            {"name": "OF_ALL", "value": "tasks"},
            {"name": "EXTRA_PIP_PACKAGES", "value": "dask distributed"},
        ]
    (override,) = scheduler["overrides"]["containerOverrides"]
    assert override["command"] == ["dask", "scheduler", "--idle-timeout", "60 seconds"]
    (override,) = worker["overrides"]["containerOverrides"]
    assert override["command"][override["command"].index("--nthreads") + 1] == "2"


def test_the_commands_of_its_tasks_exist(fargate: FakeFargate) -> None:
    with DaskCluster(1):
        pass
    for call in fargate.made("run_task"):
        (override,) = call.arguments["overrides"]["containerOverrides"]
        program, *options = override["command"]
        known = subprocess.run(
            [Path(sys.executable).with_name(program), options[0], "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert [option for option in options if option.startswith("--") and option not in known] == []


@pytest.mark.parametrize("shortages", [0, 1])
def test_a_lost_worker_is_replaced_as_soon_as_there_is_capacity(fargate: FakeFargate, shortages: int) -> None:
    with DaskCluster(2) as cluster, cluster.get_client() as client:
        client.wait_for_workers(2)
        before = workers_of(client)
        scheduler, lost, other = fargate.running()
        fargate.shortages = shortages
        cluster.sync(fargate.take_away, lost)
        wait_until(lambda: len(set(workers_of(client)) - set(before)) == 1)
        assert sorted(workers_of(client).values()) == sorted(before.values())
        assert client.submit(abs, -7, pure=False).result() == 7
        assert {scheduler, other} < set(fargate.running())
        assert len(fargate.running()) == 3
    assert fargate.running() == []
    assert fargate.shortages == 0


def test_a_worker_that_is_not_wanted_any_more_is_not_replaced(fargate: FakeFargate) -> None:
    with DaskCluster(2) as cluster, cluster.get_client() as client:
        client.wait_for_workers(2)
        cluster.scale(1)
        wait_until(lambda: len(fargate.running()) == 2)
        time.sleep(1.0)
        assert len(fargate.running()) == 2
        assert len(fargate.made("run_task")) == 3


def test_without_settings_it_says_what_is_missing() -> None:
    with (
        dask.config.set({"cloudprovider.ecs.environment": {}}),
        pytest.raises(RuntimeError, match="DASK_CLOUDPROVIDER__ECS__SCHEDULER_TASK_DEFINITION_ARN is not set"),
    ):
        DaskCluster(1)
