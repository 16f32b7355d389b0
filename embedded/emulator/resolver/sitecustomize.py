"""The resolver of a VPC, as far as Python programs on this machine need one.

Python imports this by itself when it starts, in tasks and functions of the embedded AWS, which have its folder on their
path. Names of Cloud Map are looked up in the file that the emulator keeps, everything else where it always was.
"""

import os
import socket
from pathlib import Path
from typing import Any

_getaddrinfo = socket.getaddrinfo


def private_address(host: str) -> str | None:
    """The address that Cloud Map has for a name; None for one that it does not know."""
    try:
        lines = Path(os.environ["EMBEDDED_HOSTS"]).read_text(encoding="ascii").splitlines()
    except (KeyError, OSError):
        return None
    return next((address for address, name in map(str.split, lines) if name == host.lower().rstrip(".")), None)


def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    return _getaddrinfo((private_address(name) if isinstance(name, str) else None) or host, *args, **kwargs)


socket.getaddrinfo = getaddrinfo
