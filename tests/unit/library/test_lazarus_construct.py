"""The construct; what its function does is tested as plain Python in tests/unit/functions."""

import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import (
    ACCOUNT_ID,
    API_KEY_ARN,
    CLOUD_URL,
    IN_VPC,
    WORKSPACE_ID,
    Parts,
    allow,
    assert_no_ingress,
    assert_refused,
    imported_vpc,
    in_order,
    make_parts,
    new_app,
    new_stack,
    only,
    plain,
    resource,
    statements,
    through,
)

import cdk_prefect_ecs
from cdk_prefect_ecs import Lazarus, PrefectApi, SpotPolicy, TaskEvents
from cdk_prefect_ecs.functions.lazarus import Pool as LazarusPool
from cdk_prefect_ecs.functions.typed_properties import decode
from cdk_prefect_ecs.job_template import SIGTERM_BEHAVIOR

POOL = "Custom::PrefectWorkPool"
MAPPING = "AWS::Lambda::EventSourceMapping"
IN_CLUSTER = {"ArnEquals": {"ecs:cluster": "<Cluster.Arn>"}}
CONSUME = [
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
]
ROLE = (
    allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<LazarusLogGroup.Arn>"),
    allow("sqs:SendMessage", "<LazarusDeadLetterQueue.Arn>"),
    allow(CONSUME, "<LazarusTaskEventsQueue.Arn>"),
    allow("ecs:ListTasks", "*", IN_CLUSTER),
    allow(
        ["ecs:DescribeTasks", "ecs:StopTask"],
        "arn:<AWS::Partition>:ecs:<AWS::Region>:<AWS::AccountId>:task/<Cluster>/*",
        IN_CLUSTER,
    ),
    allow("logs:GetLogEvents", "<Logs.Arn>"),
)


def make_lazarus(parts: Parts, construct_id: str = "Lazarus", **kwargs: Any) -> Lazarus:
    given = {"cluster": parts.cluster, "api": parts.api, "log_group": parts.log_group}
    return Lazarus(parts.stack, construct_id, **(given | kwargs))


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(scope="module")
def lazarus(parts: Parts) -> Lazarus:
    return make_lazarus(parts, work_pool=parts.pool())


@pytest.fixture(scope="module")
def template(parts: Parts, lazarus: Lazarus) -> Template:
    return Template.from_stack(parts.stack)


def function(template: Template, construct_id: str = "Lazarus") -> dict[str, Any]:
    return dict(plain(resource(template, f"{construct_id}Function")["Properties"]))


def environment(template: Template, construct_id: str = "Lazarus") -> dict[str, str]:
    return dict(function(template, construct_id)["Environment"]["Variables"])


def pools(template: Template, construct_id: str = "Lazarus") -> dict[str, Any]:
    return dict(json.loads(environment(template, construct_id)["POOLS"]))


def sigterm_behavior(template: Template) -> str:
    """What is synced to Prefect."""
    variables = decode(only(template, POOL)["BaseJobTemplate"])["variables"]["properties"]
    return str(variables["env"]["default"][SIGTERM_BEHAVIOR])


# The function


def test_function_is_exact(template: Template) -> None:
    properties = function(template)
    assert properties.pop("Code")
    assert properties.pop("Environment")
    assert properties == {
        "Description": "Reschedules flow runs whose ECS task is gone",
        "Runtime": "python3.14",
        "Architectures": ["arm64"],
        "Handler": "functions.lazarus.handler",
        "MemorySize": 512,
        "Timeout": 60,
        "ReservedConcurrentExecutions": 1,
        "Role": "<LazarusRole.Arn>",
        "LoggingConfig": {"LogGroup": "<LazarusLogGroup>"},
        "DeadLetterConfig": {"TargetArn": "<LazarusDeadLetterQueue.Arn>"},
    }


