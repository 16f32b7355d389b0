"""Local processes in place of containers: started apart, stopped as a group, never orphaned."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from embedded.emulator import reaper as reaper_script

CONTAINER_MARK = "EMBEDDED_CONTAINER"
"""In the environment of every process of a container, so that those that left its process group are found too."""


class Reaper:
    """This side of the pipe to ``reaper.py``."""

    def __init__(self, mark: str, directories: Sequence[Path] = ()) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            # -P: the script's own folder must not come first on the import path.
            [sys.executable, "-P", reaper_script.__file__, mark, str(os.getpgrp()), *map(str, directories)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # outside the group that it will kill
            env={k: v for k, v in os.environ.items() if k != reaper_script.MARK},
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def _say(self, line: str) -> None:
        pipe: IO[str] | None = self._process.stdin
        with self._lock, contextlib.suppress(OSError, ValueError):
            if pipe is not None:
                pipe.write(line + "\n")
                pipe.flush()

    def watch(self, pgid: int) -> None:
        self._say(f"+{pgid}")

    def forget(self, pgid: int) -> None:
        self._say(f"-{pgid}")


class LocalProcess:
    """One container: a process group of its own whose output is handed on line by line."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        mark: str,
        environment: Mapping[str, str],
        directory: Path,
        on_lines: Callable[[list[str]], None],
        reaper: Reaper,
    ) -> None:
        self._mark = mark
        self._reaper = reaper
        self._process = subprocess.Popen(
            list(argv),
            env={**environment, CONTAINER_MARK: mark},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        reaper.watch(self._process.pid)
        self._on_lines = on_lines
        self._pump = threading.Thread(target=self._read, name=f"output-{self._process.pid}", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        with self._process.stdout as stream:
            while chunk := os.read(stream.fileno(), 65536):
                *lines, rest = (rest + chunk).split(b"\n")
                self._hand_on(lines)
        if rest:
            self._hand_on([rest])

    def _hand_on(self, lines: list[bytes]) -> None:
        if lines:
            self._on_lines([line.decode(errors="replace").rstrip("\r") for line in lines])

    def wait(self) -> int:
        """The exit code once the whole container is gone, as Docker reports it: 128 + signal when killed."""
        code = self._process.wait()
        # PID 1 of a container takes the others with it; so does this one.
        self.kill()
        reaper_script.kill_marked(CONTAINER_MARK, self._mark)
        self._pump.join(timeout=5)
        self._reaper.forget(self._process.pid)
        return 128 - code if code < 0 else code

    def terminate(self) -> None:
        """SIGTERM to the process group, which is what ``tini -g`` does in the Prefect image."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
