"""Up, deploy, run, interrupt, destroy, down, again and again: `make soak`, or a few times in `make test-slow`."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from embedded_lab import living, port_is_free, wait_until

from embedded.deployed import DeployedApp

CYCLES = int(os.environ.get("CYCLES", "2"))
SETTLED = 5  # cycles after which this process has loaded all that it will
GROWTH_MIB = 20  # of this process from then on: a leak of half a MiB a cycle shows in fifty

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300 * CYCLES)]


def cycle() -> None:
    with DeployedApp.undeployed() as app:
        directories = [app.aws.directory, app.server.directory]
        endpoints = [app.aws.endpoint, app.server.ui_url]
        app.deploy_all()
        run = app.start_run("flights-etl/flights", {"months": [1, 2, 3], "seconds_per_month": 1.0})
        app.interrupt_attempt(run.id, 1, when=lambda done: len(done) >= 1)
        assert app.wait_for_final_state(run.id).state_name == "Completed"
        assert len(app.attempts(run.id)) == 2
        app.delete_deployments()
        app.destroy()
        assert app.stacks() == []
    for directory in directories:
        wait_until(lambda directory=directory: not living(directory), f"the processes of {directory} to end")
        assert not directory.exists()
    assert [endpoint for endpoint in endpoints if not port_is_free(endpoint)] == []


def belongings() -> tuple[int, int]:
    """Memory in MiB, and open files."""
    gc.collect()
    me = psutil.Process()
    return me.memory_info().rss // 2**20, me.num_fds()


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for temporary files of this process and of all that it starts; its path is short, for sockets."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


def test_nothing_is_left_and_nothing_grows(own_tmp: Path) -> None:
    memory = []
    cycle()
    _, files = belongings()
    for _ in range(CYCLES - 1):
        cycle()
        mib, files_now = belongings()
        memory.append(mib)
        assert files_now <= files, "files stay open"
        assert [entry.name for entry in own_tmp.iterdir()] == [], "temporary files stay"
    if len(memory) > SETTLED:
        assert memory[-1] - memory[SETTLED] <= GROWTH_MIB, f"memory grows: {memory}"
