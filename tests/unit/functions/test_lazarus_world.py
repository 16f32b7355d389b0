"""What Lazarus sees and does, against a Prefect server and an ECS in memory."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lazarus_fakes import (
    CLUSTER,
    FAMILY,
    GPU_FAMILY,
    GPU_ON_DEMAND,
    GPU_POOL,
    ON_DEMAND,
    OTHER_CLUSTER,
    POOL,
    START,
    FakeApi,
    FakeEcs,
    FakeLogs,
    FakeRun,
    FakeServer,
    FakeTask,
    FakeTaskRun,
    World,
)

from cdk_prefect_ecs.functions import lazarus as lazarus_function
from cdk_prefect_ecs.functions import lazarus_world
from cdk_prefect_ecs.functions.lazarus import Pool
from cdk_prefect_ecs.functions.lazarus_rules import MARK, PARKED, RESCHEDULED, Cause, Limits, Reschedule, Task
from cdk_prefect_ecs.functions.lazarus_world import FlowRuns, Seen, Tasks
from cdk_prefect_ecs.functions.prefect_api import PrefectApiError

NOW = START + timedelta(minutes=5)
SAID = f"{MARK}(interruption) Spot took its machine; rescheduled, Spot attempt 1 of 2 lost"


@pytest.fixture(autouse=True)
def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world sets the function's clock; this puts it back."""
    monkeypatch.setattr(lazarus_function, "_now", lazarus_function._now)


class Prefect:
    """A server, a client of it that remembers its requests, and something that happens just before one of them."""

    def __init__(self) -> None:
        self.server = FakeServer(lambda: NOW)
        self.requests: list[str] = []
        self.just_before: dict[int, Callable[[], None]] = {}
        self.runs = FlowRuns(FakeApi(self.server, self._call), [POOL], CLUSTER)  # type: ignore[arg-type]

    def _call(self, what: str, effect: Callable[[], Any]) -> Any:
        self.just_before.pop(len(self.requests), lambda: None)()
        self.requests.append(what)
        return effect()

    def running(self, **more: Any) -> FakeRun:
        run = self.server.add(FakeRun("r", pid=f"{CLUSTER}::a", **more))
        self.server.set_state(run, "PENDING", "Pending")
        self.server.set_state(run, "RUNNING", "Running")
        return run

    def seen(self) -> Seen:
        seen = self.runs.current("r")
        assert seen is not None
        self.requests.clear()
        return seen

    def names(self) -> list[str]:
        return [state["name"] for state in self.server.runs["r"].states[3:]]


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


def action(delay: float = 0, *, to_on_demand: bool = False) -> Reschedule:
    return Reschedule(Cause.INTERRUPTION, SAID, timedelta(seconds=delay), to_on_demand)


# -- candidates ------------------------------------------------------------------------------------------------------


def test_candidates_are_what_may_need_something(prefect: Prefect) -> None:
    server = prefect.server
    for kind, name in (
        ("RUNNING", "Running"),
        ("PENDING", "Submitting"),
        ("CANCELLING", "Cancelling"),
        ("CRASHED", "Crashed"),
        ("SCHEDULED", PARKED),
        ("SCHEDULED", "AwaitingRetry"),
        ("SCHEDULED", "Late"),
        ("PAUSED", "Paused"),
        ("COMPLETED", "Completed"),
        ("FAILED", "Failed"),
        ("CANCELLED", "Cancelled"),
    ):
        server.set_state(server.add(FakeRun(name)), kind, name, force=True)
    server.set_state(server.add(FakeRun("elsewhere", pool="other")), "RUNNING", "Running")
    server.set_state(server.add(FakeRun("retried", retry_type="in_process")), "SCHEDULED", "AwaitingRetry")
    old = server.add(FakeRun("old"))
    server.set_state(old, "CRASHED", "Crashed")
    old.end_time = NOW - timedelta(minutes=61)

    found = prefect.runs.candidates(NOW, timedelta(hours=1))

    wanted = {"Running", "Submitting", "Cancelling", "Crashed", PARKED, "retried"}
    assert {seen.run.id for seen in found} == wanted


