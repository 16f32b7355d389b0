import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster
from prefect.exceptions import ParameterTypeError

import bootstrap
import resampling


@pytest.fixture(scope="module")
def delays() -> resampling.Delays:
    return resampling.read_delays()


def test_every_flight_that_arrived_is_read(delays: resampling.Delays) -> None:
    assert len(delays) == 16
    assert sum(map(len, delays.values())) == 327_346
    assert delays["AS"].mean() == pytest.approx(-9.93, abs=0.01)


def test_seed_and_batch_decide_what_is_drawn() -> None:
    delays = {"AA": np.arange(10.0), "UA": np.arange(5.0)}
    drawn = resampling.resample(delays, batch=1, replicates=3, seed=7)
    assert drawn.shape == (3, 2)
    assert np.array_equal(drawn, resampling.resample(delays, batch=1, replicates=3, seed=7))
    for batch, seed in ((2, 7), (1, 8)):
        assert not np.array_equal(drawn, resampling.resample(delays, batch=batch, replicates=3, seed=seed))


@pytest.mark.parametrize(("replicates", "sizes"), [(10, [10]), (25, [10, 10, 5]), (40, [10] * 4)])
def test_batches_add_up(replicates: int, sizes: list[int]) -> None:
    assert bootstrap.batch_sizes(replicates) == sizes


def test_the_middle_95_percent_with_the_latest_first() -> None:
    means = np.column_stack([np.linspace(0, 100, 1001), np.linspace(50, 60, 1001)])
    assert bootstrap.summarise(["AA", "UA"], means) == [
        {"carrier": "UA", "low": 50.25, "high": 59.75},
        {"carrier": "AA", "low": 2.5, "high": 97.5},
    ]


def test_it_computes_on_a_cluster_what_one_process_would(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delays: resampling.Delays
) -> None:
    def local(workers: int) -> LocalCluster:
        return LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0")

    monkeypatch.setattr(bootstrap, "DaskCluster", local)
    # The scheduler is in this process and loads the uploaded copy; afterwards the module is its own again.
    monkeypatch.setattr(resampling, "__file__", resampling.__file__)
    intervals = bootstrap.rank_carriers(output=str(tmp_path), replicates=30, workers=2, seed=5)
    means = np.concatenate([resampling.resample(delays, batch, 10, seed=5) for batch in range(3)])
    assert intervals == bootstrap.summarise(list(delays), means)
    (written,) = tmp_path.glob("run=*/intervals.json")
    assert json.loads(written.read_text()) == intervals
    assert {"AA", "UA"} < {interval["carrier"] for interval in intervals}
    assert all(interval["low"] < interval["high"] for interval in intervals)


@pytest.mark.parametrize(
    "parameters", [{"replicates": 9}, {"workers": 0}, {"workers": 101}, {"seed": -1}, {"output": "s3://bucket"}]
)
def test_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError):
        bootstrap.rank_carriers.validate_parameters({"output": "out", **parameters})


def test_workers_need_nothing_of_prefect() -> None:
    tree = ast.parse(Path(bootstrap.__file__).with_name("resampling.py").read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"importlib", "numpy", "pandas", "time"}
