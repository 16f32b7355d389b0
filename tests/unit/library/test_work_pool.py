import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_ssm as ssm
from aws_cdk.assertions import Template
from library_helpers import (
    API_KEY_ARN,
    CLOUD_URL,
    Parts,
    allow,
    assert_no_ingress,
    assert_refused,
    cloud_api,
    imported_vpc,
    in_order,
    make_parts,
    new_app,
    new_stack,
    only,
    plain,
    statements,
)

from cdk_prefect_ecs import FlowImage, FlowVolume, PrefectApi, SpotPolicy, WorkPool, WorkQueue
from cdk_prefect_ecs.functions.typed_properties import decode

POOL = "Custom::PrefectWorkPool"
FUNCTION = "AWS::Lambda::Function"


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(scope="module")
def pool(parts: Parts) -> WorkPool:
    return parts.pool()


@pytest.fixture(scope="module")
def template(parts: Parts, pool: WorkPool) -> Template:
    return Template.from_stack(parts.stack)


def sync_role(template: Template) -> str:
    """Logical id, without its hash, of the role of the one function."""
    return str(plain(only(template, FUNCTION)["Role"])).strip("<>").removesuffix(".Arn")


def job_configuration(template: Template) -> dict[str, Any]:
    return dict(decode(only(template, POOL)["BaseJobTemplate"])["job_configuration"])


def test_default_resource(template: Template) -> None:
    properties = plain(only(template, POOL))
    properties.pop("BaseJobTemplate")
    token = properties.pop("ServiceToken")
    assert token.endswith("Function.Arn>")
    assert properties == {
        "ServiceTimeout": "60",
        "ApiUrl": CLOUD_URL,
        "Name": "etl",
        "Description": "Flow runs on Amazon ECS (SPOT_WITH_FALLBACK), by cdk-prefect-ecs",
        "ConcurrencyLimit": "json:null",
        "ResultStorage": {"BlockName": "etl-results", "BucketName": "<StorageBucket>", "Folder": "results"},
        "Owner": "<AWS::AccountId>/<AWS::Region>/Test",
        "DeleteWithDeployments": "json:false",
        "Credential": {"Kind": "SsmParameter", "Id": "/prefect/api-key", "Scheme": "Bearer"},
    }


def test_the_template_that_is_synced_is_the_one_that_is_shown(pool: WorkPool, template: Template) -> None:
    synced = decode(only(template, POOL)["BaseJobTemplate"])
    assert synced == cdk.Stack.of(pool).resolve(pool.job_template)


def test_default_attributes(pool: WorkPool) -> None:
    assert (pool.work_pool_name, pool.family, pool.spot_policy) == ("etl", "Test-etl", SpotPolicy.SPOT_WITH_FALLBACK)
    assert pool.observer_queue_name == "Test-etl-no-observer"


def test_the_function(template: Template) -> None:
    function = only(template, FUNCTION)
    assert {key: function[key] for key in ("Runtime", "Architectures", "Handler", "Timeout", "MemorySize")} == {
        "Runtime": "python3.14",
        "Architectures": ["arm64"],
        "Handler": "functions.work_pool_sync.handler",
        "Timeout": 50,
        "MemorySize": 256,
    }
    assert "VpcConfig" not in function
    assert "Environment" not in function
    # CloudFormation gives up after the function has: the function says why it failed.
    assert function["Timeout"] < int(only(template, POOL)["ServiceTimeout"])


def test_log_of_the_function(template: Template) -> None:
    log_group = only(template, FUNCTION)["LoggingConfig"]["LogGroup"]["Ref"]
    found = template.find_resources("AWS::Logs::LogGroup")[log_group]
    assert found["Properties"]["RetentionInDays"] == 30
    assert found["DeletionPolicy"] == "Delete"


def test_role_of_the_function_is_exact(template: Template) -> None:
    role = sync_role(template)
    log_group = plain(only(template, FUNCTION)["LoggingConfig"]["LogGroup"]).strip("<>")
    assert statements(template, role) == in_order(
        [
            allow(["logs:CreateLogStream", "logs:PutLogEvents"], f"<{log_group}.Arn>"),
            allow("ssm:GetParameter", API_KEY_ARN),
        ]
    )


