"""One container of a task: its environment, its end and its health."""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from embedded.emulator.inner import Json
from embedded.emulator.reaper import MARK
from embedded.emulator.runtime import ContainerSpec, Runtime


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


def fargate_environment(*, endpoint: str, region: str) -> dict[str, str]:
    """What Fargate puts into every container, pointed here."""
    return {
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
        "AWS_ENDPOINT_URL": endpoint,
        # A task without a role has no credentials: nothing may find the developer's.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        MARK: os.environ.get(MARK, ""),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Container:
    """A started container. ``record`` is its entry in the task's ``containers``."""

    def __init__(self, spec: ContainerSpec, record: Json, runtime: Runtime) -> None:
        self.definition = spec.definition
        self.record = record
        self.environment = spec.environment
        self.ended = threading.Event()
        self.process = runtime.start(spec)

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
            if self.process.reason:
                self.record["reason"] = self.process.reason
            self.ended.set()
            on_end()

        threading.Thread(target=wait, name=f"container-{self.process.pid}", daemon=True).start()

    def watch_health(self, on_change: Callable[[], None]) -> None:
        """Run the health check inside the container for as long as it lives."""
        check = self.definition.get("healthCheck")
        if check and (check.get("command") or ["NONE"])[0] != "NONE":
            threading.Thread(target=self._probe, args=(check, on_change), daemon=True).start()

    def _probe(self, check: Json, on_change: Callable[[], None]) -> None:
        kind, *rest = check["command"]
        argv = rest if kind == "CMD" else ["/bin/sh", "-c", rest[0] if kind == "CMD-SHELL" else kind]
        interval, retries = float(check.get("interval") or 30), int(check.get("retries") or 3)
        started, failures, last_counted, took = time.monotonic(), 0, time.monotonic(), 0.0
        # A check that takes long leaves the container time of its own.
        while not self.ended.wait(
            min(interval, max(0.5, 2 * took)) if self.record["healthStatus"] != "HEALTHY" else interval
        ):
            asked = time.monotonic()
            healthy = self.process.succeeds(argv, float(check.get("timeout") or 5))
            now = time.monotonic()
            took = now - asked
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