def test_candidates_come_in_pages(prefect: Prefect) -> None:
    for i in range(401):
        prefect.server.set_state(prefect.server.add(FakeRun(f"{i:03}")), "PENDING", "Pending")

    found = prefect.runs.candidates(NOW, timedelta(hours=1))

    assert len(found) == len({seen.run.id for seen in found}) == 401
    assert len(prefect.requests) == 3 + 2


@pytest.mark.parametrize(
    ("pid", "task_arn"), [(None, None), (f"{CLUSTER}::a", "a"), ("flows::a", "a"), (f"{OTHER_CLUSTER}::a", "skipped")]
)
def test_runs_of_other_clusters_are_skipped(prefect: Prefect, pid: str | None, task_arn: str | None) -> None:
    prefect.running().pid = pid
    found = prefect.runs.candidates(NOW, timedelta(hours=1))

    assert [seen.run.task_arn for seen in found] == ([] if task_arn == "skipped" else [task_arn])


def test_deleted_run(prefect: Prefect) -> None:
    assert prefect.runs.current("deleted") is None
    assert prefect.runs.states("deleted") == []


def test_other_errors_are_not_taken_for_a_deleted_run(prefect: Prefect) -> None:
    def fail() -> None:
        raise PrefectApiError("failed", status=503)

    prefect.just_before[0] = fail
    with pytest.raises(PrefectApiError):
        prefect.runs.current("r")


def test_states_are_oldest_first(prefect: Prefect) -> None:
    prefect.running().states.reverse()

    assert [state.type for state in prefect.runs.states("r")] == ["SCHEDULED", "PENDING", "RUNNING"]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00.123456789Z", datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-01T00:00:00.5+00:00", datetime(2026, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)),
        ("2026-01-01T02:00:00.123456+02:00", datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_timestamps(text: str, moment: datetime) -> None:
    assert lazarus_world._parsed(text) == moment


# -- rescheduling ----------------------------------------------------------------------------------------------------


def test_reschedule_parks_changes_and_schedules(prefect: Prefect) -> None:
    run = prefect.running(job_variables={"cpu": 1}, tags=["mine"])

    assert prefect.runs.reschedule(prefect.seen(), action(20), NOW, ON_DEMAND)

    assert prefect.names() == [PARKED, RESCHEDULED]
    assert [state["message"] for state in run.states[3:]] == [SAID, SAID]
    assert run.due == NOW + timedelta(seconds=20)
    assert (run.pid, run.job_variables, run.tags) == (None, {"cpu": 1}, ["mine"])


def test_fallback_merges_job_variables_and_tags(prefect: Prefect) -> None:
    run = prefect.running(job_variables={"cpu": 1, "capacity_provider_strategy": "spot"}, tags=["mine"])

    assert prefect.runs.reschedule(prefect.seen(), action(to_on_demand=True), NOW, ON_DEMAND)
    assert run.job_variables == {"cpu": 1, **ON_DEMAND}
    assert run.tags == ["mine", "on-demand-fallback"]

    prefect.server.set_state(run, "PENDING", "Pending")
    assert prefect.runs.reschedule(prefect.seen(), action(to_on_demand=True), NOW, ON_DEMAND)
    assert run.tags == ["mine", "on-demand-fallback"], "once is enough"


def test_run_that_its_engine_retried_is_given_to_workers_again(prefect: Prefect) -> None:
    run = prefect.running(retries=1)
    prefect.server.set_state(run, "FAILED", "Failed")
    assert run.retry_type == "in_process"
    seen = prefect.seen()
    assert seen.run.retried_in_process

    assert prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)
    assert prefect.server.due_for_workers(timedelta(0)) == [run]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("FAILED", "Failed"), ("CANCELLED", "Cancelled"), ("COMPLETED", "Completed"), ("PAUSED", "Paused")],
)
def test_run_that_changed_between_look_and_parking_is_put_back(prefect: Prefect, kind: str, name: str) -> None:
    run = prefect.running(persists_result=False)
    seen = prefect.seen()
    prefect.server.set_state(run, kind, name, "by somebody else")

    assert not prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)

    assert prefect.names() == [name, PARKED, name]
    assert run.state["message"] == "by somebody else"
    assert run.pid is not None


