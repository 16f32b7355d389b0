"""What the tests of the flow image share: it runs as an ECS task runs it, and harder."""

import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded.images import environment, podman_command

ROOT = Path(__file__).parents[2]
NAME = "flow-image:checked"
BAKED = "flow-image:checked-baked"
#: Where bill of materials and archive go.
OUT = ROOT / "build" / "image"

#: No network, no capabilities, nothing to be gained by set-uid programs, and a root that nobody can write to.
HARDENED = (
    "--cgroups=disabled",
    "--network=none",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--read-only",
    "--read-only-tmpfs=false",
)


def podman(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*podman_command(), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def run(
    image: str, *command: str, options: Sequence[str] = (), env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command in a new container of the image and wait for it."""
    variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
    return podman("run", "--rm", *HARDENED, *variables, *options, image, *command, timeout=timeout)


@dataclass(frozen=True)
class Ended:
    """A container after SIGTERM."""

    exit_code: int
    seconds: float
    output: str


def interrupted(
    image: str,
    *command: str,
    when: Callable[[str], bool],
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    patience: float = 90,
    grace: float = 60,
) -> Ended:
    """Run a command, send SIGTERM to the container once its output satisfies `when`, and wait for its end."""
    name = f"interrupted-{uuid.uuid4().hex[:8]}"
    variables = [f"--env={key}={value}" for key, value in (env or {}).items()]
    started = podman("run", "--detach", f"--name={name}", *HARDENED, *variables, *options, image, *command)
    assert started.returncode == 0, started.stderr
    try:
        deadline = time.monotonic() + patience
        while not when(output := logs(name)):
            assert time.monotonic() < deadline, f"not ready after {patience:.0f} s:\n{output}"
            time.sleep(0.2)
        began = time.monotonic()
        assert podman("kill", "--signal=TERM", name).returncode == 0
        code = podman("wait", "--interval=100ms", name, timeout=grace)
        return Ended(int(code.stdout), time.monotonic() - began, logs(name))
    finally:
        podman("rm", "--force", "--volumes", "--time=0", name)


def logs(name: str) -> str:
    done = podman("logs", name)
    return done.stdout + done.stderr
