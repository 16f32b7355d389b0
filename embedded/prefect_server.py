"""A real Prefect server on a free port, with basic auth, a private database and no telemetry."""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from embedded import launching
from embedded.emulator import reaper as reaper_script
from embedded.errors import EmbeddedError
from embedded.launching import ServerState

STATE_FILE = "prefect.json"
LOG_FILE = "prefect-server.log"
_NEW = "generate one"


class PrefectServer:
    """A self-hosted Prefect server, as production would have it, for as long as it is needed."""

    def __init__(
        self,
        directory: Path,
        state: ServerState,
        process: subprocess.Popen[bytes] | None = None,
        reaper: subprocess.Popen[bytes] | None = None,
        *,
        ephemeral: bool = False,
    ) -> None:
        self.directory = directory
        self._state = state
        self._process = process
        self._reaper = reaper
        self._ephemeral = ephemeral

    @classmethod
    def start(
        cls, directory: Path | None = None, *, auth_string: str | None = _NEW, detached: bool = False
    ) -> "PrefectServer":
        """Start a server and wait until it answers.

        :param directory: Where its database and log go. Default: a temporary directory, removed at the end.
        :param auth_string: ``user:password`` for basic auth; None for none. Default: a new random password.
        :param detached: Whether it outlives this process.
        """
        if auth_string == _NEW:
            auth_string = new_auth_string()
        ephemeral = directory is None
        home = Path(tempfile.mkdtemp(prefix="embedded-prefect-")) if directory is None else directory.resolve()
        launching.private_directory(home)
        if (state := ServerState.read(home / STATE_FILE)) and state.process():
            raise EmbeddedError(f"a Prefect server runs in {home} already: port {state.port}; attach to it or stop it")
        reapers: list[subprocess.Popen[bytes]] = []
        try:
            state, process = _launch(
                home,
                launching.free_port(),
                launching.new_mark(),
                auth_string,
                detached=detached,
                started=lambda state: (
                    None if detached else reapers.append(_start_reaper(state, [home] if ephemeral else []))
                ),
            )
        except BaseException:
            for reaper in reapers:
                _end_reaper(reaper)
            if ephemeral:
                shutil.rmtree(home, ignore_errors=True)
            raise
        return cls(home, state, process, reapers[0] if reapers else None, ephemeral=ephemeral)

    @classmethod
    def attach(cls, directory: Path) -> "PrefectServer":
        """Talk to the Prefect server whose state is in this directory."""
        state = ServerState.attach(directory.resolve() / STATE_FILE)
        if state is None:
            raise EmbeddedError(f"no Prefect server runs in {directory}; start one with: python -m embedded up")
        return cls(directory.resolve(), state)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._state.port}/api"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self._state.port}"

    @property
    def pid(self) -> int:
        return self._state.pid

    @property
    def auth_string(self) -> str | None:
        return self._state.settings.get("auth_string")

    @property
    def log(self) -> Path:
        return self.directory / LOG_FILE

    def environment(self) -> dict[str, str]:
        """Variables that point Prefect's client and CLI here; to be merged over one's own."""
        home = self.directory / "prefect-client"
        home.mkdir(exist_ok=True)
        return {
            "PREFECT_API_URL": self.api_url,
            **({"PREFECT_API_AUTH_STRING": self.auth_string} if self.auth_string else {}),
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "DO_NOT_TRACK": "1",
        }

    def change_auth_string(self, auth_string: str) -> None:
        """Restart it at the same address, with its database, for another ``user:password``; the old one is rejected."""
        launching.stop(self._state, self._process, grace=2)
        # The same mark: its reaper knows it by that, and goes on.
        self._state, self._process = _launch(
            self.directory, self._state.port, self._state.mark, auth_string, detached=self._reaper is None
        )

    def stop(self) -> None:
        # Its database survives a kill; its graceful shutdown can take long.
        launching.stop(self._state, self._process, grace=2)
        if self._reaper is not None:
            _end_reaper(self._reaper)
        (self.directory / STATE_FILE).unlink(missing_ok=True)
        if self._ephemeral:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def new_auth_string() -> str:
    """``user:password`` that nobody can guess."""
    return f"admin:{secrets.token_urlsafe(24)}"


def _launch(
    home: Path,
    port: int,
    mark: str,
    auth_string: str | None,
    *,
    detached: bool,
    started: Callable[[ServerState], None] = lambda _: None,
) -> tuple[ServerState, subprocess.Popen[bytes]]:
    api_url = f"http://127.0.0.1:{port}/api"
    environment = {
        **launching.clean_environment(home / "prefect-server" / "home"),
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home / "prefect-server"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": api_url,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Else the UI is unpacked into the installed package, where servers would overwrite each other's.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "prefect-server" / "ui"),
    }
    settings = {}
    if auth_string:
        # By environment and not by option: command lines are public.
        environment["PREFECT_SERVER_API_AUTH_STRING"] = settings["auth_string"] = auth_string
    return launching.launch(
        "the Prefect server",
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        environment=environment,
        log=home / LOG_FILE,
        port=port,
        ready=lambda: _answers(api_url, auth_string),
        timeout=120,
        detached=detached,
        settings=settings,
        mark=mark,
        state_file=home / STATE_FILE,
        started=started,
    )


def _start_reaper(state: ServerState, directories: list[Path]) -> subprocess.Popen[bytes]:
    """The server itself would survive this process's death."""
    return subprocess.Popen(
        [sys.executable, "-P", reaper_script.__file__, state.mark, str(state.pid), *map(str, directories)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={k: v for k, v in os.environ.items() if k != reaper_script.MARK},
    )


def _end_reaper(reaper: subprocess.Popen[bytes]) -> None:
    assert reaper.stdin is not None
    reaper.stdin.close()
    reaper.wait()


def _answers(api_url: str, auth_string: str | None) -> bool:
    request = urllib.request.Request(f"{api_url}/admin/version")  # noqa: S310
    if auth_string:
        request.add_header("Authorization", f"Basic {base64.b64encode(auth_string.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return isinstance(json.load(answer), str)
    except (OSError, ValueError):
        return False
