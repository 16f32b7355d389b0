import ast
from collections.abc import Callable
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Template
from library_helpers import (
    Parts,
    allow,
    assert_refused,
    imported_vpc,
    in_order,
    make_parts,
    new_stack,
    only,
    plain,
    resource,
    statements,
)

from cdk_prefect_ecs import DaskAccess, FlowCluster, FlowImage, FlowNetwork

ECS = "arn:<AWS::Partition>:ecs:<AWS::Region>:<AWS::AccountId>"
DEFINITION = "AWS::ECS::TaskDefinition"
PREFIX = "DASK_CLOUDPROVIDER__ECS__"


def access(parts: Parts, construct_id: str = "Dask", **kwargs: Any) -> DaskAccess:
    return DaskAccess(parts.stack, construct_id, cluster=parts.cluster, network=parts.network, **kwargs)


def environment(dask: DaskAccess) -> dict[str, str]:
    """The variables without their common prefix, to read."""
    stack = cdk.Stack.of(dask)
    return {name.removeprefix(PREFIX): plain(stack.resolve(value)) for name, value in dask.environment.items()}


@pytest.fixture(scope="module")
def defaults() -> tuple[Template, dict[str, str]]:
    parts = make_parts()
    dask = access(parts)
    dask.grant_run_clusters(parts.flow_role)
    return Template.from_stack(parts.stack), environment(dask)


@pytest.fixture(scope="module")
def template(defaults: tuple[Template, dict[str, str]]) -> Template:
    return defaults[0]


@pytest.mark.parametrize(("role", "cpu", "memory"), [("Scheduler", "1024", "4096"), ("Worker", "4096", "16384")])
def test_task_definitions(template: Template, role: str, cpu: str, memory: str) -> None:
    name = role.lower()
    definition = plain(resource(template, f"Dask{role}TaskDefinition")["Properties"])
    (container,) = definition.pop("ContainerDefinitions")
    assert definition == {
        "Family": f"Test-Dask-{name}",
        "Cpu": cpu,
        "Memory": memory,
        "NetworkMode": "awsvpc",
        "RequiresCompatibilities": ["FARGATE"],
        "RuntimePlatform": {"CpuArchitecture": "X86_64", "OperatingSystemFamily": "LINUX"},
        "ExecutionRoleArn": "<DaskExecutionRole.Arn>",
        "TaskRoleArn": "<DaskTaskRole.Arn>",
    }
    assert container == {
        "Name": f"dask-{name}",
        "Image": FlowImage.default().reference,
        "Command": ["dask", name],
        "Essential": True,
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": "<DaskLogGroup>",
                "awslogs-region": "<AWS::Region>",
                "awslogs-stream-prefix": "dask",
            },
        },
    }


def test_only_members_and_flow_runs_come_in(template: Template) -> None:
    group = plain(resource(template, "DaskSecurityGroup")["Properties"])
    assert "SecurityGroupIngress" not in group
    rules = [plain(rule["Properties"]) for rule in template.find_resources("AWS::EC2::SecurityGroupIngress").values()]
    assert {(rule["SourceSecurityGroupId"], rule["FromPort"], rule["ToPort"]) for rule in rules} == {
        ("<DaskSecurityGroup.GroupId>", 0, 65535),
        ("<NetworkSecurityGroup.GroupId>", 8786, 8786),
    }
    assert {(rule["GroupId"], rule["IpProtocol"]) for rule in rules} == {("<DaskSecurityGroup.GroupId>", "tcp")}


def test_logs_are_kept_a_month_and_retained(template: Template) -> None:
    group = resource(template, "DaskLogGroup")
    assert group["Properties"]["RetentionInDays"] == 30
    assert group["DeletionPolicy"] == "Retain"


def test_roles_are_exact(template: Template) -> None:
    assert statements(template, "DaskExecutionRole") == [
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<DaskLogGroup.Arn>")
    ]
    assert statements(template, "DaskTaskRole") == []
    for role in ("DaskExecutionRole", "DaskTaskRole"):
        document = plain(resource(template, role)["Properties"]["AssumeRolePolicyDocument"])
        (statement,) = document["Statement"]
        assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "<AWS::AccountId>"}


