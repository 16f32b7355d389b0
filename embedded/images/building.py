"""Building an image from a Dockerfile."""

import os
from collections.abc import Mapping
from pathlib import Path

from embedded import launching
from embedded.images import podman
from embedded.images.base import ensure_base

FLOW_DOCKERFILE = launching.ROOT / "docker" / "flow" / "Dockerfile"


def build(
    tag: str,
    *,
    file: Path = FLOW_DOCKERFILE,
    context: Path = launching.ROOT,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build an image and return its id.

    :param tag: Name of the image, such as ``flows:test``.
    :param file: The Dockerfile. Default: that of the flow image.
    :param context: The build's context. Default: the root of the repository.
    :param target: The stage to build. Default: the last.
    :param build_args: Values of the Dockerfile's ARGs. ``BASE_IMAGE`` is given unless it is among them.
    :raises EmbeddedError: The build failed; has the end of what it said.
    """
    arguments = {"BASE_IMAGE": ensure_base(), **(build_args or {})}
    id_file = podman.directory() / "image.id"
    podman.podman(
        "build",
        "--isolation=chroot",
        "--pull=never",
        "--format=docker",
        "--layers",
        f"--iidfile={id_file}",
        f"--tag={tag}",
        f"--file={file}",
        *([f"--target={target}"] if target else []),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *secrets(),
        str(context),
    )
    return id_file.read_text().strip().removeprefix("sha256:")


def secrets() -> list[str]:
    """The machine's certificate authorities, for the build only."""
    certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    return [f"--secret=id=ca.crt,src={certificates}"] if Path(certificates).is_file() else []