def test_nothing_lets_anything_in(template: Template) -> None:
    assert_no_ingress(template)


def test_the_secret_is_only_referred_to(template: Template) -> None:
    text = json.dumps(template.to_json())
    assert "{{resolve:" not in text
    assert "NoEcho" not in text
    assert '"PREFECT_API_KEY"' not in text  # by ARN, in the template's own field for it


def test_a_pool_alone_grants_the_worker_nothing(template: Template) -> None:
    assert statements(template, "WorkerRole") == []


def test_everything_set() -> None:
    parts = make_parts()
    pool = parts.pool(
        work_pool_name="ETL nightly",
        image=FlowImage.from_registry("flows:1"),
        spot_policy=SpotPolicy.weights(spot=3, on_demand=1),
        cpu=4096,
        memory_mib=8192,
        cpu_architecture="ARM64",
        concurrency_limit=7,
        environment={"TZ": "UTC", "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false"},
        description="Nightly",
        delete_with_deployments=True,
    )
    template = Template.from_stack(parts.stack)
    properties = decode(only(template, POOL))
    assert (properties["Name"], properties["Description"]) == ("ETL nightly", "Nightly")
    assert (properties["ConcurrencyLimit"], properties["DeleteWithDeployments"]) == (7, True)
    variables = properties["BaseJobTemplate"]["variables"]["properties"]
    assert variables["image"]["default"] == "flows:1"
    assert (variables["cpu"]["default"], variables["memory"]["default"]) == (4096, 8192)
    assert variables["env"]["default"]["TZ"] == "UTC"
    assert variables["env"]["default"]["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "false"
    assert variables["capacity_provider_strategy"]["default"] == [
        {"capacityProvider": "FARGATE_SPOT", "weight": 3, "base": 0},
        {"capacityProvider": "FARGATE", "weight": 1, "base": 0},
    ]
    definition = properties["BaseJobTemplate"]["job_configuration"]["task_definition"]
    assert definition["runtimePlatform"] == {"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"}
    assert pool.family.startswith("Test-ETL-nightly-")
    assert definition["family"] == pool.family


def test_concurrency_limit_of_zero_is_not_none() -> None:
    parts = make_parts()
    parts.pool(concurrency_limit=0)
    assert only(Template.from_stack(parts.stack), POOL)["ConcurrencyLimit"] == "json:0"


def test_in_a_cluster_without_spot_it_is_on_demand() -> None:
    parts = make_parts(spot=False)
    pool = parts.pool()
    assert pool.spot_policy == SpotPolicy.ON_DEMAND
    assert "capacity_provider_strategy" not in pool.job_template["variables"]["properties"]
    assert pool.job_template["job_configuration"]["task_run_request"]["launchType"] == "FARGATE"


@pytest.mark.parametrize("policy", [SpotPolicy.SPOT, SpotPolicy.SPOT_WITH_FALLBACK, SpotPolicy.ON_DEMAND])
def test_no_policy_has_a_base(policy: SpotPolicy) -> None:
    parts = make_parts()
    strategy = parts.pool(spot_policy=policy).job_template["variables"]["properties"]["capacity_provider_strategy"]
    assert [item["base"] for item in strategy["default"]] == [0]


def test_a_token_passes_as_environment_and_description() -> None:
    parts = make_parts()
    value = cdk.CfnParameter(parts.stack, "Value").value_as_string
    parts.pool(environment={"VALUE": value}, description=value)
    properties = only(Template.from_stack(parts.stack), POOL)
    assert properties["Description"] == {"Ref": "Value"}
    assert properties["BaseJobTemplate"]["variables"]["properties"]["env"]["default"]["VALUE"] == {"Ref": "Value"}


def test_refuses() -> None:
    parts = make_parts()
    token = cdk.CfnParameter(parts.stack, "Name").value_as_string
    for kwargs, words in (
        ({"work_pool_name": "a/b"}, ("'a/b'", "Prefect refuses any of")),
        ({"work_pool_name": "prefect-pool"}, ("'prefect-pool'", "which Prefect reserves")),
        ({"work_pool_name": token}, ("work_pool_name must be known at synth",)),
        ({"cpu": 300}, ("cpu 300", "256, 512, 1024")),
        ({"memory_mib": 512}, ("memory_mib 512", "2048 to 8192")),
        ({"cpu_architecture": "arm64"}, ("'arm64'", "X86_64 or ARM64")),
        ({"concurrency_limit": -1}, ("concurrency_limit must be 0 to 2147483647; got -1",)),
        ({"environment": {"PREFECT_API_KEY": "pnu_1"}}, ("environment must not hold PREFECT_API_KEY",)),
        ({"environment": {"PREFECT_API_AUTH_STRING": "a:b"}}, ("must not hold PREFECT_API_AUTH_STRING",)),
        ({"environment": {"A": 1}}, ("WorkPool: environment['A'] must be a string; got 1",)),
        ({"spot_policy": SpotPolicy("x", 0, 0)}, ("at least one item",)),
    ):
        assert_refused(parts.stack, lambda kwargs=kwargs: parts.pool(**kwargs), *words)  # type: ignore[misc]


def test_refuses_spot_in_a_cluster_without() -> None:
    parts = make_parts(spot=False)
    assert_refused(
        parts.stack,
        lambda: parts.pool(spot_policy=SpotPolicy.SPOT),
        "spot_policy SPOT needs FARGATE_SPOT",
        "spot=True or use SpotPolicy.ON_DEMAND",
    )


def test_two_pools_of_one_api_share_a_function() -> None:
    parts = make_parts()
    one, two = parts.pool("One"), parts.pool("Two", work_pool_name="ml")
    template = Template.from_stack(parts.stack)
    template.resource_count_is(POOL, 2)
    template.resource_count_is(FUNCTION, 1)
    assert {one.family, two.family} == {"Test-etl", "Test-ml"}


def test_two_pools_of_one_name_at_one_api_are_refused() -> None:
    parts = make_parts(new_stack())
    parts.pool("One")
    with pytest.raises(ValueError, match="has a work pool 'etl' at this API already; give one of the two another name"):
        parts.pool("Two")


def test_two_pools_of_two_apis_do_not() -> None:
    parts = make_parts()
    parts.pool("One")
    parts.pool("Two", work_pool_name="ml", api=cloud_api("/other/key"))
    template = Template.from_stack(parts.stack)
    template.resource_count_is(FUNCTION, 2)
    reads = [
        plain(statement["Resource"])
        for policy in template.find_resources("AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Action"] == "ssm:GetParameter"
    ]
    assert sorted(arn.rpartition(":")[2] for arn in reads) == ["parameter/other/key", "parameter/prefect/api-key"]


def test_api_in_a_vpc_puts_the_function_there() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    parts = make_parts(stack, vpc=vpc, api=PrefectApi.self_hosted("http://prefect.internal:4200/api", vpc=vpc))
    parts.pool()
    template = Template.from_stack(stack)
    assert only(template, FUNCTION)["VpcConfig"]["SubnetIds"] == ["subnet-private-1", "subnet-private-2"]
    assert "Credential" not in only(template, POOL)
    actions = {action for statement in statements(template, sync_role(template)) for action in statement["Action"]}
    assert {action for action in actions if not action.startswith("ec2:")} == {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }
    assert_no_ingress(template)


def test_imported_roles_and_log_group() -> None:
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    parts = make_parts(stack)
    role_arn = "arn:aws:iam::123456789012:role/{}"
    pool = parts.pool(
        execution_role=iam.Role.from_role_arn(stack, "E", role_arn.format("exec")),
        flow_role=iam.Role.from_role_arn(stack, "F", role_arn.format("flow")),
        log_group=logs.LogGroup.from_log_group_name(stack, "L", "/prefect"),
    )
    configuration = stack.resolve(pool.job_template)["job_configuration"]
    assert configuration["execution_role_arn"] == role_arn.format("exec")
    assert configuration["task_definition"]["taskRoleArn"] == role_arn.format("flow")
    assert configuration["cloudwatch_logs_options"]["awslogs-group"] == "/prefect"
    assert configuration["cloudwatch_logs_options"]["awslogs-region"] == "us-east-1"


def test_the_family_is_known_in_a_nested_stack() -> None:
    root = cdk.Stack(new_app(), "Root")
    families = [make_parts(cdk.NestedStack(root, name)).pool().family for name in ("Blue", "Green")]
    assert all("Token" not in family for family in families)
    assert families[0].startswith("RootBlue")
    assert families[0] != families[1]


def test_grant_run_reaches_another_worker_role() -> None:
    parts = make_parts()
    pool = parts.pool()
    other = iam.Role(parts.stack, "Other", assumed_by=iam.AccountRootPrincipal())
    granted = pool.grant_run(other)
    assert granted.success
    assert len(granted.principal_statements) == 7
    template = Template.from_stack(parts.stack)
    assert statements(template, "WorkerRole") == []
    assert len(statements(template, "Other")) == 7


# Queues, secrets, volumes, tags


def test_queues_are_synced() -> None:
    parts = make_parts()
    parts.pool(queues=[WorkQueue("urgent", 1, concurrency_limit=3), WorkQueue("default", 2)])
    assert decode(only(Template.from_stack(parts.stack), POOL)["WorkQueues"]) == [
        {"Name": "urgent", "Priority": 1, "ConcurrencyLimit": 3},
        {"Name": "default", "Priority": 2, "ConcurrencyLimit": None},
    ]


def test_secrets_are_injected_and_only_the_execution_role_reads_them() -> None:
    parts = make_parts()
    secret = secretsmanager.Secret.from_secret_name_v2(parts.stack, "Db", "db")
    parts.pool(secrets={"DB_PASSWORD": ecs.Secret.from_secrets_manager(secret, "password")})
    template = Template.from_stack(parts.stack)
    (injected,) = job_configuration(template)["task_definition"]["containerDefinitions"][0]["secrets"]
    assert injected["name"] == "DB_PASSWORD"
    assert ":secret:db" in plain(injected["valueFrom"])
    for role, reads in (("ExecutionRole", True), ("FlowRole", False), ("WorkerRole", False)):
        assert ("secret:db" in json.dumps(statements(template, role))) == reads


def test_the_ecs_agent_reads_a_secret_and_does_nothing_else_with_it() -> None:
    parts = make_parts(api=PrefectApi.self_hosted("https://prefect.example.com/api"))
    key = kms.Key(parts.stack, "Key")
    secret = secretsmanager.Secret(parts.stack, "Db", encryption_key=key)
    parameter = ssm.StringParameter.from_secure_string_parameter_attributes(
        parts.stack, "Token", parameter_name="/etl/token", encryption_key=key
    )
    parts.pool(
        secrets={"DB": ecs.Secret.from_secrets_manager(secret), "TOKEN": ecs.Secret.from_ssm_parameter(parameter)}
    )
    assert statements(Template.from_stack(parts.stack), "ExecutionRole") == in_order(
        [
            allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<Logs.Arn>"),
            allow("secretsmanager:GetSecretValue", "<Db>"),
            allow("ssm:GetParameters", "arn:<AWS::Partition>:ssm:<AWS::Region>:<AWS::AccountId>:parameter/etl/token"),
            allow("kms:Decrypt", "<Key.Arn>"),
        ]
    )


def test_volumes_are_mounted_through_their_access_point_alone() -> None:
    parts = make_parts()
    group = ec2.SecurityGroup(parts.stack, "FilesGroup", vpc=parts.network.vpc)
    files = efs.FileSystem(parts.stack, "Files", vpc=parts.network.vpc, security_group=group)
    parts.pool(
        volumes=[
            FlowVolume(files.add_access_point("Data"), "/data"),
            FlowVolume(files.add_access_point("Models"), "/models", read_only=True),
        ]
    )
    template = Template.from_stack(parts.stack)
    definition = job_configuration(template)["task_definition"]
    assert [plain(volume["efsVolumeConfiguration"]["authorizationConfig"]) for volume in definition["volumes"]] == [
        {"accessPointId": "<FilesData>", "iam": "ENABLED"},
        {"accessPointId": "<FilesModels>", "iam": "ENABLED"},
    ]
    granted = [s for s in statements(template, "FlowRole") if "elasticfilesystem:ClientMount" in s["Action"]]
    through = {
        s["Condition"]["StringEquals"]["elasticfilesystem:AccessPointArn"].rpartition("/")[2]: s["Action"]
        for s in granted
    }
    assert through == {
        "<FilesData>": ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"],
        "<FilesModels>": ["elasticfilesystem:ClientMount"],
    }
    assert {resource for s in granted for resource in s["Resource"]} == {"<Files.Arn>"}
    ingress = plain(only(template, "AWS::EC2::SecurityGroupIngress"))
    assert (ingress["FromPort"], ingress["SourceSecurityGroupId"]) == (2049, "<NetworkSecurityGroup.GroupId>")


def test_tags_reach_every_task() -> None:
    parts = make_parts()
    parts.pool(tags={"CostCenter": "42"})
    request = job_configuration(Template.from_stack(parts.stack))["task_run_request"]
    assert request["tags"] == [{"key": "CostCenter", "value": "42"}]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"gpus": 1}, ("gpus 1 cannot be had on Fargate", "give the pool GPU instances")),
        ({"ephemeral_storage_gib": 20}, ("from 21 to 200; got 20", "20 GiB that cost nothing")),
        ({"ephemeral_storage_gib": 201}, ("from 21 to 200; got 201",)),
        ({"queues": [WorkQueue("a", 0)]}, ("priority of queue a",)),
        ({"tags": {"aws:mine": "1"}}, ("tag 'aws:mine'", "does not begin with aws:")),
        ({"tags": {str(number): "" for number in range(41)}}, ("give up to 40; got 41",)),
    ],
)
def test_refuses_what_cannot_be(kwargs: dict[str, Any], words: tuple[str, ...]) -> None:
    parts = make_parts()
    assert_refused(parts.stack, lambda: parts.pool(**kwargs), *words)


