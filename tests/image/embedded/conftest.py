"""An embedded AWS whose tasks are containers of the flow image."""

from collections.abc import Iterator

import pytest
from embedded_lab import Lab

from embedded import EmbeddedAws


@pytest.fixture(scope="session")
def lab(image: str) -> Iterator[Lab]:
    with EmbeddedAws.start(runtime="podman") as aws:
        yield Lab(aws, image=image)
