"""What the deployment wrote down for the host. Nothing secret is among it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SETTINGS_FILE: Final = Path("/etc/prefect-worker/settings.json")
#: Where cloud-init keeps the id of the instance.
INSTANCE_ID_FILE: Final = Path("/var/lib/cloud/data/instance-id")


@dataclass(frozen=True)
class HostSettings:
    """The settings of a worker host.

    :param work_pool_name: Pool to serve.
    :param environment: Environment variables of the worker; no secrets.
    :param credential: Where the Prefect API's credential is, see ``CredentialReference``; None without one.
    :param secret_variable: The environment variable through which Prefect reads it.
    :param log_group_name: Log group of the worker.
    :param region: Region of the log group.
    """

    work_pool_name: str
    environment: Mapping[str, str]
    credential: Mapping[str, str] | None
    secret_variable: str
    log_group_name: str
    region: str

    @classmethod
    def read(cls, path: Path = SETTINGS_FILE) -> HostSettings:
        """The settings that user data wrote."""
        data = json.loads(path.read_text())
        return cls(
            work_pool_name=data["WorkPoolName"],
            environment=data["Environment"],
            credential=data.get("Credential"),
            secret_variable=data["SecretVariable"],
            log_group_name=data["LogGroupName"],
            region=data["Region"],
        )


def instance_id(path: Path = INSTANCE_ID_FILE) -> str:
    """The id of this instance."""
    return path.read_text().strip() if path.exists() else socket.gethostname()
