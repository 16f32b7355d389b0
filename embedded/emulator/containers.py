"""One container of a task: its command line, its environment, its process and its health."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from embedded.emulator.inner import Json
from embedded.emulator.processes import CONTAINER_MARK, LocalProcess, Reaper
from embedded.emulator.reaper import MARK

# What images put in front of the command and this machine does not have. ``tini -g`` passes SIGTERM to the process
# group, which LocalProcess does itself; Prefect's entry point only installs EXTRA_PIP_PACKAGES.
_INIT_WRAPPERS = ("tini", "tini-static", "dumb-init")
_IMAGE_WRAPPERS = ("/opt/prefect/entrypoint.sh",)
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


class CannotStartContainerError(Exception):
    """The container's process could not be started."""


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


def environment(
    definition: Mapping[str, Any],
    override: Mapping[str, Any],
    *,
    base: Mapping[str, str],
    secrets: Mapping[str, str],
) -> dict[str, str]:
    """Only what Fargate and the task definition give, later ones winning; nothing of the developer's own."""
    result = dict(base)
    for source in (definition, override):
        result.update({pair["name"]: pair.get("value", "") for pair in source.get("environment") or []})
    result.update(secrets)
    # Containers share 127.0.0.1 where Fargate gives each task an interface of its own, so the worker's health server
    # would find its port taken by the next worker. A health check that reads this variable works in both worlds.
    result.setdefault("PREFECT_WORKER_WEBSERVER_PORT", str(free_port()))
    return result


def base_environment(home: Path, *, endpoint: str, region: str) -> dict[str, str]:
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    venv_first = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    return {
        "PATH": os.pathsep.join(dict.fromkeys(venv_first)),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
        "AWS_ENDPOINT_URL": endpoint,
        # A task without a role has no credentials: nothing may find the developer's.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        MARK: os.environ.get(MARK, ""),
        **{name: os.environ[name] for name in _TLS_VARIABLES if name in os.environ},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Container:
    """A started container. ``record`` is its entry in the task's ``containers``."""

    def __init__(
        self,
        definition: Json,
        record: Json,
        *,
        argv: list[str],
        environment: dict[str, str],
        home: Path,
        on_lines: Callable[[list[str]], None],
        reaper: Reaper,
    ) -> None:
        self.definition = definition
        self.record = record
        self.environment = environment
        self._home = home
        self.ended = threading.Event()
        try:
            self.process = LocalProcess(
                argv,
                mark=str(record["containerArn"]),
                environment=environment,
                directory=home,
                on_lines=on_lines,
                reaper=reaper,
            )
        except OSError as error:
            raise CannotStartContainerError(f'exec: "{argv[0]}": {error.strerror}') from error

    @property
    def essential(self) -> bool:
        return bool(self.definition.get("essential", True))

    @property
    def stop_timeout(self) -> float:
        # Fargate: default 30 seconds, at most 120.
        return min(float(self.definition.get("stopTimeout") or 30), 120.0)

    def follow(self, on_end: Callable[[], None]) -> None:
        """Wait for the end in a thread, keep the exit code, then call back."""

        def wait() -> None:
            code = self.process.wait()
            self.record.update(exitCode=code, lastStatus="STOPPED")
            self.ended.set()
            on_end()

        threading.Thread(target=wait, name=f"container-{self.process.pid}", daemon=True).start()

    def watch_health(self, on_change: Callable[[], None]) -> None:
        """Run the health check in the container's environment for as long as it lives."""
        check = self.definition.get("healthCheck")
        if check and (check.get("command") or ["NONE"])[0] != "NONE":
            threading.Thread(target=self._probe, args=(check, on_change), daemon=True).start()

    def _probe(self, check: Json, on_change: Callable[[], None]) -> None:
        kind, *rest = check["command"]
        argv = rest if kind == "CMD" else ["/bin/sh", "-c", rest[0] if kind == "CMD-SHELL" else kind]
        interval, retries = float(check.get("interval") or 30), int(check.get("retries") or 3)
        started, failures, last_counted = time.monotonic(), 0, time.monotonic()
        while not self.ended.wait(min(interval, 0.5) if self.record["healthStatus"] != "HEALTHY" else interval):
            healthy = self._succeeds(argv, float(check.get("timeout") or 5))
            now = time.monotonic()
            if healthy:
                failures, status = 0, "HEALTHY"
            else:
                # A container that is not healthy yet is asked more often than its interval says, so that a deployment
                # need not wait half a minute for the first answer; failures still count once per interval.
                if now - last_counted < interval and self.record["healthStatus"] != "HEALTHY":
                    continue
                if self.record["healthStatus"] != "UNKNOWN" or now - started > float(check.get("startPeriod") or 0):
                    failures += 1
                status = "UNHEALTHY" if failures >= retries else self.record["healthStatus"]
            last_counted = now
            if status != self.record["healthStatus"] and not self.ended.is_set():
                self.record["healthStatus"] = status
                on_change()

    def _succeeds(self, argv: list[str], timeout: float) -> bool:
        try:
            process = subprocess.Popen(
                argv,
                env={**self.environment, CONTAINER_MARK: str(self.record["containerArn"])},
                cwd=self._home,
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