@pytest.mark.parametrize("kind", ["CANCELLING", "COMPLETED"])
def test_run_that_prefect_will_not_park(prefect: Prefect, kind: str) -> None:
    run = prefect.running()
    seen = prefect.seen()
    prefect.server.set_state(run, kind, kind.capitalize())

    assert not prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)
    assert prefect.names() == [kind.capitalize()]


def test_nothing_is_put_back_over_what_somebody_did_since(prefect: Prefect) -> None:
    run = prefect.running()
    seen = prefect.seen()
    prefect.server.set_state(run, "CRASHED", "Crashed", "by the engine")
    prefect.just_before[2] = lambda: prefect.server.set_state(run, "CANCELLED", "Cancelled") and None

    assert not prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)
    assert run.type == "CANCELLED"


@pytest.mark.parametrize("request_number", [1, 2, 3, 4])
def test_run_that_is_cancelled_while_it_is_parked(prefect: Prefect, request_number: int) -> None:
    run = prefect.running()
    seen = prefect.seen()
    prefect.just_before[request_number] = lambda: prefect.server.set_state(run, "CANCELLED", "Cancelled") and None

    assert not prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)
    assert prefect.names() == [PARKED, "Cancelled"]


def test_run_that_is_deleted_while_it_is_parked(prefect: Prefect) -> None:
    prefect.running()
    seen = prefect.seen()
    prefect.just_before[3] = prefect.server.runs.clear

    assert not prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)


@pytest.mark.parametrize("request_number", [1, 3])
def test_run_that_somebody_else_parks_after_us_is_theirs(prefect: Prefect, request_number: int) -> None:
    prefect.running()
    first, second = prefect.seen(), prefect.seen()

    def other() -> None:
        assert prefect.runs.reschedule(second, action(), NOW, ON_DEMAND)

    prefect.just_before[request_number] = other

    assert not prefect.runs.reschedule(first, action(), NOW, ON_DEMAND)
    assert prefect.names() == [PARKED, PARKED, RESCHEDULED]


def test_cancelled_run_that_two_functions_park_is_put_back(prefect: Prefect) -> None:
    run = prefect.running()
    first, second = prefect.seen(), prefect.seen()
    prefect.server.set_state(run, "CANCELLED", "Cancelled")

    def other() -> None:
        prefect.runs.reschedule(second, action(), NOW, ON_DEMAND)

    prefect.just_before[1] = other
    prefect.runs.reschedule(first, action(), NOW, ON_DEMAND)

    assert run.type == "CANCELLED"


@pytest.mark.parametrize("taken_as_far_as", ["PENDING", "RUNNING"])
def test_second_request_does_not_reach_a_run_that_a_worker_has_taken(prefect: Prefect, taken_as_far_as: str) -> None:
    """The answer to the last request is lost, a worker takes the run, and the request is repeated."""
    run = prefect.running()
    seen = prefect.seen()

    def scheduled_and_taken() -> None:
        prefect.server.set_state(run, "SCHEDULED", RESCHEDULED, SAID, scheduled=NOW)
        prefect.server.set_state(run, "PENDING", "Pending")
        if taken_as_far_as == "RUNNING":
            prefect.server.set_state(run, "RUNNING", "Running")

    prefect.just_before[4] = scheduled_and_taken
    prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)

    assert run.type == taken_as_far_as


def test_run_left_parked_is_carried_on(prefect: Prefect) -> None:
    run = prefect.running()
    prefect.server.set_state(run, "SCHEDULED", PARKED, SAID, scheduled=NOW + timedelta(hours=1))

    assert prefect.runs.reschedule(prefect.seen(), action(), NOW, ON_DEMAND)
    assert prefect.names() == [PARKED, PARKED, RESCHEDULED]


