import json
import time
from base64 import b64decode
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pandas as pd
import pytest
from flow_attempts import Attempts, wait_until
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

import flights

ROWS = {1: 27004, 2: 24951}


def source(**columns: list[Any]) -> pd.DataFrame:
    """Rows as the source has them, with one on-time flight's values where a test does not care."""
    row = {"year": 2013, "month": 1, "day": 1, "hour": 5, "origin": "EWR", "dest": "IAH", "carrier": "UA"}
    row |= {"dep_delay": 0.0, "arr_delay": 0.0, "distance": 1400}
    return pd.DataFrame(columns).assign(**{name: row[name] for name in row if name not in columns})


# The rules


def test_clean_drops_flights_that_never_arrived() -> None:
    cancelled, diverted = [None, None], [7.0, None]
    delays = [[2.0, 11.0], cancelled, diverted, [-3.0, -20.0]]
    flown = flights.clean(source(dep_delay=[d for d, _ in delays], arr_delay=[a for _, a in delays]))
    assert flown["dep_delay"].tolist() == [2, -3]
    assert flown["arr_delay"].tolist() == [11, -20]


def test_clean_has_one_schema_even_without_rows() -> None:
    full, empty = flights.clean(source(day=[31])), flights.clean(source(arr_delay=[None]))
    assert full["date"].tolist() == [datetime(2013, 1, 31)]
    assert list(full) == ["date", "hour", "origin", "dest", "carrier", "dep_delay", "arr_delay", "distance"]
    assert empty.empty
    assert list(empty) == list(full)
    assert {str(full[name].dtype) for name in flights.MEASURES} == {"int16"}


def test_aggregate_groups_by_airport_carrier_and_hour() -> None:
    flown = flights.clean(
        source(
            origin=["EWR", "EWR", "EWR", "JFK"],
            hour=[5, 5, 6, 5],
            dep_delay=[10.0, 20.0, 0.0, 0.0],
            arr_delay=[14.0, 15.0, 0.0, -4.0],
        )
    )
    assert flights.aggregate(flown).to_dict("records") == [
        {
            "origin": "EWR",
            "carrier": "UA",
            "hour": 5,
            "flights": 2,
            "late": 1,
            "dep_delay": 15,
            "arr_delay": 14.5,
        },
        {
            "origin": "EWR",
            "carrier": "UA",
            "hour": 6,
            "flights": 1,
            "late": 0,
            "dep_delay": 0,
            "arr_delay": 0,
        },
        {
            "origin": "JFK",
            "carrier": "UA",
            "hour": 5,
            "flights": 1,
            "late": 0,
            "dep_delay": 0,
            "arr_delay": -4,
        },
    ]


def test_the_partitions_must_account_for_every_flight_of_the_source() -> None:
    partitions = [
        flights.Partition(path="1", rows=8, dropped=1),
        flights.Partition(path="2", rows=4, dropped=0),
    ]
    assert flights.check_complete(13, partitions) == (12, 1)
    with pytest.raises(ValueError, match=r"14 flights in the source, 12 \+ 1 in the partitions"):
        flights.check_complete(14, partitions)


def test_the_plot_is_a_small_picture_of_late_arrivals_by_hour() -> None:
    flown = flights.clean(source(origin=["EWR", "EWR", "JFK"], hour=[5, 6, 5], arr_delay=[20.0, 0.0, 0.0]))
    picture = flights.plot_by_hour(flights.aggregate(flown))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 30_000, "it is stored in Prefect's database"
    shares = flights.late_share(flights.aggregate(flown), "hour")
    assert shares.to_dict("list") == {"hour": [5, 6], "flights": [2, 1], "late": [1, 0], "late_percent": [50.0, 0.0]}


