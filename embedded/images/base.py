"""A base image where no registry is reached: Debian with its own Python, made by mmdebstrap."""

import subprocess

from embedded.errors import EmbeddedError
from embedded.images import podman

SUITE = "bookworm"  # the Debian of the Dockerfile's default base
NAME = f"localhost/flow-base:{SUITE}"

# What the official Python image has besides Python. python3-venv brings the pip that installs uv.
_PACKAGES = ("ca-certificates", "netbase", "python3", "python3-venv", "tzdata")


def ensure_base() -> str:
    """The name of the base image; it is made when it is not there."""
    if podman.podman("image", "exists", NAME, check=False).returncode != 0:
        _make()
    return NAME


def _make() -> None:
    archive = podman.directory() / "base.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        *(
            f"--dpkgopt=path-exclude=/usr/share/{unneeded}/*"
            for unneeded in ("doc", "info", "locale", "man", "lintian", "linda")
        ),
        SUITE,
        str(archive),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EmbeddedError(f"mmdebstrap ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    podman.podman("import", str(archive), NAME)
    archive.unlink()
