"""Whether a capacity provider has machines to give, which a developer may switch at will."""

import threading
from typing import Literal

REASON = "Capacity is unavailable at this time. Please try again later or in a different availability zone"

Shortage = Literal["refuse", "fail-after-start"]
"""AWS shows the lack of capacity either as a failure of RunTask or as a task that stops before it started."""


class CapacityBoard:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._short: dict[str, Shortage] = {}

    def set(self, provider: str, *, available: bool, fail_after_start: bool) -> None:
        with self._lock:
            if available:
                self._short.pop(provider, None)
            else:
                self._short[provider] = "fail-after-start" if fail_after_start else "refuse"

    def shortage(self, provider: str | None) -> Shortage | None:
        with self._lock:
            return self._short.get(provider or "")

    def all(self) -> dict[str, str]:
        with self._lock:
            return dict(self._short)
