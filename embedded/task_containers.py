"""The containers behind ECS tasks, as podman sees them: for those who want to see with their own eyes."""

import json
from dataclasses import dataclass
from typing import Any

from embedded.aws import EmbeddedAws, Task
from embedded.images import podman
from embedded.runtimes import INSTANCE_LABEL, TASK_LABEL


@dataclass(frozen=True)
class TaskContainer:
    """A container of a running task."""

    image: str
    digest: str
    user: str
    read_only: bool
    capabilities: tuple[str, ...]
    memory_bytes: int
    """0: no limit."""


def containers_of(task: Task) -> list[TaskContainer]:
    """The containers of a task; none once it has stopped."""
    names = podman.podman("ps", "--quiet", f"--filter=label={TASK_LABEL}={task.id}").stdout.split()
    inspected: list[dict[str, Any]] = json.loads(podman.podman("inspect", *names).stdout) if names else []
    return [
        TaskContainer(
            image=container["ImageName"],
            digest=container["ImageDigest"],
            user=container["Config"]["User"],
            read_only=container["HostConfig"]["ReadonlyRootfs"],
            capabilities=tuple(container["EffectiveCaps"] or ()),
            memory_bytes=container["HostConfig"]["Memory"],
        )
        for container in inspected
    ]


def image_bytes(image: str) -> int:
    """How much of the disk an image takes."""
    return int(podman.podman("image", "inspect", "--format={{.Size}}", image).stdout)


def left_of(aws: EmbeddedAws) -> list[str]:
    """Containers and volumes that an embedded AWS made and that are still there."""
    mine = f"--filter=label={INSTANCE_LABEL}={aws.mark}"
    return [
        *podman.podman("ps", "--all", "--format={{.Names}}", mine).stdout.split(),
        *podman.podman("volume", "ls", "--quiet", mine).stdout.split(),
    ]
