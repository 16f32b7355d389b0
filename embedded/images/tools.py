"""The programs that images are made and run with. They come from Debian."""

import os
import shutil
import subprocess
from collections.abc import Iterable

from embedded.errors import EmbeddedError

#: Program -> Debian's package. A base is made with mmdebstrap only where no registry is reached.
RUNNING = {"podman": "podman", "conmon": "conmon", "crun": "crun"}
BOOTSTRAPPING = {"mmdebstrap": "mmdebstrap"}


def ensure(programs: dict[str, str]) -> None:
    """Install what is missing, where we are root on Debian; else say what to install.

    :raises EmbeddedError: Something is missing and could not be installed.
    """
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise EmbeddedError(
            f"images need {_listed(missing)}, which this machine lacks; install with its package manager, on Debian "
            f"and Ubuntu: sudo {' '.join(command)}"
        )
    print(f"Installing {_listed(missing)} …", flush=True)
    for step in (["apt-get", "update"], command):
        done = subprocess.run(
            step,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{' '.join(step)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
