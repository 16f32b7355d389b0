"""Whether the kernel killed a container because its memory was used up. podman's own answer depends on its version."""

import contextlib
import os
import re
from pathlib import Path
from typing import Self

_ROOT = Path("/sys/fs/cgroup")


def events_file(membership: str, root: Path = _ROOT) -> Path | None:
    """The file that counts the kills in a process's memory cgroup, from its ``/proc/PID/cgroup``."""
    for line in membership.splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return root / "memory" / path.lstrip("/") / "memory.oom_control"
        if number == "0" and (root / "cgroup.controllers").exists():
            return root / path.lstrip("/") / "memory.events"
    return None


def kills(text: str) -> int:
    """The count in ``memory.oom_control`` or ``memory.events``."""
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


class OutOfMemoryWatch:
    """Keeps the counter of a container open, to be read when its processes are gone and its cgroup is not yet."""

    def __init__(self, pid: int) -> None:
        self.used_up = False
        self._file: int | None = None
        with contextlib.suppress(OSError):
            if path := events_file(Path(f"/proc/{pid}/cgroup").read_text()):
                self._file = os.open(path, os.O_RDONLY)

    def look(self) -> bool:
        """Whether the kernel has killed something in it so far."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the cgroup is gone
                self.used_up = kills(os.pread(self._file, 4096, 0).decode()) > 0
        return self.used_up

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        if self._file is not None:
            os.close(self._file)
            self._file = None
