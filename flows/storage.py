"""Files by their address: `s3://bucket/key`, or a local path."""

from functools import cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import boto3
from pydantic import Field

Address = Annotated[str, Field(pattern=r"^(s3://[^/]+/.+|[^:]+)$")]

# Clients can be shared by threads, but not made by two at once.
_making = Lock()


def read(address: Address) -> bytes:
    """The content of a file."""
    if not address.startswith("s3://"):
        return Path(address).read_bytes()
    bucket, key = _split(address)
    content: bytes = _s3().get_object(Bucket=bucket, Key=key)["Body"].read()
    return content


def write(address: Address, content: bytes) -> None:
    """Write a file, over what is there."""
    if address.startswith("s3://"):
        bucket, key = _split(address)
        _s3().put_object(Bucket=bucket, Key=key, Body=content)
    else:
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        Path(address).write_bytes(content)


def find(directory: Address, suffix: str) -> list[str]:
    """Sorted addresses of the files below a directory whose names end so; none where there is no such directory."""
    directory = directory.rstrip("/")
    if not directory.startswith("s3://"):
        return sorted(str(path) for path in Path(directory).rglob(f"*{suffix}") if path.is_file())
    bucket, prefix = _split(directory)
    pages = _s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return sorted(f"s3://{bucket}/{key}" for key in keys if key.endswith(suffix))


def _split(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def _s3() -> Any:
    with _making:
        return _client()


@cache
def _client() -> Any:
    return boto3.client("s3")
