from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import (
    ACCOUNT_ID,
    API_KEY_ARN,
    CLOUD_URL,
    WORKSPACE_ID,
    Parts,
    allow,
    assert_no_ingress,
    assert_refused,
    imported_vpc,
    in_order,
    make_parts,
    new_stack,
    only,
    plain,
    statements,
)
from prefect_aws.settings import AwsSettings

from cdk_prefect_ecs import FlowImage, PrefectApi, WorkerService
from cdk_prefect_ecs.container import start_worker
from cdk_prefect_ecs.settings import DEFAULT_PATIENCE_SECONDS

START = ["prefect", "worker", "start", "--type", "ecs", "--pool", "etl", "--with-healthcheck"]
SERVICE = "AWS::ECS::Service"
DEFINITION = "AWS::ECS::TaskDefinition"


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(scope="module")
def worker(parts: Parts) -> WorkerService:
    return parts.worker(parts.pool())


@pytest.fixture(scope="module")
def template(parts: Parts, worker: WorkerService) -> Template:
    return Template.from_stack(parts.stack)


def container(template: Template) -> dict[str, Any]:
    containers = only(template, DEFINITION)["ContainerDefinitions"]
    assert len(containers) == 1
    return dict(plain(containers[0]))


def environment(template: Template) -> dict[str, str]:
    return {item["Name"]: item["Value"] for item in container(template)["Environment"]}


def test_default_service(template: Template) -> None:
    service = plain(only(template, SERVICE))
    assert service == {
        "Cluster": "<Cluster>",
        "TaskDefinition": "<WorkerTaskDefinition>",
        "DesiredCount": 1,
        "CapacityProviderStrategy": [{"CapacityProvider": "FARGATE", "Weight": 1}],
        "DeploymentConfiguration": {
            "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
            "MinimumHealthyPercent": 100,
            "MaximumPercent": 200,
        },
        "NetworkConfiguration": {
            "AwsvpcConfiguration": {
                "AssignPublicIp": "DISABLED",
                "SecurityGroups": ["<WorkerSecurityGroup.GroupId>"],
                "Subnets": ["subnet-private-1", "subnet-private-2"],
            }
        },
        "EnableECSManagedTags": True,
        "EnableExecuteCommand": False,
        "PropagateTags": "SERVICE",
        "LoadBalancers": [],
    }


def test_default_task_definition(template: Template) -> None:
    definition = plain(only(template, DEFINITION))
    assert (definition["Cpu"], definition["Memory"]) == ("512", "1024")
    assert definition["RuntimePlatform"] == {"CpuArchitecture": "X86_64", "OperatingSystemFamily": "LINUX"}
    assert (definition["NetworkMode"], definition["RequiresCompatibilities"]) == ("awsvpc", ["FARGATE"])
    assert definition["TaskRoleArn"] == "<WorkerRole.Arn>"
    assert definition["ExecutionRoleArn"] == "<ExecutionRole.Arn>"


def test_default_container(template: Template) -> None:
    worker = container(template)
    assert worker["Image"] == FlowImage.default().reference
    assert worker["Command"] == [
        *("python", "-c", Path(start_worker.__file__).read_text(), "SSM parameter '/prefect/api-key'", "etl"),
        *START,
    ]
    assert worker["StopTimeout"] == 30
    assert worker["LogConfiguration"] == {
        "LogDriver": "awslogs",
        "Options": {
            "awslogs-group": "<Logs>",
            "awslogs-region": "<AWS::Region>",
            "awslogs-stream-prefix": "worker",
        },
    }
    assert "PortMappings" not in worker


def test_default_environment_and_secret(template: Template) -> None:
    assert environment(template) == {
        "PREFECT_API_URL": CLOUD_URL,
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        "PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME": "Test-etl-no-observer",
        "AWS_RETRY_MODE": "adaptive",
        "AWS_MAX_ATTEMPTS": "10",
        "PREFECT_INTEGRATIONS_AWS_ECS_WORKER_CREATE_TASK_RUN_MAX_ATTEMPTS": "3",
        "PREFECT_INTEGRATIONS_AWS_ECS_WORKER_REGISTER_TASK_DEFINITION_MAX_ATTEMPTS": "6",
    }
    assert container(template)["Secrets"] == [{"Name": "PREFECT_API_KEY", "ValueFrom": API_KEY_ARN}]


def test_health_check_is_python_that_runs(template: Template) -> None:
    check = container(template)["HealthCheck"]
    assert (check["Interval"], check["Timeout"], check["Retries"], check["StartPeriod"]) == (15, 5, 3, 60)
    assert check["Command"][:3] == ["CMD", "python", "-c"]
    compile(check["Command"][3], "health check", "exec")
    assert "/health" in check["Command"][3]


def test_the_worker_starts_after_its_pool(template: Template) -> None:
    service = next(iter(template.find_resources(SERVICE).values()))
    pool = next(iter(template.find_resources("Custom::PrefectWorkPool")))
    policies = [
        logical_id
        for logical_id, policy in template.find_resources("AWS::IAM::Policy").items()
        if logical_id.startswith(("ExecutionRole", "WorkerRole"))
    ]
    assert {pool, *policies} <= set(service["DependsOn"])


