"""What ECS calls need, against the Service Authorization Reference."""

import pytest

from embedded.emulator.authorization import Check, more_exactly, required

ACCOUNT, REGION = "000000000000", "us-east-1"
ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}:"
CLUSTER = {"ecs:cluster": f"{ECS}cluster/prefect"}
ROLES = {"executionRoleArn": "arn:aws:iam::000000000000:role/ex", "taskRoleArn": "arn:aws:iam::000000000000:role/task"}
PASSED = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


def checks(operation: str, **data: object) -> list[Check]:
    return list(required(operation, data, account=ACCOUNT, region=REGION))


@pytest.mark.parametrize(
    ("reference", "resource"),
    [
        ("etl:3", "task-definition/etl:3"),
        ("unknown", "task-definition/unknown"),
        (f"{ECS}task-definition/etl:3", "task-definition/etl:3"),
    ],
)
def test_run_task_is_about_the_task_definition(reference: str, resource: str) -> None:
    assert checks("RunTask", taskDefinition=reference, cluster="prefect") == [
        Check("ecs:RunTask", ECS + resource, CLUSTER)
    ]


def test_run_task_with_tags_and_role_overrides_needs_more() -> None:
    found = checks(
        "RunTask", taskDefinition="etl:3", cluster=f"{ECS}cluster/prefect", tags=[{"key": "a"}], overrides=ROLES
    )
    assert found[1:] == [
        Check("ecs:TagResource", f"{ECS}task/prefect/*", {"ecs:CreateAction": "RunTask"}),
        Check("iam:PassRole", ROLES["executionRoleArn"], PASSED),
        Check("iam:PassRole", ROLES["taskRoleArn"], PASSED),
    ]


def test_a_family_means_the_revision_that_will_run_and_its_roles_are_passed() -> None:
    definition = {"taskDefinitionArn": f"{ECS}task-definition/etl:7", **ROLES}
    data = {"taskDefinition": "etl", "cluster": "prefect", "overrides": {"taskRoleArn": "arn:aws:iam::0:role/other"}}
    found = required("RunTask", data, account=ACCOUNT, region=REGION, definition=definition)
    assert list(found) == [
        Check("ecs:RunTask", f"{ECS}task-definition/etl:7", CLUSTER),
        Check("iam:PassRole", ROLES["executionRoleArn"], PASSED),
        Check("iam:PassRole", "arn:aws:iam::0:role/other", PASSED),
    ]


@pytest.mark.parametrize("reference", ["abc", f"{ECS}task/prefect/abc"])
def test_stop_task_is_about_the_task(reference: str) -> None:
    assert checks("StopTask", task=reference, cluster="prefect") == [
        Check("ecs:StopTask", f"{ECS}task/prefect/abc", CLUSTER)
    ]


def test_describe_tasks_is_about_every_task() -> None:
    found = checks("DescribeTasks", tasks=["a", "b"], cluster="prefect")
    assert [check.resource for check in found] == [f"{ECS}task/prefect/a", f"{ECS}task/prefect/b"]


def test_register_task_definition_is_about_the_family_and_passes_roles() -> None:
    assert checks("RegisterTaskDefinition", family="etl", **ROLES) == [
        Check("ecs:RegisterTaskDefinition", f"{ECS}task-definition/etl:*"),
        Check("iam:PassRole", ROLES["executionRoleArn"], PASSED),
        Check("iam:PassRole", ROLES["taskRoleArn"], PASSED),
    ]


@pytest.mark.parametrize("operation", ["DescribeTaskDefinition", "DeregisterTaskDefinition"])
def test_task_definitions_have_no_resource_otherwise(operation: str) -> None:
    assert checks(operation, taskDefinition="etl:3") == [Check(f"ecs:{operation}", "*")]


def test_services_and_clusters() -> None:
    assert checks("UpdateService", service="worker", cluster="prefect") == [
        Check("ecs:UpdateService", f"{ECS}service/prefect/worker", CLUSTER)
    ]
    assert checks("DescribeClusters", clusters=["prefect"]) == [Check("ecs:DescribeClusters", f"{ECS}cluster/prefect")]
    assert checks("ListTasks", cluster="prefect") == [Check("ecs:ListTasks", "*", CLUSTER)]


def test_machines() -> None:
    for operation in ("RegisterContainerInstance", "DeregisterContainerInstance", "ListContainerInstances"):
        assert checks(operation, cluster="prefect") == [Check(f"ecs:{operation}", f"{ECS}cluster/prefect")]
    found = checks("DescribeContainerInstances", cluster="prefect", containerInstances=["a"])
    assert found == [Check("ecs:DescribeContainerInstances", f"{ECS}container-instance/prefect/a", CLUSTER)]


@pytest.mark.parametrize(
    ("service", "resource", "data", "exactly"),
    [
        ("logs", "arn:x:log-group:g", {"logStreamName": "s"}, "arn:x:log-group:g:log-stream:s"),
        ("logs", "*", {"logStreamName": "s"}, "*"),
        ("ecr", "*", {"repositoryNames": ["cdk-assets"]}, "arn:aws:ecr:us-east-1:000000000000:repository/cdk-assets"),
        ("ecr", "*", {"repositoryNames": ["a", "b"]}, "*"),
        ("ecr", "arn:r", {"repositoryName": "a"}, "arn:r"),
        ("ssm", "*", {"Names": ["/prefect/key"]}, "arn:aws:ssm:us-east-1:000000000000:parameter/prefect/key"),
        ("ssm", "*", {"Names": ["/prefect/key", "/other"]}, "*"),
        ("s3", "arn:b", {}, "arn:b"),
    ],
)
def test_resources_where_ministack_is_vague(service: str, resource: str, data: dict, exactly: str) -> None:
    assert more_exactly(service, resource, data) == exactly
