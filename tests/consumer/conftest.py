"""An embedded AWS for the apps, and the environment that they are deployed from."""

from collections.abc import Iterator

import pytest
from consumer_helpers import Consumer, build_wheel

from embedded.deployed import DeployedApp


@pytest.fixture(scope="module")
def undeployed() -> Iterator[DeployedApp]:
    """A bootstrapped embedded AWS and a Prefect server; nothing is deployed."""
    with DeployedApp.undeployed() as app:
        yield app


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Consumer:
    """The wheel with the newest CDK that the registry serves."""
    return Consumer.install(tmp_path_factory.mktemp("newest"), build_wheel(tmp_path_factory.mktemp("wheel")), [])
