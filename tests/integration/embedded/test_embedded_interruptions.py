"""What a developer may do to a cloud: take machines and capacity away, and see services cope."""

from itertools import pairwise

import pytest
from embedded_lab import CLUSTER, NETWORK, ON_DEMAND, SPOT, Lab, wait_until

from embedded import EmbeddedError

pytestmark = pytest.mark.integration

REASON = "Capacity is unavailable at this time. Please try again later or in a different availability zone"


def test_an_interruption_with_notice(lab: Lab) -> None:
    arn = lab.run(lab.define("trap 'echo saved; exit 1' TERM; echo ready; while :; do sleep 0.05; done"))
    lab.wait_for_line(arn, "ready")
    lab.aws.interrupt(arn)
    task = lab.wait(arn, "STOPPED")
    assert (task.stop_code, task.stopped_reason) == ("SpotInterruption", "Your Spot Task was interrupted.")
    assert task.exit_codes == {"main": 1}
    assert lab.logs(arn)[-1] == "saved"
    notice, *_, stopped = [event for event in lab.events(arn) if event["desiredStatus"] == "STOPPED"]
    assert (notice["lastStatus"], notice["stopCode"]) == ("RUNNING", "TerminationNotice")
    assert notice["stoppedReason"] == "Your Spot Task was interrupted."
    assert "exitCode" not in notice["containers"][0]
    assert (stopped["stopCode"], stopped["containers"][0]["exitCode"]) == ("SpotInterruption", 1)
    with pytest.raises(EmbeddedError, match="STOPPED and already stopping or stopped"):
        lab.aws.interrupt(arn)


def test_the_grace_ends(lab: Lab) -> None:
    arn = lab.run(lab.define("trap '' TERM; echo ready; while :; do sleep 0.05; done", stopTimeout=120))
    lab.wait_for_line(arn, "ready")
    lab.aws.interrupt(arn, grace_seconds=0.3)
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 137}


def test_a_machine_that_is_gone(lab: Lab) -> None:
    arn = lab.run(lab.define("trap 'echo saved; exit 1' TERM; echo ready; while :; do sleep 0.05; done"))
    lab.wait_for_line(arn, "ready")
    lab.aws.interrupt(arn, notice=False)
    task = lab.wait(arn, "STOPPED")
    assert (task.stop_code, task.exit_codes) == ("SpotInterruption", {"main": 137})
    assert lab.logs(arn) == ["ready"]
    statuses = [event["lastStatus"] for event in lab.events(arn)]
    assert statuses.count("RUNNING") == 1, "there was no notice"


def test_a_machine_may_go_during_the_grace(lab: Lab) -> None:
    arn = lab.run(lab.define("trap '' TERM; echo ready; while :; do sleep 0.05; done", stopTimeout=120))
    lab.wait_for_line(arn, "ready")
    lab.client("ecs").stop_task(cluster=CLUSTER, task=arn)
    with pytest.raises(EmbeddedError, match="already stopping"):
        lab.aws.interrupt(arn)
    lab.aws.interrupt(arn, notice=False)
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 137}


def test_on_demand_tasks_get_no_notice(lab: Lab) -> None:
    arn = lab.run(lab.define("echo ready; sleep 60"), capacityProviderStrategy=ON_DEMAND)
    lab.wait_for_line(arn, "ready")
    with pytest.raises(EmbeddedError, match="runs on FARGATE, and AWS gives notice only on FARGATE_SPOT"):
        lab.aws.interrupt(arn)
    lab.aws.interrupt(arn, force=True)
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 143}
    with pytest.raises(EmbeddedError, match="there is no task 'arn:nothing'"):
        lab.aws.interrupt("arn:nothing")


def test_starvation(lab: Lab) -> None:
    ecs, definition = lab.client("ecs"), lab.define("true")
    request = {"cluster": CLUSTER, "taskDefinition": definition, "networkConfiguration": NETWORK}
    try:
        lab.aws.set_capacity("FARGATE_SPOT", available=False)
        answer = ecs.run_task(**request, capacityProviderStrategy=SPOT)
        assert answer["tasks"] == []
        assert [failure["reason"] for failure in answer["failures"]] == [REASON]
        assert ecs.run_task(**request, launchType="FARGATE")["failures"] == [], "on-demand has machines"
        lab.aws.set_capacity("FARGATE_SPOT", available=False, fail_after_start=True)
        arn = lab.run(definition)
        task = lab.wait(arn, "STOPPED")
        assert (task.stop_code, task.stopped_reason) == ("TaskFailedToStart", REASON)
        assert [e["lastStatus"] for e in lab.events(arn)] == ["PROVISIONING", "DEPROVISIONING", "STOPPED"]
    finally:
        lab.aws.set_capacity("FARGATE_SPOT", available=True)
    assert lab.wait(lab.run(definition), "STOPPED").exit_codes == {"main": 0}


