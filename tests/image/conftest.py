from pathlib import Path

import pytest
from image_helpers import BAKED, NAME, OUT, podman

from embedded.images import build

pytestmark = pytest.mark.image


@pytest.fixture(scope="session")
def image() -> str:
    """The flow image without flows: what staging and prod run."""
    build(NAME)
    return NAME


@pytest.fixture(scope="session")
def baked() -> str:
    """The flow image with flows/ in it."""
    build(BAKED, target="baked")
    return BAKED


@pytest.fixture(scope="session")
def archive(image: str) -> Path:
    """The image as a file, which the tools read without a daemon."""
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "flow-image.tar"
    file.unlink(missing_ok=True)
    done = podman("save", "--format=docker-archive", f"--output={file}", image, timeout=300)
    assert done.returncode == 0, done.stderr
    return file
