"""Every request that this AWS receives, in a file: what whoever reads its audit trail, or the wire, can see."""

import json
import threading
from pathlib import Path
from typing import Any

from embedded.emulator.control import Asgi
from embedded.emulator.inner import Json


def recorded(inner: Asgi, file: Path) -> Asgi:
    """The application, with a line of JSON in this file for each request."""
    lock = threading.Lock()
    file.touch(mode=0o600)

    async def application(scope: Json, receive: Any, send: Any) -> None:
        body = bytearray()

        async def listen() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        await inner(scope, listen, send)
        if scope["type"] == "http":
            request = {
                "method": scope["method"],
                "path": scope["path"],
                "query": scope["query_string"].decode(errors="replace"),
                "headers": {name.decode(): value.decode(errors="replace") for name, value in scope["headers"]},
                "body": body.decode(errors="replace"),
            }
            with lock, file.open("a") as lines:
                lines.write(json.dumps(request) + "\n")

    return application