def test_run_left_parked_after_it_had_ended_is_put_back(prefect: Prefect) -> None:
    run = prefect.running()
    prefect.server.set_state(run, "FAILED", "Failed", "the flow's own fault")
    prefect.server.set_state(run, "SCHEDULED", PARKED, SAID, scheduled=NOW + timedelta(hours=1))

    assert not prefect.runs.reschedule(prefect.seen(), action(), NOW, ON_DEMAND)
    assert (run.type, run.state["message"]) == ("FAILED", "the flow's own fault")


def test_run_that_runs_again_is_not_taken_for_one_left_parked(prefect: Prefect) -> None:
    run = prefect.running()
    prefect.server.set_state(run, "SCHEDULED", PARKED, SAID, scheduled=NOW + timedelta(hours=1))
    seen = prefect.seen()
    for kind, name in (("SCHEDULED", RESCHEDULED), ("PENDING", "Pending"), ("RUNNING", "Running")):
        prefect.server.set_state(run, kind, name)

    assert not prefect.runs.reschedule(seen, action(), NOW, ON_DEMAND)
    assert run.type == "RUNNING"


# -- the other changes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RUNNING", "CRASHED"])
def test_give_up(prefect: Prefect, kind: str) -> None:
    run = prefect.running()
    if kind == "CRASHED":
        prefect.server.set_state(run, "CRASHED", "Crashed", "boom")

    assert prefect.runs.give_up(prefect.seen(), f"{MARK}why")
    assert (run.type, run.state["message"]) == ("CRASHED", f"{MARK}why")


def test_nothing_is_given_up_that_has_ended_meanwhile(prefect: Prefect) -> None:
    run = prefect.running()
    seen = prefect.seen()
    prefect.server.set_state(run, "COMPLETED", "Completed")

    assert not prefect.runs.give_up(seen, "why")
    assert run.type == "COMPLETED"


def test_cancel_and_adopt(prefect: Prefect) -> None:
    run = prefect.running()
    prefect.server.set_state(run, "CANCELLING", "Cancelling")
    seen = prefect.seen()
    prefect.runs.adopt(seen, "b")

    assert run.pid == f"{CLUSTER}::b"
    assert prefect.runs.cancel(seen, "why")
    assert run.type == "CANCELLED"


def test_subflows_end_with_their_parent(prefect: Prefect) -> None:
    prefect.running()
    for run_id, parent, queue, kind in (
        ("child", "r", None, "RUNNING"),
        ("grandchild", "child", None, "PENDING"),
        ("done", "r", None, "COMPLETED"),
        ("deployed", "r", "queue", "RUNNING"),
        ("stranger", "x", None, "RUNNING"),
    ):
        run = prefect.server.add(FakeRun(run_id, parent=parent, queue=queue))
        prefect.server.set_state(run, kind, kind.capitalize())

    prefect.runs.end_subflows("r", "CRASHED", "Crashed", "why")

    ended = {run.id for run in prefect.server.runs.values() if run.type == "CRASHED"}
    assert ended == {"child", "grandchild"}


def test_log(prefect: Prefect) -> None:
    run = prefect.running()
    prefect.runs.log("r", "a line")

    assert run.log == ["a line"]


# -- tasks -----------------------------------------------------------------------------------------------------------


class Ecs:
    """An ECS of some tasks, whose calls are counted."""

    def __init__(self, *tasks: FakeTask) -> None:
        self.calls: list[str] = []
        self.logs = FakeLogs({"flows/flow/1": [f"line {i} \n" for i in range(30)]})
        fake = FakeEcs({task.arn: task for task in tasks}, lambda: NOW, self._call)
        self.tasks = Tasks(
            fake, self.logs, cluster_arn=CLUSTER, families=[FAMILY], log_group="group", stream_prefix="flows/flow"
        )

    def _call(self, what: str, effect: Callable[[], Any]) -> Any:
        self.calls.append(what)
        return effect()


def ecs_task(arn: str, run_id: str, status: str = "RUNNING", desired: str | None = None) -> FakeTask:
    return FakeTask(arn, run_id, START, is_spot=True, status=status, desired_status=desired or status)


def test_tasks_are_described_by_the_hundred() -> None:
    ecs = Ecs(*[ecs_task(f"t{i}", "r") for i in range(250)])

    found = ecs.tasks.by_run([lazarus_run("r")])

    assert len(found["r"]) == 250
    assert ecs.calls == ["list_tasks", *["describe_tasks"] * 3]


