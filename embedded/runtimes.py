"""``EMBEDDED_RUNTIME``: what ECS tasks run in, and whether this machine has it."""

import os
import shutil

from embedded.errors import EmbeddedError
from embedded.images.tools import RUNNING

VARIABLE = "EMBEDDED_RUNTIME"
PROCESS, PODMAN = "process", "podman"
INSTANCE_LABEL, TASK_LABEL = "embedded.instance", "embedded.task"
"""What podman's containers and volumes carry: the mark of their embedded AWS, and the id of their task."""


def chosen(given: str | None = None) -> str:
    """The runtime that was given, else the environment's, else ``process``.

    :raises EmbeddedError: It is no runtime, or this machine lacks what it takes.
    """
    name = given or os.environ.get(VARIABLE) or PROCESS
    if name not in (PROCESS, PODMAN):
        raise EmbeddedError(
            f"{VARIABLE} is {name!r}; it must be {PROCESS} (tasks are processes of this machine) or {PODMAN} "
            "(tasks are containers of their images)"
        )
    if name == PODMAN and (missing := [program for program in RUNNING if shutil.which(program) is None]):
        raise EmbeddedError(
            f"{VARIABLE} is {PODMAN}, and this machine has no {', '.join(missing)}; on Debian and Ubuntu: "
            f"apt-get install {' '.join(RUNNING.values())}"
        )
    return name