@pytest.mark.parametrize(
    "parameters",
    [
        {"months": []},
        {"months": [0]},
        {"months": [1, 13]},
        {"origins": []},
        {"origins": ["BOS"]},
        {"seconds_per_month": -1},
        {"output": ""},
        {"output": "s3://bucket"},
        {"output": "gs://bucket/data"},
    ],
    ids=str,
)
def test_parameters_are_refused_by_the_flow_and_by_the_schema_that_the_api_enforces(parameters: Any) -> None:
    parameters = {"output": "s3://bucket/data"} | parameters
    with pytest.raises(ParameterTypeError):
        flights.flights_etl.validate_parameters(parameters)
    with pytest.raises(ValidationError):
        validate(parameters, parameter_schema(flights.flights_etl).model_dump(), raise_on_error=True)


# The flow


def test_two_months_of_flights(prefect_api: None, tmp_path: Path) -> None:
    summary = flights.flights_etl(output=f"{tmp_path}/", months=(2, 1, 2), origins=("JFK", "EWR", "LGA"))

    assert summary["source_rows"] == ROWS[1] + ROWS[2] == summary["flown"] + summary["not_flown"]
    run = Path(summary["delays"]).parent
    assert run.parent == tmp_path
    assert run.name.startswith("run=")
    assert sorted(str(file.relative_to(run)) for file in run.rglob("*.parquet")) == [
        "clean/month=01.parquet",
        "clean/month=02.parquet",
        "delays.parquet",
        "raw/month=01.parquet",
        "raw/month=02.parquet",
    ]
    assert [len(pd.read_parquet(run / f"raw/month=0{month}.parquet")) for month in (1, 2)] == [
        ROWS[1],
        ROWS[2],
    ]
    delays = pd.read_parquet(summary["delays"])
    assert list(delays) == ["origin", "carrier", "hour", "flights", "late", "dep_delay", "arr_delay"]
    assert delays["flights"].sum() == summary["flown"]
    table, plot = artifacts_of(run.name.removeprefix("run="))
    assert (table.key, table.type) == ("flights-late-by-carrier", "table")
    rows = json.loads(str(table.data))
    assert list(rows[0]) == ["carrier", "flights", "late", "late_percent"]
    assert sum(row["flights"] for row in rows) == summary["flown"]
    assert (plot.key, plot.type) == ("flights-late-by-hour", "markdown")
    text, _, picture = plot.data.removesuffix(")").partition(",")
    assert text == "![Late arrivals by hour](data:image/png;base64"
    assert b64decode(picture, validate=True).startswith(b"\x89PNG")


def artifacts_of(run_id: str) -> list[Artifact]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run_id)]))
    with get_client(sync_client=True) as client:
        return sorted(client.read_artifacts(artifact_filter=wanted), key=lambda artifact: str(artifact.key))


def test_a_killed_run_goes_on_where_it_was(prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, results = tmp_path / "data", tmp_path / "results"
    parameters = {"output": str(output), "months": [1, 2], "seconds_per_month": 0.7}
    run = Attempts(flights.flights_etl, parameters, results)
    with run.started() as engine:
        wait_until(lambda: engine.poll() is not None or len(list(results.glob("*"))) == 3)
        time.sleep(0.3)  # the count and the first month are persisted; the second month is being extracted
    finished = {file: file.stat().st_mtime_ns for file in output.rglob("*.parquet")}
    assert {file.name for file in finished} == {"month=01.parquet"}

    reads = Mock(side_effect=flights.read_source)
    monkeypatch.setattr(flights, "read_source", reads)
    summary = run.run()

    assert summary["source_rows"] == ROWS[1] + ROWS[2]
    assert summary["delays"] == str(output / f"run={run.id}/delays.parquet")
    assert [call.args[1] for call in reads.call_args_list] == [[2]]
    assert {file: file.stat().st_mtime_ns for file in finished} == finished

    wait_until(lambda: run.states("report") == ["Completed"])  # the API learns of task runs from events
    for name in ("count-source", "extract-01", "clean-01"):
        assert run.states(name) == ["Cached", "Completed"]
    assert run.states("extract-02") == ["Completed", "Running"]  # nobody tells the API that the first one died
    assert run.states("clean-02") == run.states("aggregate") == ["Completed"]