def lazarus_run(run_id: str, task_arn: str | None = None) -> Any:
    prefect = Prefect()
    run = prefect.server.add(FakeRun(run_id, pid=f"{CLUSTER}::{task_arn}" if task_arn else None))
    seen = prefect.runs.current(run.id)
    assert seen is not None
    return seen.run


def test_named_tasks_are_found_whatever_their_status() -> None:
    ecs = Ecs(ecs_task("a", "r", "STOPPED"), ecs_task("b", "other"))

    assert [task.arn for task in ecs.tasks.by_run([lazarus_run("r", "a")])["r"]] == ["a"]


def test_stopping_tasks_that_nobody_names_are_found() -> None:
    ecs = Ecs(ecs_task("a", "r", "DEPROVISIONING", "STOPPED"), ecs_task("b", "r", "STOPPED"))

    found = ecs.tasks.by_run([lazarus_run("r", "gone")])

    assert sorted((task.arn, task.is_alive) for task in found["r"]) == [("a", True), ("b", False)]


def test_stopped_tasks_are_not_asked_for_while_all_is_well() -> None:
    ecs = Ecs(ecs_task("a", "r"), ecs_task("b", "r", "STOPPED"))

    assert [task.arn for task in ecs.tasks.by_run([lazarus_run("r", "a")])["r"]] == ["a"]
    assert ecs.calls == ["list_tasks", "describe_tasks"]


def test_nothing_is_described_when_there_is_nothing() -> None:
    ecs = Ecs()

    assert ecs.tasks.by_run([lazarus_run("r")]) == {"r": []}
    assert ecs.calls == ["list_tasks", "list_tasks"]


def test_task_is_read_in_full() -> None:
    stopped = ecs_task("a", "r")
    stopped.started_at = START
    stopped.stop(NOW, "EssentialContainerExited", "Essential container in task exited", 137, "OutOfMemoryError")
    task = Ecs(stopped).tasks.by_run([lazarus_run("r", "a")])["r"][0]

    assert (task.last_status, task.created_at, task.started_at, task.stopped_at) == ("STOPPED", START, START, NOW)
    assert (task.stop_code, task.stopped_reason) == ("EssentialContainerExited", "Essential container in task exited")
    assert [(c.name, c.exit_code, c.reason) for c in task.containers] == [("flow", 137, "OutOfMemoryError")]


def test_stop_shortens_the_reason() -> None:
    task = ecs_task("a", "r")
    Ecs(task).tasks.stop("a", "x" * 300)

    assert (task.desired_status, task.reason) == ("STOPPED", "x" * 255)


def test_last_words() -> None:
    ecs = Ecs()
    words = ecs.tasks.last_words(Task("arn:aws:ecs:eu-central-1:123456789012:task/flows/1", "STOPPED", START))

    assert words.splitlines() == [f"line {i}" for i in range(10, 30)]
    assert ecs.logs.asked == [
        {"logGroupName": "group", "logStreamName": "flows/flow/1", "limit": 20, "startFromHead": False}
    ]
    assert ecs.tasks.last_words(Task("never-started", "STOPPED", START)) == ""


# -- whole stories, which random histories have brought to light -----------------------------------------------------


def executing(runs: int = 1, **more: Any) -> World:
    """A world in which a run is being executed, and a worker has said so."""
    world = World(more.pop("limits", None), runs, **more)
    world.all_goes_well(0)
    assert world.mine[0].type == "RUNNING"
    return world


def test_story_interrupted_after_the_flow_was_retried_in_its_task() -> None:
    """Prefect gives a run to no worker once its engine has retried it, unless it is told otherwise."""
    world = executing(retries=1, length=2)
    world.engine_steps(0, "fail")
    assert (world.mine[0].type, world.mine[0].retry_type) == ("SCHEDULED", "in_process")
    world.time_passes(30)
    world.engine_steps(0)
    assert world.mine[0].type == "RUNNING"
    world.spot_takes_it(0)
    world.settle()

    assert world.mine[0].type == "COMPLETED"


