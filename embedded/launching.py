"""Starting a server process of ours and getting rid of it again, whoever started it."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from embedded.emulator import reaper as reaper_script
from embedded.errors import EmbeddedError

ROOT = Path(__file__).resolve().parent.parent
VENV_BIN = Path(sys.executable).parent
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


@dataclass(frozen=True)
class ServerState:
    """What one must know to talk to a running server and to stop it. Kept in a file that only its owner can read."""

    name: str
    mark: str
    pid: int
    created: float  # with the pid, tells the process from a later one with the same number
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    ready: bool = True

    @classmethod
    def read(cls, file: Path) -> "ServerState | None":
        try:
            return cls(**json.loads(file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # half written by a process that was killed
            return None

    def write(self, file: Path) -> None:
        unfinished = file.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(asdict(self), indent=2))
        unfinished.replace(file)

    @classmethod
    def attach(cls, file: Path) -> "ServerState | None":
        """What `read` finds if the server is running and was seen to answer, else None."""
        state = cls.read(file)
        return state if state is not None and state.ready and state.process() is not None else None

    def process(self) -> psutil.Process | None:
        """The living process, or None when it is gone or its number belongs to another by now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if same else None


def default_directory() -> Path:
    """Where ``python -m embedded`` keeps its state: ``$EMBEDDED_DIR``, or ``.embedded`` in the current directory."""
    return Path(os.environ.get("EMBEDDED_DIR") or ".embedded").resolve()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def private_directory(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def clean_environment(home: Path) -> dict[str, str]:
    """What a server of ours starts with: nothing of the developer's credentials, profiles or Prefect settings."""
    for part in (home, home.parent / "tmp"):
        part.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.pathsep.join(dict.fromkeys([str(VENV_BIN), "/usr/local/bin", "/usr/bin", "/bin"])),
        "HOME": str(home),
        "TMPDIR": str(home.parent / "tmp"),
        "LANG": "C.UTF-8",
        **{name: os.environ[name] for name in _TLS_VARIABLES if name in os.environ},
    }


def launch(
    name: str,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    port: int,
    ready: Callable[[], bool],
    timeout: float,
    detached: bool,
    settings: Mapping[str, str],
    mark: str,
    state_file: Path,
    started: Callable[[ServerState], object] | None = None,
) -> tuple[ServerState, subprocess.Popen[bytes]]:
    """Start a server in a session of its own and wait until it answers.

    Whoever finds the state file of one that never got that far can stop it, even where this process was killed at once:
    what carries the mark is known before there is anything.

    :param started: Called as soon as there is a process.
    """
    state = ServerState(name, mark, 0, 0.0, port, dict(settings), ready=False)
    state.write(state_file)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            list(argv),
            cwd=ROOT,
            env={**environment, reaper_script.MARK: mark},
            # The server ends when this pipe closes; a detached one must not.
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    state = replace(state, pid=process.pid, created=psutil.Process(process.pid).create_time())
    deadline = time.monotonic() + timeout
    try:
        state.write(state_file)
        if started is not None:
            started(state)
        while not ready():
            if process.poll() is not None:
                raise EmbeddedError(f"{name} ended with exit code {process.returncode}.\n{tail(log)}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{name} did not answer on port {port} within {timeout:.0f} s.\n{tail(log)}")
            time.sleep(0.05)
        state = replace(state, ready=True)
        state.write(state_file)
    except BaseException:
        stop(state, process)
        state_file.unlink(missing_ok=True)
        raise
    return state, process


def stop(state: ServerState, child: subprocess.Popen[bytes] | None = None, *, grace: float = 8.0) -> None:
    """SIGTERM, a grace, SIGKILL; then whatever carries the server's mark. Returns when nothing is left."""
    process = state.process()
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(psutil.TimeoutExpired, subprocess.TimeoutExpired):
                child.wait(grace) if child else process.wait(grace)
        if state.process() is not None:
            reaper_script.kill_group(state.pid)
    if child is not None:
        child.wait()
        if child.stdin is not None:
            child.stdin.close()
    deadline = time.monotonic() + 5
    while reaper_script.kill_marked(reaper_script.MARK, state.mark) and time.monotonic() < deadline:
        time.sleep(0.05)


def tail(log: Path, lines: int = 15) -> str:
    with contextlib.suppress(OSError):
        return "\n".join([f"The end of {log}:", *log.read_text(errors="replace").splitlines()[-lines:]])
    return f"{log} cannot be read"


def new_mark() -> str:
    return secrets.token_hex(8)
