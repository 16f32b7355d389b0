import json
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from flow_attempts import Attempts, wait_until

import files
import storage

HEADER = "origin,time_hour,temp,humid,wind_speed,precip,pressure,visib\n"
HOUR = "EWR,2013-01-{day:02d}T{hour:02d}:00:00Z,{temp},59.37,10.36,0,1012,10\n"
BAD = "station,reading\n7,3\n"


def csv(*temperatures: str, day: int = 1) -> str:
    """A file with an observation an hour."""
    lines = [HOUR.format(day=day, hour=hour, temp=temp) for hour, temp in enumerate(temperatures)]
    return HEADER + "".join(lines)


def deliver(inbox: Path, **contents: str) -> None:
    inbox.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (inbox / f"{name}.csv").write_text(content)


# The rules


def test_columns_are_read_with_one_schema_whatever_is_in_them() -> None:
    types = {name: str(kind) for name, kind in files.parse(csv("50").encode()).dtypes.items()}
    assert {types[name] for name in files.MEASURES} == {"float64"}
    assert types["time_hour"].endswith("UTC]")
    assert {name: str(kind) for name, kind in files.parse(HEADER.encode()).dtypes.items()} == types


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BAD, "no column origin, time_hour, temp, .*; there is station, reading"),
        ("", "No columns"),
        (csv("warm"), "could not convert string to float: 'warm'"),
        (csv("50").replace("2013-01-01", "yesterday "), "yesterday"),
        ("\xff\xfe", "no column"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files.parse(content.encode())


def test_clean_keeps_the_last_observation_of_an_hour_and_turns_to_celsius() -> None:
    observations = files.parse((csv("50", "", "212") + HOUR.format(day=1, hour=0, temp="32")).encode())
    cleaned = files.clean(observations)
    assert sorted(cleaned["temp"]) == [0, 100]
    assert cleaned["time_hour"].is_unique


def test_daily_averages_by_station_and_day() -> None:
    observations = pd.concat([files.parse(csv("10", "20").encode()), files.parse(csv("40", day=2).encode())])
    days = files.daily(pd.concat([observations, observations.assign(origin="JFK", temp=0.0)]))
    assert days["origin"].tolist() == ["EWR", "EWR", "JFK", "JFK"]
    assert days["temp"].tolist() == [15, 40, 0, 0]
    assert [str(day.date()) for day in days["day"]] == ["2013-01-01", "2013-01-02"] * 2


def test_names_keep_the_directories_below_the_source() -> None:
    assert files.name_of("s3://bucket/in/EWR/01.csv", "s3://bucket/in/") == "EWR/01"
    assert files.name_of("/data/in/01.csv", "/data/in") == "01"


# The flow


def test_many_files_become_one_data_set(prefect_api: None, tmp_path: Path) -> None:
    for airport in ("EWR", "JFK"):
        deliver(tmp_path / "in" / airport, **{f"{day:02d}": csv("50", "", "32", day=day) for day in (1, 2, 3)})
    manifest = files.weather_files(source=f"{tmp_path}/in/", output=f"{tmp_path}/out")

    run = Path(manifest["path"]).parent
    assert (manifest["files"], manifest["rows"]) == (6, 12)
    assert sorted(str(file.relative_to(run)) for file in run.rglob("*.parquet")) == [
        *(f"clean/{airport}/{day:02d}.parquet" for airport in ("EWR", "JFK") for day in (1, 2, 3)),
        "daily.parquet",
    ]
    written = json.loads(Path(manifest["path"]).read_text())
    assert written["rejected"] == {}
    assert [(file["rows"], file["dropped"]) for file in written["cleaned"]] == [(2, 1)] * 6
    assert pd.read_parquet(run / "daily.parquet")["temp"].tolist() == [5.0] * 3


def test_no_more_files_are_in_memory_at_a_time_than_allowed(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(tmp_path / "in", **{f"{day:02d}": csv("50", day=day) for day in range(1, 13)})
    at_work, most, lock = 0, 0, Lock()
    original = files.parse

    def parse(content: bytes) -> pd.DataFrame:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        try:
            wait_until(lambda: most == files.FILES_AT_A_TIME, 10)
            return original(content)
        finally:
            with lock:
                at_work -= 1

    monkeypatch.setattr(files, "parse", parse)
    assert files.weather_files(source=str(tmp_path / "in"), output=str(tmp_path / "out"))["files"] == 12
    assert most == files.FILES_AT_A_TIME


def test_no_files_are_no_error(prefect_api: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = files.weather_files(source=str(tmp_path / "nowhere"), output=str(tmp_path / "out"))
    assert (manifest["files"], manifest["rows"]) == (0, 0)
    assert json.loads(Path(manifest["path"]).read_text()) == {"cleaned": [], "rejected": {}}
    assert f"there is no CSV file below {tmp_path / 'nowhere'}" in caplog.text


def test_a_bad_file_stops_no_other_and_is_the_only_one_read_after_it_was_mended(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "in"
    deliver(inbox, good=csv("50"), bad=BAD, late=csv("50", day=2))
    parameters = {"source": str(inbox), "output": str(tmp_path / "out")}
    run = Attempts(files.weather_files, parameters, tmp_path / "results")
    reads = Mock(side_effect=storage.read)
    monkeypatch.setattr(storage, "read", reads)

    def csv_files_read() -> list[str]:
        read = [Path(call.args[0]).name for call in reads.call_args_list]
        reads.reset_mock()
        return sorted(name for name in read if name.endswith(".csv"))

    with pytest.raises(ValueError, match=r"1 of 3 files were rejected, see .*manifest\.json: .*bad\.csv.* no column"):
        run.run()
    assert csv_files_read() == ["bad.csv", "good.csv", "late.csv"], "what is wrong stays wrong: it is not tried again"
    (manifest,) = (tmp_path / "out").rglob("manifest.json")
    written = json.loads(manifest.read_text())
    assert list(written["rejected"]) == [str(inbox / "bad.csv")]
    assert len(written["cleaned"]) == 2

    deliver(inbox, bad=csv("50", day=3), new=csv("50", day=4))
    assert run.run() == {"path": str(manifest), "files": 3, "rows": 3}
    assert csv_files_read() == ["bad.csv"], "good ones are not read again, and one that came later is not of this run"


def test_a_lost_connection_is_tried_again(prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(tmp_path / "in", a=csv("50"))
    answers: list[Any] = [ConnectionError("lost"), storage.read(str(tmp_path / "in" / "a.csv"))]
    original = storage.read

    def read(address: str) -> bytes:
        if not address.endswith(".csv"):
            return original(address)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        content: bytes = answer
        return content

    monkeypatch.setattr(storage, "read", read)
    monkeypatch.setattr(files, "clean_file", files.clean_file.with_options(retry_delay_seconds=0))
    assert files.weather_files(source=str(tmp_path / "in"), output=str(tmp_path / "out"))["files"] == 1
    assert answers == []


def test_a_killed_run_reads_only_what_was_not_done(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{day:02d}" for day in range(1, 2 * files.FILES_AT_A_TIME + 1)]
    deliver(tmp_path / "in", **{name: csv("50", day=int(name)) for name in names})
    output, results = tmp_path / "out", tmp_path / "results"
    parameters = {"source": str(tmp_path / "in"), "output": str(output), "seconds_per_file": 1.5}
    run = Attempts(files.weather_files, parameters, results)
    with run.started() as engine:
        # The list of files, and the first of those that are done at a time.
        wait_until(lambda: engine.poll() is not None or len(list(results.glob("*"))) == 1 + files.FILES_AT_A_TIME)
    done = {file: file.stat().st_mtime_ns for file in output.rglob("clean/*.parquet")}
    assert sorted(file.stem for file in done) == names[: files.FILES_AT_A_TIME]

    reads = Mock(side_effect=storage.read)
    monkeypatch.setattr(storage, "read", reads)
    assert run.run()["files"] == len(names)
    again = sorted(Path(call.args[0]).stem for call in reads.call_args_list if call.args[0].endswith(".csv"))
    assert again == names[files.FILES_AT_A_TIME :]
    assert {file: file.stat().st_mtime_ns for file in done} == done