def test_story_interrupted_while_the_flow_waits_for_its_retry() -> None:
    world = executing(retries=1)
    world.engine_steps(0, "fail")
    world.spot_takes_it(0)
    world.settle()

    assert world.mine[0].type == "COMPLETED"


def test_story_the_answer_to_the_last_request_is_lost() -> None:
    """The client repeats it when a second task executes the run already."""
    world = executing()
    world.spot_takes_it(0)
    world.lazarus_starts()
    world.lazarus_changes(0, 3, "again")
    world.all_goes_well(0)
    assert world.mine[0].type == "RUNNING"
    world.lazarus_changes(0, 1, "ok")
    world.all_goes_well(1)
    world.check()

    assert len(world.tasks) == 2
    world.settle()
    assert world.mine[0].type == "COMPLETED"


@pytest.mark.parametrize("change", [1, 2, 3])
@pytest.mark.parametrize("outcome", ["fail", "lost", "again", "die"])
def test_story_lazarus_fails_at_any_change(change: int, outcome: str) -> None:
    world = executing()
    world.spot_takes_it(0)
    world.lazarus_starts()
    world.lazarus_changes(0, change, outcome)
    world.settle()

    assert world.mine[0].type == "COMPLETED"
    assert world.mine[0].rescheduled == [Cause.INTERRUPTION]


def test_story_interrupted_before_the_worker_could_say_what_it_had_started() -> None:
    world = World(None, 1)
    world.worker_polls(0)
    for _ in range(3):
        world.worker_steps(0)
    world.worker_dies(0)
    world.task_goes_on(0)
    world.engine_steps(0)
    world.spot_takes_it(0)
    world.settle()

    assert world.mine[0].rescheduled == [Cause.INTERRUPTION]
    assert world.mine[0].type == "COMPLETED"


# -- several pools -----------------------------------------------------------------------------------------------------


def test_settings_of_a_pool_are_read_as_the_construct_writes_them() -> None:
    everything = {
        "family": "flows",
        "maxReschedules": 5,
        "patienceSeconds": 12.5,
        "spotAttempts": 1,
        "onDemand": "gpu",
        "spot": "gpu-spot",
    }
    pool = Pool.parse(everything)
    assert (pool.family, pool.on_demand) == (
        "flows",
        {"capacity_provider_strategy": [{"capacityProvider": "gpu", "weight": 1, "base": 0}]},
    )
    assert (pool.limits.max_reschedules, pool.limits.patience) == (5, timedelta(seconds=12.5))
    assert (pool.limits.spot_attempts, pool.limits.spot_provider) == (1, "gpu-spot")
    least = Pool.parse({key: everything[key] for key in ("family", "maxReschedules", "patienceSeconds")})
    assert (least.limits.spot_attempts, least.limits.spot_provider, least.on_demand) == (None, None, {})


def test_each_pool_falls_back_to_its_own_capacity_and_counts_for_itself() -> None:
    world = World(Limits(spot_attempts=1), runs=2, gpu_limits=Limits(spot_attempts=1), length=50)
    for _ in range(3):
        world.all_goes_well(0)
    assert [task.family for task in world.tasks.values()] == [FAMILY, GPU_FAMILY]
    for _ in world.mine:
        world.spot_takes_it(0)
    lazarus = world.lazarus()
    assert lazarus.tend() == []
    assert {run.pool: run.job_variables for run in world.mine} == {POOL: ON_DEMAND, GPU_POOL: GPU_ON_DEMAND}
    for counts in lazarus.counts.values():
        assert (counts.interruptions, counts.fallbacks, counts.reschedules) == (1, 1, 1)
    lines = [json.loads(counts.embedded_metrics(name, NOW)) for name, counts in lazarus.counts.items()]
    assert [line["WorkPool"] for line in lines] == [POOL, GPU_POOL]


# -- for somebody who watches ------------------------------------------------------------------------------------------


