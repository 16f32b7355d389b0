"""The base job template against the prefect-aws that it is written for: the worker's own code makes requests from it,
and botocore's own service model checks them. What the worker does with a field is not guessed here."""

import asyncio
import copy
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import boto3
import botocore.session
import jsonschema
import pytest
from botocore.stub import Stubber
from botocore.validate import ParamValidator
from library_helpers import make_parts
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings
from prefect.utilities.schema_tools.validation import validate as prefect_validate
from prefect.utilities.templating import find_placeholders
from prefect_aws.credentials import AwsCredentials
from prefect_aws.workers import ecs_worker
from prefect_aws.workers.ecs_worker import ECSJobConfiguration, ECSWorker

from cdk_prefect_ecs import PrefectApi
from cdk_prefect_ecs.capacity import CapacityKind, FlowCapacity, SpotPolicy
from cdk_prefect_ecs.fargate import FARGATE_SIZES
from cdk_prefect_ecs.functions.typed_properties import decode, encode
from cdk_prefect_ecs.job_template import CONTAINER_NAME, HEARTBEAT_SECONDS, EfsMount, JobTemplate

REGION = "us-east-1"
ARN = "arn:aws:{}:us-east-1:123456789012:{}"
CLUSTER_ARN = ARN.format("ecs", "cluster/flows")
EXECUTION_ROLE_ARN = "arn:aws:iam::123456789012:role/execution"
FLOW_ROLE_ARN = "arn:aws:iam::123456789012:role/flow"
SECRET_ARN = ARN.format("ssm", "parameter/prefect/api-key")
DEFINITION_ARN = ARN.format("ecs", "task-definition/Prod-etl:7")
RUN = FlowRun(
    id=UUID(int=1), name="brave-otter", flow_id=UUID(int=2), deployment_id=UUID(int=3), labels={}, job_variables={}
)

