"""The client's side of the embedded AWS."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from embedded import images, launching, runtimes
from embedded.errors import EmbeddedError
from embedded.launching import ServerState

ACCOUNT = "000000000000"
REGION = "us-east-1"
STATE_FILE = "aws.json"
LOG_FILE = "emulator.log"
REAPER_FILE = "reaper.pid"
REQUESTS_FILE = "requests.jsonl"


@dataclass(frozen=True)
class Task:
    """An ECS task, with the process behind it."""

    arn: str
    cluster: str
    family: str
    group: str
    last_status: str
    desired_status: str
    health_status: str
    capacity_provider: str
    cpu: int
    memory_mib: int
    stop_code: str | None
    stopped_reason: str | None
    exit_codes: dict[str, int | None]
    pid: int | None
    flow_run_id: str | None
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None

    @property
    def id(self) -> str:
        return self.arn.rsplit("/", 1)[-1]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Task":
        values = {f.name: data[f.name] for f in fields(cls)}
        for name in ("created_at", "started_at", "stopped_at"):
            values[name] = datetime.fromisoformat(values[name]) if values[name] else None
        return cls(**values)


class EmbeddedAws:
    """AWS on this machine: a new one by ``start``, one that ``python -m embedded up`` left running by ``attach``."""

    account = ACCOUNT
    region = REGION

    def __init__(
        self,
        directory: Path,
        state: ServerState,
        process: subprocess.Popen[bytes] | None = None,
        *,
        ephemeral: bool = False,
    ) -> None:
        self.directory = directory
        self._state = state
        self._process = process
        self._ephemeral = ephemeral
        self._clients: dict[str, Any] = {}
        self._reaper = _reaper_of(directory)

    @classmethod
    def start(
        cls,
        directory: Path | None = None,
        *,
        enforce_iam: bool = True,
        detached: bool = False,
        runtime: str | None = None,
        record_requests: bool = False,
    ) -> "EmbeddedAws":
        """Start an emulator on a free port and wait until it answers (2 s).

        :param directory: Where state, logs and tasks' disks go. Default: a temporary directory, removed at the end.
        :param enforce_iam: Whether roles may only do what their policies allow, as on AWS.
        :param detached: Whether it outlives this process.
        :param runtime: ``process`` or ``podman``: what tasks run in. Default: ``$EMBEDDED_RUNTIME``, else ``process``.
        :param record_requests: Whether every request is written down, with its body; see :attr:`requests`.
        """
        runtime = runtimes.chosen(runtime)
        ephemeral = directory is None
        home = Path(tempfile.mkdtemp(prefix="embedded-aws-")) if directory is None else directory.resolve()
        launching.private_directory(home)
        if (state := ServerState.read(home / STATE_FILE)) and state.process():
            raise EmbeddedError(
                f"an embedded AWS runs in {home} already: {_endpoint(state.port)}; attach to it or stop it"
            )
        try:
            state, process = _launch(
                home,
                enforce_iam=enforce_iam,
                detached=detached,
                ephemeral=ephemeral,
                runtime=runtime,
                record_requests=record_requests,
            )
        except BaseException:
            if ephemeral:
                shutil.rmtree(home, ignore_errors=True)
            raise
        return cls(home, state, process, ephemeral=ephemeral)

    @classmethod
    def attach(cls, directory: Path) -> "EmbeddedAws":
        """Talk to the embedded AWS whose state is in this directory."""
        state = ServerState.attach(directory.resolve() / STATE_FILE)
        if state is None:
            raise EmbeddedError(f"no embedded AWS runs in {directory}; start one with: python -m embedded up")
        return cls(directory.resolve(), state)

    # Talking to it

    @property
    def endpoint(self) -> str:
        return _endpoint(self._state.port)

    @property
    def pid(self) -> int:
        return self._state.pid

    @property
    def mark(self) -> str:
        """What tells this instance's processes and containers from those of others."""
        return self._state.mark

    @property
    def runtime(self) -> str:
        """``process`` or ``podman``."""
        return self._state.settings.get("runtime", runtimes.PROCESS)

    @property
    def log(self) -> Path:
        return self.directory / LOG_FILE

    @property
    def requests(self) -> Path:
        """A line of JSON for every request received, with ``method``, ``path``, ``query``, ``headers`` and ``body``;
        only if they are recorded."""
        return self.directory / REQUESTS_FILE

    def environment(self) -> dict[str, str]:
        """Variables that point every AWS SDK, the CDK CLI and Prefect here; to be merged over one's own."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            # The address CloudFormation fetches templates from: by bucket.localhost, which an IP address cannot do.
            "AWS_ENDPOINT_URL_S3_FOR_CLOUDFORMATION": f"http://localhost:{self._state.port}",
            "AWS_ACCESS_KEY_ID": self.account,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "CDK_DEFAULT_ACCOUNT": self.account,
            "CDK_DEFAULT_REGION": self.region,
        }

    def client(self, service: str) -> Any:
        """A boto3 client with all rights."""
        if service not in self._clients:
            self._clients[service] = self._client(service, self.account, "test")
        return self._clients[service]

    def client_as(self, role_arn: str, service: str, session_name: str = "somebody") -> Any:
        """A boto3 client with the rights of a role, whomever it trusts; the caller closes it."""
        session = self._control("POST", "session", {"role": role_arn, "name": session_name})
        return self._client(service, session["access_key"], session["secret_key"], session["token"])

    def publish_keys(self, issuer: str, key_set: Mapping[str, Any]) -> None:
        """The keys that an OIDC issuer signs tokens with: the JSON Web Key Set that it serves, which AWS fetches."""
        self._control("POST", "issuer", {"issuer": issuer, "keys": key_set})

    def _client(self, service: str, access_key: str, secret_key: str, token: str | None = None) -> Any:
        import boto3

        session = boto3.session.Session(
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            region_name=self.region,
        )
        return session.client(service, endpoint_url=self.endpoint)  # type: ignore[call-overload]

    def tasks(self, cluster: str | None = None) -> list[Task]:
        """Every task there was, oldest first, of one cluster (name or ARN) or of all."""
        found = [Task.from_json(item) for item in self._control("GET", "tasks")]
        if cluster is not None:
            name = cluster.rsplit("/", 1)[-1]
            found = [task for task in found if task.cluster.rsplit("/", 1)[-1] == name]
        return sorted(found, key=lambda task: task.created_at)

    def interrupt(
        self, task_arn: str, *, notice: bool = True, grace_seconds: float | None = None, force: bool = False
    ) -> None:
        """Take a task's machine away.

        :param notice: As Spot does it: the notice event, SIGTERM, a grace, SIGKILL. False: the machine is simply gone.
        :param grace_seconds: Default: the containers' stop timeouts. At most 120.
        :param force: Give notice to a task that is not on Spot, too.
        """
        request = {"task": task_arn, "notice": notice, "grace_seconds": grace_seconds, "force": force}
        self._control("POST", "interrupt", request)

    def set_capacity(self, provider: str, available: bool, *, fail_after_start: bool = False) -> None:
        """Let a capacity provider run out of machines, or have them again.

        :param fail_after_start: The task then fails to start, instead of RunTask answering a failure.
        """
        request = {"provider": provider, "available": available, "fail_after_start": fail_after_start}
        self._control("POST", "capacity", request)

    def set_alarms_ahead(self, seconds: float) -> None:
        """Let the alarms of CloudWatch look at their metrics as if it were so much later, without the wait."""
        self._control("POST", "alarms", {"ahead_seconds": seconds})

    def _control(self, method: str, name: str, data: Mapping[str, Any] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.endpoint}/_embedded/{name}", method=method, data=body)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise EmbeddedError(json.load(error)["error"]) from None
        except OSError as error:
            raise EmbeddedError(
                f"the embedded AWS at {self.endpoint} does not answer ({error}); see {self.log}"
            ) from None

    # Ending it

    def stop(self) -> None:
        """Leave nothing: no process, no port and, if it was temporary, no directory."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        launching.stop(self._state, self._process)
        self._wait_for_reaper()
        (self.directory / STATE_FILE).unlink(missing_ok=True)
        if self._ephemeral:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _wait_for_reaper(self) -> None:
        deadline = time.monotonic() + 60  # for hangs only: it takes a moment, longer on a busy machine
        with contextlib.suppress(psutil.Error):
            while self._reaper and self._reaper.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
                time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _reaper_of(directory: Path) -> psutil.Process | None:
    """The reaper of the emulator in this directory; looked up while both are there."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((directory / REAPER_FILE).read_text()))
        if "reaper.py" in " ".join(process.cmdline()):
            return process
    return None


def _endpoint(port: int) -> str:
    # The address and not "localhost": SDKs may try ::1 first, and nothing listens there.
    return f"http://127.0.0.1:{port}"


def _launch(
    home: Path, *, enforce_iam: bool, detached: bool, ephemeral: bool, runtime: str, record_requests: bool
) -> tuple[ServerState, subprocess.Popen[bytes]]:
    for attempt in range(3):
        port, mark = launching.free_port(), launching.new_mark()
        environment = {
            **launching.clean_environment(home / "emulator" / "home"),
            "GATEWAY_PORT": str(port),
            "AUTH": "true" if enforce_iam else "false",
            "EMBEDDED_DIRECTORY": str(home),
            runtimes.VARIABLE: runtime,
            "IMAGES_DIR": str(images.directory()),
            # Lambda's Node.js runtime carries the AWS SDK; CDK's own custom resources need it.
            "NODE_PATH": str(launching.ROOT / "node_modules"),
            # Lambda functions find these in their environment as well.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        if not detached:
            environment["EMBEDDED_LIFELINE"] = "1"
        if ephemeral:
            environment["EMBEDDED_EPHEMERAL"] = "1"
        if record_requests:
            environment["EMBEDDED_REQUESTS"] = str(home / REQUESTS_FILE)
        try:
            return launching.launch(
                "the embedded AWS",
                [sys.executable, "-m", "embedded.emulator"],
                environment=environment,
                log=home / LOG_FILE,
                port=port,
                ready=lambda port=port, mark=mark: _answers(port, mark),  # type: ignore[misc]
                timeout=60,
                detached=detached,
                settings={"enforce_iam": str(enforce_iam).lower(), "runtime": runtime},
                mark=mark,
                state_file=home / STATE_FILE,
            )
        except EmbeddedError as error:
            # Somebody took the port between our look and the emulator's bind.
            if attempt == 2 or "already in use" not in str(error):
                raise
    raise AssertionError


def _answers(port: int, mark: str) -> bool:
    """Whether it is our emulator that answers on this port."""
    try:
        with urllib.request.urlopen(f"{_endpoint(port)}/_embedded/status", timeout=2) as answer:  # noqa: S310
            return bool(json.load(answer)["instance"] == mark)
    except (OSError, ValueError, KeyError):
        return False
