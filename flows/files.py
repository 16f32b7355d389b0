"""Hourly weather observations, delivered as many CSV files, as one clean data set.

A fan-out: each file is a task run of its own, a few at a time. The list of files is made once, so a file that arrives
while the run is at work belongs to the next run. A rescheduled run keeps its id: with results persisted, files that
were done are not done again, and one that was interrupted overwrites its own output.
"""

import json
import time
from io import BytesIO
from typing import Annotated, Any, TypedDict

import pandas as pd
from prefect import flow, get_run_logger, task, unmapped
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

import storage
from storage import Address

KEYS = ["origin", "time_hour"]
MEASURES = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]
FILES_AT_A_TIME = 4  # bounds the memory: each of them is a whole file


class Cleaned(TypedDict):
    source: str
    path: str
    rows: int
    dropped: int


class Manifest(TypedDict):
    path: str
    files: int
    rows: int


@flow(task_runner=ThreadPoolTaskRunner(max_workers=FILES_AT_A_TIME))  # type: ignore[arg-type]
def weather_files(
    source: Address, output: Address, seconds_per_file: Annotated[float, Field(ge=0, le=600)] = 0.0
) -> Manifest:
    """Clean every CSV file below a directory, and average the observations by station and day.

    A bad file does not keep the others from being done. It fails the run at the end: mend the file, retry the run, and
    only that file is read again.

    Args:
        source: Where the CSV files are: `s3://bucket/prefix`, or a local directory.
        output: Where the Parquet files go: `s3://bucket/prefix`, or a local directory.
        seconds_per_file: Pretend that a file needs this long.
    """
    directory = f"{output.rstrip('/')}/run={flow_run.id}"
    files = list_files(source)
    if not files:
        get_run_logger().warning("there is no CSV file below %s", source)

    names = [name_of(file, source) for file in files]
    futures = clean_file.map(files, names, unmapped(directory), unmapped(seconds_per_file))
    futures.wait()

    cleaned: list[Cleaned] = []
    rejected: dict[str, str] = {}
    for file, future in zip(files, futures, strict=True):
        if future.state.is_completed():
            cleaned.append(future.result())
        else:
            rejected[file] = future.state.message or str(future.state.name)
    manifest = write_manifest(cleaned, rejected, directory)
    if rejected:
        raise ValueError(f"{len(rejected)} of {len(files)} files were rejected, see {manifest['path']}: {rejected}")
    return manifest


def is_worth_a_retry(_task: Any, _run: TaskRun, state: State) -> bool:
    """A file that is wrong stays wrong; all else, such as a lost connection, may pass."""
    return not isinstance(state.result(raise_on_failure=False), ValueError)


@task(task_run_name="list-files", retries=2, retry_delay_seconds=5)
def list_files(source: Address) -> list[str]:
    """Fix what this run is about."""
    return storage.find(source, ".csv")


@task(task_run_name="clean-{name}", retries=2, retry_delay_seconds=5, retry_condition_fn=is_worth_a_retry)
def clean_file(path: str, name: str, directory: str, seconds: float) -> Cleaned:
    """Clean one file."""
    time.sleep(seconds)
    observations = parse(storage.read(path))
    valid = clean(observations)
    target = f"{directory}/clean/{name}.parquet"
    storage.write(target, valid.to_parquet(index=False))
    return Cleaned(source=path, path=target, rows=len(valid), dropped=len(observations) - len(valid))


@task(task_run_name="manifest", retries=2, retry_delay_seconds=5)
def write_manifest(cleaned: list[Cleaned], rejected: dict[str, str], directory: str) -> Manifest:
    """Bring the files together: daily averages, and a record of what became of each file."""
    if cleaned:
        observations = pd.concat(pd.read_parquet(BytesIO(storage.read(file["path"]))) for file in cleaned)
        storage.write(f"{directory}/daily.parquet", daily(observations).to_parquet(index=False))
    path = f"{directory}/manifest.json"
    storage.write(path, json.dumps({"cleaned": cleaned, "rejected": rejected}, indent=2).encode())
    return Manifest(path=path, files=len(cleaned), rows=sum(file["rows"] for file in cleaned))


def name_of(file: str, source: str) -> str:
    """What tells a file from the others below the source, directories included."""
    return file.removeprefix(f"{source.rstrip('/')}/").removesuffix(".csv")


def parse(content: bytes) -> pd.DataFrame:
    """Read the columns that we use. Raise ValueError if that cannot be done."""
    columns = [str(column) for column in pd.read_csv(BytesIO(content), nrows=0)]
    if missing := [column for column in KEYS + MEASURES if column not in columns]:
        raise ValueError(f"no column {', '.join(missing)}; there is {', '.join(columns)}")
    types = {"origin": "str", **dict.fromkeys(MEASURES, "float64")}
    observations = pd.read_csv(BytesIO(content), usecols=KEYS + MEASURES, dtype=types)
    return observations.assign(time_hour=pd.to_datetime(observations["time_hour"], utc=True).dt.as_unit("us"))


def clean(observations: pd.DataFrame) -> pd.DataFrame:
    """Keep one observation for each station and hour, the last one delivered, if it has a temperature."""
    valid = observations.dropna(subset=[*KEYS, "temp"]).drop_duplicates(KEYS, keep="last")
    return valid.assign(temp=((valid["temp"] - 32) / 1.8).round(2))  # Fahrenheit to Celsius


def daily(observations: pd.DataFrame) -> pd.DataFrame:
    """Average by station and day, in UTC."""
    days = observations["time_hour"].dt.floor("D").rename("day")
    return observations.groupby(["origin", days])[MEASURES].mean().reset_index()
