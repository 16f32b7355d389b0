"""Building an image from a Dockerfile."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from embedded import launching
from embedded.images import podman
from embedded.images.base import FLOW_DOCKERFILE, base_image
from embedded.images.machine import build_secrets


def build(
    tag: str,
    *,
    file: Path = FLOW_DOCKERFILE,
    context: Path = launching.ROOT,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build an image and return its id. Layers of earlier builds are used again.

    :param tag: Name of the image, such as ``flows:test``.
    :param file: The Dockerfile. Default: that of the flow image.
    :param context: The build's context. Default: the root of the repository.
    :param target: The stage to build. Default: the last.
    :param build_args: Values of the Dockerfile's ARGs. ``BASE_IMAGE`` is given unless it is among them.
    :raises EmbeddedError: The build failed; has the end of what it said.
    """
    given = dict(build_args or {})
    given.setdefault("BASE_IMAGE", base_image())
    with tempfile.TemporaryDirectory(prefix="image-build-") as directory:
        id_file = Path(directory) / "id"
        podman.podman(
            "build",
            "--isolation=chroot",
            "--pull=missing",
            "--format=docker",  # the one of the two that keeps everything a Dockerfile can say
            "--layers",
            f"--iidfile={id_file}",
            f"--tag={tag}",
            f"--file={file}",
            *([f"--target={target}"] if target else []),
            *(f"--build-arg={name}={value}" for name, value in given.items()),
            *build_secrets(),
            str(context),
        )
        return id_file.read_text().strip().removeprefix("sha256:")
