"""What images are built on: the base that the Dockerfile pins, or, where no registry is reached, one made here."""

import os
import re
import subprocess
import urllib.error
import urllib.request

from embedded import launching
from embedded.errors import EmbeddedError
from embedded.images import machine, podman, tools

FLOW_DOCKERFILE = launching.ROOT / "docker" / "flow" / "Dockerfile"
REGISTRY = "https://registry-1.docker.io"

SUITE = "bookworm"  # the Debian of the pinned base
LOCAL_BASE = f"localhost/flow-base:{SUITE}"
_MIRROR = "http://deb.debian.org/debian"
# What the official Python image has besides Python. python3-venv brings the pip that installs uv.
_PACKAGES = ("ca-certificates", "netbase", "python3", "python3-venv", "tzdata")
_UNNEEDED = ("doc", "info", "linda", "lintian", "locale", "man")


def base_image() -> str:
    """The base to build on: ``$BASE_IMAGE``, else the pinned one, else one that is made here and kept.

    The one made here is the same Debian with Debian's own Python, which is older than that of the pinned one.
    """
    if given := os.environ.get("BASE_IMAGE"):
        return given
    if _is_there(pinned := pinned_base()):
        return pinned
    if _is_there(LOCAL_BASE):
        return LOCAL_BASE
    if reaches_registry(REGISTRY):
        return pinned
    make_local_base()
    return LOCAL_BASE


def pinned_base() -> str:
    """The default of the Dockerfile, with its registry's name."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", FLOW_DOCKERFILE.read_text(), re.MULTILINE)
    assert found is not None, f"{FLOW_DOCKERFILE} pins no base"
    return f"docker.io/library/{found[1]}"


def reaches_registry(url: str, *, timeout: float = 5) -> bool:
    """Whether a registry answers there, be it with a demand for credentials."""
    try:
        with urllib.request.urlopen(f"{url}/v2/", timeout=timeout):  # noqa: S310 - https or a test's own server
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


def make_local_base() -> None:
    """Make Debian with its own Python, and keep it as an image.

    :raises EmbeddedError: mmdebstrap is missing, or failed; has the end of what it said.
    """
    tools.ensure(tools.BOOTSTRAPPING)
    archive = podman.directory() / "base.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNNEEDED),
        *(f"--aptopt={line.rstrip(';')}" for line in machine.apt_settings()),
        # mmdebstrap keeps its options in the result; they are this machine's.
        '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"',
        '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
        SUITE,
        str(archive),
        f"deb {_MIRROR} {SUITE} main",
        f"deb {_MIRROR} {SUITE}-updates main",
        f"deb {_MIRROR}-security {SUITE}-security main",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EmbeddedError(
            "no registry is reached for the pinned base, and making one failed: mmdebstrap ended with exit code "
            f"{done.returncode}. It needs root. It said:\n{done.stderr[-4000:]}"
        )
    podman.podman("import", str(archive), LOCAL_BASE)
    archive.unlink()


def _is_there(image: str) -> bool:
    return podman.podman("image", "exists", image, check=False).returncode == 0
