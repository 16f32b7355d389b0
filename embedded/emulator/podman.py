"""Containers in place of processes: each is a ``podman run`` of the task definition's own image.

Done as create, init and start, so that what podman says is told apart from what the container writes, and so that a
container that cannot start is known before its task is RUNNING. Everything made carries the label of this emulator, by
which the reaper finds it.
"""

import contextlib
import json
import logging
import os
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from embedded import images
from embedded.emulator import reaper as reaper_script
from embedded.emulator.cgroups import OutOfMemoryWatch
from embedded.emulator.inner import Json
from embedded.emulator.processes import Reaper, pump
from embedded.emulator.runtime import CannotPullContainerError, CannotStartContainerError, ContainerSpec
from embedded.runtimes import INSTANCE_LABEL, TASK_LABEL

logger = logging.getLogger("embedded.podman")

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
_PROBE_MARK = "EMBEDDED_HEALTH_CHECK"
_KILLED = 137
# Names that podman itself, or the loader that starts it, would take for its own.
_PODMANS_OWN = ("CONTAINERS_", "LD_", "STORAGE_", "XDG_")
_SECONDS = 120  # for hangs only
_POLL_SECONDS = 0.05


class PodmanError(CannotStartContainerError):
    """podman refused; the message is its own."""


class Podman:
    """The client, with nothing of the emulator's environment but what it needs."""

    def __init__(self) -> None:
        self.command = images.podman_command()
        # Where conmon leaves a file named oom for a container that the kernel ended.
        self.directory = images.directory()
        self.environment = {
            name: value
            for name, value in images.environment().items()
            if name in ("PATH", "HOME", "TMPDIR", "LANG") or name.startswith("CONTAINERS_")
        }

    def __call__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """What it prints.

        :raises PodmanError: It refused.
        """
        try:
            done = subprocess.run(
                [*self.command, *arguments],
                cwd=self.directory,
                env={**(environment or {}), **self.environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PodmanError(f"podman {arguments[0]} did not end within {_SECONDS} s") from None
        if done.returncode != 0:
            raise PodmanError(said(done.stderr))
        return done.stdout

    def standalone(self, *arguments: str) -> list[str]:
        """A command line that needs no environment."""
        return ["env", *(f"{name}={value}" for name, value in self.environment.items()), *self.command, *arguments]

    def popen(self, *arguments: str, output: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def said(text: str) -> str:
    """The reason in what podman printed: its last line, without the word Error."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else "podman said nothing"


class PodmanContainer:
    """One container, from its creation on."""

    def __init__(self, podman: Podman, name: str, options: Sequence[str], spec: ContainerSpec) -> None:
        self._podman = podman
        self._name = name
        self._spec = spec
        self._killed = False
        self.reason: str | None = None
        pid_file = spec.home / "pid"
        with tempfile.TemporaryDirectory(dir=spec.home) as private:  # mode 0700
            variables, inherited = environment_options(spec.environment, podman.environment, Path(private) / "env")
            own = (f"--name={name}", f"--pidfile={pid_file}", *variables)
            podman("create", *own, *options, environment=inherited)
        # With the log driver "passthrough" the container writes straight to what init has for its output.
        self._output, output = os.pipe()
        try:
            self._initialize(output)
            podman("start", name)
            self.pid = int(pid_file.read_text())
        except BaseException:
            os.close(self._output)
            raise
        finally:
            os.close(output)
        self._memory = OutOfMemoryWatch(self.pid)
        self._pump = threading.Thread(target=self._read, name=f"output-{name}", daemon=True)
        self._pump.start()

    def _initialize(self, output: int) -> None:
        """Everything but the start. podman prints the container's name when it is done."""
        code = self._podman.popen("init", self._name, output=output).wait(_SECONDS)
        printed, end = b"", f"{self._name}\n".encode()
        os.set_blocking(self._output, False)
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._output, 65536):
                printed += chunk
        os.set_blocking(self._output, True)
        if code != 0 or not printed.endswith(end):
            raise PodmanError(said(printed.decode(errors="replace")))

    def _read(self) -> None:
        try:
            pump(self._output, self._spec.on_lines)
        finally:
            os.close(self._output)

    def wait(self) -> int:
        self._pump.join()  # its output ends with its last process, unless that closed it
        with self._memory as memory:
            while Path(f"/proc/{self.pid}").exists():
                time.sleep(_POLL_SECONDS)
                memory.look()
        try:
            code = self._exit_code()
        except PodmanError as error:
            logger.warning("the exit code of %s is lost: %s", self._name, error)
            code = _KILLED
        if code == _KILLED and not self._killed and memory.used_up:
            self.reason = OUT_OF_MEMORY
        return code

    def _exit_code(self) -> int:
        # Not "podman wait": it also waits until somebody has reaped the container's monitor, which not every init does.
        while True:
            state, code = self._podman("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", self._name).split()
            if state in ("exited", "stopped"):
                return int(code)
            time.sleep(_POLL_SECONDS)

    def terminate(self) -> None:
        """SIGTERM to its first process, which has to hand it on: ``tini -g`` in the flow image does."""
        with contextlib.suppress(PodmanError):
            self._podman("kill", "--signal=TERM", self._name)

    def kill(self) -> None:
        if not self._killed:
            with contextlib.suppress(PodmanError):
                self._podman("kill", "--signal=KILL", self._name)
                self._killed = True

    def succeeds(self, argv: Sequence[str], timeout: float) -> bool:
        mark = secrets.token_hex(8)
        process = self._podman.popen(
            "exec", f"--env={_PROBE_MARK}={mark}", self._name, *argv, output=subprocess.DEVNULL
        )
        try:
            return process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            reaper_script.kill_marked(_PROBE_MARK, mark)  # podman's client does not take it along
            return False


class PodmanRuntime:
    """Containers of real images, from the storage where ``python -m embedded.images`` and ``cdk deploy`` put them."""

    def __init__(self, mark: str, reaper: Reaper) -> None:
        self._podman = Podman()
        self._mark = mark
        self._limited = self._has_cgroups()
        mine = f"--filter=label={INSTANCE_LABEL}={mark}"
        reaper.at_end(self._podman.standalone("rm", "--force", "--volumes", "--time=0", mine))
        reaper.at_end(self._podman.standalone("volume", "prune", "--force", mine))

    def _has_cgroups(self) -> bool:
        """Whether containers can be given less than the whole machine."""
        controllers = self._podman("info", "--format={{range .Host.CgroupControllers}}{{.}} {{end}}").split()
        root = Path("/sys/fs/cgroup")
        mounted = root / "memory" if (root / "memory").is_dir() else root
        writable = os.geteuid() != 0 or os.access(mounted, os.W_OK)
        if {"cpu", "memory"} <= set(controllers) and writable:
            return True
        logger.warning("no cgroups here: containers run without limits of CPU and memory")
        return False

    def environment(self, home: Path) -> dict[str, str]:
        """Nothing: the image has its own."""
        return {}

    def pull(self, image: str) -> str:
        try:
            return self._podman("image", "inspect", "--format={{.Digest}}", image).strip()
        except PodmanError:
            # Here a registry cannot be asked; what is not in the storage does not exist.
            raise CannotPullContainerError(
                f"pull image manifest has been retried 1 time(s): failed to resolve ref {image}: {image}: not found"
            ) from None

    def prepare(self, task_id: str, definition: Json) -> None:
        for volume in definition.get("volumes") or []:
            other = {key for key, value in volume.items() if value} - {"name", "host"}
            if other or (volume.get("host") or {}).get("sourcePath"):
                raise CannotStartContainerError(
                    f"volume {volume['name']} has a source: {volume}; here only ephemeral volumes are supported, with "
                    "nothing but a name"
                )
            name = volume_name(self._mark, task_id, volume["name"])
            self._podman("volume", "create", *self._labels(task_id), name)

    def start(self, spec: ContainerSpec) -> PodmanContainer:
        name = f"{self._mark}-{spec.task_id}-{spec.name}"
        options = [
            *self._labels(spec.task_id),
            *(limits(spec) if self._limited else ["--cgroups=disabled"]),
            *container_options(self._mark, spec),
        ]
        return PodmanContainer(self._podman, name, options, spec)

    def clean_up(self, task_id: str) -> None:
        mine = f"--filter=label={TASK_LABEL}={task_id}"
        for command in (("rm", "--force", "--volumes", "--time=0", mine), ("volume", "prune", "--force", mine)):
            try:
                self._podman(*command)
            except PodmanError as error:  # the reaper tries again
                logger.warning("task %s: %s", task_id, error)

    def _labels(self, task_id: str) -> list[str]:
        return [f"--label={INSTANCE_LABEL}={self._mark}", f"--label={TASK_LABEL}={task_id}"]


def volume_name(mark: str, task_id: str, volume: str) -> str:
    return f"{mark}-{task_id}-{volume}"


def limits(spec: ContainerSpec) -> list[str]:
    """Fargate's: so much of a processor and so much memory, without swap."""
    return [f"--cpus={spec.cpu / 1024:g}", f"--memory={spec.memory_mib}m", f"--memory-swap={spec.memory_mib}m"]


def container_options(mark: str, spec: ContainerSpec) -> list[str]:
    """What follows from the task definition, up to the command."""
    definition = spec.definition
    options = [
        "--pull=never",
        "--log-driver=passthrough",
        "--network=host",  # the emulator and the Prefect server listen on 127.0.0.1
        "--cap-drop=all",
        # podman would mount file systems for temporary files; Fargate does not.
        "--read-only-tmpfs=false",
        "--http-proxy=false",
    ]
    if definition.get("readonlyRootFilesystem"):
        options.append("--read-only")
    if definition.get("user"):
        options.append(f"--user={definition['user']}")
    if definition.get("workingDirectory"):
        options.append(f"--workdir={definition['workingDirectory']}")
    if (definition.get("linuxParameters") or {}).get("initProcessEnabled"):
        options.append("--init")
    for mount in definition.get("mountPoints") or []:
        source = volume_name(mark, spec.task_id, mount["sourceVolume"])
        options.append(f"--volume={source}:{mount['containerPath']}{':ro' if mount.get('readOnly') else ''}")
    if definition.get("entryPoint"):
        options.append(f"--entrypoint={json.dumps(definition['entryPoint'])}")
    command = spec.override.get("command") or definition.get("command") or []
    return [*options, str(definition["image"]), *command]


def environment_options(
    wanted: Mapping[str, str], podmans_own: Iterable[str], file: Path
) -> tuple[list[str], dict[str, str]]:
    """Options that give a container its environment, and the variables that podman must be started with for that.

    No value is on the command line. podman passes on variables of its own environment, whatever is in them; those whose
    names mean something to podman itself go through a file that only its owner can read, which takes one line each.

    :raises CannotStartContainerError: Such a variable has a value of more than one line.
    """
    own = set(podmans_own)
    reserved = {name: v for name, v in wanted.items() if name in own or name.startswith(_PODMANS_OWN)}
    for name, value in reserved.items():
        if "\n" in value or "\r" in value:
            raise CannotStartContainerError(
                f"environment variable {name} has more than one line, and podman itself reads a variable of that name; "
                "give it another name"
            )
    inherited = {name: value for name, value in wanted.items() if name not in reserved}
    options = [f"--env={name}" for name in inherited]
    if reserved:
        file.touch(mode=0o600)
        file.write_text("".join(f"{name}={value}\n" for name, value in reserved.items()))
        options.append(f"--env-file={file}")
    return options, inherited
