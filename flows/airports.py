"""The airports of New York City side by side: one subflow for each, and a comparison.

A rescheduled run keeps its id and takes up its subflows again: one that had finished is not run again, and one that was
interrupted goes on where it was. Prefect knows them by their order and by the place of their code, so the parent
calls them in an order that is always the same, and the code is at the same place in every attempt.
"""

import json
from io import BytesIO
from typing import Annotated, TypedDict

import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from pydantic import Field

import storage
from flights import Airport, Month, Summary, flights_etl
from storage import Address


class Comparison(TypedDict):
    path: str
    least_late: str


@flow
def compare_airports(
    output: Address,
    months: Annotated[tuple[Month, ...], Field(min_length=1)] = tuple(range(1, 13)),
    airports: Annotated[tuple[Airport, ...], Field(min_length=1)] = ("EWR", "JFK", "LGA"),
    seconds_per_month: Annotated[float, Field(ge=0, le=600)] = 0.0,
) -> Comparison:
    """Process the flights of each airport in a subflow, and compare how late they arrived.

    Args:
        output: Where the Parquet files go: `s3://bucket/prefix`, or a local directory.
        months: Months to process, 1 to 12.
        airports: Airports of departure.
        seconds_per_month: Pretend that the source needs this long for a month of an airport.
    """
    summaries = {
        airport: flights_etl.with_options(flow_run_name=f"flights-{airport}")(
            output=output, months=months, origins=(airport,), seconds_per_month=seconds_per_month
        )
        for airport in sorted(set(airports))
    }
    return compare(summaries, f"{output.rstrip('/')}/run={flow_run.id}/airports.parquet")


@task(task_run_name="compare", retries=2, retry_delay_seconds=5)
def compare(summaries: dict[Airport, Summary], target: str) -> Comparison:
    """Bring the airports together, and show them as an artifact of the run."""
    delays = [pd.read_parquet(BytesIO(storage.read(summary["delays"]))) for summary in summaries.values()]
    airports = rank(pd.concat(delays))
    storage.write(target, airports.to_parquet(index=False))
    create_table_artifact(
        key="airports-compared",
        table=json.loads(airports.to_json(orient="records")),  # rows: given columns, the UI shows an empty table
        description=f"Late arrivals by airport of departure: `{target}`",
    )
    return Comparison(path=target, least_late=airports["origin"].iloc[0])


def rank(delays: pd.DataFrame) -> pd.DataFrame:
    """Flights and late arrivals of each airport, the most punctual first."""
    airports = delays.groupby("origin", as_index=False)[["flights", "late"]].sum()
    airports["late_percent"] = (100 * airports["late"] / airports["flights"]).round(1)
    return airports.sort_values("late_percent", ignore_index=True)
