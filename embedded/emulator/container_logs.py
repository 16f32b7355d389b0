"""The ``awslogs`` driver: a container's lines become events of its CloudWatch log stream."""

import time
from dataclasses import dataclass
from typing import Any

from embedded.emulator import credentials
from embedded.emulator.inner import arn_of, logs

_MAX_EVENTS = 1000  # PutLogEvents takes 10,000; smaller batches keep a chatty task's neighbours going


class LogDriverError(Exception):
    """The task cannot start; the message is what AWS puts after ``ResourceInitializationError:``."""


@dataclass(frozen=True)
class LogStream:
    group: str
    stream: str

    def write(self, lines: list[str]) -> None:
        now = int(time.time() * 1000)
        for start in range(0, len(lines), _MAX_EVENTS):
            logs._put_log_events(
                {
                    "logGroupName": self.group,
                    "logStreamName": self.stream,
                    "logEvents": [{"timestamp": now, "message": line} for line in lines[start : start + _MAX_EVENTS]],
                }
            )


def open_stream(
    definition: dict[str, Any], task_id: str, container_id: str, session: credentials.RoleSession
) -> LogStream | None:
    """Make the container's stream with the execution role's rights; None when it does not log to CloudWatch."""
    configuration = definition.get("logConfiguration") or {}
    options = configuration.get("options") or {}
    if configuration.get("logDriver") != "awslogs":
        return None
    group, prefix = options["awslogs-group"], options.get("awslogs-stream-prefix")
    # Without a prefix AWS names the stream after the container's runtime id.
    stream = f"{prefix}/{definition['name']}/{task_id}" if prefix else container_id
    failed = "failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log"
    if str(options.get("awslogs-create-group", "")).lower() == "true":
        if why := credentials.denial(session, "logs:CreateLogGroup", arn_of("logs", f"log-group:{group}")):
            raise LogDriverError(f"{failed} group: AccessDeniedException: {why}")
        if group not in logs._log_groups:
            logs._create_log_group({"logGroupName": group})
    for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
        if why := credentials.denial(session, action, arn_of("logs", f"log-group:{group}:log-stream:{stream}")):
            raise LogDriverError(f"{failed} stream: AccessDeniedException: {why}")
    if group not in logs._log_groups:
        raise LogDriverError(
            f"{failed} stream: ResourceNotFoundException: The specified log group does not exist: {group}"
        )
    logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
    return LogStream(group, stream)
