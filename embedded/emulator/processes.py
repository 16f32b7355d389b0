"""Local processes in place of containers: started apart, stopped as a group, never orphaned."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from embedded.emulator import reaper as reaper_script
from embedded.emulator.inner import Json
from embedded.emulator.runtime import CannotStartContainerError, ContainerSpec

CONTAINER_MARK = "EMBEDDED_CONTAINER"
"""In the environment of every process of a container, so that those that left its process group are found too."""

# What images put in front of the command and this machine does not have. ``tini -g`` passes SIGTERM to the process
# group, which LocalProcess does itself; Prefect's entry point only installs EXTRA_PIP_PACKAGES.
_INIT_WRAPPERS = ("tini", "tini-static", "dumb-init")
_IMAGE_WRAPPERS = ("/opt/prefect/entrypoint.sh",)
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


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

    def at_end(self, command: Sequence[str]) -> None:
        """Have this command run when the emulator is gone."""
        self._say(f"!{json.dumps(list(command))}")


def pump(pipe: int, on_lines: Callable[[list[str]], None]) -> None:
    """Hand on line by line what comes out of a pipe until its last writer is gone."""

    def hand_on(lines: list[bytes]) -> None:
        if lines:
            on_lines([line.decode(errors="replace").rstrip("\r") for line in lines])

    rest = b""
    while chunk := os.read(pipe, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        hand_on(lines)
    if rest:
        hand_on([rest])


class LocalProcess:
    """One container: a process group of its own whose output is handed on line by line."""

    reason: str | None = None
    """An exit code is all there is to know of a process."""

    def __init__(self, spec: ContainerSpec, reaper: Reaper) -> None:
        self._spec = spec
        self._reaper = reaper
        argv = command_line(spec.definition, spec.override)
        try:
            self._process = subprocess.Popen(
                argv,
                env=self._environment,
                cwd=spec.home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise CannotStartContainerError(f'exec: "{argv[0]}": {error.strerror}') from error
        reaper.watch(self._process.pid)
        self._pump = threading.Thread(target=self._read, name=f"output-{self._process.pid}", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _environment(self) -> dict[str, str]:
        return {**self._spec.environment, CONTAINER_MARK: self._spec.arn}

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            pump(stream.fileno(), self._spec.on_lines)

    def wait(self) -> int:
        """The exit code once the whole container is gone, as Docker reports it: 128 + signal when killed."""
        code = self._process.wait()
        # PID 1 of a container takes the others with it; so does this one.
        self.kill()
        reaper_script.kill_marked(CONTAINER_MARK, self._spec.arn)
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

    def succeeds(self, argv: Sequence[str], timeout: float) -> bool:
        try:
            process = subprocess.Popen(
                list(argv),
                env=self._environment,
                cwd=self._spec.home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return False
        try:
            return process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False


class ProcessRuntime:
    """Containers without images: processes that see this machine's files and the virtual environment's programs."""

    def __init__(self, reaper: Reaper, variables: Mapping[str, str] | None = None) -> None:
        """
        :param variables: More for the environment of each. Default: none.
        """
        self._reaper = reaper
        self._variables = variables or {}

    def environment(self, home: Path) -> dict[str, str]:
        temporary = home / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        venv_first = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
        return {
            "PATH": os.pathsep.join(dict.fromkeys(venv_first)),
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            **{name: os.environ[name] for name in _TLS_VARIABLES if name in os.environ},
            **self._variables,
        }

    def pull(self, image: str) -> None:
        """There are no images."""

    def prepare(self, task_id: str, definition: Json) -> None:
        """The containers of a task share nothing but the machine."""

    def start(self, spec: ContainerSpec) -> LocalProcess:
        return LocalProcess(spec, self._reaper)

    def clean_up(self, task_id: str) -> None:
        """Its disk was a directory that the task itself removes."""


def command_line(definition: Mapping[str, Any], override: Mapping[str, Any]) -> list[str]:
    """Entry point and command, without the init programs that only an image has."""
    argv = [*(definition.get("entryPoint") or []), *(override.get("command") or definition.get("command") or [])]
    while argv:
        if Path(argv[0]).name in _INIT_WRAPPERS and not shutil.which(argv[0]):
            argv = argv[1:]
            while argv and argv[0].startswith("-"):
                ended = argv[0] == "--"
                argv = argv[1:]
                if ended:
                    break
        elif argv[0] in _IMAGE_WRAPPERS:
            argv = argv[1:]
        else:
            return argv
    raise CannotStartContainerError(
        "no command specified: the image's own command is not known here; set entryPoint or command"
    )
