import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from flow_attempts import Attempts, wait_until
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError

import airports
import flights


def test_the_most_punctual_airport_comes_first() -> None:
    delays = pd.DataFrame(
        {"origin": ["EWR", "EWR", "JFK"], "carrier": ["UA", "AA", "UA"], "flights": [10, 10, 30], "late": [5, 0, 3]}
    )
    assert airports.rank(delays).to_dict("records") == [
        {"origin": "JFK", "flights": 30, "late": 3, "late_percent": 10.0},
        {"origin": "EWR", "flights": 20, "late": 5, "late_percent": 25.0},
    ]


@pytest.mark.parametrize("parameters", [{"airports": []}, {"airports": ["BOS"]}, {"months": [13]}])
def test_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError):
        airports.compare_airports.validate_parameters({"output": "out", **parameters})


def test_a_killed_run_takes_up_its_subflows_again(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {
        "output": str(tmp_path / "out"),
        "months": [1, 2],
        "airports": ["LGA", "EWR", "LGA"],
        "seconds_per_month": 1,
    }
    run = Attempts(airports.compare_airports, parameters, tmp_path / "results")

    def subflows() -> dict[str, FlowRun]:
        children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        return {subflow.name: subflow for subflow in run.client.read_flow_runs(flow_run_filter=children)}

    def in_the_second() -> bool:
        second = subflows().get("flights-LGA")
        return second is not None and (tmp_path / "out" / f"run={second.id}" / "clean").exists()

    with run.started() as engine:
        wait_until(lambda: engine.poll() is not None or in_the_second())
        time.sleep(0.3)  # its first month is persisted; its second month is being extracted
    before = subflows()
    assert {name: subflow.state_name for name, subflow in before.items()} == {
        "flights-EWR": "Completed",
        "flights-LGA": "Running",
    }

    reads = Mock(side_effect=flights.read_source)
    monkeypatch.setattr(flights, "read_source", reads)
    comparison = run.run()
    assert [call.args[1:] for call in reads.call_args_list] == [([2], ["LGA"])]
    assert {name: subflow.id for name, subflow in subflows().items()} == {name: s.id for name, s in before.items()}
    assert {subflow.state_name for subflow in subflows().values()} == {"Completed"}

    assert comparison["path"] == str(tmp_path / "out" / f"run={run.id}" / "airports.parquet")
    ranked = pd.read_parquet(comparison["path"])
    assert sorted(ranked["origin"]) == ["EWR", "LGA"]
    assert comparison["least_late"] == ranked["origin"].iloc[0]
    written = [pd.read_parquet(file)["flights"].sum() for file in (tmp_path / "out").rglob("delays.parquet")]
    assert ranked["flights"].sum() == sum(written)
