"""Whatever happens in whatever order: no run is lost, none executed twice at once. See ``lazarus_fakes.World``."""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from lazarus_fakes import World

from cdk_prefect_ecs.functions import lazarus as lazarus_function
from cdk_prefect_ecs.functions.lazarus_rules import Limits

N = st.integers(0, 3)
OUTCOMES = ("ok", "ok", "ok", "fail", "lost", "again", "die")
RUN_TASK = ("ok", "ok", "ok", "no capacity", "refused", "answer lost", "unreported")
ENGINE = ("ok", "ok", "ok", "ok", "crash", "fail", "deaf")
SECONDS = (1, 5, 10, 31, 61, 95, 310)


@pytest.fixture(autouse=True)
def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world sets the function's clock; this puts it back."""
    monkeypatch.setattr(lazarus_function, "_now", lazarus_function._now)


class Histories(RuleBasedStateMachine):
    """Each rule is one thing that happens. What wakes Lazarus is not read by it, so a delayed, dropped, repeated or
    reordered event is nothing but a look at another time: ``look`` and ``start`` may come at any."""

    world: World

    @initialize(
        runs=st.integers(1, 2),
        retries=st.integers(0, 1),
        persists_result=st.booleans(),
        spot_attempts=st.sampled_from([None, 1, 2]),
        max_reschedules=st.integers(1, 3),
        gpu_limits=st.sampled_from([None, Limits(spot_attempts=1, max_reschedules=2), Limits(spot_attempts=None)]),
    )
    def begin(
        self,
        runs: int,
        retries: int,
        persists_result: bool,
        spot_attempts: int | None,
        max_reschedules: int,
        gpu_limits: Limits | None,
    ) -> None:
        limits = Limits(spot_attempts=spot_attempts, max_reschedules=max_reschedules)
        self.world = World(limits, runs, gpu_limits=gpu_limits, retries=retries, persists_result=persists_result)

    @rule()
    def look(self) -> None:
        self.world.lazarus_looks()

    @rule()
    def start(self) -> None:
        self.world.lazarus_starts()

    @rule(n=N, count=st.integers(1, 8), outcome=st.sampled_from(OUTCOMES))
    def step(self, n: int, count: int, outcome: str) -> None:
        self.world.lazarus_steps(n, count, outcome)

    @rule(n=N, count=st.integers(1, 4), outcome=st.sampled_from(OUTCOMES))
    def change(self, n: int, count: int, outcome: str) -> None:
        self.world.lazarus_changes(n, count, outcome)

    @rule(n=N)
    def poll(self, n: int) -> None:
        self.world.worker_polls(n)

    @rule(n=N, count=st.integers(1, 4), outcome=st.sampled_from(RUN_TASK))
    def submit(self, n: int, count: int, outcome: str) -> None:
        for _ in range(count):
            self.world.worker_steps(n, outcome)

    @rule(n=N)
    def go_well(self, n: int) -> None:
        self.world.all_goes_well(n)

    @rule(n=N)
    def worker_dies(self, n: int) -> None:
        self.world.worker_dies(n)

    @rule(n=N)
    def task_goes_on(self, n: int) -> None:
        self.world.task_goes_on(n)

    @rule(n=N, why=st.sampled_from(["image", "secret", "capacity"]))
    def task_fails_to_start(self, n: int, why: str) -> None:
        self.world.task_fails_to_start(n, why)

    @rule(n=N)
    def notice(self, n: int) -> None:
        self.world.spot_gives_notice(n)

    @rule(n=N)
    def kill(self, n: int) -> None:
        self.world.spot_takes_it(n)

    @rule(n=N, said=st.booleans())
    def out_of_memory(self, n: int, said: bool) -> None:
        self.world.task_runs_out_of_memory(n, said=said)

    @rule(n=N)
    def forget(self, n: int) -> None:
        self.world.ecs_forgets(n)

    @rule(n=N, count=st.integers(1, 3), outcome=st.sampled_from(ENGINE))
    def execute(self, n: int, count: int, outcome: str) -> None:
        for _ in range(count):
            self.world.engine_steps(n, outcome)

    @rule(n=N)
    def cancel(self, n: int) -> None:
        self.world.user_cancels(n)

    @rule(n=N)
    def delete(self, n: int) -> None:
        self.world.user_deletes(n)

    @rule(n=N, name=st.sampled_from(["Paused", "Suspended"]))
    def pause(self, n: int, name: str) -> None:
        self.world.user_pauses(n, name)

    @rule(n=N)
    def resume(self, n: int) -> None:
        self.world.user_resumes(n)

    @rule(n=N)
    def retry(self, n: int) -> None:
        self.world.user_retries(n)

    @rule(seconds=st.sampled_from(SECONDS))
    def time_passes(self, seconds: int) -> None:
        self.world.time_passes(seconds)

    @invariant()
    def safe(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.settle()
            finally:
                self.world.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=1200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# What happens often is more often tried: a history that only breaks things never gets to where they break.
WEIGHTED = (
    *["well"] * 5,
    *["poll"] * 4,
    *["submit"] * 8,
    *["task"] * 6,
    *["engine"] * 8,
    *["look"] * 3,
    *["start"] * 2,
    *["step"] * 6,
    *["change"] * 6,
    *["time"] * 5,
    *["notice", "kill"] * 2,
    "fails",
    "memory",
    "worker dies",
    "forget",
    "cancel",
    "delete",
    "pause",
    "resume",
    "retry",
)


def one_history(seed: int, steps: int = 80) -> None:
    """A history drawn from a seed, of which far more can be tried than Hypothesis has time for."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    limits = Limits(spot_attempts=draw.choice([None, 1, 2]), max_reschedules=draw.randint(1, 3))
    gpu_limits = draw.choice([None, Limits(spot_attempts=1, max_reschedules=2), Limits(spot_attempts=None)])
    runs, retries, persists_result = draw.randint(1, 3), draw.randint(0, 1), draw.random() < 0.5
    world = World(limits, runs, gpu_limits=gpu_limits, retries=retries, persists_result=persists_result)
    rare = draw.random() < 0.5  # users and memory spoil many a history; half of them go without

    def happens(what: str) -> None:
        n = draw.randrange(4)
        match what:
            case "well":
                world.all_goes_well(n)
            case "poll":
                world.worker_polls(n)
            case "submit":
                outcome = draw.choice(RUN_TASK)
                for _ in range(draw.randint(1, 4)):
                    world.worker_steps(n, outcome)
            case "task":
                world.task_goes_on(n)
            case "engine":
                outcome = draw.choice(ENGINE) if rare else "ok"
                for _ in range(draw.randint(1, 3)):
                    world.engine_steps(n, outcome)
            case "look":
                world.lazarus_looks()
            case "start":
                world.lazarus_starts()
            case "step":
                world.lazarus_steps(n, draw.randint(1, 8), draw.choice(OUTCOMES))
            case "change":
                world.lazarus_changes(n, draw.randint(1, 4), draw.choice(OUTCOMES))
            case "time":
                world.time_passes(draw.choice(SECONDS))
            case "notice":
                world.spot_gives_notice(n)
            case "kill":
                world.spot_takes_it(n)
            case "fails":
                world.task_fails_to_start(n, draw.choice(["image", "secret", "capacity"]))
            case "worker dies":
                world.worker_dies(n)
            case "forget":
                world.ecs_forgets(n)
            case "memory" if rare:
                world.task_runs_out_of_memory(n, said=draw.random() < 0.5)
            case "cancel" if rare:
                world.user_cancels(n)
            case "delete" if rare and draw.random() < 0.2:
                world.user_deletes(n)
            case "pause" if rare:
                world.user_pauses(n, draw.choice(["Paused", "Suspended"]))
            case "resume":
                world.user_resumes(n)
            case "retry":
                world.user_retries(n)

    try:
        for _ in range(steps):
            happens(draw.choice(WEIGHTED))
            world.check()
        world.settle()
    finally:
        world.close()


@pytest.mark.parametrize("first", range(0, 6000, 500))
def test_seeded_histories(first: int) -> None:
    for seed in range(first, first + 500):
        try:
            one_history(seed)
        except AssertionError as error:
            error.add_note(f"history {seed}")
            raise