def test_the_handler_is_in_the_asset(template: Template) -> None:
    module, _, name = function(template)["Handler"].rpartition(".")
    source = Path(cdk_prefect_ecs.__file__).parent / f"{module.replace('.', '/')}.py"
    assert f"\ndef {name}(" in source.read_text()
    # Both functions of the library are one asset.
    keys = {found["Properties"]["Code"]["S3Key"] for found in template.find_resources("AWS::Lambda::Function").values()}
    assert len(keys) == 1


def test_environment_is_exact(template: Template) -> None:
    variables = environment(template)
    assert json.loads(variables.pop("POOLS")) == {
        "etl": {
            "family": "Test-etl",
            "maxReschedules": 3,
            "patienceSeconds": 90,
            "spotAttempts": 2,
            "onDemand": "FARGATE",
            "spot": "FARGATE_SPOT",
        }
    }
    assert json.loads(variables.pop("CREDENTIAL")) == {
        "Kind": "SsmParameter",
        "Id": "/prefect/api-key",
        "Scheme": "Bearer",
    }
    assert variables == {
        "API_URL": CLOUD_URL,
        "CLUSTER_ARN": "<Cluster.Arn>",
        "LOG_GROUP": "<Logs>",
        "STREAM_PREFIX": "flow-run/prefect",
    }


def test_it_looks_for_logs_where_the_flow_runs_write_them(parts: Parts, template: Template) -> None:
    configuration = decode(only(template, POOL)["BaseJobTemplate"])["job_configuration"]
    options = configuration["cloudwatch_logs_options"]
    container = configuration["task_definition"]["containerDefinitions"][0]["name"]
    variables = environment(template)
    assert variables["LOG_GROUP"] == plain(options["awslogs-group"])
    assert variables["STREAM_PREFIX"] == f"{options['awslogs-stream-prefix']}/{container}"
    assert pools(template)["etl"]["family"] == configuration["task_definition"]["family"]
    assert variables["CLUSTER_ARN"] == plain(configuration["cluster"])


def test_on_demand_is_what_the_pool_takes_as_job_variables(template: Template) -> None:
    variables = decode(only(template, POOL)["BaseJobTemplate"])["variables"]["properties"]
    strategy = variables["capacity_provider_strategy"]
    pool = LazarusPool.parse(pools(template)["etl"])
    for item in pool.on_demand["capacity_provider_strategy"]:
        assert set(item) == set(strategy["items"]["required"])
        assert item["capacityProvider"] in strategy["items"]["properties"]["capacityProvider"]["enum"]


@pytest.mark.parametrize(
    "policy", [SpotPolicy.ON_DEMAND, SpotPolicy.SPOT, SpotPolicy.weights(spot=1, on_demand=1)], ids=lambda p: p.name
)
def test_a_policy_that_does_not_fall_back_has_no_spot_attempts(policy: SpotPolicy) -> None:
    parts = make_parts()
    make_lazarus(parts, work_pool=parts.pool(spot_policy=policy), spot_attempts=5)
    pool = pools(Template.from_stack(parts.stack))["etl"]
    assert "spotAttempts" not in pool
    assert LazarusPool.parse(pool).limits.spot_attempts is None


def test_in_a_cluster_without_spot_there_is_nothing_to_fall_back_from() -> None:
    parts = make_parts(spot=False)
    make_lazarus(parts, work_pool=parts.pool())
    assert pools(Template.from_stack(parts.stack))["etl"].keys() == {"family", "maxReschedules", "patienceSeconds"}


def test_the_secret_is_only_referred_to(template: Template) -> None:
    text = json.dumps(template.to_json())
    assert "{{resolve:" not in text
    assert "NoEcho" not in text
    assert not {name for name in environment(template) if name.startswith("PREFECT_API")}


