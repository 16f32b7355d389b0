"""podman with storage and configuration of our own: nothing of the machine's is read or changed."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from embedded import launching
from embedded.errors import EmbeddedError
from embedded.images import tools

_CONTAINERS_CONF = """\
[containers]
# The limits of this process, which may be lower than podman's defaults and cannot be raised everywhere.
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
cgroupns = "host"
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
runtime = "crun"
events_logger = "none"
tmp_dir = "{directory}/run/libpod"
volume_path = "{directory}/volumes"
"""

_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{directory}/storage"
runroot = "{directory}/run/storage"
"""

_REGISTRIES_CONF = """\
unqualified-search-registries = ["docker.io"]
short-name-mode = "disabled"
"""

_FILES = {"containers.conf": _CONTAINERS_CONF, "storage.conf": _STORAGE_CONF, "registries.conf": _REGISTRIES_CONF}

# crun takes the version 2 hierarchy of a hybrid machine for the whole, and finds no controller in it.
_HYBRID_CGROUPS = Path("/sys/fs/cgroup/unified")


def directory() -> Path:
    """Where images, containers and podman's configuration are: ``.images/`` here, or ``$IMAGES_DIR``."""
    return Path(os.environ.get("IMAGES_DIR") or launching.ROOT / ".images").absolute()


def environment() -> dict[str, str]:
    """This process's environment with podman's configuration in it; writes the configuration."""
    own = directory()
    own.mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        wanted = text.format(directory=own)
        if not (own / name).exists() or (own / name).read_text() != wanted:
            (own / name).write_text(wanted)
    return {
        **os.environ,
        "CONTAINERS_CONF": str(own / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(own / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(own / "registries.conf"),
    }


def podman_command() -> list[str]:
    """The beginning of a podman command line; run it with :func:`environment`.

    Containers have neither cgroups nor a network of their own unless the caller says so: give ``run`` the options
    ``--cgroups=disabled`` and ``--network=none`` or ``host``.

    :raises EmbeddedError: podman is missing, and could not be installed.
    """
    tools.ensure(tools.RUNNING)
    if _HYBRID_CGROUPS.is_mount():
        # In a mount namespace of its own: the machine keeps the hierarchy.
        hidden = f'umount {_HYBRID_CGROUPS} && exec "$@"'
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", hidden, "podman", "podman"]
    return ["podman"]


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman and return what it printed.

    :raises EmbeddedError: It failed; has the end of what it said.
    """
    return run([*podman_command(), *arguments], check=check)


def run(command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command with podman's environment; see :func:`podman`."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise EmbeddedError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return done
