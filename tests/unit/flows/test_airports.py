from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from flow_attempts import Attempts
from prefect import task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
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


def test_finished_subflows_are_not_run_again(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"output": str(tmp_path / "out"), "months": [2], "airports": ["LGA", "EWR", "LGA"]}
    run = Attempts(airports.compare_airports, parameters, tmp_path / "results")
    reads = Mock(side_effect=flights.read_source)
    monkeypatch.setattr(flights, "read_source", reads)

    @task
    def lost(*args: Any) -> None:
        raise ConnectionError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(airports, "compare", lost)
        with pytest.raises(ConnectionError, match="lost"):
            run.run()
    assert [call.args[2] for call in reads.call_args_list[::2]] == [["EWR"], ["LGA"]]
    reads.reset_mock()

    comparison = run.run()
    assert reads.call_count == 0
    assert comparison["path"] == str(tmp_path / "out" / f"run={run.id}" / "airports.parquet")
    ranked = pd.read_parquet(comparison["path"])
    assert sorted(ranked["origin"]) == ["EWR", "LGA"]
    assert comparison["least_late"] == ranked["origin"].iloc[0]

    children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    subflows = run.client.read_flow_runs(flow_run_filter=children)
    assert sorted(subflow.name for subflow in subflows) == ["flights-EWR", "flights-LGA"]
    assert {subflow.state_name for subflow in subflows} == {"Completed"}
    assert ranked["flights"].sum() == sum(
        pd.read_parquet(file)["flights"].sum() for file in (tmp_path / "out").rglob("delays.parquet")
    )