def test_server_without_a_credential() -> None:
    parts = make_parts(api=PrefectApi.self_hosted("https://prefect.example.com/api"))
    make_lazarus(parts, work_pool=parts.pool())
    template = Template.from_stack(parts.stack)
    assert "CREDENTIAL" not in environment(template)
    assert environment(template)["API_URL"] == "https://prefect.example.com/api"
    assert statements(template, "LazarusRole") == in_order([*ROLE])


def test_field_of_a_secret_with_its_own_key() -> None:
    stack = new_stack()
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf"
    key_arn = "arn:aws:kms:us-east-1:123456789012:key/1"
    secret = secretsmanager.Secret.from_secret_attributes(
        stack, "Secret", secret_complete_arn=arn, encryption_key=kms.Key.from_key_arn(stack, "Key", key_arn)
    )
    api = PrefectApi.cloud(
        account_id=ACCOUNT_ID, workspace_id=WORKSPACE_ID, api_key=PrefectApi.secrets_manager(secret, field="key")
    )
    parts = make_parts(stack, api=api)
    make_lazarus(parts, work_pool=parts.pool())
    template = Template.from_stack(stack)
    assert json.loads(environment(template)["CREDENTIAL"]) == {
        "Kind": "SecretsManager",
        "Id": arn,
        "Field": "key",
        "Scheme": "Bearer",
    }
    assert statements(template, "LazarusRole") == in_order(
        [*ROLE, allow("secretsmanager:GetSecretValue", arn), allow("kms:Decrypt", key_arn, through("secretsmanager"))]
    )


def test_log_group_of_the_function(template: Template) -> None:
    found = resource(template, "LazarusLogGroup")
    assert found["Properties"] == {"RetentionInDays": 30}
    assert found["DeletionPolicy"] == "Delete"


# What it may do


def test_role_is_exact(template: Template) -> None:
    assert statements(template, "LazarusRole") == in_order([*ROLE, allow("ssm:GetParameter", API_KEY_ARN)])


def test_role_is_the_functions_alone(lazarus: Lazarus, template: Template) -> None:
    assert resource(template, "LazarusRole")["Properties"] == {
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
            ],
        }
    }
    assert lazarus.function.role is lazarus.role


def test_it_widens_no_other_role(template: Template) -> None:
    assert statements(template, "WorkerRole") == []
    for role in ("ExecutionRole", "FlowRole"):
        actions = {action for statement in statements(template, role) for action in statement["Action"]}
        assert not {action for action in actions if action.startswith(("ecs:", "sqs:"))}


def test_it_can_be_granted() -> None:
    parts = make_parts()
    lazarus = make_lazarus(parts, work_pool=parts.pool())
    audit = logs.LogGroup(parts.stack, "Audit", retention=logs.RetentionDays.ONE_DAY)
    audit.grant(lazarus, "logs:FilterLogEvents")
    found = statements(Template.from_stack(parts.stack), "LazarusRole")
    assert allow("logs:FilterLogEvents", "<Audit.Arn>") in found


def test_imported_log_group_of_the_flow_runs() -> None:
    parts = make_parts()
    log_group = logs.LogGroup.from_log_group_name(parts.stack, "L", "/prefect")
    make_lazarus(parts, work_pool=parts.pool(log_group=log_group), log_group=log_group)
    template = Template.from_stack(parts.stack)
    assert environment(template)["LOG_GROUP"] == "/prefect"
    arn = "arn:<AWS::Partition>:logs:<AWS::Region>:<AWS::AccountId>:log-group:/prefect:*"
    assert allow("logs:GetLogEvents", arn) in statements(template, "LazarusRole")


# What wakes it


def test_the_queue_wakes_it(template: Template) -> None:
    assert plain(only(template, MAPPING)) == {
        "BatchSize": 10,
        "EventSourceArn": "<LazarusTaskEventsQueue.Arn>",
        "FunctionName": "<LazarusFunction>",
    }


