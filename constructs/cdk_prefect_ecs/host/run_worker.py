"""Become the worker: read the credential with the host's role, hand it over in the environment, be replaced by Prefect.

The credential is in the memory of the worker and nowhere else: not on disk, not in a command line, not in a log.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cdk_prefect_ecs.container import start_worker
from cdk_prefect_ecs.functions.credential import CredentialError, CredentialReference, read_secret
from cdk_prefect_ecs.host.settings import HostSettings, instance_id

#: The policy of a role that was made in the same deployment takes a few seconds to work everywhere.
PATIENCE_SECONDS = 60.0


def command(settings: HostSettings, name: str) -> list[str]:
    """The command line of the worker."""
    prefect = str(Path(sys.executable).with_name("prefect"))
    pool = settings.work_pool_name
    return [prefect, "worker", "start", "--type", "ecs", "--pool", pool, "--name", name, "--with-healthcheck"]


def environment(settings: HostSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of the worker, with the credential in it.

    :raises CredentialError: The credential cannot be read.
    """
    variables = {**inherited, **settings.environment}
    if settings.credential is not None:
        reference = CredentialReference.parse(settings.credential)
        variables[settings.secret_variable] = read_secret(reference, patience_seconds=PATIENCE_SECONDS)
    return variables


def main() -> None:
    """Called by the unit: becomes the worker, or ends with a sentence that says why not."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = HostSettings.read()
    try:
        variables = environment(settings, os.environ)
    except CredentialError as error:
        sys.exit(f"The worker does not start: {error}")
    if settings.credential is not None:
        source = CredentialReference.parse(settings.credential).source
        if reason := start_worker.refusal(source, variables, settings.work_pool_name):
            sys.exit(reason)
    arguments = command(settings, instance_id())
    os.execve(arguments[0], arguments, variables)  # noqa: S606 - from a list that we wrote


if __name__ == "__main__":
    main()