def observed(world: World) -> dict[str, tuple[int, float, int, int]]:
    """Workers online, seconds waiting, tasks on Spot and on demand, by pool, after one look."""
    lazarus = world.lazarus()
    assert lazarus.tend() == []
    lazarus.observe(lazarus._runs)
    found = {name: counts.observation for name, counts in lazarus.counts.items()}
    return {
        name: (one.workers_online, one.seconds_waiting, one.tasks_on_spot, one.tasks_on_demand)
        for name, one in found.items()
        if one is not None
    }


def test_observation_of_waiting_runs_workers_and_tasks() -> None:
    world = World(Limits(spot_provider="FARGATE_SPOT"), runs=3, gpu_limits=Limits(), length=50)
    world.server.heartbeats = [
        (POOL, world.now),
        (POOL, world.now - timedelta(seconds=90)),
        (POOL, world.now - timedelta(seconds=91)),
        ("another", world.now),
    ]
    before = observed(world)
    assert before[POOL] == (2, 0.0, 0, 0)
    assert before[GPU_POOL] == (0, 0.0, 0, 0)
    world.now += timedelta(minutes=10)
    assert observed(world)[POOL] == (0, 600.0, 0, 0)
    for _ in range(3):
        world.all_goes_well(0)
    tasks = [task for task in world.tasks.values() if task.family == FAMILY]
    assert tasks
    workers, waiting, on_spot, on_demand = observed(world)[POOL]
    assert (workers, waiting) == (0, 0.0)
    assert on_spot + on_demand == len(tasks)
    assert on_spot == sum(task.is_spot for task in tasks) > 0


def test_parked_and_future_runs_do_not_wait() -> None:
    prefect = Prefect()
    run = prefect.server.add(FakeRun("r"))
    assert prefect.runs.longest_due(POOL, NOW + timedelta(seconds=5)) == NOW
    prefect.server.set_state(run, "SCHEDULED", PARKED, scheduled=NOW + timedelta(hours=1), force=True)
    assert prefect.runs.longest_due(POOL, NOW + timedelta(seconds=5)) is None
    assert prefect.runs.longest_due("another pool", NOW) is None


def test_what_cannot_be_observed_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    world = World(runs=1, gpu_limits=Limits())
    lazarus = world.lazarus()
    assert lazarus.tend() == []

    def down(what: str, effect: Callable[[], Any]) -> Any:
        if what == f"/work_pools/{POOL}/workers/filter":
            raise PrefectApiError("no answer")
        return effect()

    lazarus.observe(FlowRuns(FakeApi(world.server, down), [POOL, GPU_POOL], CLUSTER))  # type: ignore[arg-type]
    assert lazarus.counts[POOL].observation is None
    assert lazarus.counts[GPU_POOL].observation is not None
    assert f"Work pool {POOL} could not be observed" in caplog.text
    line = json.loads(lazarus.counts[POOL].embedded_metrics(POOL, NOW))
    assert "WorkersOnline" not in line
    assert line["GivenUp"] == 0


def test_a_run_that_was_moved_to_another_pool_still_has_its_task() -> None:
    world = World(runs=1, gpu_limits=Limits(), length=50)
    for _ in range(3):
        world.all_goes_well(0)
    world.mine[0].pool, world.mine[0].pid = GPU_POOL, None
    world.lazarus_looks()
    assert world.mine[0].pid == f"{CLUSTER}::{next(iter(world.tasks))}"  # found among the tasks of the other family
    assert world.mine[0].rescheduled == []


# -- task runs that ended with their task ----------------------------------------------------------------------------


def task_run(prefect: Prefect, name: str, **more: Any) -> FakeTaskRun:
    made = FakeTaskRun(name, **{"run_id": "r", **more})
    prefect.server.task_runs[name] = made
    return made


