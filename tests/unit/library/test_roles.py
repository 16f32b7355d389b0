import aws_cdk as cdk
import pytest
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Template
from library_helpers import API_KEY_ARN, allow, in_order, make_parts, new_stack, plain, resource, statements

from cdk_prefect_ecs import ExecutionRole, FlowImage, PrefectApi, WorkerRole
from cdk_prefect_ecs.roles import grant_run_flows

ARN = "arn:<AWS::Partition>:{}:<AWS::Region>:<AWS::AccountId>:{}"
DEFINITIONS = ARN.format("ecs", "task-definition/Test-etl:*")
TASKS = ARN.format("ecs", "task/<Cluster>/*")
IN_CLUSTER = {"ArnEquals": {"ecs:cluster": "<Cluster.Arn>"}}
WRITE_LOG = allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<Logs.Arn>")


@pytest.fixture(scope="module")
def template() -> Template:
    parts = make_parts()
    grant_run_flows(
        parts.worker_role,
        parts.stack,
        cluster=parts.cluster,
        family="Test-etl",
        task_roles=[parts.execution_role, parts.flow_role],
        observer_queue_name="no-queue",
    )
    return Template.from_stack(parts.stack)


@pytest.mark.parametrize("role", ["ExecutionRole", "WorkerRole", "FlowRole"])
def test_only_ecs_tasks_of_this_account_assume_it(template: Template, role: str) -> None:
    document = plain(resource(template, role)["Properties"]["AssumeRolePolicyDocument"])
    assert document["Statement"] == [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Condition": {
                "StringEquals": {"aws:SourceAccount": "<AWS::AccountId>"},
                "ArnLike": {"aws:SourceArn": ARN.format("ecs", "*")},
            },
        }
    ]


def test_there_are_three_roles_without_names(template: Template) -> None:
    roles = template.find_resources("AWS::IAM::Role")
    assert len(roles) == 3
    assert all("RoleName" not in role["Properties"] for role in roles.values())


def test_execution_role_is_exact(template: Template) -> None:
    assert statements(template, "ExecutionRole") == in_order([WRITE_LOG, allow("ssm:GetParameters", API_KEY_ARN)])


def test_execution_role_of_an_image_in_ecr() -> None:
    stack = new_stack()
    repository = ecr.Repository(stack, "Images")
    parts = make_parts(stack, image=FlowImage.from_ecr_repository(repository, "1"))
    assert statements(Template.from_stack(parts.stack), "ExecutionRole") == in_order(
        [
            WRITE_LOG,
            allow("ssm:GetParameters", API_KEY_ARN),
            allow("ecr:GetAuthorizationToken", "*"),
            allow(
                ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], "<Images.Arn>"
            ),
        ]
    )


def test_execution_role_of_an_imported_log_group_and_no_secret() -> None:
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    ExecutionRole(
        stack,
        "ExecutionRole",
        log_group=logs.LogGroup.from_log_group_name(stack, "Logs", "/prefect"),
        api=PrefectApi.self_hosted("https://prefect.example.com/api"),
    )
    assert statements(Template.from_stack(stack), "ExecutionRole") == [
        allow(
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            "arn:aws:logs:us-east-1:123456789012:log-group:/prefect:*",
        )
    ]


def test_flow_role_is_exact(template: Template) -> None:
    bucket = "<StorageBucket.Arn>"
    assert statements(template, "FlowRole") == in_order(
        [
            allow("s3:ListBucket", bucket),
            allow("s3:GetObject", f"{bucket}/*"),
            allow(
                ["s3:PutObject", "s3:AbortMultipartUpload"],
                [f"{bucket}/results/*", f"{bucket}/data/*"],
            ),
        ]
    )


def test_worker_role_is_exact(template: Template) -> None:
    assert statements(template, "WorkerRole") == in_order(
        [
            allow("ecs:RunTask", DEFINITIONS, IN_CLUSTER),
            allow("ecs:StopTask", TASKS, IN_CLUSTER),
            allow("ecs:TagResource", TASKS, {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
            allow("ecs:RegisterTaskDefinition", DEFINITIONS),
            allow("ecs:DescribeTaskDefinition", "*"),
            allow(
                "iam:PassRole",
                ["<ExecutionRole.Arn>", "<FlowRole.Arn>"],
                {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
            allow("sqs:GetQueueUrl", ARN.format("sqs", "no-queue")),
        ]
    )


def test_worker_role_has_no_permission_by_itself() -> None:
    stack = new_stack()
    WorkerRole(stack, "WorkerRole")
    assert statements(Template.from_stack(stack), "WorkerRole") == []


def test_imported_worker_role_is_granted_and_imported_roles_are_passed() -> None:
    parts = make_parts()
    role_arn = "arn:aws:iam::123456789012:role/{}"
    imported = {name: iam.Role.from_role_arn(parts.stack, name, role_arn.format(name)) for name in ("W", "E", "F")}
    grant_run_flows(
        imported["W"],
        parts.stack,
        cluster=parts.cluster,
        family="Test-etl",
        task_roles=[imported["E"], imported["F"]],
        observer_queue_name="no-queue",
    )
    policies = Template.from_stack(parts.stack).find_resources("AWS::IAM::Policy", {"Properties": {"Roles": ["W"]}})
    assert len(policies) == 1
    found = next(iter(policies.values()))["Properties"]["PolicyDocument"]["Statement"]
    assert [s["Resource"] for s in found if s["Action"] == "iam:PassRole"] == [
        [role_arn.format("E"), role_arn.format("F")]
    ]


def test_two_families_of_one_worker_stay_apart() -> None:
    parts = make_parts()
    for family in ("one", "two"):
        grant_run_flows(
            parts.worker_role,
            parts.stack,
            cluster=parts.cluster,
            family=family,
            task_roles=[parts.flow_role],
            observer_queue_name=family,
        )
    run = [s for s in statements(Template.from_stack(parts.stack), "WorkerRole") if "ecs:RunTask" in s["Action"]]
    resources = sorted(resource for statement in run for resource in statement["Resource"])
    assert resources == [ARN.format("ecs", f"task-definition/{family}:*") for family in ("one", "two")]
