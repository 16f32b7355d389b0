"""A machine to set up as a worker host: Debian's systemd, in namespaces of its own, in place of Amazon Linux on EC2.

Everything that user data uses is real: bash, systemd and its sandbox, journald, Python, pip, the AWS CLI. Stand-ins
are there for what only Amazon Linux or EC2 has: ``dnf`` (what it would install is here), ``cfn-signal``, ``swapon``
(swap is the kernel's, which is not the machine's alone), and the memory that the machine believes to have. It shares
the network of the machine that tests run on.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from embedded import launching
from embedded.images import machine, podman, tools

SUITE = "bookworm"  # its Python is 3.11, as that of a worker host
# What an image of Amazon Linux 2023 has, or `dnf install` of install.sh adds.
PACKAGES = ("ca-certificates", "dbus", "procps", "python3", "python3-venv", "systemd", "systemd-sysv")
AWS_CLI = "awscli==1.46.3"
MEMORY_KIB = 936_000  # of a t4g.micro
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
STAND_INS = ("usr/bin/dnf", "opt/aws/bin/cfn-signal", "usr/sbin/swapon")

# The version 2 hierarchy, which on a hybrid machine is beside the others.
_HYBRID = Path("/sys/fs/cgroup/unified")
_CGROUPS = _HYBRID if _HYBRID.is_dir() else Path("/sys/fs/cgroup")

# Runs in new namespaces and becomes systemd.
_BOOT = """\
set -eu
root=$1
hostname worker-host
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount --bind "$root/etc/meminfo" "$root/proc/meminfo"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
cd "$root"
mkdir -p .before
pivot_root . .before
umount -l /.before
exec env -i container=scratch PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"""

_STAND_IN = """\
#!/bin/sh
echo "$*" >>/var/log/stand-in-$(basename "$0")
"""


class MachineError(Exception):
    """The machine cannot be made or started."""


def base() -> Path:
    """The archive of the machine's disk, made once."""
    if os.geteuid() != 0:
        raise MachineError("a scratch machine takes root: its systemd needs namespaces and mounts")
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, AWS_CLI)).encode()).hexdigest()[:12]
    archive = podman.directory() / f"worker-host-{recipe}.tar"
    if not archive.exists():
        tools.ensure(tools.BOOTSTRAPPING)
        archive.parent.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_suffix(".unfinished.tar")
        settings = [f"--aptopt={line.rstrip(';')}" for line in machine.apt_settings()]
        include = f"--include={','.join(PACKAGES)}"
        _run("mmdebstrap", *settings, "--variant=minbase", include, SUITE, str(unfinished))
        unfinished.rename(archive)
    return archive


class ScratchMachine:
    """A machine with the disk ``root``. Start it, :meth:`run` something as root, stop it.

    :param directory: Where its disk goes; removed at the end.
    :param environment: What every process of the machine has in its environment, as if EC2 knew it.
    """

    def __init__(self, directory: Path, *, instance_id: str, environment: Mapping[str, str]) -> None:
        self.root = directory / "root"
        self.instance_id = instance_id
        self.environment = {"PIP_CERT": str(CERTIFICATES), **environment}
        self._cgroup = _CGROUPS / f"scratch-{os.getpid()}-{instance_id}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init: int | None = None

    def prepare(self) -> None:
        """Lay its disk."""
        self.root.mkdir(parents=True)
        _run("tar", "--extract", "--file", str(base()), "--directory", str(self.root))
        for name in ("etc/resolv.conf", "etc/hosts", str(CERTIFICATES).lstrip("/")):
            shutil.copyfile(Path("/") / name, self.root / name)
        if pip := machine.pip_conf(machine.pip_settings()):
            self._write("etc/pip.conf", pip, 0o600)
        # The AWS CLI is a part of Amazon Linux. It asks for a botocore of its own, so it is apart from everything.
        uv, target = str(launching.VENV_BIN / "uv"), str(self.root / "opt/aws-cli")
        _run(uv, "pip", "install", "--quiet", "--python-version=3.11", "--target", target, AWS_CLI)
        self._write("usr/bin/aws", '#!/bin/sh\nPYTHONPATH=/opt/aws-cli exec /usr/bin/python3 -m awscli "$@"\n', 0o755)
        for path in STAND_INS:
            self._write(path, _STAND_IN, 0o755)
        memory = Path("/proc/meminfo").read_text().splitlines()[1:]
        self._write("etc/meminfo", "\n".join([f"MemTotal: {MEMORY_KIB} kB", *memory, ""]))
        assignments = " ".join(f'"{name}={value}"' for name, value in self.environment.items())
        self._write("etc/systemd/system.conf.d/test.conf", f"[Manager]\nDefaultEnvironment={assignments}\n")
        self._write("var/lib/cloud/data/instance-id", f"{self.instance_id}\n")
        (self.root / "var/log/journal").mkdir(exist_ok=True)

    def start(self) -> None:
        """Boot it."""
        self._cgroup.mkdir()
        enter = 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"'
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--propagation=private"]
        # With this process ends setpriv, with it unshare, with it all of the machine.
        command = ["sh", "-c", enter, "sh", str(self._cgroup), "setpriv", "--pdeathsig=KILL"]
        command += ["unshare", "--fork", "--kill-child=KILL", *namespaces, "sh", "-c", _BOOT, "boot", str(self.root)]
        with (self.root.parent / "console.log").open("wb") as console:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            children = psutil.Process(self._process.pid).children()
            self._init = children[0].pid if children and children[0].name() == "systemd" else None
            if self._init and self.run("systemctl", "is-system-running", check=False).strip() == "running":
                return
            time.sleep(0.2)
        raise MachineError(f"the machine did not boot:\n{(self.root.parent / 'console.log').read_text()}")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in the machine, as root, and return what it printed."""
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup"]
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", *namespaces, "--root", "--wd", "--", *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise MachineError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stdout}")
        return done.stdout

    def run_user_data(self, user_data: str, *, check: bool = True) -> str:
        """Run user data as cloud-init does at the first start, and return what it printed."""
        script = "/var/lib/cloud/instance/scripts/part-001"
        log = "/var/log/cloud-init-output.log"
        self._write(script, user_data, 0o700)
        run = f"set -o pipefail; {script} 2>&1 | tee --append {log}"
        self.run(
            *("systemd-run", "--unit=cloud-final", "--service-type=oneshot", "--wait", "--collect"),
            *("bash", "-c", run),
            check=check,
        )
        return self.read(log)

    def read(self, path: str) -> str:
        """A file of the machine's disk."""
        return (self.root / path.lstrip("/")).read_text()

    def said(self, stand_in: str) -> list[str]:
        """The arguments of every call of a stand-in."""
        path = self.root / "var/log" / f"stand-in-{stand_in}"
        return path.read_text().splitlines() if path.exists() else []

    def stop(self) -> None:
        """Turn it off and take its disk away."""
        if self._process is not None:
            if self._init is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._init, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + 30
        while self._cgroup.exists() and time.monotonic() < deadline:  # until the kernel has ended every process
            for folder in sorted([self._cgroup, *self._cgroup.rglob("*/")], reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            time.sleep(0.1)
        shutil.rmtree(self.root, ignore_errors=True)

    def _write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")