def test_refuses_secrets_that_clash() -> None:
    parts = make_parts()
    secret = ecs.Secret.from_secrets_manager(secretsmanager.Secret.from_secret_name_v2(parts.stack, "Db", "db"))
    for kwargs, words in (
        ({"secrets": {"A": secret}, "environment": {"A": "b"}}, "A is in environment and in secrets"),
        ({"secrets": {"PREFECT_API_KEY": secret}}, "secrets must not hold PREFECT_API_KEY"),
    ):
        assert_refused(parts.stack, lambda kwargs=kwargs: parts.pool(**kwargs), words)  # type: ignore[misc]


def test_refuses_volumes_that_cannot_be() -> None:
    parts = make_parts()
    point = efs.AccessPoint.from_access_point_attributes(
        parts.stack,
        "Point",
        access_point_id="fsap-1",
        file_system=efs.FileSystem.from_file_system_attributes(
            parts.stack,
            "Files",
            file_system_id="fs-1",
            security_group=ec2.SecurityGroup.from_security_group_id(parts.stack, "Group", "sg-9"),
        ),
    )
    own = parts.cluster.add_external_capacity("Own").capacity
    for kwargs, words in (
        (
            {"volumes": [FlowVolume(point, "data")]},
            "such as /data; got 'data'",
        ),
        ({"volumes": [FlowVolume(point, "/")]}, "got ''"),
        ({"volumes": [FlowVolume(point, "/data"), FlowVolume(point, "/data/")]}, "a container_path of its own"),
        (
            {
                "volumes": [FlowVolume(point, "/work")],
                "image": FlowImage.from_registry("flows:1", writable_paths=["/tmp", "/work"]),  # noqa: S108
            },
            "container_path /work is one of the image's writable_paths",
        ),
        ({"volumes": [FlowVolume(point, "/data")], "capacity": own}, "cannot be mounted on capacity 'Own'"),
        ({"capacity": own, "ephemeral_storage_gib": 50}, "ephemeral_storage_gib is Fargate's"),
        ({"capacity": own, "cpu_architecture": "ARM64"}, "does not go with capacity 'Own'"),
        ({"capacity": own, "cpu": 10}, "cpu must be a whole number from 128 to 1966080; got 10"),
    ):
        assert_refused(parts.stack, lambda kwargs=kwargs: parts.pool(**kwargs), words)  # type: ignore[misc]
