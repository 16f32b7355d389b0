"""Answer CloudFormation: exactly one response per request, whatever happens."""

import http.client
import json
import logging
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Literal

logger: logging.Logger = logging.getLogger(__name__)

# CloudFormation refuses responses over 4096 bytes; a character here may take three.
_REASON_CHARACTERS = 1000
_ATTEMPTS = 4
_TIMEOUT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.5


def send_response(
    event: Mapping[str, Any],
    context: Any,
    status: Literal["SUCCESS", "FAILED"],
    *,
    physical_resource_id: str,
    reason: str = "",
    data: Mapping[str, str] | None = None,
) -> None:
    """PUT the response to the presigned address in the request.

    :param reason: One or two sentences. It is shortened, and the name of the log stream is appended.
    :raises OSError: when it could not be delivered, so that Lambda repeats the invocation.
    """
    stream = getattr(context, "log_stream_name", None) or "unknown"
    body = {
        "Status": status,
        "Reason": f"{_shortened(reason or 'done')} (log stream: {stream})",
        "PhysicalResourceId": physical_resource_id,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "NoEcho": False,
        "Data": dict(data or {}),
    }
    url = str(event["ResponseURL"])
    if not url.startswith(("https://", "http://")):
        raise ValueError("the ResponseURL is not an http(s) address")
    # S3 signed the address without a content type, so an empty one must be sent.
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url, data=json.dumps(body, ensure_ascii=False).encode(), headers={"Content-Type": ""}, method="PUT"
    )
    pause = _FIRST_PAUSE_SECONDS
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
                return
        except (OSError, http.client.HTTPException) as error:
            # The address is a credential: only the kind of failure is logged.
            code = getattr(error, "code", None)
            what = f"HTTP {code}" if code else type(getattr(error, "reason", error)).__name__
            logger.warning("CloudFormation did not take the response (attempt %d): %s.", attempt, what)
            if attempt == _ATTEMPTS or (code is not None and code < 500 and code != 429):
                raise OSError(f"the response to CloudFormation could not be delivered: {what}") from None
        time.sleep(pause)
        pause *= 2


def _shortened(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= _REASON_CHARACTERS else reason[: _REASON_CHARACTERS - 1] + "…"
