"""``/_embedded/…``: what a developer may do to this AWS and no customer of AWS can: take machines away, be anybody,
say which keys an issuer of tokens publishes."""

import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from embedded.emulator import credentials
from embedded.emulator.engine import Engine
from embedded.emulator.inner import Json
from embedded.emulator.metrics import Metrics
from embedded.emulator.tasks import TaskRun
from embedded.emulator.web_identity import Issuers

PREFIX = "/_embedded/"

Asgi = Callable[[Json, Any, Any], Awaitable[None]]


class ControlError(Exception):
    """The request makes no sense; the message says why."""


def describe(run: TaskRun) -> Json:
    """A task with what DescribeTasks cannot show: its process and its flow run."""
    record = run.record
    return {
        "arn": run.arn,
        "cluster": record["clusterArn"],
        "family": run.definition["family"],
        "group": record["group"],
        "last_status": record["lastStatus"],
        "desired_status": record["desiredStatus"],
        "health_status": record["healthStatus"],
        "capacity_provider": record.get("capacityProviderName") or record["launchType"],
        "cpu": int(record["cpu"]),
        "memory_mib": int(record["memory"]),
        "stop_code": record.get("stopCode"),
        "stopped_reason": record.get("stoppedReason"),
        "exit_codes": {c["name"]: c.get("exitCode") for c in record["containers"]},
        "pid": run.containers[0].process.pid if run.containers else None,
        "flow_run_id": run.flow_run_id,
        "created_at": record["createdAt"],
        "started_at": record.get("startedAt"),
        "stopped_at": record.get("stoppedAt"),
    }


class Control:
    def __init__(self, engine: Engine, metrics: Metrics, issuers: Issuers, mark: str) -> None:
        self._engine = engine
        self._metrics = metrics
        self._mark = mark
        self._issuers = issuers

    def answer(self, method: str, name: str, data: Json) -> Any:
        match method, name:
            case "GET", "status":
                return {"instance": self._mark, "capacity_shortages": self._engine.capacity.all()}
            case "GET", "tasks":
                return [describe(run) for run in self._engine.runs()]
            case "POST", "interrupt":
                return self._interrupt(data)
            case "POST", "capacity":
                self._engine.capacity.set(
                    data["provider"], available=data["available"], fail_after_start=data["fail_after_start"]
                )
                return {}
            case "POST", "alarms":
                self._metrics.ahead = float(data["ahead_seconds"])
                return {}
            case "POST", "session":
                return dataclasses.asdict(credentials.assume(data["role"], data["name"]))
            case "POST", "issuer":
                self._issuers.publish(data["issuer"], data["keys"])
                return {}
        raise ControlError(f"there is no {method} {PREFIX}{name}")

    def _interrupt(self, data: Json) -> Json:
        why_not = self._engine.interrupt(
            data["task"], notice=data["notice"], grace=data.get("grace_seconds"), force=bool(data.get("force"))
        )
        if why_not:
            raise ControlError(why_not)
        return {}

    def wrap(self, inner: Asgi) -> Asgi:
        """The emulator's ASGI application with the control endpoints in front."""

        async def application(scope: Json, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
                await inner(scope, receive, send)
                return
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            try:
                name = scope["path"].removeprefix(PREFIX)
                status, answer = 200, self.answer(scope["method"], name, json.loads(body or b"{}"))
            except (ControlError, KeyError, ValueError) as error:
                text = f"missing {error}" if isinstance(error, KeyError) else str(error)
                status, answer = 400, {"error": text}
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

        return application
