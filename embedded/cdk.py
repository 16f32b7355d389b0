"""The pinned CDK CLI against an embedded AWS."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedded import launching, runtimes
from embedded.aws import EmbeddedAws
from embedded.errors import EmbeddedError
from embedded.images.docker import CDK_DOCKER

CLI = launching.ROOT / "node_modules" / ".bin" / "cdk"
_CHANGES_THINGS = {"deploy": ("--require-approval", "never"), "destroy": ("--force",)}


def run_cdk(
    arguments: Sequence[str],
    *,
    aws: EmbeddedAws,
    cwd: Path,
    app: str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    output: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``cdk`` with these arguments; nobody is asked anything.

    :param app: The command that synthesises, or a synthesised assembly. Default: what ``cdk.json`` in ``cwd`` says.
    :param env: Variables over those of this process and of the embedded AWS.
    :param check: Raise with the end of the output when the CLI fails.
    :param output: A file that gets the output while it comes. The result's ``stdout`` has it in any case.
    """
    if not CLI.exists():
        raise EmbeddedError(f"{CLI} is missing; install the CDK CLI that package.json pins with: npm ci")
    command = [str(CLI), *arguments, "--ci", "--no-notices", *_CHANGES_THINGS.get(arguments[0], ())]
    if app is not None:
        command += ["--app", app]
    log = output or aws.directory / "cdk.log"
    with log.open("w+") as sink:
        code = subprocess.run(
            command,
            cwd=cwd,
            env={**cdk_environment(aws), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    text = log.read_text(errors="replace")
    if check and code != 0:
        raise EmbeddedError(f"cdk {' '.join(arguments)} ended with exit code {code}:\n{text[-6000:]}")
    return subprocess.CompletedProcess(command, code, text)


def bootstrap(aws: EmbeddedAws) -> subprocess.CompletedProcess[str]:
    """``cdk bootstrap``, which an environment needs once."""
    return run_cdk(["bootstrap", f"aws://{aws.account}/{aws.region}"], aws=aws, cwd=aws.directory)


def cdk_environment(aws: EmbeddedAws) -> dict[str, str]:
    """The environment of this process, turned to the embedded AWS."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CDK_"))}
    home = aws.directory / "cdk-home"
    home.mkdir(exist_ok=True)
    return {
        **own,
        **aws.environment(),
        # The app uses images if tasks do; then they are built and published where tasks find them.
        runtimes.VARIABLE: aws.runtime,
        **({"CDK_DOCKER": str(CDK_DOCKER)} if aws.runtime == runtimes.PODMAN else {}),
        # Node 24 comes with the virtual environment.
        "PATH": os.pathsep.join([str(launching.VENV_BIN), os.environ.get("PATH", os.defpath)]),
        # The CLI remembers accounts in ~/.cdk; what it learns here must not reach the developer's own.
        "HOME": str(home),
        # jsii unpacks aws-cdk-lib below HOME, which takes ten seconds: go on using the one that is there.
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(jsii_cache()),
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        "CDK_DISABLE_VERSION_CHECK": "true",
    }


def jsii_cache() -> Path:
    """jsii's package cache of the real home."""
    if given := os.environ.get("JSII_RUNTIME_PACKAGE_CACHE_ROOT"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "com.amazonaws.jsii" / "package-cache"
    return Path.home() / ".cache" / "aws" / "jsii" / "package-cache"
