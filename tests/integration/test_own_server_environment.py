"""An environment of the app with a Prefect server of its own: deployed, its flows deployed to it, a flow run."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps.own_environment import own_environment
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import WorkerStatus
from test_own_server import LONG, Deployed

from embedded import EmbeddedAws, run_cdk
from embedded.cdk import bootstrap
from embedded.deployed import wait_for
from embedded.emulator import postgres
from tools import deploy_flows

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CONFIG = own_environment()


@pytest.fixture(scope="module")
def own() -> Iterator[Deployed]:
    """Deployed as `make deploy` does it: with policy checks, and a warning would fail it."""
    assert postgres.is_installed(), "there is no PostgreSQL to start: say make test-slow, which installs one"
    with EmbeddedAws.start() as aws:
        bootstrap(aws)
        app = f"{sys.executable} {HERE / 'apps' / 'own_environment.py'}"
        out = str(aws.directory / "own.out")
        arguments = ["deploy", "--strict", "**", "--output", out]
        run_cdk(arguments, aws=aws, cwd=ROOT, app=app, env={"PYTHONPATH": str(ROOT)})
        outputs = {
            output["OutputKey"]: output["OutputValue"]
            for name in CONFIG.stack_names
            for output in aws.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
        }
        yield Deployed(aws, {**outputs, "AuthSecret": outputs["AuthSecretArn"]})
        run_cdk(["destroy", "**"], aws=aws, cwd=aws.directory, app=out)
        assert list((aws.directory / "emulator" / "databases").iterdir()) == []


def online(prefect: SyncPrefectClient, pool: str) -> bool:
    return WorkerStatus.ONLINE in [worker.status for worker in prefect.read_workers_for_work_pool(pool)]


def test_flows_are_deployed_to_it_and_run(own: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in own.aws.environment().items():
        monkeypatch.setenv(name, value)
    target = deploy_flows.find_target(CONFIG, own.aws.client("cloudformation"))
    api = deploy_flows.environments_api(CONFIG, target, forwarded=own.api_url())
    deploy_flows.deploy(target, {**os.environ, **api}, capture=True)

    prefect = own.prefect()
    wait_for("the worker to be online", lambda: online(prefect, target.work_pool) or None, LONG)
    deployment = prefect.read_deployment_by_name("flights-etl/flights")
    run = prefect.create_flow_run_from_deployment(deployment.id, parameters={"months": [1]}).id
    assert own.end_of(run).state_name == "Completed"
    (attempt,) = own.attempts(run)
    assert attempt.capacity_provider == "FARGATE_SPOT"


def test_its_api_wants_the_password_that_was_generated(own: Deployed) -> None:
    pool = f"/work_pools/{CONFIG.pool.name}"
    assert own.status(pool, None) == 401
    assert own.status(pool, own.secret("AuthSecret")) == 200
