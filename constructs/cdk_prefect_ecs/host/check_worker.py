"""Ask how the worker is: ``--online`` waits until Prefect has heard of it, without it the worker answers itself."""

from __future__ import annotations

import logging
import os
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence

from cdk_prefect_ecs.functions.credential import CredentialError, CredentialReference, read_credential
from cdk_prefect_ecs.functions.prefect_api import PrefectApiClient, PrefectApiError
from cdk_prefect_ecs.host.run_worker import PATIENCE_SECONDS
from cdk_prefect_ecs.host.settings import HostSettings, instance_id

#: How long a worker may take to be online, on the smallest instance and while its role's policy becomes effective.
ONLINE_WITHIN_SECONDS = 300.0
#: Attempts of one health check: a worker that is merely busy is not restarted.
ATTEMPTS = 3
_PAUSE_SECONDS = 5.0
_LAST_ANSWER_SECONDS = 30.0


def polls(settings: HostSettings) -> bool:
    """Whether the worker has asked for work lately, by its own account."""
    port = {**os.environ, **settings.environment}.get("PREFECT_WORKER_WEBSERVER_PORT", "8080")
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return True
        except OSError as error:
            print(f"The worker is not well: {error}", file=sys.stderr)
        if attempt < ATTEMPTS - 1:
            time.sleep(_PAUSE_SECONDS)
    return False


def wait_until_online(settings: HostSettings, name: str, within_seconds: float = ONLINE_WITHIN_SECONDS) -> bool:
    """Whether Prefect counts the worker of this name as online, soon enough.

    :raises CredentialError: The credential cannot be read.
    :raises PrefectApiError: The API cannot be reached, or refuses.
    """
    header, source = None, None
    if settings.credential is not None:
        reference = CredentialReference.parse(settings.credential)
        credential = read_credential(reference, patience_seconds=PATIENCE_SECONDS)
        header, source = credential.authorization_header, credential.source
    deadline = time.monotonic() + within_seconds
    url = settings.environment["PREFECT_API_URL"]
    # The last question may still be answered.
    api = PrefectApiClient(url, header, deadline=deadline + _LAST_ANSWER_SECONDS, credential_source=source)
    asked = {"workers": {"status": {"any_": ["ONLINE"]}}}
    path = f"/work_pools/{quoted(settings.work_pool_name)}/workers/filter"
    while time.monotonic() < deadline:
        if any(worker["name"] == name for worker in api.post(path, asked)):
            return True
        time.sleep(_PAUSE_SECONDS)
    print(f"The worker {name} was not online within {within_seconds:.0f} s; see its log", file=sys.stderr)
    return False


def quoted(name: str) -> str:
    """A name as a part of a URL's path."""
    return urllib.parse.quote(name, safe="")


def main(arguments: Sequence[str]) -> int:
    """Called by the unit and by the installation, with ``--online`` or without; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = HostSettings.read()
    os.environ.setdefault("AWS_REGION", settings.region)
    if "--online" not in arguments:
        return 0 if polls(settings) else 1
    try:
        return 0 if wait_until_online(settings, instance_id()) else 1
    except (CredentialError, PrefectApiError) as error:
        print(f"The worker is not online: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
