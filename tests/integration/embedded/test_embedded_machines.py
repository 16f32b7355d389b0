"""Where a task can be placed that is not for Fargate: by launch type it needs a machine that has registered itself."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.exceptions import ClientError
from embedded_lab import CLUSTER, NETWORK, Lab

pytestmark = pytest.mark.integration

EXTERNAL = {"name": "ecs.capability.external"}
ON_A_BRIDGE: dict[str, Any] = {"networkMode": "bridge", "requiresCompatibilities": ["EC2"]}
ON_AN_INSTANCE: dict[str, Any] = {"requiresCompatibilities": ["EC2"]}


@pytest.fixture
def definition(lab: Lab) -> str:
    return lab.define("echo here", task=ON_A_BRIDGE)


@pytest.fixture
def machine(lab: Lab) -> Iterator[str]:
    """A machine of one's own."""
    ecs = lab.client("ecs")
    registered = ecs.register_container_instance(cluster=CLUSTER, attributes=[EXTERNAL])["containerInstance"]
    yield registered["containerInstanceArn"]
    ecs.deregister_container_instance(cluster=CLUSTER, containerInstance=registered["containerInstanceArn"])
    assert ecs.list_container_instances(cluster=CLUSTER)["containerInstanceArns"] == []


def refused(lab: Lab, definition: str, **request: object) -> str:
    with pytest.raises(ClientError) as caught:
        lab.client("ecs").run_task(cluster=CLUSTER, taskDefinition=definition, **request)
    return str(caught.value)


@pytest.mark.parametrize("launch_type", ["EC2", "EXTERNAL"])
def test_without_a_machine_there_is_no_task(lab: Lab, definition: str, launch_type: str) -> None:
    said = refused(lab, definition, launchType=launch_type)
    assert "(InvalidParameterException)" in said
    assert said.endswith("No Container Instances were found in your cluster.")


def test_a_machine_of_ones_own_runs_what_is_asked_of_it(lab: Lab, definition: str, machine: str) -> None:
    ecs = lab.client("ecs")
    assert ecs.list_container_instances(cluster=CLUSTER)["containerInstanceArns"] == [machine]
    described = ecs.describe_container_instances(cluster=CLUSTER, containerInstances=[machine, "gone"])
    (instance,), (missing,) = described["containerInstances"], described["failures"]
    assert (instance["status"], instance["attributes"]) == ("ACTIVE", [EXTERNAL])
    assert missing["reason"] == "MISSING"
    (cluster,) = ecs.describe_clusters(clusters=[CLUSTER])["clusters"]
    assert cluster["registeredContainerInstancesCount"] == 1

    (task,) = ecs.run_task(cluster=CLUSTER, taskDefinition=definition, launchType="EXTERNAL")["tasks"]
    assert lab.wait(task["taskArn"], "STOPPED").exit_codes == {"main": 0}
    assert lab.logs(task["taskArn"]) == ["here"]
    task = lab.describe(task["taskArn"])
    assert (task["launchType"], task["containerInstanceArn"]) == ("EXTERNAL", machine)
    assert "capacityProviderName" not in task

    assert "No Container Instances" in refused(lab, definition, launchType="EC2")  # it is none of AWS's


def test_who_may_register_a_machine(lab: Lab) -> None:
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ssm.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    agent, stranger = lab.role("lab-agent", trust=trust), lab.role("lab-no-agent", trust=trust)
    policy = "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
    lab.client("iam").attach_role_policy(RoleName="lab-agent", PolicyArn=policy)
    with closing(lab.aws.client_as(agent, "ecs")) as ecs:
        machine = ecs.register_container_instance(cluster=CLUSTER)["containerInstance"]["containerInstanceArn"]
        ended = ecs.deregister_container_instance(cluster=CLUSTER, containerInstance=machine)["containerInstance"]
        assert ended["status"] == "INACTIVE"
    with (
        closing(lab.aws.client_as(stranger, "ecs")) as ecs,
        pytest.raises(ClientError, match="not authorized to perform: ecs:RegisterContainerInstance on resource"),
    ):
        ecs.register_container_instance(cluster=CLUSTER)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (ON_A_BRIDGE, "Network Configuration is not valid for the given networkMode of this task definition."),
        (ON_AN_INSTANCE, "Assign public IP is not supported for this launch type."),
    ],
)
def test_a_network_that_instances_do_not_have_is_refused(lab: Lab, task: dict[str, Any], message: str) -> None:
    assert refused(lab, lab.define("true", task=task), launchType="EC2", networkConfiguration=NETWORK).endswith(message)
