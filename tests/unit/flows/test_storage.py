from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import storage


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], bytes]:
    """What is in S3."""
    objects: dict[tuple[str, str], bytes] = {}

    def put_object(**request: Any) -> None:
        objects[request["Bucket"], request["Key"]] = request["Body"]

    def get_object(**request: Any) -> dict[str, BytesIO]:
        return {"Body": BytesIO(objects[request["Bucket"], request["Key"]])}

    def paginate(**request: Any) -> list[dict[str, Any]]:
        keys = [key for name, key in objects if name == request["Bucket"] and key.startswith(request["Prefix"])]
        return [{}, {"Contents": [{"Key": key} for key in keys]}]

    client = SimpleNamespace(
        put_object=put_object, get_object=get_object, get_paginator=lambda name: SimpleNamespace(paginate=paginate)
    )
    monkeypatch.setattr(storage, "_client", lambda: client)
    return objects


def test_a_file_goes_to_the_bucket_that_its_address_names(bucket: dict[tuple[str, str], bytes]) -> None:
    address = "s3://bucket/data/run=1/month=01.parquet"
    storage.write(address, b"content")
    assert bucket == {("bucket", "data/run=1/month=01.parquet"): b"content"}
    assert storage.read(address) == b"content"


def test_a_file_goes_to_a_directory_that_is_made_for_it(tmp_path: Path) -> None:
    address = f"{tmp_path}/run=1/month=01.parquet"
    storage.write(address, b"content")
    storage.write(address, b"again")
    assert storage.read(address) == b"again"


def test_files_are_found_below_a_directory_and_not_beside_it(
    bucket: dict[tuple[str, str], bytes], tmp_path: Path
) -> None:
    for place in ("s3://bucket/data", str(tmp_path)):
        for name in ("in/b.csv", "in/a/c.csv", "in/a.txt", "in-other/d.csv"):
            storage.write(f"{place}/{name}", b"")
        found = [f"{place}/in/a/c.csv", f"{place}/in/b.csv"]
        assert storage.find(f"{place}/in", ".csv") == storage.find(f"{place}/in/", ".csv") == found
        assert storage.find(f"{place}/nowhere", ".csv") == []


@pytest.mark.parametrize("address", ["", "s3://bucket", "s3://bucket/", "s3:///key", "gs://bucket/data"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(storage.Address).validate_python(address)
