"""A small process that outlives the emulator just long enough to clean up after it.

The emulator keeps the other end of this process's standard input open. When the emulator goes, however it goes, even by
SIGKILL, the kernel closes that pipe and everything the emulator started is killed: the process groups it announced, its
own group (Lambda workers live there), and whatever carries the emulator's mark in its environment (a child that made a
session of its own). A parent-death signal would not do: it is tied to the thread that forked, not to the process.

Started as a plain script, so it imports nothing but psutil. Arguments: mark, emulator's process group, directories to
remove at the end. Input lines: ``+PGID``, ``-PGID`` and ``!COMMAND``, a JSON list to run when everything was killed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil

MARK = "EMBEDDED_AWS_INSTANCE"
_COMMAND_SECONDS = 60  # for hangs only


def kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def kill_marked(variable: str, value: str) -> int:
    """Kill every process that has this variable in its environment; returns how many."""
    killed = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(variable) == value
            ):
                process.kill()
                killed += 1
    return killed


def main() -> None:
    mark, own_group, *directories = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its only cue is the end of its input
    groups: set[int] = set()
    commands: list[list[str]] = []
    for line in sys.stdin:
        text = line.strip()
        with contextlib.suppress(ValueError):  # the last line may be half a line
            if text.startswith("!"):
                commands.append(json.loads(text[1:]))
            else:
                (groups.add if text.startswith("+") else groups.discard)(int(text[1:]))
    for pgid in [*groups, int(own_group)]:
        kill_group(pgid)
    for _ in range(20):  # a killed process may have forked at that very moment
        if not kill_marked(MARK, mark):
            break
        time.sleep(0.05)
    for command in commands:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
