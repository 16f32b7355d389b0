"""Become the worker, or say what is wrong with its credential: Prefect would end in a traceback that names neither the
parameter nor what to do and, if the key has a line break, shows the key. Standard library only."""

import base64
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None  # the credential goes nowhere else


def refusal(source: str, variables: Mapping[str, str], pool: str) -> str | None:
    """Why no worker can start with the credential in these variables; None when nothing is known against it."""
    found = _problem(variables, pool)
    return found and f"The worker does not start: {source} {found}. Once the right one is stored it starts by itself."


def _problem(variables: Mapping[str, str], pool: str) -> str | None:
    url, key = variables["PREFECT_API_URL"], variables.get("PREFECT_API_KEY")
    secret = variables.get("PREFECT_API_AUTH_STRING", "") if key is None else key
    if not secret.strip():
        return "is empty"
    if any(ord(character) < 32 or ord(character) == 127 for character in secret):
        return "has a line break or another control character in it, and is used as it is: store it without"
    if key is not None and not all("!" <= character <= "~" for character in key):
        return "has a space or another character in it that no API key has"
    header = f"Bearer {key}" if key is not None else f"Basic {base64.b64encode(secret.encode()).decode()}"
    path = f"/work_pools/{urllib.parse.quote(pool, safe='')}"
    request = urllib.request.Request(url + path, headers={"Authorization": header})  # noqa: S310 - checked at synth
    try:
        urllib.request.build_opener(_NoRedirects).open(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return f"was rejected by the Prefect API at {url} ({error.code})"
    except OSError:
        pass  # Prefect says it, and goes on trying
    return None


def main(source: str, pool: str, *command: str) -> None:
    """Called with what was written at synth."""
    if reason := refusal(source, os.environ, pool):
        sys.exit(reason)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
