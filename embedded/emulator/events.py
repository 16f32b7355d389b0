"""ECS Task State Change events, in order, without holding up the tasks that cause them."""

import contextvars
import json
import logging
import queue
import threading
from typing import Any

from embedded.emulator.inner import ecs, eventbridge, responses

logger = logging.getLogger("embedded.events")


def detail_of(task: dict[str, Any]) -> dict[str, Any]:
    """The task as EventBridge shows it: as DescribeTasks does, with ISO times, and never with tags."""
    # A snapshot by way of JSON: the record goes on changing while the event waits for its turn.
    detail: dict[str, Any] = json.loads(json.dumps(ecs._sanitize(task), default=str))
    for name in [name for name, value in detail.items() if value == "" or name == "tags"]:
        del detail[name]
    detail["updatedAt"] = responses.now_iso()
    return detail


class EventStream:
    """One thread that delivers, so that targets see the states of a task in the order they happened."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[contextvars.Context, dict[str, Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._deliver, name="task-events", daemon=True).start()

    def task_changed(self, task: dict[str, Any]) -> None:
        self._queue.put((contextvars.copy_context(), detail_of(task)))

    def _deliver(self) -> None:
        while True:
            context, detail = self._queue.get()
            entry = {
                "Source": "aws.ecs",
                "DetailType": "ECS Task State Change",
                "Resources": [detail["taskArn"]],
                "Detail": json.dumps(detail),
            }
            try:
                context.run(eventbridge._put_events, {"Entries": [entry]}, allow_aws_source=True)
            except Exception:
                logger.exception("an event of %s was not delivered", detail["taskArn"])
