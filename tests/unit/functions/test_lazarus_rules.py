"""The decision, case by case. What may happen in which order is tried in ``test_lazarus_histories``."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cdk_prefect_ecs.functions.lazarus_rules import (
    MARK,
    PARKED,
    RESCHEDULED,
    Action,
    Adopt,
    Cancel,
    Cause,
    Container,
    GiveUp,
    Limits,
    Reschedule,
    Run,
    State,
    StopTasks,
    Task,
    decide,
    history,
    is_attended,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NO_CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"
SPOT = {"stop_code": "SpotInterruption", "stopped_reason": "Your Spot Task was interrupted."}


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def states(*items: tuple[float, str] | tuple[float, str, str] | tuple[float, str, str, str]) -> list[State]:
    """States from (seconds, type[, name[, message]])."""
    found = []
    for i, (seconds, kind, *more) in enumerate(items):
        name = more[0] if more else kind.capitalize()
        found.append(State(f"s{i}", kind, name, at(seconds), more[1] if len(more) > 1 else ""))
    return found


def task(
    arn: str = "a", status: str = "STOPPED", created: float = 2, stopped: float | None = 50, **more: object
) -> Task:
    stopped_at = at(stopped) if status == "STOPPED" and stopped is not None else None
    return Task(arn, status, at(created), stopped_at=stopped_at, **more)  # type: ignore[arg-type]


def decision(
    past: list[State],
    *tasks: Task,
    now: float = 60,
    named: str | None = "a",
    limits: Limits | None = None,
    **run: bool,
) -> Action | None:
    current = Run("r", "lucky-lynx", past[-1], named, **run)
    return decide(current, past, tasks, at(now), limits or Limits())


RUNNING = states((0, "SCHEDULED"), (1, "PENDING"), (10, "RUNNING"))
PENDING = states((0, "SCHEDULED"), (1, "PENDING"))


def lost(cause: str, attempts: int, then: str = "RUNNING", message: str = "") -> list[State]:
    """A run that has lost so many attempts already, and now is in another; each attempt takes 100 s."""
    items: list[tuple[float, str, str, str]] = []
    for i in range(attempts):
        base = 100.0 * i
        said = f"{MARK}({cause}) as it goes; rescheduled"
        items += [
            (base + 1, "PENDING", "Pending", ""),
            (base + 10, "RUNNING", "Running", ""),
            (base + 50, "SCHEDULED", PARKED, said),
            (base + 51, "SCHEDULED", RESCHEDULED, said),
        ]
    base = 100.0 * attempts
    return states(*items, (base + 1, "PENDING", "Pending", ""), (base + 10, then, then.capitalize(), message))


def in_attempt(number: int, **more: object) -> Task:
    return task(created=100 * number + 2, stopped=100 * number + 50, **more)


# -- Spot ------------------------------------------------------------------------------------------------------------


def test_notice_is_only_a_notice() -> None:
    noticed = task(status="RUNNING", stop_code="TerminationNotice", stopped_reason="Your Spot Task was interrupted.")

    assert decision(RUNNING, noticed) is None
    assert is_attended(Run("r", "", RUNNING[-1], "a"), [noticed])


@pytest.mark.parametrize(
    "said",
    [
        SPOT,
        {"stop_code": "TerminationNotice", "stopped_reason": "Your Spot Task was interrupted."},
        {"stopped_reason": "Your Spot Task was interrupted."},  # the code is sometimes absent
        {**SPOT, "containers": (Container("flow", 137, "OutOfMemoryError: Container killed"),)},
    ],
)
def test_interruption_is_rescheduled_at_once(said: dict[str, object]) -> None:
    stopped = task(**said)

    assert decision(RUNNING, stopped) == Reschedule(
        Cause.INTERRUPTION,
        "Lazarus: (interruption) Spot took its machine; rescheduled, Spot attempt 1 of 2 lost",
        timedelta(0),
        to_on_demand=False,
        task=stopped,
    )


def test_second_interruption_falls_back() -> None:
    action = decision(lost("interruption", 1), in_attempt(1, **SPOT), now=160)

    assert isinstance(action, Reschedule)
    assert (action.to_on_demand, action.falls_back, action.delay) == (True, True, timedelta(0))
    assert "Spot attempt 2 of 2 lost" in action.message
    assert "on-demand" in action.message


def test_fallback_is_for_good() -> None:
    action = decision(lost("interruption", 2), in_attempt(2, stop_code="EssentialContainerExited"), now=260)

    assert isinstance(action, Reschedule)
    assert (action.cause, action.to_on_demand, action.falls_back) == (Cause.FAILURE, True, False)


@pytest.mark.parametrize(("spot_attempts", "falls_back_at"), [(None, None), (1, 0), (2, 1), (3, 2)])
def test_spot_attempts(spot_attempts: int | None, falls_back_at: int | None) -> None:
    fell_back = []
    for earlier in range(5):
        action = decision(
            lost("interruption", earlier),
            in_attempt(earlier, **SPOT),
            now=1000,
            limits=Limits(spot_attempts=spot_attempts),
        )
        assert isinstance(action, Reschedule)
        assert action.to_on_demand == (falls_back_at is not None and earlier >= falls_back_at)
        if action.falls_back:
            fell_back.append(earlier)

    assert fell_back == ([] if falls_back_at is None else [falls_back_at])


def test_without_fallback_the_message_names_no_limit() -> None:
    action = decision(RUNNING, task(**SPOT), limits=Limits(spot_attempts=None))

    assert isinstance(action, Reschedule)
    assert action.message.endswith("Spot attempt 1 lost")


def test_interruptions_do_not_count_against_max_reschedules() -> None:
    action = decision(lost("interruption", 7), in_attempt(7, **SPOT), now=1000)

    assert isinstance(action, Reschedule)


# -- capacity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        f"Failed to submit flow run to infrastructure: RuntimeError: Failed to run ECS task: {NO_CAPACITY}",
        "Failed to submit flow run to infrastructure: RuntimeError: Failed to run ECS task due to a capacity provider "
        "error. Verify that your Fargate or EC2 capacity providers are correctly configured",
        "Failed to submit flow run to infrastructure: InvalidParameterException: No Container Instances were found in "
        "your capacity provider.",
    ],
)
def test_never_placed_because_the_worker_found_no_capacity(message: str) -> None:
    past = states((0, "SCHEDULED"), (1, "PENDING"), (5, "CRASHED", "Crashed", message))
    action = decision(past, named=None)

    assert isinstance(action, Reschedule)
    assert (action.cause, action.delay) == (Cause.CAPACITY, timedelta(seconds=10))
    assert "no capacity for its task; rescheduled in 10 s, Spot attempt 1 of 2 lost" in action.message


def test_never_placed_because_ecs_found_no_capacity() -> None:
    stopped = task(stop_code="TaskFailedToStart", stopped_reason=NO_CAPACITY)
    action = decision(PENDING, stopped)

    assert isinstance(action, Reschedule)
    assert action.cause == Cause.CAPACITY
    assert action.task is stopped


def test_switching_to_on_demand_needs_no_wait() -> None:
    action = decision(
        lost("capacity", 1, "PENDING"),
        in_attempt(1, stop_code="TaskFailedToStart", stopped_reason=NO_CAPACITY),
        now=160,
    )

    assert isinstance(action, Reschedule)
    assert (action.falls_back, action.delay) == (True, timedelta(0))


def test_lack_of_capacity_waits_longer_each_time() -> None:
    delays = []
    for earlier in range(8):
        action = decision(
            lost("capacity", earlier, "PENDING"),
            in_attempt(earlier, stop_code="TaskFailedToStart", stopped_reason=NO_CAPACITY),
            now=1000,
            limits=Limits(spot_attempts=None),
        )
        assert isinstance(action, Reschedule)
        delays.append(action.delay.total_seconds())

    assert delays == [10, 20, 40, 80, 160, 300, 300, 300]


# -- other failures, which are capped --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            {"stop_code": "TaskFailedToStart", "stopped_reason": "CannotPullContainerError: no such tag"},
            "its task could not start (CannotPullContainerError: no such tag)",
        ),
        (
            {"stop_code": "TaskFailedToStart", "stopped_reason": "ResourceInitializationError: unable to pull secrets"},
            "its task could not start (ResourceInitializationError: unable to pull secrets)",
        ),
        (
            {"stop_code": "TaskFailedToStart", "stopped_reason": "Timeout waiting for network interface provisioning"},
            "its task could not start (Timeout waiting for network interface provisioning)",
        ),
        (
            {
                "stop_code": "EssentialContainerExited",
                "stopped_reason": "Essential container in task exited",
                "containers": (Container("flow", 137, "OutOfMemoryError: Container killed due to memory usage"),),
            },
            "it ran out of memory",
        ),
        (
            {"stop_code": "EssentialContainerExited", "containers": (Container("flow", 3), Container("log", 0))},
            "its container exited with code 3, 0",
        ),
        ({"stop_code": "EssentialContainerExited"}, "its container exited"),
        (
            {"stop_code": "UserInitiated", "stopped_reason": "by hand"},
            "its task was stopped (UserInitiated: by hand)",
        ),
    ],
)
def test_failure_is_rescheduled_with_its_reason(said: dict[str, object], reason: str) -> None:
    action = decision(RUNNING, task(**said))

    assert isinstance(action, Reschedule)
    assert action.cause == Cause.FAILURE
    assert action.message.startswith(f"Lazarus: (failure) {reason}")
    assert action.message.endswith("; rescheduled in 10 s, failure 1 of 3")
    assert not action.to_on_demand


def test_failures_wait_longer_each_time_and_end() -> None:
    actions = [
        decision(lost("failure", i, "PENDING"), in_attempt(i, stop_code="TaskFailedToStart"), now=1000)
        for i in range(5)
    ]

    assert [a.delay.total_seconds() for a in actions if isinstance(a, Reschedule)] == [10, 20, 40]
    for action in actions[3:]:
        assert isinstance(action, GiveUp)
        assert "Given up after" in action.message
        assert action.message.endswith("mend the cause, then retry the run in Prefect.")
    assert isinstance(actions[3], GiveUp)
    assert "Given up after 3 reschedules (max_reschedules 3)" in actions[3].message


def test_without_reschedules_a_failure_ends_it() -> None:
    limits = Limits(max_reschedules=0)

    assert isinstance(decision(RUNNING, task(stop_code="EssentialContainerExited"), limits=limits), GiveUp)
    assert isinstance(decision(RUNNING, task(**SPOT), limits=limits), Reschedule)


def test_crashed_engine_is_rescheduled() -> None:
    past = lost("failure", 0, "CRASHED", "Process exited with status code: -9.")
    action = decision(past, task(stop_code="EssentialContainerExited"))

    assert isinstance(action, Reschedule)
    assert "it crashed (Process exited with status code: -9.)" in action.message


def test_worker_that_could_not_submit_is_quoted() -> None:
    past = states((0, "SCHEDULED"), (1, "PENDING"), (5, "CRASHED", "Crashed", f"Failed to submit:\n{'x' * 900}"))
    action = decision(past, named=None)

    assert isinstance(action, Reschedule)
    assert "it crashed (Failed to submit: xxx" in action.message
    assert len(action.message) < 700


def test_run_without_deployment_is_given_up() -> None:
    action = decision(RUNNING, task(**SPOT), has_deployment=False)

    assert isinstance(action, GiveUp)
    assert action.message == (
        "Lazarus: Spot took its machine. The run has no deployment, so it cannot be rescheduled: start it again."
    )
    assert decision(lost("failure", 0, "CRASHED"), task(**SPOT), has_deployment=False) is None


# -- workers that died -----------------------------------------------------------------------------------------------


def test_pending_without_task_is_waited_for() -> None:
    assert decision(PENDING, named=None, now=91) is None
    action = decision(PENDING, named=None, now=92)

    assert isinstance(action, Reschedule)
    assert "its worker never started a task for it" in action.message


def test_live_task_that_nobody_named_is_adopted() -> None:
    live = task(status="RUNNING")

    assert decision(PENDING, live, named=None) == Adopt("a")
    assert decision(RUNNING, live, named="gone") == Adopt("a")
    assert not is_attended(Run("r", "", PENDING[-1], None), [live])


def test_stopped_task_that_nobody_named_tells_the_cause() -> None:
    stopped = task(**SPOT)

    assert decision(RUNNING, stopped, named=None, now=60) is None
    action = decision(RUNNING, stopped, named=None, now=200)
    assert isinstance(action, Reschedule)
    assert (action.cause, action.task) == (Cause.INTERRUPTION, stopped)


def test_task_that_ecs_has_forgotten() -> None:
    assert decision(RUNNING, now=60) is None
    action = decision(RUNNING, now=200)

    assert isinstance(action, Reschedule)
    assert "its task is unknown to ECS" in action.message


# -- earlier attempts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["PENDING", "RUNNING"])
def test_stopped_task_of_an_earlier_attempt_says_nothing(then: str) -> None:
    past = lost("interruption", 1, then)
    earlier = task("a", **SPOT)

    assert decision(past, earlier, task("b", "RUNNING", 102), named="b", now=120) is None
    assert is_attended(Run("r", "", past[-1], "b"), [earlier, task("b", "RUNNING", 102)])
    assert decision(past, earlier, named=None, now=120) is None
    assert decision(past, earlier, named="a", now=120) is None, "a worker may say very late which task it had started"


def test_late_word_of_a_task_that_had_stopped_before_the_run_was_taken_again() -> None:
    # Created within the tolerance for clocks, but gone before this attempt began.
    past = states((0, "PENDING"), (2, "SCHEDULED", RESCHEDULED, f"{MARK}(capacity) x"), (4, "PENDING"))
    earlier = task(created=0.5, stopped=1.5, stop_code="TaskFailedToStart", stopped_reason=NO_CAPACITY)

    assert decision(past, earlier, now=5) is None


def test_clocks_may_differ() -> None:
    assert isinstance(decision(RUNNING, task(created=-3, **SPOT)), Reschedule)


def test_retry_within_the_engine_is_no_new_attempt() -> None:
    past = states(
        (0, "SCHEDULED"), (1, "PENDING"), (10, "RUNNING"), (20, "SCHEDULED", "AwaitingRetry"), (30, "RUNNING")
    )
    action = decision(past, task(**SPOT))

    assert isinstance(action, Reschedule)
    assert action.cause == Cause.INTERRUPTION


def test_interrupted_while_the_engine_waits_for_its_retry() -> None:
    past = states((0, "SCHEDULED"), (1, "PENDING"), (10, "RUNNING"), (20, "SCHEDULED", "AwaitingRetry"))
    run = Run("r", "", past[-1], "a", retried_in_process=True)

    assert is_attended(run, [task(status="RUNNING")])
    assert decision(past, task(status="RUNNING"), retried_in_process=True) is None
    action = decision(past, task(**SPOT), retried_in_process=True)
    assert isinstance(action, Reschedule)
    assert action.cause == Cause.INTERRUPTION
    assert decision(past, task(**SPOT)) is None, "somebody else has scheduled it, and a worker will take it"


# -- never two -------------------------------------------------------------------------------------------------------


def test_younger_of_two_live_tasks_is_stopped() -> None:
    action = decision(RUNNING, task("b", "PROVISIONING", 5), task("a", "RUNNING", 2), named="b")

    assert isinstance(action, StopTasks)
    assert action.arns == ("b",)
    assert "another task executes the run already" in action.reason


def test_crashed_run_is_fenced_before_it_runs_again() -> None:
    past = lost("failure", 0, "CRASHED", "Failed to submit flow run to infrastructure: no answer")
    action = decision(past, task("a", "RUNNING"), task("b", "DEPROVISIONING"), named=None)

    assert isinstance(action, StopTasks)
    assert action.arns == ("a", "b")
    assert not is_attended(Run("r", "", past[-1], "a"), [task("a", "RUNNING")])


# -- cancellations ---------------------------------------------------------------------------------------------------

CANCELLING = states((0, "SCHEDULED"), (1, "PENDING"), (10, "RUNNING"), (20, "CANCELLING"))


def test_cancelling_leaves_the_task_to_its_worker_first() -> None:
    live = task(status="RUNNING")

    assert decision(CANCELLING, live, now=79) is None
    action = decision(CANCELLING, live, now=81)
    assert isinstance(action, StopTasks)
    assert action.arns == ("a",)


@pytest.mark.parametrize("named", ["a", None])
def test_cancelling_without_a_live_task_is_completed(named: str | None) -> None:
    assert isinstance(decision(CANCELLING, task(), named=named, now=21), Cancel)


@pytest.mark.parametrize("named", ["forgotten", None])
def test_cancelling_waits_for_a_worker_that_may_be_starting_a_task(named: str | None) -> None:
    assert decision(CANCELLING, named=named, now=100) is None
    assert isinstance(decision(CANCELLING, named=named, now=111), Cancel)


@pytest.mark.parametrize("named", ["a", None])
def test_cancelling_is_not_completed_by_the_task_of_an_earlier_attempt(named: str | None) -> None:
    past = [*lost("interruption", 1, "PENDING"), *states((120, "CANCELLING"))]

    assert decision(past, task(**SPOT), named=named, now=130) is None
    assert isinstance(decision(past, task(**SPOT), named=named, now=211), Cancel)


# -- what is none of its business ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SCHEDULED", "PAUSED", "COMPLETED", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("tasks", [[], [task(**SPOT)], [task(status="RUNNING")]])
def test_other_states_are_left_alone(kind: str, tasks: list[Task]) -> None:
    assert decision(lost("failure", 0, kind), *tasks, now=10_000) is None


def test_crashed_long_ago_is_history() -> None:
    past = lost("failure", 0, "CRASHED", "boom")

    assert decision(past, task(), now=10 + 3600) is not None
    assert decision(past, task(), now=10 + 3601) is None


def test_given_up_stays_given_up() -> None:
    past = lost("failure", 3, "CRASHED", f"{MARK}it ran out of memory. Given up after 3 reschedules")

    assert decision(past, in_attempt(3), now=400) is None
    assert decision(past, in_attempt(3, status="RUNNING"), now=400) is None


# -- parked runs -----------------------------------------------------------------------------------------------------


def parked(message: str) -> list[State]:
    return states((0, "SCHEDULED"), (1, "PENDING"), (10, "RUNNING"), (60, "SCHEDULED", PARKED, message))


def test_parked_run_of_a_dead_function_is_carried_on() -> None:
    first = decision(lost("interruption", 1), in_attempt(1, **SPOT), now=160)
    assert isinstance(first, Reschedule)
    past = parked(first.message)

    assert decision(past, task(), named=None, now=90) is None
    assert decision(past, task(), named=None, now=91) == Reschedule(
        first.cause, first.message, timedelta(0), to_on_demand=True, falls_back=True, task=task()
    )


def test_parked_run_stays_on_demand() -> None:
    first = decision(lost("interruption", 2), in_attempt(2, stop_code="EssentialContainerExited"), now=260)
    assert isinstance(first, Reschedule)
    action = decision(parked(first.message), named=None, now=200)

    assert isinstance(action, Reschedule)
    assert (action.cause, action.to_on_demand, action.falls_back) == (Cause.FAILURE, True, False)


def test_parked_run_is_fenced() -> None:
    assert isinstance(decision(parked("x"), task(status="RUNNING"), now=61), StopTasks)


# -- counting --------------------------------------------------------------------------------------------------------


def test_history_counts_each_cause() -> None:
    assert history(lost("capacity", 2)) == [Cause.CAPACITY] * 2
    assert history(RUNNING) == []


def test_history_begins_anew_when_somebody_retries_the_run() -> None:
    given_up = [("CRASHED", "Crashed", f"{MARK}Given up"), ("SCHEDULED", "AwaitingRetry", "")]
    past = lost("failure", 3) + [State(f"u{i}", *item[:2], at(500 + i), item[2]) for i, item in enumerate(given_up)]

    assert history(past) == []
    past += states((600, "PENDING"), (610, "RUNNING"))
    stopped = task(created=601, stopped=650, stop_code="EssentialContainerExited")
    action = decision(past, stopped, now=660)
    assert isinstance(action, Reschedule)
    assert "failure 1 of 3" in action.message


def test_history_survives_a_crash_that_was_none() -> None:
    # The worker reports a crash because RunTask's answer was lost, and the task runs all the same.
    past = lost("interruption", 1) + states((120, "CRASHED"), (130, "RUNNING"))

    assert history(past) == [Cause.INTERRUPTION]


def test_history_survives_lazarus_own_rescheduling_of_a_crash() -> None:
    said = f"{MARK}(failure) x"
    past = states(
        (1, "PENDING"),
        (2, "CRASHED", "Crashed", "boom"),
        (3, "SCHEDULED", PARKED, said),
        (4, "SCHEDULED", RESCHEDULED, said),
        (5, "PENDING"),
        (6, "CRASHED", "Crashed", "boom"),
    )

    assert history(past) == [Cause.FAILURE]


def test_two_functions_at_once_count_once() -> None:
    said = f"{MARK}(interruption) x"
    names = [PARKED, PARKED, RESCHEDULED, PARKED, RESCHEDULED]
    past = RUNNING + states(*[(20 + i, "SCHEDULED", name, said) for i, name in enumerate(names)])

    assert history(past) == [Cause.INTERRUPTION]


def test_what_was_parked_and_put_back_does_not_count() -> None:
    past = RUNNING + states((20, "SCHEDULED", PARKED, f"{MARK}(failure) x"), (21, "RUNNING"))

    assert history(past) == []


# Instances, not Fargate

INSTANCE_GONE: dict[str, Any] = {"stopped_reason": "Host EC2 (instance i-0123456789abcdef0) terminated."}


def test_an_instance_that_spot_took_is_an_interruption() -> None:
    limits = Limits(spot_attempts=1, spot_provider="gpu-spot")
    action = decision(RUNNING, task(**INSTANCE_GONE, capacity_provider="gpu-spot"), limits=limits)
    assert isinstance(action, Reschedule)
    assert (action.cause, action.to_on_demand, action.falls_back) == (Cause.INTERRUPTION, True, True)
    assert "Spot took its machine" in action.message


@pytest.mark.parametrize("provider", ["gpu", ""])
def test_another_instance_that_goes_is_a_failure(provider: str) -> None:
    limits = Limits(spot_attempts=1, spot_provider="gpu-spot")
    action = decision(RUNNING, task(**INSTANCE_GONE, capacity_provider=provider), limits=limits)
    assert isinstance(action, Reschedule)
    assert (action.cause, action.to_on_demand) == (Cause.FAILURE, False)
    assert "its machine is gone (Host EC2 (instance i-0123456789abcdef0) terminated.)" in action.message


@pytest.mark.parametrize(
    "reason", ["RESOURCE:GPU", "RESOURCE:MEMORY", "RESOURCE:CPU", "RESOURCE:ENI", "RESOURCE:PORTS"]
)
def test_instances_that_are_full_lack_capacity(reason: str) -> None:
    message = f"Failed to submit: RuntimeError: Failed to run ECS task: {reason}"
    action = decision(states((0, "SCHEDULED"), (1, "PENDING"), (20, "CRASHED", "Crashed", message)), named=None)
    assert isinstance(action, Reschedule)
    assert action.cause == Cause.CAPACITY


@pytest.mark.parametrize("reason", ["RESOURCE:MEMORY", "EMPTY CAPACITY PROVIDER", "NO ACTIVE INSTANCES"])
def test_a_task_that_waited_for_an_instance_in_vain_lacked_capacity(reason: str) -> None:
    stopped = task(stop_code="TaskFailedToStart", stopped_reason=f"TaskFailedToStart: {reason}")
    action = decision(PENDING, stopped)
    assert isinstance(action, Reschedule)
    assert action.cause == Cause.CAPACITY


# What speaks of capacity, or of a resource, and lacks something else. None of it ends by itself.

PROVIDER_ARN = "arn:aws:ecs:us-east-1:123456789012:capacity-provider/no-capacity"
DENIED = (
    "An error occurred (AccessDeniedException) when calling the RunTask operation: User: "
    "arn:aws:sts::123456789012:assumed-role/capacity-team/worker is not authorized to perform: ecs:RunTask "
    "on resource: "
)


@pytest.mark.parametrize(
    "message",
    [
        f"{DENIED}{PROVIDER_ARN} because no identity-based policy allows the ecs:RunTask action",
        f"{DENIED}arn:aws:ecs:us-east-1:123456789012:task-definition/capacity:1 with an explicit deny in a service "
        "control policy",
        "An error occurred (InvalidParameterException) when calling the RunTask operation: No Container Instances were "
        "found in your cluster.",  # of the launch type EXTERNAL: no machine has been registered
        "Failed to run ECS task: AGENT",
        "Failed to run ECS task: ATTRIBUTE",
        "Failed to run ECS task: MemberOf placement constraint unsatisfied.",
        "Failed to run ECS task: RESOURCE:CPUS",
    ],
)
def test_what_only_speaks_of_capacity_is_a_failure_and_capped(message: str) -> None:
    message = f"Failed to submit flow run to infrastructure: RuntimeError: {message}"
    actions = [decision(lost("failure", i, "CRASHED", message), named=None, now=1000) for i in range(4)]
    assert [a.cause for a in actions if isinstance(a, Reschedule)] == [Cause.FAILURE] * 3
    assert isinstance(actions[3], GiveUp)
    assert message in actions[3].message


@pytest.mark.parametrize(
    "reason",
    [
        f"ResourceInitializationError: AccessDeniedException: not authorized on resource: {PROVIDER_ARN}",
        "TaskFailedToStart: MemberOf placement constraint unsatisfied",
        "TaskFailedToStart: AGENT",
    ],
)
def test_a_task_that_could_not_start_for_something_else_is_a_failure(reason: str) -> None:
    action = decision(PENDING, task(stop_code="TaskFailedToStart", stopped_reason=reason))
    assert isinstance(action, Reschedule)
    assert action.cause == Cause.FAILURE
    assert reason in action.message