PLAIN: Mapping[str, Any] = {
    "family": "Prod-etl",
    "image": "prefecthq/prefect-aws:1",
    "cpu": 1024,
    "memory_mib": 2048,
    "cpu_architecture": "X86_64",
    "cluster_arn": CLUSTER_ARN,
    "capacity": FlowCapacity("Fargate", CapacityKind.FARGATE, "FARGATE", "FARGATE_SPOT"),
    "strategy": SpotPolicy.SPOT_WITH_FALLBACK.strategy(),
    "vpc_id": "vpc-1",
    "subnet_ids": ["subnet-1", "subnet-2"],
    "security_group_ids": ["sg-1"],
    "assign_public_ip": True,
    "execution_role_arn": EXECUTION_ROLE_ARN,
    "flow_role_arn": FLOW_ROLE_ARN,
    "log_group_name": "/prefect/flows",
    "region": REGION,
    "result_block": "etl-results",
    "api_secret_variable": "PREFECT_API_KEY",
    "api_secret_arn": SECRET_ARN,
}
#: A cluster without capacity providers.
ON_PLAIN_FARGATE: Mapping[str, Any] = {"capacity": FlowCapacity("Fargate", CapacityKind.FARGATE), "strategy": ()}
ON_GPU: Mapping[str, Any] = {
    "capacity": FlowCapacity("Gpu", CapacityKind.AUTO_SCALING, "gpu", "gpu-spot", "X86_64", has_gpu=True),
    "strategy": SpotPolicy.SPOT.strategy(on_demand="gpu", spot="gpu-spot"),
    "gpus": 1,
    "cpu": 4000,
    "memory_mib": 15000,
}
ON_MANAGED: Mapping[str, Any] = {
    "capacity": FlowCapacity("Managed", CapacityKind.MANAGED_INSTANCES, "managed", None, "ARM64"),
    "strategy": SpotPolicy.ON_DEMAND.strategy(on_demand="managed"),
    "cpu_architecture": "ARM64",
    "assign_public_ip": False,
}
ON_OWN: Mapping[str, Any] = {"capacity": FlowCapacity("Cellar", CapacityKind.EXTERNAL), "strategy": ()}
EXTRAS: Mapping[str, Any] = {
    "ephemeral_storage_gib": 50,
    "secrets": {"DB_PASSWORD": ARN.format("secretsmanager", "secret:db"), "API_TOKEN": SECRET_ARN},
    "mounts": (EfsMount("fs-1", "fsap-1", "/data"), EfsMount("fs-2", "fsap-2", "/models", read_only=True)),
    "tags": {"Project": "prefect", "CostCenter": "42"},
}
OVERRIDES: Mapping[str, Any] = {
    "name": "my-task",
    "image": "flows:2",
    "cpu": 4096,
    "memory": 8192,
    "command": "python -m my_engine --fast",
    "env": {"MODE": "full", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": None},
    "labels": {"team": "data"},
    "ephemeral_storage": {"sizeInGiB": 100},
    "capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 1, "base": 0}],
    "network_configuration": {"subnets": ["subnet-9"], "securityGroups": ["sg-9"], "assignPublicIp": "DISABLED"},
}


def through_cloudformation(tree: Any) -> Any:
    """What a function is handed: CloudFormation turns every scalar into a string, the CDK drops what is empty."""
    if isinstance(tree, Mapping):
        return {key: through_cloudformation(item) for key, item in tree.items() if item not in (None, {}, [])}
    if isinstance(tree, list | tuple):
        return [through_cloudformation(item) for item in tree if item is not None]
    return str(tree).lower() if isinstance(tree, bool) else str(tree)


def rendered(**changes: Any) -> dict[str, Any]:
    """The template as it arrives at Prefect's API."""
    return dict(decode(through_cloudformation(encode(JobTemplate(**{**PLAIN, **changes}).render()))))


def configured(template: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> ECSJobConfiguration:
    """The template as the worker configures one flow run with it."""

    async def configure() -> ECSJobConfiguration:
        # No block or variable is referred to, so no client is used.
        return await ECSJobConfiguration.from_template_and_values(  # type: ignore[no-any-return]
            base_job_template=copy.deepcopy(dict(template)), values=copy.deepcopy(dict(values or {})), client=object()
        )

    configuration = asyncio.run(configure())
    with temporary_settings(
        {
            PREFECT_API_URL: "https://prefect.example.com/api",
            PREFECT_API_KEY: "pnu_secret",
            PREFECT_API_AUTH_STRING: "user:hunter2",
        }
    ):
        configuration.prepare_for_flow_run(RUN)
    return configuration


def worker() -> ECSWorker:
    return ECSWorker("etl")


def requests(configuration: ECSJobConfiguration) -> tuple[dict[str, Any], dict[str, Any]]:
    """The worker's RegisterTaskDefinition and RunTask requests, both checked against botocore's service model."""
    ecs = worker()
    definition = ecs._prepare_task_definition(configuration, region="eu-west-9", flow_run=RUN)
    ecs._validate_task_definition(definition, configuration)
    run = ecs._prepare_task_run_request(configuration, definition, DEFINITION_ARN, True)
    assert_valid("RegisterTaskDefinition", definition)
    assert_valid("RunTask", run)
    return definition, run


def assert_valid(operation: str, parameters: Mapping[str, Any]) -> None:
    model = botocore.session.get_session().get_service_model("ecs").operation_model(operation)
    report = ParamValidator().validate(parameters, model.input_shape)
    assert not report.has_errors(), report.generate_report()


def container_override(run: Mapping[str, Any]) -> dict[str, Any]:
    assert len(run["overrides"]["containerOverrides"]) == 1
    return dict(run["overrides"]["containerOverrides"][0])


def environment(run: Mapping[str, Any]) -> dict[str, str]:
    items = container_override(run)["environment"]
    names = [item["name"] for item in items]
    assert len(names) == len(set(names)), "a variable is set twice"
    return {item["name"]: item["value"] for item in items}


def described(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A registered task definition as ECS describes it: with all that it fills in."""
    answer = copy.deepcopy(dict(definition))
    for container in answer["containerDefinitions"]:
        for name in ("portMappings", "environment", "mountPoints", "volumesFrom", "systemControls"):
            container.setdefault(name, [])
        container.setdefault("cpu", 0)
        container["logConfiguration"].setdefault("secretOptions", [])
    return {
        "volumes": [],
        "placementConstraints": [],
        # Since January 2025 in every answer, given or not.
        "enableFaultInjection": False,
        **answer,
        "taskDefinitionArn": DEFINITION_ARN,
        "revision": 7,
        "status": "ACTIVE",
        "compatibilities": ["EC2", "FARGATE"],
        "requiresAttributes": [{"name": "ecs.capability.task-eni"}],
        "registeredAt": datetime(2026, 1, 1, tzinfo=UTC),
        "registeredBy": "arn:aws:sts::123456789012:assumed-role/worker/1",
    }


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker may not ask AWS for anything to make its requests: the role allows no Describe of EC2."""

    def refuse(self: AwsCredentials, client_type: str, **_: Any) -> None:
        raise AssertionError(f"the worker made a client for {client_type}")

    monkeypatch.setattr(AwsCredentials, "get_client", refuse)
    monkeypatch.setattr(ecs_worker, "_TASK_DEFINITION_CACHE", {})


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return rendered()


@pytest.fixture
def run(template: dict[str, Any]) -> dict[str, Any]:
    return requests(configured(template))[1]


@pytest.fixture
def definition(template: dict[str, Any]) -> dict[str, Any]:
    return requests(configured(template))[0]


# Through CloudFormation


@pytest.mark.parametrize(
    "changes", [{}, ON_PLAIN_FARGATE, {"environment": {"A": "json:1"}}, ON_GPU, ON_MANAGED, ON_OWN, EXTRAS]
)
def test_nothing_is_lost_on_the_way_through_cloudformation(changes: dict[str, Any]) -> None:
    assert rendered(**changes) == JobTemplate(**{**PLAIN, **changes}).render()


# The task definition that the worker registers


def test_task_definition_of_a_run_with_defaults(definition: dict[str, Any]) -> None:
    assert definition == {
        "family": "Prod-etl",
        "cpu": "1024",
        "memory": "2048",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "runtimePlatform": {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
        "executionRoleArn": EXECUTION_ROLE_ARN,
        "taskRoleArn": FLOW_ROLE_ARN,
        "enableFaultInjection": False,
        "containerDefinitions": [
            {
                "name": CONTAINER_NAME,
                "image": "prefecthq/prefect-aws:1",
                "essential": True,
                "stopTimeout": 120,
                "secrets": [{"name": "PREFECT_API_KEY", "valueFrom": SECRET_ARN}],
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {
                        "awslogs-create-group": "false",
                        "awslogs-group": "/prefect/flows",
                        "awslogs-region": REGION,
                        "awslogs-stream-prefix": "flow-run",
                    },
                },
            }
        ],
    }


def test_sizes_and_environment_of_a_run_make_no_other_task_definition(
    template: dict[str, Any], definition: dict[str, Any]
) -> None:
    changes = {key: value for key, value in OVERRIDES.items() if key != "image"}
    assert requests(configured(template, changes))[0] == definition


def test_another_image_does(template: dict[str, Any], definition: dict[str, Any]) -> None:
    other, _ = requests(configured(template, {"image": "flows:2"}))
    assert other["containerDefinitions"][0].pop("image") == "flows:2"
    definition["containerDefinitions"][0].pop("image")
    assert other == definition


def test_arm() -> None:
    definition, _ = requests(configured(rendered(cpu_architecture="ARM64")))
    assert definition["runtimePlatform"]["cpuArchitecture"] == "ARM64"


# The RunTask request


def test_request_of_a_run_with_defaults(run: dict[str, Any]) -> None:
    overrides = run.pop("overrides")
    tags = run.pop("tags")
    assert run == {
        "taskDefinition": DEFINITION_ARN,
        "cluster": CLUSTER_ARN,
        "capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1, "base": 0}],
        "networkConfiguration": {
            "awsvpcConfiguration": {
                "subnets": ["subnet-1", "subnet-2"],
                "securityGroups": ["sg-1"],
                "assignPublicIp": "ENABLED",
            }
        },
    }
    assert (overrides["cpu"], overrides["memory"]) == ("1024", "2048")
    assert set(overrides) == {"cpu", "memory", "containerOverrides"}  # no role: both are in the task definition
    assert {tag["key"]: tag["value"] for tag in tags}["prefect.io/flow-run-id"] == str(RUN.id)


def test_container_of_a_run_with_defaults(run: dict[str, Any]) -> None:
    override = container_override(run)
    assert override["name"] == CONTAINER_NAME
    assert override["command"] == ["prefect", "flow-run", "execute"]
    assert {"cpu", "memory"}.isdisjoint(override)
    variables = environment(run)
    assert variables["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "true"
    assert variables["PREFECT_DEFAULT_RESULT_STORAGE_BLOCK"] == "s3-bucket/etl-results"
    assert variables["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"  # nobody guards it yet
    assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_SECONDS)
    assert variables["PREFECT_API_URL"] == "https://prefect.example.com/api"
    assert variables["PREFECT__FLOW_RUN_ID"] == str(RUN.id)


def test_everything_overridden(template: dict[str, Any]) -> None:
    configuration = configured(template, OVERRIDES)
    definition, run = requests(configuration)
    assert configuration.name == "my-task"
    assert definition["containerDefinitions"][0]["image"] == "flows:2"
    assert (run["overrides"]["cpu"], run["overrides"]["memory"]) == ("4096", "8192")
    assert run["overrides"]["ephemeralStorage"] == {"sizeInGiB": 100}
    assert container_override(run)["command"] == ["python", "-m", "my_engine", "--fast"]
    assert run["capacityProviderStrategy"] == OVERRIDES["capacity_provider_strategy"]
    assert "launchType" not in run
    assert run["networkConfiguration"] == {"awsvpcConfiguration": OVERRIDES["network_configuration"]}
    assert {tag["key"]: tag["value"] for tag in run["tags"]}["team"] == "data"


def test_environment_is_merged_and_null_takes_a_variable_out(template: dict[str, Any]) -> None:
    variables = environment(requests(configured(template, OVERRIDES))[1])
    assert variables["MODE"] == "full"
    assert variables["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "true"
    assert "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" not in variables


def test_one_variable_by_its_dotted_name(template: dict[str, Any]) -> None:
    variables = environment(requests(configured(template, {"env.MODE": "full"}))[1])
    assert variables["MODE"] == "full"
    assert variables["PREFECT_DEFAULT_RESULT_STORAGE_BLOCK"] == "s3-bucket/etl-results"


@pytest.mark.parametrize("policy", [SpotPolicy.ON_DEMAND, SpotPolicy.SPOT, SpotPolicy.weights(spot=3, on_demand=1)])
def test_no_strategy_has_a_base(policy: SpotPolicy) -> None:
    _, run = requests(configured(rendered(strategy=policy.strategy())))
    assert [item["base"] for item in run["capacityProviderStrategy"]] == [0] * len(policy.strategy())
    assert "launchType" not in run


def test_a_cluster_without_capacity_providers_uses_the_launch_type() -> None:
    definition, run = requests(configured(rendered(**ON_PLAIN_FARGATE)))
    assert run["launchType"] == "FARGATE"
    assert "capacityProviderStrategy" not in run
    assert definition["networkMode"] == "awsvpc"


def test_private_subnets_need_no_public_address() -> None:
    _, run = requests(configured(rendered(assign_public_ip=False)))
    assert run["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "DISABLED"


# The credential


@pytest.mark.parametrize("variable", ["PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"])
def test_the_credential_is_injected_by_ecs_and_passed_by_nobody(variable: str) -> None:
    configuration = configured(rendered(api_secret_variable=variable))
    definition, run = requests(configuration)
    assert definition["containerDefinitions"][0]["secrets"] == [{"name": variable, "valueFrom": SECRET_ARN}]
    # The worker has the credential in its own environment, where this test put it, and would pass it on in plain text.
    assert variable not in environment(run)
    assert variable not in configuration.env


def test_an_api_without_a_credential() -> None:
    definition, _ = requests(configured(rendered(api_secret_variable=None, api_secret_arn=None)))
    assert "secrets" not in definition["containerDefinitions"][0]


# One revision serves many runs


def test_the_worker_recognises_what_it_registered(template: dict[str, Any], definition: dict[str, Any]) -> None:
    again, _ = requests(configured(template))
    log = logging.getLogger(__name__)
    assert worker()._task_definitions_equal(definition, again, log)
    assert worker()._task_definitions_equal(again, described(definition), log)
    again["containerDefinitions"][0]["image"] = "flows:2"
    assert not worker()._task_definitions_equal(again, described(definition), log)


def test_the_worker_recognises_a_read_only_root_and_a_private_registry() -> None:
    template = rendered(
        writable_volumes={"writable-1": "/home/prefect", "writable-2": "/tmp"},  # noqa: S108 - in the container
        registry_secret_arn="arn:aws:secretsmanager:eu-west-9:123456789012:secret:registry-AbCdEf",
    )
    registered, _ = requests(configured(template))
    container = registered["containerDefinitions"][0]
    assert container["readonlyRootFilesystem"] is True
    assert [point["containerPath"] for point in container["mountPoints"]] == ["/home/prefect", "/tmp"]  # noqa: S108
    assert container["repositoryCredentials"]["credentialsParameter"].endswith(":secret:registry-AbCdEf")
    answer = described(registered)
    # What ECS fills in for a volume that only has a name.
    answer["volumes"] = [{**volume, "host": {}} for volume in answer["volumes"]]
    again, _ = requests(configured(template))
    log = logging.getLogger(__name__)
    assert worker()._task_definitions_equal(again, answer, log)
    again["containerDefinitions"][0]["readonlyRootFilesystem"] = False
    assert not worker()._task_definitions_equal(again, answer, log)


def test_the_worker_registers_once_for_two_deployments(template: dict[str, Any], definition: dict[str, Any]) -> None:
    client = boto3.client("ecs", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        stub.add_response(
            "describe_task_definition", {"taskDefinition": described(definition)}, {"taskDefinition": "Prod-etl"}
        )
        configuration = configured(template)
        arn, registered = worker()._get_or_register_task_definition(
            logging.getLogger(__name__), client, configuration, RUN, definition
        )
    assert (arn, registered) == (DEFINITION_ARN, False)


def test_revisions_stay_for_the_next_run(template: dict[str, Any]) -> None:
    configuration = configured(template)
    assert configuration.match_latest_revision_in_family is True
    assert configuration.auto_deregister_task_definition is False
    assert "prefect.io/degregister-task-definition" not in str(requests(configuration)[1])


# The variables


def test_the_schema_is_one(template: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(template["variables"])


def test_defaults_fit_the_schema(template: dict[str, Any]) -> None:
    properties = template["variables"]["properties"]
    defaults = {name: prop["default"] for name, prop in properties.items() if "default" in prop}
    jsonschema.Draft202012Validator(template["variables"]).validate(defaults)
    prefect_validate(defaults, template["variables"])


def test_overrides_fit_the_schema(template: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(template["variables"]).validate(dict(OVERRIDES))


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"cpu": 300}, ["cpu"]),
        ({"cpu": "1024"}, ["cpu"]),
        ({"memory": 100}, ["memory"]),
        ({"memory": 1000}, ["memory"]),
        ({"memory": 200_000}, ["memory"]),
        ({"env": {"A": 1}}, ["env", "A"]),
        ({"labels": {"a": None}}, ["labels", "a"]),
        ({"image": None}, ["image"]),
        ({"network_configuration": "default"}, ["network_configuration"]),
        (
            {"capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 1, "base": 1}]},
            ["capacity_provider_strategy", 0, "base"],
        ),
        (
            {"capacity_provider_strategy": [{"capacityProvider": "SPOT", "weight": 1, "base": 0}]},
            ["capacity_provider_strategy", 0, "capacityProvider"],
        ),
        (
            {"capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 1001, "base": 0}]},
            ["capacity_provider_strategy", 0, "weight"],
        ),
        (
            {"capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 1}]},
            ["capacity_provider_strategy", 0],
        ),
    ],
)
def test_wrong_values_do_not_fit_the_schema(
    template: dict[str, Any], values: dict[str, Any], path: list[str | int]
) -> None:
    errors = list(jsonschema.Draft202012Validator(template["variables"]).iter_errors(values))
    assert {tuple(error.absolute_path) for error in errors} == {tuple(path)}


@pytest.mark.parametrize("changes", [{}, ON_PLAIN_FARGATE, ON_GPU, ON_MANAGED, ON_OWN, EXTRAS])
def test_every_placeholder_is_a_variable_and_every_variable_is_used(changes: dict[str, Any]) -> None:
    template = rendered(**changes)
    placeholders = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}
    assert placeholders == set(template["variables"]["properties"])


def test_every_field_is_one_that_the_worker_knows(template: dict[str, Any]) -> None:
    assert set(template["job_configuration"]) <= set(ECSJobConfiguration.model_fields)


def test_every_variable_is_described(template: dict[str, Any]) -> None:
    for name, variable in template["variables"]["properties"].items():
        assert variable["title"], name
        assert re.fullmatch(r"[A-Z].*\.", variable["description"]), name


# The template of the construct


@pytest.mark.parametrize(
    "api", [None, PrefectApi.self_hosted("https://prefect.example.com/api"), "secret"], ids=["cloud", "open", "basic"]
)
def test_what_the_construct_syncs_works_too(api: PrefectApi | str | None) -> None:
    if api == "secret":
        api = PrefectApi.self_hosted(
            "https://prefect.example.com/api", auth_string=PrefectApi.ssm_secure_string("/prefect/auth")
        )
    parts = make_parts(api=api)  # type: ignore[arg-type]
    template = parts.stack.resolve(encode(parts.pool().job_template))

    def known(tree: Any) -> Any:
        """Intrinsic functions answered, as CloudFormation does at deploy."""
        if isinstance(tree, list):
            return [known(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if set(tree) & {"Ref", "Fn::GetAtt", "Fn::Join"}:
            return "arn:aws:answered:us-east-1:123456789012:it"
        return {key: known(item) for key, item in tree.items()}

    requests(configured(decode(through_cloudformation(known(template)))))


# Other machines than Fargate's


def test_gpu_instances() -> None:
    definition, run = requests(configured(rendered(**ON_GPU)))
    assert (definition["networkMode"], definition["requiresCompatibilities"]) == ("bridge", ["EC2"])
    assert {"cpu", "memory"}.isdisjoint(definition)
    container = definition["containerDefinitions"][0]
    assert (container["cpu"], container["memory"]) == (4000, 15000)
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "1"}]
    assert run["capacityProviderStrategy"] == [{"capacityProvider": "gpu-spot", "weight": 1, "base": 0}]
    assert {"launchType", "networkConfiguration"}.isdisjoint(run)  # a bridge has neither subnets nor security groups
    assert (container_override(run)["cpu"], container_override(run)["memory"]) == (4000, 15000)
    assert set(run["overrides"]) == {"containerOverrides"}


def test_a_size_of_ones_own_on_instances_makes_no_other_task_definition() -> None:
    template = rendered(**ON_GPU)
    definition, run = requests(configured(template, {"cpu": 1000, "memory": 3000}))
    assert definition == requests(configured(template))[0]
    assert (container_override(run)["cpu"], container_override(run)["memory"]) == (1000, 3000)


@pytest.mark.parametrize(("public", "network_mode"), [(False, "awsvpc"), (True, "host")])
def test_managed_instances(public: bool, network_mode: str) -> None:
    definition, run = requests(configured(rendered(**{**ON_MANAGED, "assign_public_ip": public})))
    assert (definition["networkMode"], definition["requiresCompatibilities"]) == (network_mode, ["MANAGED_INSTANCES"])
    assert (definition["cpu"], definition["memory"]) == ("1024", "2048")
    assert definition["runtimePlatform"]["cpuArchitecture"] == "ARM64"
    assert run["capacityProviderStrategy"] == [{"capacityProvider": "managed", "weight": 1, "base": 0}]
    assert (run["overrides"]["cpu"], run["overrides"]["memory"]) == ("1024", "2048")
    assert "ephemeralStorage" not in run["overrides"]
    network = run.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
    assert network.get("assignPublicIp") == (None if public else "DISABLED")  # instances give none to a task


def test_machines_of_ones_own() -> None:
    definition, run = requests(configured(rendered(**ON_OWN)))
    assert definition["networkMode"] == "bridge"
    assert "requiresCompatibilities" not in definition
    assert run["launchType"] == "EXTERNAL"
    assert {"capacityProviderStrategy", "networkConfiguration"}.isdisjoint(run)


def test_only_the_pools_own_capacity_may_be_asked_for() -> None:
    variables = rendered(**ON_GPU)["variables"]
    strategy = [{"capacityProvider": "FARGATE", "weight": 1, "base": 0}]
    assert [error.message for error in prefect_validate({"capacity_provider_strategy": strategy}, variables)] == [
        "'FARGATE' is not one of ['gpu', 'gpu-spot']"
    ]


# Storage, secrets, tags


def test_extras() -> None:
    definition, run = requests(configured(rendered(**EXTRAS), {"labels": {"CostCenter": "43", "team": "data"}}))
    assert definition["ephemeralStorage"] == {"sizeInGiB": 50}
    assert run["overrides"]["ephemeralStorage"] == {"sizeInGiB": 50}
    container = definition["containerDefinitions"][0]
    assert {secret["name"]: secret["valueFrom"] for secret in container["secrets"]} == {
        "API_TOKEN": SECRET_ARN,
        "DB_PASSWORD": ARN.format("secretsmanager", "secret:db"),
        "PREFECT_API_KEY": SECRET_ARN,
    }
    assert container["mountPoints"] == [
        {"sourceVolume": "efs-0", "containerPath": "/data", "readOnly": False},
        {"sourceVolume": "efs-1", "containerPath": "/models", "readOnly": True},
    ]
    assert [volume["efsVolumeConfiguration"]["authorizationConfig"] for volume in definition["volumes"]] == [
        {"accessPointId": "fsap-1", "iam": "ENABLED"},
        {"accessPointId": "fsap-2", "iam": "ENABLED"},
    ]
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert (tags["Project"], tags["CostCenter"], tags["team"]) == ("prefect", "43", "data")
    assert tags["prefect.io/flow-run-id"] == str(RUN.id)


# What Prefect's server says of a size before a run starts: it puts in the pool's defaults and validates by this code


def server_errors(template: Mapping[str, Any], job_variables: Mapping[str, Any]) -> list[str]:
    schema = template["variables"]
    defaults = {name: item["default"] for name, item in schema["properties"].items() if "default" in item}
    for name, value in defaults.items():  # one that is refused by itself is dropped
        assert not prefect_validate({name: value}, schema, preprocess=False, ignore_required=True), name
    return [
        error.message
        for error in prefect_validate({**defaults, **job_variables}, schema, preprocess=True, ignore_required=True)
    ]


@pytest.mark.parametrize("cpu", FARGATE_SIZES)
def test_every_pair_that_fargate_offers_is_accepted_and_no_other(template: dict[str, Any], cpu: int) -> None:
    for memory in range(512, 124 * 1024, 512):
        allowed = memory in FARGATE_SIZES[cpu]
        assert bool(server_errors(template, {"cpu": cpu, "memory": memory})) != allowed, (cpu, memory)


@pytest.mark.parametrize(
    ("job_variables", "message"),
    [
        ({"cpu": 256, "memory": 4096}, "4096 is not one of [512, 1024, 2048]"),
        ({"cpu": 4096}, "2048 is less than the minimum of 8192"),  # with the pool's own memory
        ({"memory": 16384}, "16384 is greater than the maximum of 8192"),  # with the pool's own CPU
        ({"cpu": 16384, "memory": 40000}, "40000 is not a multiple of 8192"),
        ({"ephemeral_storage": {"sizeInGiB": 20}}, "20 is less than the minimum of 21"),
        ({"ephemeral_storage": {"sizeInGiB": 201}}, "201 is greater than the maximum of 200"),
    ],
)
def test_refusals_say_what_is_allowed(template: dict[str, Any], job_variables: dict[str, Any], message: str) -> None:
    assert message in server_errors(template, job_variables)


def test_a_pool_may_have_any_pair_of_its_own() -> None:
    for cpu, sizes in FARGATE_SIZES.items():
        for memory in (sizes[0], sizes[-1]):
            assert server_errors(rendered(cpu=cpu, memory_mib=memory), {}) == []


def test_instances_have_any_size() -> None:
    assert server_errors(rendered(**ON_GPU), {"cpu": 3500, "memory": 14321}) == []
    assert server_errors(rendered(**ON_GPU), {"cpu": 64}) == ["64 is less than the minimum of 128"]
