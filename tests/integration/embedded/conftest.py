from collections.abc import Iterator

import pytest
from embedded_lab import Lab

from embedded import EmbeddedAws


@pytest.fixture(scope="session")
def embedded_aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws.start() as aws:
        yield aws


@pytest.fixture(scope="session")
def lab(embedded_aws: EmbeddedAws) -> Lab:
    return Lab(embedded_aws)