def test_the_grant_is_exact(template: Template) -> None:
    in_cluster = {"ArnEquals": {"ecs:cluster": "<Cluster.Arn>"}}
    tasks = f"{ECS}:task/<Cluster>/*"
    expected = [
        allow("ecs:DescribeClusters", "<Cluster.Arn>"),
        allow(["ecs:ListAccountSettings", "ec2:DescribeNetworkInterfaces"], "*"),
        allow(
            "ecs:RunTask",
            [f"{ECS}:task-definition/Test-Dask-{role}:*" for role in ("scheduler", "worker")],
            {**in_cluster, "StringEquals": {"aws:RequestTag/dask-access": "Test-Dask"}},
        ),
        allow("ecs:TagResource", tasks, {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
        allow(
            ["ecs:DescribeTasks", "ecs:StopTask"],
            tasks,
            {**in_cluster, "StringEquals": {"aws:ResourceTag/dask-access": "Test-Dask"}},
        ),
        allow(
            "iam:PassRole",
            ["<DaskExecutionRole.Arn>", "<DaskTaskRole.Arn>"],
            {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        ),
    ]
    found = [s for s in statements(template, "FlowRole") if not s["Action"][0].startswith("s3:")]
    assert found == in_order(expected)


def test_flow_runs_learn_everything_from_their_environment(defaults: tuple[Template, dict[str, str]]) -> None:
    assert defaults[1] == {
        "REGION_NAME": "<AWS::Region>",
        "CLUSTER_ARN": "<Cluster.Arn>",
        "EXECUTION_ROLE_ARN": "<DaskExecutionRole.Arn>",
        "TASK_ROLE_ARN": "<DaskTaskRole.Arn>",
        "CLOUDWATCH_LOGS_GROUP": "<DaskLogGroup>",
        "CLOUDWATCH_LOGS_STREAM_PREFIX": "dask",
        "VPC": "vpc-1",
        "SUBNETS": "['subnet-private-1', 'subnet-private-2']",
        "SECURITY_GROUPS": "['<DaskSecurityGroup.GroupId>']",
        "TAGS": "{'dask-access': 'Test-Dask'}",
        "ENVIRONMENT": "{'DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES': '10'}",
        "FARGATE_SPOT": "True",
        "SCHEDULER_TIMEOUT": "300 seconds",
        "WORKER_CPU": "4096",
        "WORKER_MEM": "16384",
        "SKIP_CLEANUP": "True",
        "SCHEDULER_TASK_DEFINITION_ARN": "Test-Dask-scheduler",
        "WORKER_TASK_DEFINITION_ARN": "Test-Dask-worker",
        "FARGATE_USE_PRIVATE_IP": "True",
    }


def test_every_value_is_what_dask_parses_it_to_be(defaults: tuple[Template, dict[str, str]]) -> None:
    parsed = {name: ast.literal_eval(defaults[1][name]) for name in ("SUBNETS", "SECURITY_GROUPS", "TAGS")}
    assert [type(value) for value in parsed.values()] == [list, list, dict]
    assert ast.literal_eval(defaults[1]["SKIP_CLEANUP"]) is True


def test_it_can_be_handed_to_a_work_pool(template: Template) -> None:
    parts = make_parts()
    parts.pool(environment=access(parts).environment)
    pool = plain(only(Template.from_stack(parts.stack), "Custom::PrefectWorkPool"))
    variables = pool["BaseJobTemplate"]["variables"]["properties"]["env"]["default"]
    assert variables[f"{PREFIX}CLUSTER_ARN"] == "<Cluster.Arn>"


def test_everything_set() -> None:
    stack = new_stack()
    repository = ecr.Repository(stack, "Images")
    parts = make_parts(stack, spot=False, vpc=imported_vpc(stack, private=False))
    role = iam.Role.from_role_arn(stack, "Own", "arn:aws:iam::123456789012:role/own")
    dask = access(
        parts,
        image=FlowImage.from_ecr_repository(repository, "1"),
        task_role=role,
        log_group=parts.log_group,
        scheduler_cpu=512,
        scheduler_memory_mib=2048,
        worker_cpu=2048,
        worker_memory_mib=8192,
        cpu_architecture="ARM64",
        idle_timeout=cdk.Duration.minutes(1),
    )
    dask.grant_run_clusters(parts.flow_role)
    template, variables = Template.from_stack(stack), environment(dask)
    worker = plain(resource(template, "DaskWorkerTaskDefinition")["Properties"])
    assert (worker["Cpu"], worker["Memory"]) == ("2048", "8192")
    assert worker["RuntimePlatform"]["CpuArchitecture"] == "ARM64"
    assert worker["TaskRoleArn"] == "arn:aws:iam::123456789012:role/own"
    assert (variables["WORKER_CPU"], variables["WORKER_MEM"]) == ("2048", "8192")
    assert variables["SCHEDULER_TIMEOUT"] == "60 seconds"
    assert variables["FARGATE_SPOT"] == "False"
    assert variables["FARGATE_USE_PRIVATE_IP"] == "False"
    assert variables["CLOUDWATCH_LOGS_GROUP"] == "<Logs>"
    template.resource_count_is("AWS::Logs::LogGroup", 1)
    actions = {action for statement in statements(template, "DaskExecutionRole") for action in statement["Action"]}
    assert "ecr:BatchGetImage" in actions
    passed = [s for s in statements(template, "FlowRole") if s["Action"] == ["iam:PassRole"]]
    assert passed[0]["Resource"] == ["<DaskExecutionRole.Arn>", "arn:aws:iam::123456789012:role/own"]


def test_without_a_way_out_its_calls_get_their_endpoints() -> None:
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    network = FlowNetwork(stack, "Network", mode="endpoints", max_azs=2)
    image = FlowImage.from_ecr_repository(ecr.Repository(stack, "Images"), "1")
    cluster = FlowCluster(stack, "Cluster", vpc=network.vpc)
    DaskAccess(stack, "Dask", cluster=cluster, network=network, image=image)
    found = Template.from_stack(stack).find_resources(
        "AWS::EC2::VPCEndpoint", {"Properties": {"VpcEndpointType": "Interface"}}
    )
    services = {plain(endpoint["Properties"]["ServiceName"]).rpartition("us-east-1.")[2] for endpoint in found.values()}
    assert services == {"ec2", "ecs", "ecr.api", "ecr.dkr", "logs"}


def test_a_read_only_root_has_the_writable_volumes_of_the_image() -> None:
    parts = make_parts()
    image = FlowImage.from_registry("ghcr.io/acme/flows:1", cpu_architecture="X86_64", writable_paths=["/scratch"])
    access(parts, image=image)
    for definition in Template.from_stack(parts.stack).find_resources(DEFINITION).values():
        (container,) = definition["Properties"]["ContainerDefinitions"]
        assert container["ReadonlyRootFilesystem"]
        assert container["MountPoints"] == [
            {"SourceVolume": "writable-1", "ContainerPath": "/scratch", "ReadOnly": False}
        ]
        assert definition["Properties"]["Volumes"] == [{"Name": "writable-1"}]
    assert_refused(
        parts.stack,
        lambda: access(parts, "Arm", image=image, cpu_architecture="ARM64"),
        "built for X86_64",
        "cpu_architecture is ARM64",
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scheduler_cpu": 100}, ["Dask scheduler: cpu 100", "256, 512"]),
        ({"worker_cpu": 256, "worker_memory_mib": 9000}, ["Dask worker: memory_mib 9000", "512, 1024, 2048"]),
        ({"cpu_architecture": "arm"}, ["'arm'", "ARM64"]),
        ({"idle_timeout": cdk.Duration.seconds(59)}, ["idle_timeout", "at least 60 seconds", "59 seconds"]),
    ],
)
def test_rules_are_checked_before_anything_is_made(wrong: dict[str, Any], words: list[str]) -> None:
    parts = make_parts()
    assert_refused(parts.stack, lambda: access(parts, **wrong), *words)


def test_it_stands_for_its_tasks_as_grantee_and_connectable() -> None:
    parts = make_parts()
    dask = access(parts)
    bucket = s3.Bucket(parts.stack, "Data")
    bucket.grant_read(dask)
    database = ec2.SecurityGroup(parts.stack, "Database", vpc=parts.network.vpc)
    database.connections.allow_from(dask, ec2.Port.tcp(5432))
    template = Template.from_stack(parts.stack)
    assert len(statements(template, "DaskTaskRole")) == 1
    rules = [plain(rule["Properties"]) for rule in template.find_resources("AWS::EC2::SecurityGroupIngress").values()]
    assert [rule["SourceSecurityGroupId"] for rule in rules if rule["FromPort"] == 5432] == [
        "<DaskSecurityGroup.GroupId>"
    ]


def test_two_in_a_stack_have_nothing_in_common() -> None:
    parts = make_parts()
    first, second = access(parts, "Small"), access(parts, "Large")
    for dask in (first, second):
        dask.grant_run_clusters(parts.flow_role)
    template = Template.from_stack(parts.stack)
    families = {found["Properties"]["Family"] for found in template.find_resources(DEFINITION).values()}
    assert families == {f"Test-{name}-{role}" for name in ("Small", "Large") for role in ("scheduler", "worker")}
    tags = {environment(dask)["TAGS"] for dask in (first, second)}
    assert tags == {"{'dask-access': 'Test-Small'}", "{'dask-access': 'Test-Large'}"}


@pytest.mark.parametrize(
    "scope",
    [
        lambda stack: cdk.NestedStack(stack, "Nested"),
        lambda stack: cdk.Stack(stack.node.root, "A" * 128),
    ],
)
def test_families_are_valid_and_known_at_synth(scope: Callable[[cdk.Stack], cdk.Stack]) -> None:
    parts = make_parts()
    dask = DaskAccess(scope(parts.stack), "D" * 120, cluster=parts.cluster, network=parts.network)
    for definition in (dask.scheduler_task_definition, dask.worker_task_definition):
        assert not cdk.Token.is_unresolved(definition.family)
        assert len(definition.family) <= 255


def test_an_imported_flow_role_is_granted() -> None:
    parts = make_parts()
    imported = iam.Role.from_role_arn(parts.stack, "Flow", "arn:aws:iam::123456789012:role/flow")
    access(parts, log_group=logs.LogGroup.from_log_group_name(parts.stack, "L", "/dask")).grant_run_clusters(imported)
    policies = Template.from_stack(parts.stack).find_resources("AWS::IAM::Policy", {"Properties": {"Roles": ["flow"]}})
    assert len(policies) == 1
