"""One embedded AWS and one Prefect server with the app deployed, for every test that does not break it."""

from collections.abc import Iterator

import pytest

from embedded import EmbeddedAws, PrefectServer
from embedded.deployed import DeployedApp


@pytest.fixture(scope="session")
def undeployed() -> Iterator[DeployedApp]:
    """A bootstrapped embedded AWS and a Prefect server whose credential is stored; nothing is deployed."""
    with EmbeddedAws.start() as aws, PrefectServer.start() as server:
        app = DeployedApp(aws, server)
        app.store_secret()
        app.bootstrap()
        yield app


@pytest.fixture(scope="session")
def app(undeployed: DeployedApp) -> DeployedApp:
    """The app, deployed; its worker is online and its flows are deployed."""
    undeployed.deploy()
    undeployed.wait_for_worker()
    undeployed.deploy_flows()
    return undeployed