def service(lab: Lab, name: str) -> dict:
    found: dict = lab.client("ecs").describe_services(cluster=CLUSTER, services=[name])["services"][0]
    return found


def create_service(lab: Lab, name: str, definition: str, **more: object) -> None:
    lab.client("ecs").create_service(
        cluster=CLUSTER,
        serviceName=name,
        taskDefinition=definition,
        networkConfiguration=NETWORK,
        **{"desiredCount": 1, "capacityProviderStrategy": ON_DEMAND, **more},
    )


def tasks_of(lab: Lab, name: str) -> list:
    return [task for task in lab.aws.tasks(CLUSTER) if task.group == f"service:{name}"]


def delete_service(lab: Lab, name: str) -> None:
    lab.client("ecs").delete_service(cluster=CLUSTER, service=name, force=True)
    wait_until(lambda: all(t.last_status == "STOPPED" for t in tasks_of(lab, name)), f"{name} to end")


def test_a_service_replaces_what_it_loses(lab: Lab) -> None:
    create_service(lab, "steady", lab.define("sleep 60"), desiredCount=2)
    wait_until(lambda: service(lab, "steady")["deployments"][0]["rolloutState"] == "COMPLETED", "a steady state")
    assert service(lab, "steady")["runningCount"] == 2
    lost = tasks_of(lab, "steady")[0].arn
    lab.aws.interrupt(lost, notice=False)
    wait_until(
        lambda: (
            sum(t.last_status == "RUNNING" for t in tasks_of(lab, "steady")) == 2 and len(tasks_of(lab, "steady")) == 3
        ),
        "a replacement",
    )
    lab.client("ecs").update_service(cluster=CLUSTER, service="steady", desiredCount=1)
    wait_until(lambda: sum(t.desired_status == "RUNNING" for t in tasks_of(lab, "steady")) == 1, "scaling in")
    delete_service(lab, "steady")
    assert {t.stop_code for t in tasks_of(lab, "steady")} == {"InfrastructureHealth", "ServiceSchedulerInitiated"}


def test_a_new_definition_replaces_the_old_one_without_a_gap(lab: Lab) -> None:
    first, second = lab.define("sleep 60"), lab.define("sleep 60")
    create_service(lab, "rolling", first)
    wait_until(lambda: service(lab, "rolling")["deployments"][0]["rolloutState"] == "COMPLETED", "the first")
    lab.client("ecs").update_service(cluster=CLUSTER, service="rolling", taskDefinition=second)
    wait_until(lambda: service(lab, "rolling")["deployments"][0]["rolloutState"] == "COMPLETED", "the second")
    wait_until(lambda: tasks_of(lab, "rolling")[0].stopped_at is not None, "the old one to stop")
    old, new = tasks_of(lab, "rolling")
    assert new.last_status == "RUNNING"
    assert new.family in second
    assert new.started_at < old.stopped_at, "the old one stayed until the new one was steady"
    assert old.stop_code == "ServiceSchedulerInitiated"
    delete_service(lab, "rolling")


def test_a_service_that_cannot_start_slows_down_and_trips_its_breaker(lab: Lab) -> None:
    breaker = {"deploymentCircuitBreaker": {"enable": True, "rollback": False}}
    create_service(lab, "broken", lab.define("exit 9"), deploymentConfiguration=breaker)
    wait_until(lambda: service(lab, "broken")["deployments"][0]["rolloutState"] == "FAILED", "the breaker")
    tasks = tasks_of(lab, "broken")
    assert len(tasks) == 3
    waits = [(b.created_at - a.stopped_at).total_seconds() for a, b in pairwise(tasks)]
    assert waits[0] >= 1
    assert waits[1] >= 2
    assert service(lab, "broken")["deployments"][0]["failedTasks"] == 3
    delete_service(lab, "broken")


def test_an_unhealthy_task_is_replaced(lab: Lab) -> None:
    check = {"command": ["CMD-SHELL", "test ! -e ill"], "interval": 1, "retries": 1}
    create_service(lab, "ill", lab.define("sleep 0.5; touch ill; sleep 60", healthCheck=check))
    wait_until(lambda: len(tasks_of(lab, "ill")) > 1, "a replacement")
    first = lab.wait(tasks_of(lab, "ill")[0].arn, "STOPPED")
    assert (first.stop_code, first.stopped_reason) == (
        "ServiceSchedulerInitiated",
        "Task failed container health checks",
    )
    delete_service(lab, "ill")


def test_a_service_waits_for_capacity(lab: Lab) -> None:
    try:
        lab.aws.set_capacity("FARGATE", available=False)
        create_service(lab, "hungry", lab.define("sleep 60"))
        wait_until(lambda: any(REASON in e["message"] for e in service(lab, "hungry")["events"]), "an event")
        assert tasks_of(lab, "hungry") == []
    finally:
        lab.aws.set_capacity("FARGATE", available=True)
    wait_until(lambda: service(lab, "hungry")["runningCount"] == 1, "a task")
    delete_service(lab, "hungry")
