"""An embedded AWS and a Prefect server that belong together, in one directory."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from embedded import aws as aws_module
from embedded import launching
from embedded import prefect_server as prefect_module
from embedded.aws import EmbeddedAws
from embedded.errors import EmbeddedError
from embedded.launching import ServerState
from embedded.prefect_server import PrefectServer, new_auth_string

AUTH_PARAMETER = "/prefect/embedded/auth-string"
"""The SecureString with the server's ``user:password``, where a stack finds it."""


@dataclass(frozen=True)
class Instance:
    aws: EmbeddedAws
    prefect: PrefectServer

    @classmethod
    def start(cls, directory: Path, *, detached: bool) -> "Instance":
        aws = EmbeddedAws.start(directory, detached=detached)
        try:
            auth_string = new_auth_string()
            aws.client("ssm").put_parameter(Name=AUTH_PARAMETER, Value=auth_string, Type="SecureString", Overwrite=True)
            # Last: an instance whose Prefect server answers is whole.
            return cls(aws, PrefectServer.start(directory, auth_string=auth_string, detached=detached))
        except BaseException:
            aws.stop()
            raise

    @classmethod
    def attach(cls, directory: Path) -> "Instance":
        return cls(EmbeddedAws.attach(directory), PrefectServer.attach(directory))

    def environment(self) -> dict[str, str]:
        """This process's environment, turned to the two servers."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PREFECT_", "CDK_"))}
        path = os.pathsep.join([str(launching.VENV_BIN), os.environ.get("PATH", os.defpath)])
        return {**own, **self.aws.environment(), **self.prefect.environment(), "PATH": path}

    def stop(self) -> None:
        self.aws.stop()
        self.prefect.stop()


def is_up(directory: Path) -> bool:
    with contextlib.suppress(EmbeddedError):
        Instance.attach(directory)
        return True
    return False


def clean_up(directory: Path) -> list[str]:
    """Stop whatever is left of an instance, be it whole, half dead or only a file; returns what was stopped."""
    stopped = []
    for name in (aws_module.STATE_FILE, prefect_module.STATE_FILE):
        file = directory / name
        state = ServerState.read(file)
        if state is not None:
            alive = state.process() is not None
            launching.stop(state)  # its children may live on even where it does not
            stopped.append(state.name if alive else f"the remains of {state.name}")
        file.unlink(missing_ok=True)
    return stopped
