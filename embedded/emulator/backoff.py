"""How long a service waits before it replaces a task that died young.

AWS throttles such restarts ("service throttle logic": the time between attempts grows, up to 15 minutes). The same
shape with smaller numbers keeps a worker that cannot start from spinning on a developer's two cores.
"""

from dataclasses import dataclass

QUICK_SECONDS = 10.0
FIRST_DELAY = 1.0
MAX_DELAY = 60.0


def delay(failures: int) -> float:
    """Seconds to wait after the n-th quick failure in a row: 1, 2, 4 … 60."""
    return 0.0 if failures < 1 else min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 30))


@dataclass
class Backoff:
    """Remembers quick failures in a row and when the next start is allowed (monotonic seconds)."""

    failures: int = 0
    not_before: float = 0.0

    def died(self, *, lived: float, now: float) -> None:
        """A task ended by itself after ``lived`` seconds of running (0 when it never ran)."""
        self.failures = self.failures + 1 if lived < QUICK_SECONDS else 0
        self.not_before = now + delay(self.failures)

    def reset(self) -> None:
        self.failures, self.not_before = 0, 0.0

    def ready(self, now: float) -> bool:
        return now >= self.not_before