def test_nothing_comes_in(template: Template) -> None:
    assert_no_ingress(template)
    template.resource_count_is("AWS::ElasticLoadBalancingV2::LoadBalancer", 0)


def test_the_service_widens_no_role(template: Template) -> None:
    # CDK would add its own idea of reading a secret and writing a log.
    assert statements(template, "ExecutionRole") == in_order(
        [
            allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<Logs.Arn>"),
            allow("ssm:GetParameters", API_KEY_ARN),
        ]
    )
    granted = {action for statement in statements(template, "WorkerRole") for action in statement["Action"]}
    assert granted == {
        "ecs:DescribeTaskDefinition",
        "ecs:RegisterTaskDefinition",
        "ecs:RunTask",
        "ecs:StopTask",
        "ecs:TagResource",
        "iam:PassRole",
        "sqs:GetQueueUrl",
    }


def test_everything_set() -> None:
    stack = new_stack()
    parts = make_parts(stack, vpc=imported_vpc(stack, private=False))
    parts.worker(
        parts.pool(),
        image=FlowImage.from_registry("flows:1"),
        cpu=1024,
        memory_mib=2048,
        cpu_architecture="ARM64",
        desired_count=2,
        poll_interval=cdk.Duration.seconds(30),
        enable_execute_command=True,
        environment={"PREFECT_LOGGING_LEVEL": "DEBUG", "AWS_MAX_ATTEMPTS": "3"},
    )
    template = Template.from_stack(parts.stack)
    definition = only(template, DEFINITION)
    assert (definition["Cpu"], definition["Memory"]) == ("1024", "2048")
    assert definition["RuntimePlatform"]["CpuArchitecture"] == "ARM64"
    assert container(template)["Image"] == "flows:1"
    assert environment(template)["PREFECT_WORKER_QUERY_SECONDS"] == "30"
    assert environment(template)["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert environment(template)["AWS_MAX_ATTEMPTS"] == "3"
    service = only(template, SERVICE)
    assert (service["DesiredCount"], service["EnableExecuteCommand"]) == (2, True)
    assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "ENABLED"


def test_image_by_digest() -> None:
    parts = make_parts()
    reference = f"ghcr.io/acme/flows@sha256:{'0123456789abcdef' * 4}"
    parts.worker(parts.pool(), image=FlowImage.from_registry(reference))
    assert container(Template.from_stack(parts.stack))["Image"] == reference


def test_execute_command_adds_its_four_actions() -> None:
    parts = make_parts()
    pool = parts.pool()
    parts.worker(pool, enable_execute_command=True)
    on_everything = [s for s in statements(Template.from_stack(parts.stack), "WorkerRole") if s["Resource"] == ["*"]]
    assert on_everything == [
        allow(
            [
                "ecs:DescribeTaskDefinition",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ],
            "*",
        )
    ]


def test_poll_interval_may_have_a_fraction() -> None:
    parts = make_parts()
    parts.worker(parts.pool(), poll_interval=cdk.Duration.millis(1500))
    assert environment(Template.from_stack(parts.stack))["PREFECT_WORKER_QUERY_SECONDS"] == "1.5"


@pytest.mark.parametrize("spot", [True, False])
def test_never_on_spot(spot: bool) -> None:
    parts = make_parts(spot=spot)
    parts.worker(parts.pool())
    service = only(Template.from_stack(parts.stack), SERVICE)
    strategy = service.get("CapacityProviderStrategy")
    assert strategy == ([{"CapacityProvider": "FARGATE", "Weight": 1}] if spot else None)
    # Without a strategy the launch type is what places it: in a cluster with a default strategy it would be on Spot.
    assert service.get("LaunchType") == (None if spot else "FARGATE")


def test_a_token_passes_as_environment() -> None:
    parts = make_parts()
    value = cdk.CfnParameter(parts.stack, "Level").value_as_string
    parts.worker(parts.pool(), environment={"PREFECT_LOGGING_LEVEL": value})
    assert environment(Template.from_stack(parts.stack))["PREFECT_LOGGING_LEVEL"] == "<Level>"


def test_refuses() -> None:
    parts = make_parts()
    pool = parts.pool()
    for kwargs, words in (
        ({"cpu": 100}, ("cpu 100", "256, 512")),
        ({"memory_mib": 512}, ("memory_mib 512", "cpu 512", "1024 to 4096")),
        ({"cpu_architecture": "x86"}, ("'x86'", "X86_64 or ARM64")),
        ({"desired_count": -1}, ("number of workers must be 0 to 5000; got -1",)),
        ({"poll_interval": cdk.Duration.millis(500)}, ("poll_interval must be at least one second; got 0.5 seconds",)),
        ({"environment": {"PREFECT_API_KEY": "pnu_1"}}, ("environment must not hold PREFECT_API_KEY",)),
        ({"environment": {"A": None}}, ("WorkerService: environment['A'] must be a string; got None",)),
    ):
        assert_refused(parts.stack, lambda kwargs=kwargs: parts.worker(pool, **kwargs), *words)  # type: ignore[misc]


def test_server_without_a_credential_needs_no_secret() -> None:
    parts = make_parts(api=PrefectApi.self_hosted("https://prefect.example.com/api"))
    parts.worker(parts.pool())
    template = Template.from_stack(parts.stack)
    assert "Secrets" not in container(template)
    assert environment(template)["PREFECT_API_URL"] == "https://prefect.example.com/api"


def test_field_of_an_imported_secret() -> None:
    stack = new_stack()
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf"
    secret = secretsmanager.Secret.from_secret_complete_arn(stack, "Secret", arn)
    api = PrefectApi.cloud(
        account_id=ACCOUNT_ID, workspace_id=WORKSPACE_ID, api_key=PrefectApi.secrets_manager(secret, field="key")
    )
    parts = make_parts(stack, api=api)
    parts.worker(parts.pool())
    template = Template.from_stack(stack)
    assert container(template)["Secrets"] == [{"Name": "PREFECT_API_KEY", "ValueFrom": f"{arn}:key::"}]
    assert allow("secretsmanager:GetSecretValue", arn) in statements(template, "ExecutionRole")


def test_imported_roles_and_log_group() -> None:
    parts = make_parts()
    role_arn = "arn:aws:iam::123456789012:role/{}"
    parts.worker(
        parts.pool(),
        execution_role=iam.Role.from_role_arn(parts.stack, "E", role_arn.format("exec"), mutable=False),
        worker_role=iam.Role.from_role_arn(parts.stack, "W", role_arn.format("worker"), mutable=False),
        log_group=logs.LogGroup.from_log_group_name(parts.stack, "L", "/prefect"),
    )
    template = Template.from_stack(parts.stack)
    definition = only(template, DEFINITION)
    assert definition["ExecutionRoleArn"] == role_arn.format("exec")
    assert definition["TaskRoleArn"] == role_arn.format("worker")
    assert container(template)["LogConfiguration"]["Options"]["awslogs-group"] == "/prefect"
    assert statements(template, "WorkerRole") == []


def test_two_in_one_stack() -> None:
    parts = make_parts()
    pool = parts.pool()
    one, two = parts.worker(pool, "One"), parts.worker(pool, "Two")
    template = Template.from_stack(parts.stack)
    template.resource_count_is(SERVICE, 2)
    assert one.security_group.security_group_id != two.security_group.security_group_id
    # One pool, one role: the same permissions are not written twice.
    assert len(statements(template, "WorkerRole")) == 7


def test_it_stands_for_the_worker(parts: Parts, worker: WorkerService) -> None:
    assert worker.grant_principal.grant_principal is not None
    assert [group.security_group_id for group in worker.connections.security_groups] == [
        worker.security_group.security_group_id
    ]


def test_it_can_be_granted_and_connected() -> None:
    parts = make_parts()
    worker = parts.worker(parts.pool())
    log_group = logs.LogGroup(parts.stack, "Audit", retention=logs.RetentionDays.ONE_DAY)
    log_group.grant_write(worker)
    found = statements(Template.from_stack(parts.stack), "WorkerRole")
    assert allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<Audit.Arn>") in found


def test_the_retries_are_settings_of_prefect_aws_and_end_before_lazarus_looks(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(template).items():
        monkeypatch.setenv(name, value)
    settings = AwsSettings().ecs.worker
    assert (settings.create_task_run_max_attempts, settings.register_task_definition_max_attempts) == (3, 6)
    starting = (settings.create_task_run_max_attempts - 1) * (
        settings.create_task_run_min_delay_seconds + settings.create_task_run_max_delay_jitter_seconds
    )
    delays = [
        min(settings.register_task_definition_initial_delay_seconds * 2**n, 10.0)
        for n in range(settings.register_task_definition_max_attempts - 1)
    ]
    assert starting + sum(delays) < DEFAULT_PATIENCE_SECONDS / 2


def test_scaling() -> None:
    parts = make_parts()
    parts.worker(parts.pool(), desired_count=2, max_count=6)
    template = Template.from_stack(parts.stack)
    target = plain(only(template, "AWS::ApplicationAutoScaling::ScalableTarget"))
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 6)
    assert target["ResourceId"] == "service/<Cluster>/<WorkerService.Name>"
    policy = plain(only(template, "AWS::ApplicationAutoScaling::ScalingPolicy"))
    assert policy["TargetTrackingScalingPolicyConfiguration"] == {
        "PredefinedMetricSpecification": {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"},
        "TargetValue": 60,
        "ScaleInCooldown": 600,
        "ScaleOutCooldown": 60,
    }


@pytest.mark.parametrize("counts", [{"desired_count": 3, "max_count": 2}, {"desired_count": 0, "max_count": 2}])
def test_refuses_scaling_that_cannot_be(counts: dict[str, int]) -> None:
    parts = make_parts()
    pool = parts.pool()
    assert_refused(
        parts.stack,
        lambda: parts.worker(pool, **counts),
        "workers scale from desired_count, at least 1, up to max_count",
        f"got {counts['desired_count']} and {counts['max_count']}",
    )
