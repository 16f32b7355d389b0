"""What a task needs of whatever runs its containers: local processes (``processes.py``) or podman (``podman.py``)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embedded.emulator.inner import Json


class CannotStartContainerError(Exception):
    """The container could not be started; the message is what AWS puts after the error's name."""


class CannotPullContainerError(Exception):
    """The container's image cannot be had; the message is what AWS puts after the error's name."""


@dataclass(frozen=True)
class ContainerSpec:
    """A container as its task wants it."""

    task_id: str
    arn: str
    definition: Json
    override: Json
    environment: Mapping[str, str]
    """All of it, secrets included: it never gets on a command line."""
    home: Path
    """A directory of its own on this machine that goes with the task."""
    cpu: int
    """CPU units; 1024 are one processor."""
    memory_mib: int
    on_lines: Callable[[list[str]], None]

    @property
    def name(self) -> str:
        return str(self.definition["name"])


class StartedContainer(Protocol):
    """A container that was started."""

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it."""

    @property
    def reason(self) -> str | None:
        """Why it ended, where the exit code alone does not tell."""

    def wait(self) -> int:
        """The exit code once the whole container is gone, as Docker reports it: 128 + signal when killed."""

    def terminate(self) -> None:
        """Ask it to end: SIGTERM."""

    def kill(self) -> None:
        """SIGKILL to everything in it."""

    def succeeds(self, argv: Sequence[str], timeout: float) -> bool:
        """Whether this command, run inside it, ends with 0 within so many seconds."""


class Runtime(Protocol):
    """Starts containers."""

    def environment(self, home: Path) -> dict[str, str]:
        """What a container finds in its environment besides what Fargate and the task definition put there."""

    def pull(self, image: str) -> str | None:
        """Get the image; returns its digest, or None if this runtime has no images."""

    def prepare(self, task_id: str, definition: Json) -> None:
        """Make what the containers of a task share."""

    def start(self, spec: ContainerSpec) -> StartedContainer:
        """Start a container."""

    def clean_up(self, task_id: str) -> None:
        """Remove what is left of a task whose containers are gone."""
