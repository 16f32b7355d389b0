"""One embedded AWS and one Prefect server, with the app deployed for each module that asks for it."""

from collections.abc import Iterator

import pytest

from embedded.deployed import DeployedApp


@pytest.fixture(scope="session")
def undeployed() -> Iterator[DeployedApp]:
    """A bootstrapped embedded AWS and a Prefect server whose credential is stored; nothing is deployed."""
    with DeployedApp.undeployed() as app:
        yield app


@pytest.fixture(scope="module")  # some modules destroy it, and nobody knows in which order they come
def app(undeployed: DeployedApp) -> DeployedApp:
    """The app, deployed; its worker is online and its flows are deployed."""
    return undeployed.deploy_all()
