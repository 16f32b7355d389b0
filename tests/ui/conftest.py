"""One embedded AWS with the app deployed, one Prefect server, and one browser window for the whole visit."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ui_album import Album
from ui_browser import Visit, browsing, chromium

from embedded.deployed import DeployedApp

FLIGHTS = "flights-etl/flights"


@pytest.fixture(scope="session")
def app() -> Iterator[DeployedApp]:
    """The app, deployed; its worker is online, its flows are deployed, and a first run is on its way."""
    try:
        chromium()  # before minutes go into what nobody can look at
    except FileNotFoundError as error:
        pytest.fail(str(error), pytrace=False)
    with DeployedApp.undeployed() as deployed:
        deployed.deploy_all()
        # The first run of a new pool warns that there is no task definition yet. What is looked at is a later run.
        deployed.start_run(FLIGHTS, {"months": [1]}, name="first")
        yield deployed


@pytest.fixture(scope="session")
def visit(app: DeployedApp) -> Iterator[Visit]:
    """A window that is open at the server's address."""
    with browsing() as window:
        window.page.goto(app.server.ui_url)
        yield window


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Pictures go to the directory that `SCREENSHOTS` names. Default: a temporary one."""
    return Album(Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")))