def test_task_runs_left_executing_are_those_of_a_run_and_of_the_subflows_in_its_task(prefect: Prefect) -> None:
    prefect.running()
    for run_id, parent, queue in (
        ("child", "r", None),
        ("grandchild", "child", None),
        ("deployed", "r", "queue"),
        ("stranger", "x", None),
    ):
        run = prefect.server.add(FakeRun(run_id, parent=parent, queue=queue))
        prefect.server.set_state(run, "RUNNING", "Running")
        task_run(prefect, f"of {run_id}", run_id=run_id)
    for kind in ("RUNNING", "PENDING", "SCHEDULED", "PAUSED", "COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
        task_run(prefect, kind, type=kind)
    task_run(prefect, "stands for child", is_subflow=True)

    found = prefect.runs.left_executing("r")

    assert sorted(found) == ["PENDING", "RUNNING", "SCHEDULED", "of child", "of grandchild"]


def test_task_runs_come_in_pages(prefect: Prefect) -> None:
    prefect.running()
    for i in range(401):
        task_run(prefect, str(i))

    assert len(set(prefect.runs.left_executing("r"))) == 401


def test_a_task_run_is_ended_unless_it_has_ended_or_is_executed_elsewhere(prefect: Prefect) -> None:
    mine = task_run(prefect, "mine")
    done = task_run(prefect, "done", type="COMPLETED")
    elsewhere = task_run(prefect, "elsewhere", deferred=True)

    for one in (mine, done, elsewhere):
        prefect.runs.end_task_run(one.id, "CRASHED", "Crashed", "why")

    assert (mine.type, mine.message) == ("CRASHED", "why")
    assert done.type == "COMPLETED"
    assert elsewhere.type == "RUNNING"


def in_a_step(**more: Any) -> tuple[World, FakeTaskRun]:
    """A world in which a run executes a task run."""
    world = executing(**more)
    while not world.server.task_runs:
        world.engine_steps(0)
    return world, next(iter(world.server.task_runs.values()))


def test_story_a_task_run_ends_with_its_task_and_is_executed_again() -> None:
    world, first = in_a_step()
    world.spot_takes_it(0)
    world.lazarus_looks()
    assert (first.type, first.message) == ("CRASHED", world.mine[0].state["message"])

    world.settle()
    assert world.mine[0].type == "COMPLETED"
    others = [one.type for one in world.server.task_runs.values() if one is not first]
    assert others == ["COMPLETED"] * world.mine[0].length


def test_story_a_task_run_is_cancelled_with_its_run() -> None:
    world, first = in_a_step()
    world.user_cancels(0)
    world.spot_takes_it(0)
    world.lazarus_looks()
    assert (world.mine[0].type, first.type) == ("CANCELLED", "CANCELLED")


def test_story_a_task_run_ends_with_a_run_that_is_given_up() -> None:
    world, first = in_a_step(limits=Limits(max_reschedules=0))
    world.engine_steps(0, "crash")
    world.time_passes(5)
    world.task_goes_on(0)
    world.lazarus_looks()
    assert world.mine[0].state["message"].startswith(MARK)
    assert (world.mine[0].type, first.type) == ("CRASHED", "CRASHED")


@pytest.mark.parametrize("route", ["/task_runs/filter", "/task_run_states/?task_run_id=task-run-0"])
def test_what_cannot_be_ended_keeps_no_run_waiting(route: str, caplog: pytest.LogCaptureFixture) -> None:
    world, first = in_a_step()
    second = FakeTaskRun("second", world.mine[0].id)
    world.server.task_runs["second"] = second
    world.spot_takes_it(0)

    def down(what: str, effect: Callable[[], Any]) -> Any:
        if what == route:
            raise PrefectApiError("no answer")
        return effect()

    assert world.look(down) == []
    assert world.mine[0].state["name"] == RESCHEDULED
    assert first.type == "RUNNING"
    assert second.type == ("RUNNING" if route == "/task_runs/filter" else "CRASHED")
    assert "no answer" in caplog.text


def test_of_a_run_that_never_began_no_task_runs_are_asked_for() -> None:
    world = World(None, 1)
    world.worker_polls(0)
    world.worker_steps(0)
    assert world.mine[0].type == "PENDING"
    world.worker_dies(0)
    world.time_passes(200)
    asked: list[str] = []

    def listen(what: str, effect: Callable[[], Any]) -> Any:
        asked.append(what)
        return effect()

    assert world.look(listen) == []
    assert world.mine[0].state["name"] == RESCHEDULED
    assert not any("task_run" in what for what in asked)