def test_six_times_its_time_out_hides_a_message(template: Template) -> None:
    hidden = resource(template, "LazarusTaskEventsQueue")["Properties"]["VisibilityTimeout"]
    assert hidden == 6 * function(template)["Timeout"]


def test_the_schedule_wakes_it_every_minute(template: Template) -> None:
    assert plain(resource(template, "LazarusEveryMinute")["Properties"]) == {
        "Description": "Wakes Lazarus, which reschedules flow runs whose ECS task is gone",
        "ScheduleExpression": "rate(1 minute)",
        "State": "ENABLED",
        "Targets": [
            {"Id": "Target0", "Arn": "<LazarusFunction.Arn>", "RetryPolicy": {"MaximumRetryAttempts": 0}},
        ],
    }
    assert plain(only(template, "AWS::Lambda::EventInvokeConfig")) == {
        "FunctionName": "<LazarusFunction>",
        "Qualifier": "$LATEST",
        "MaximumRetryAttempts": 1,
        "MaximumEventAgeInSeconds": 120,
    }


def test_only_its_schedule_may_invoke_it(template: Template) -> None:
    assert plain(only(template, "AWS::Lambda::Permission")) == {
        "Action": "lambda:InvokeFunction",
        "FunctionName": "<LazarusFunction.Arn>",
        "Principal": "events.amazonaws.com",
        "SourceArn": "<LazarusEveryMinute.Arn>",
    }


