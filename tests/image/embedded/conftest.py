"""An embedded AWS whose tasks are containers of the flow image."""

from collections.abc import Iterator

import pytest
from embedded_lab import Lab

from embedded import EmbeddedAws, images

TASK_IMAGE = "localhost/flows:embedded"


@pytest.fixture(scope="session")
def task_image() -> str:
    """The flow image, built here; what has not changed is not built again."""
    images.build(TASK_IMAGE)
    return TASK_IMAGE


@pytest.fixture(scope="session")
def lab(task_image: str) -> Iterator[Lab]:
    with EmbeddedAws.start(runtime="podman") as aws:
        yield Lab(aws, image=task_image)