def test_dead_letter_queue_is_encrypted_and_reached_over_tls_only(template: Template) -> None:
    assert resource(template, "LazarusDeadLetterQueue")["Properties"] == {
        "SqsManagedSseEnabled": True,
        "MessageRetentionPeriod": 14 * 24 * 3600,
    }
    policy = plain(resource(template, "LazarusDeadLetterQueuePolicy")["Properties"])
    assert policy["PolicyDocument"]["Statement"] == [
        {
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": "sqs:*",
            "Resource": "<LazarusDeadLetterQueue.Arn>",
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ]


# Alarms


def test_alarms_are_exact(lazarus: Lazarus, template: Template) -> None:
    common = {
        "Namespace": "AWS/Lambda",
        "Dimensions": [{"Name": "FunctionName", "Value": "<LazarusFunction>"}],
        "Period": 60,
        "Statistic": "Sum",
        "Threshold": 1,
    }
    at_least, less = "GreaterThanOrEqualToThreshold", "LessThanThreshold"
    for name, metric, comparison, datapoints, periods, missing in (
        ("Errors", "Errors", at_least, 3, 5, "notBreaching"),
        ("Throttles", "Throttles", at_least, 8, 10, "notBreaching"),
        ("HeartbeatMissing", "Invocations", less, None, 5, "breaching"),
    ):
        properties = plain(resource(template, f"Lazarus{name}")["Properties"])
        assert properties.pop("AlarmDescription").startswith("Lazarus ")
        assert properties.pop("DatapointsToAlarm", None) == datapoints
        assert properties == common | {
            "MetricName": metric,
            "ComparisonOperator": comparison,
            "EvaluationPeriods": periods,
            "TreatMissingData": missing,
        }
    assert [alarm.node.id for alarm in lazarus.alarms] == [
        "Errors",
        "Throttles",
        "HeartbeatMissing",
        "DeadLetters",
        "OldestMessage",
    ]
    template.resource_count_is("AWS::CloudWatch::Alarm", 5)


def test_no_physical_names(template: Template) -> None:
    names = {"FunctionName", "RoleName", "QueueName", "LogGroupName", "AlarmName", "Name"}
    for logical_id, found in template.to_json()["Resources"].items():
        # A mapping, a permission and the settings of invocations name the function that they belong to.
        if logical_id.startswith("Lazarus") and found["Type"] not in (
            MAPPING,
            "AWS::Lambda::Permission",
            "AWS::Lambda::EventInvokeConfig",
        ):
            assert not names & set(found["Properties"]), logical_id


# What can be set


def test_everything_set() -> None:
    parts = make_parts()
    task_events = TaskEvents(parts.stack, "Events", cluster=parts.cluster)
    lazarus = make_lazarus(
        parts,
        work_pool=parts.pool(),
        task_events=task_events,
        spot_attempts=1,
        max_reschedules=0,
        patience=cdk.Duration.millis(12_500),
        reserved_concurrency=None,
    )
    assert lazarus.task_events is task_events
    template = Template.from_stack(parts.stack)
    pool = pools(template)["etl"]
    assert (pool["spotAttempts"], pool["maxReschedules"], pool["patienceSeconds"]) == (1, 0, 12.5)
    assert "ReservedConcurrentExecutions" not in function(template)
    assert plain(only(template, MAPPING))["EventSourceArn"] == "<EventsQueue.Arn>"
    assert allow(CONSUME, "<EventsQueue.Arn>") in statements(template, "LazarusRole")
    template.resource_count_is("AWS::SQS::Queue", 3)


def test_patience_of_minutes_is_given_in_seconds() -> None:
    parts = make_parts()
    make_lazarus(parts, work_pool=parts.pool(), patience=cdk.Duration.minutes(3))
    assert pools(Template.from_stack(parts.stack))["etl"]["patienceSeconds"] == 180


def test_refuses() -> None:
    parts = make_parts()
    pool = parts.pool()
    for kwargs, words in (
        ({"spot_attempts": 0}, ("spot_attempts must be 1 or more; got 0", "use SpotPolicy.ON_DEMAND")),
        ({"max_reschedules": -1}, ("max_reschedules must be 0 or more; got -1",)),
        ({"patience": cdk.Duration.seconds(5)}, ("patience must be at least 10 seconds", "got 5 seconds")),
        ({"patience": cdk.Duration.millis(9_500)}, ("patience must be at least 10 seconds", "got 9.5 seconds")),
    ):
        assert_refused(parts.stack, lambda kwargs=kwargs: make_lazarus(parts, work_pool=pool, **kwargs), *words)  # type: ignore[misc]
    # A pool whose Lazarus was refused is not guarded.
    assert sigterm_behavior(Template.from_stack(parts.stack)) == "reschedule"


# In a VPC


@pytest.fixture(scope="module")
def in_vpc() -> Template:
    stack = new_stack()
    vpc = imported_vpc(stack)
    parts = make_parts(stack, vpc=vpc, api=PrefectApi.self_hosted("http://prefect.internal:4200/api", vpc=vpc))
    make_lazarus(parts, work_pool=parts.pool())
    return Template.from_stack(stack)


def test_api_in_a_vpc_puts_the_function_there(in_vpc: Template) -> None:
    assert function(in_vpc)["VpcConfig"] == {
        "SubnetIds": ["subnet-private-1", "subnet-private-2"],
        "SecurityGroupIds": ["<LazarusFunctionSecurityGroup.GroupId>"],
    }
    assert environment(in_vpc)["API_URL"] == "http://prefect.internal:4200/api"


def test_subnets_can_be_chosen() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    subnets = ec2.SubnetSelection(subnets=[vpc.private_subnets[1]])
    api = PrefectApi.self_hosted("http://prefect.internal:4200/api", vpc=vpc, vpc_subnets=subnets)
    parts = make_parts(stack, vpc=vpc, api=api)
    make_lazarus(parts, work_pool=parts.pool())
    assert function(Template.from_stack(stack))["VpcConfig"]["SubnetIds"] == ["subnet-private-2"]


def test_nothing_comes_in_there(in_vpc: Template) -> None:
    assert_no_ingress(in_vpc)


def test_role_there_lets_lambda_manage_its_network_interfaces_too(in_vpc: Template) -> None:
    assert statements(in_vpc, "LazarusRole") == in_order([*ROLE, *IN_VPC])


def test_otherwise_it_is_in_no_vpc(template: Template) -> None:
    assert "VpcConfig" not in function(template)
    template.resource_count_is("AWS::EC2::SecurityGroup", 1)  # of the flow runs


# What it guards


def test_a_guarded_pool_relinquishes(parts: Parts, lazarus: Lazarus, template: Template) -> None:
    assert sigterm_behavior(template) == "relinquish"
    assert "reschedule" not in json.dumps(only(template, POOL))


def test_a_pool_without_a_guard_reschedules() -> None:
    parts = make_parts()
    parts.pool()
    assert sigterm_behavior(Template.from_stack(parts.stack)) == "reschedule"


def test_what_is_synced_of_a_guarded_pool_is_what_is_shown() -> None:
    parts = make_parts()
    value = cdk.CfnParameter(parts.stack, "Value").value_as_string
    pool = parts.pool(environment={"VALUE": value, "TZ": "UTC"})
    unguarded = parts.stack.resolve(pool.job_template)
    make_lazarus(parts, work_pool=pool)
    pool.guard()  # again changes nothing
    synced = decode(only(Template.from_stack(parts.stack), POOL)["BaseJobTemplate"])
    assert synced == parts.stack.resolve(pool.job_template)
    unguarded["variables"]["properties"]["env"]["default"][SIGTERM_BEHAVIOR] = "relinquish"
    assert synced == unguarded


@pytest.mark.parametrize("own", ["reschedule", "relinquish"])
def test_a_behaviour_of_ones_own_stays(own: str) -> None:
    parts = make_parts()
    pool = parts.pool(environment={SIGTERM_BEHAVIOR: own})
    make_lazarus(parts, work_pool=pool)
    assert sigterm_behavior(Template.from_stack(parts.stack)) == own
    assert pool.job_template["variables"]["properties"]["env"]["default"][SIGTERM_BEHAVIOR] == own


def test_two_pools_of_one_cluster_have_one_each() -> None:
    parts = make_parts()
    made = {name: parts.pool(f"{name}Pool", work_pool_name=name.lower()) for name in ("Etl", "Ml")}
    for name, pool in made.items():
        make_lazarus(parts, f"{name}Lazarus", work_pool=pool)
    template = Template.from_stack(parts.stack)
    template.resource_count_is(MAPPING, 2)
    for name in made:
        (guarded,) = pools(template, f"{name}Lazarus").items()
        assert (guarded[0], guarded[1]["family"]) == (name.lower(), f"Test-{name.lower()}")
        consumed = [s["Resource"] for s in statements(template, f"{name}LazarusRole") if s["Action"] == CONSUME]
        assert consumed == [[f"<{name}LazarusTaskEventsQueue.Arn>"]]


def test_one_guards_several_pools_each_in_its_own_way() -> None:
    parts = make_parts()
    gpu = parts.cluster.add_auto_scaling_capacity(
        "Gpu", network=parts.network, instance_types=[ec2.InstanceType("g5.xlarge")], spot=True
    )
    lazarus = make_lazarus(parts, work_pool=parts.pool())
    lazarus.add_work_pool(
        parts.pool("Gpu", work_pool_name="gpu", capacity=gpu.capacity, gpus=1),
        spot_attempts=1,
        max_reschedules=5,
        patience=cdk.Duration.minutes(4),
    )
    lazarus.add_work_pool(parts.pool("Calm", work_pool_name="calm", spot_policy=SpotPolicy.ON_DEMAND))
    template = Template.from_stack(parts.stack)
    template.resource_count_is(MAPPING, 1)
    guarded = pools(template)
    assert guarded["gpu"] == {
        "family": "Test-gpu",
        "maxReschedules": 5,
        "patienceSeconds": 240,
        "spotAttempts": 1,
        "onDemand": "<ClusterGpuOnDemandProvider>",
        "spot": "<ClusterGpuSpotProvider>",
    }
    assert guarded["calm"] == {"family": "Test-calm", "maxReschedules": 3, "patienceSeconds": 90}
    assert guarded["etl"]["onDemand"] == "FARGATE"
    for found in template.find_resources(POOL).values():
        variables = decode(found["Properties"]["BaseJobTemplate"])["variables"]["properties"]
        assert variables["env"]["default"][SIGTERM_BEHAVIOR] == "relinquish"


def test_refuses_to_guard_a_pool_twice_or_too_many() -> None:
    parts = make_parts()
    pool = parts.pool()
    lazarus = make_lazarus(parts, work_pool=pool)
    assert_refused(parts.stack, lambda: lazarus.add_work_pool(pool), "guards the work pool 'etl' already")
    for i in range(14):
        lazarus.add_work_pool(parts.pool(f"Pool{i}", work_pool_name=f"a-pool-with-a-name-that-is-long-{i:02}"))
    one_more = parts.pool("OneMore", work_pool_name="a-pool-with-a-name-that-is-long-and-longer")
    with pytest.raises(ValueError, match=r"cannot guard 16 work pools: Lambda allows 4 KB.*Make another layer"):
        lazarus.add_work_pool(one_more)
    assert len(pools(Template.from_stack(parts.stack))) == 15


def test_task_events_can_be_shared_by_two_pools() -> None:
    parts = make_parts()
    task_events = TaskEvents(parts.stack, "Events", cluster=parts.cluster)
    made = [
        make_lazarus(
            parts, f"{name}Lazarus", work_pool=parts.pool(name, work_pool_name=name.lower()), task_events=task_events
        )
        for name in ("Etl", "Ml")
    ]
    template = Template.from_stack(parts.stack)
    mappings = [plain(found["Properties"]) for found in template.find_resources(MAPPING).values()]
    assert {mapping["EventSourceArn"] for mapping in mappings} == {"<EventsQueue.Arn>"}
    assert {mapping["FunctionName"] for mapping in mappings} == {"<EtlLazarusFunction>", "<MlLazarusFunction>"}
    # Each message wakes one of the two; the schedule wakes both.
    template.resource_count_is("AWS::Events::Rule", 3)
    # Three of each, and the two of the events once.
    template.resource_count_is("AWS::CloudWatch::Alarm", 8)
    assert {alarm.node.path for alarm in made[0].alarms} & {alarm.node.path for alarm in made[1].alarms} == {
        "Test/Events/DeadLetters",
        "Test/Events/OldestMessage",
    }


def test_in_another_stack_than_its_pool() -> None:
    app = new_app()
    env = cdk.Environment(account="123456789012", region="us-east-1")
    parts = make_parts(cdk.Stack(app, "Pools", env=env))
    pool = parts.pool()
    guards = cdk.Stack(app, "Guards", env=env)
    Lazarus(guards, "Lazarus", cluster=parts.cluster, api=parts.api, work_pool=pool, log_group=parts.log_group)
    guarded, guarding = Template.from_stack(parts.stack), Template.from_stack(guards)
    assert sigterm_behavior(guarded) == "relinquish"
    assert pools(guarding)["etl"]["family"] == "Pools-etl"
    tasks = [s for s in statements(guarding, "LazarusRole") if "ecs:StopTask" in s["Action"]]
    assert len(tasks) == 1
    assert plain(only(guarding, MAPPING))["EventSourceArn"] == "<LazarusTaskEventsQueue.Arn>"


def test_attributes(lazarus: Lazarus) -> None:
    stack = cdk.Stack.of(lazarus)
    assert plain(stack.resolve([lazarus.function.function_name, lazarus.dead_letter_queue.queue_arn])) == [
        "<LazarusFunction>",
        "<LazarusDeadLetterQueue.Arn>",
    ]
    assert isinstance(lazarus.task_events, TaskEvents)
    assert lazarus.grant_principal is lazarus.role
