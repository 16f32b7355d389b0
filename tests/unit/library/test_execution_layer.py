"""The public contract: `PrefectExecutionLayer` with defaults is what the parts are by themselves, put together."""

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Template
from library_helpers import (
    API_KEY_ARN,
    allow,
    assert_no_ingress,
    assert_refused,
    cloud_api,
    imported_vpc,
    in_order,
    new_stack,
    only,
    plain,
    resource,
    statements,
)

from cdk_prefect_ecs import (
    CapacityWeight,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    FlowStorage,
    PrefectApi,
    PrefectExecutionLayer,
    SpotPolicy,
    WorkerHost,
    WorkerService,
    WorkQueue,
)
from cdk_prefect_ecs.functions.typed_properties import decode
from cdk_prefect_ecs.job_template import SIGTERM_BEHAVIOR

POOL = "Custom::PrefectWorkPool"
SERVICE = "AWS::ECS::Service"
OF_A_FUNCTION = ("AWS::Lambda::EventInvokeConfig", "AWS::Lambda::EventSourceMapping", "AWS::Lambda::Permission")


@pytest.fixture(scope="module")
def layer() -> PrefectExecutionLayer:
    return PrefectExecutionLayer(new_stack(), "Prefect", work_pool_name="etl", api=cloud_api())


def lazarus_environment(template: Template, layer: str = "Prefect") -> dict[str, str]:
    properties = resource(template, f"{layer}LazarusFunction")["Properties"]
    return dict(plain(properties["Environment"]["Variables"]))


def sigterm_behavior(template: Template) -> str:
    """What is synced to Prefect."""
    variables = decode(only(template, POOL)["BaseJobTemplate"])["variables"]["properties"]
    return str(variables["env"]["default"][SIGTERM_BEHAVIOR])


@pytest.fixture(scope="module")
def template(layer: PrefectExecutionLayer) -> Template:
    return Template.from_stack(cdk.Stack.of(layer))


def test_default_makes_one_of_each(template: Template) -> None:
    for resource_type, count in {
        "AWS::EC2::VPC": 1,
        "AWS::EC2::NatGateway": 0,
        "AWS::ECS::Cluster": 1,
        "AWS::S3::Bucket": 1,
        "AWS::ECS::Service": 1,
        "AWS::ECS::TaskDefinition": 1,
        POOL: 1,
        "AWS::Lambda::Function": 3,  # the pool's, Lazarus, the CDK's own for the VPC's default security group
        "AWS::Logs::LogGroup": 3,  # of the tasks, of the pool's function, of Lazarus
        "AWS::SQS::Queue": 3,  # task events, their dead letters, those of Lazarus
        "AWS::Events::Rule": 2,  # task events, every minute
        "AWS::CloudWatch::Alarm": 5,
        "AWS::SecretsManager::Secret": 0,
    }.items():
        template.resource_count_is(resource_type, count)


def test_default_keeps_its_data(template: Template) -> None:
    assert resource(template, "PrefectStorageBucket")["DeletionPolicy"] == "Retain"
    log_group = resource(template, "PrefectLogGroup")
    assert log_group["DeletionPolicy"] == "Retain"
    assert log_group["Properties"] == {"RetentionInDays": 30}


def test_every_log_group_has_a_retention(template: Template) -> None:
    for log_group in template.find_resources("AWS::Logs::LogGroup").values():
        assert log_group["Properties"]["RetentionInDays"] > 0


def test_default_lets_nothing_in(template: Template) -> None:
    assert_no_ingress(template)
    template.resource_count_is("AWS::EC2::SecurityGroup", 2)


def test_default_flow_runs_are_on_spot_and_the_worker_is_not(template: Template) -> None:
    variables = decode(only(template, POOL)["BaseJobTemplate"])["variables"]["properties"]
    assert variables["capacity_provider_strategy"]["default"] == [
        {"capacityProvider": "FARGATE_SPOT", "weight": 1, "base": 0}
    ]
    assert only(template, SERVICE)["CapacityProviderStrategy"] == [{"CapacityProvider": "FARGATE", "Weight": 1}]


def test_default_sizes_and_image_are_the_same_on_both_sides(template: Template) -> None:
    variables = decode(only(template, POOL)["BaseJobTemplate"])["variables"]["properties"]
    assert (variables["cpu"]["default"], variables["memory"]["default"]) == (1024, 2048)
    definition = only(template, "AWS::ECS::TaskDefinition")
    assert (definition["Cpu"], definition["Memory"]) == ("512", "1024")
    assert variables["image"]["default"] == definition["ContainerDefinitions"][0]["Image"]


def test_default_flow_runs_have_a_public_address_in_public_subnets(template: Template) -> None:
    network = decode(only(template, POOL)["BaseJobTemplate"])["variables"]["properties"]["network_configuration"]
    assert network["default"]["assignPublicIp"] == "ENABLED"
    assert plain(network["default"]["securityGroups"]) == ["<PrefectNetworkSecurityGroup.GroupId>"]
    assert len(network["default"]["subnets"]) == 2


def test_roles_are_exact(template: Template) -> None:
    arn = "arn:<AWS::Partition>:{}:<AWS::Region>:<AWS::AccountId>:{}"
    definitions = arn.format("ecs", "task-definition/Test-etl:*")
    tasks = arn.format("ecs", "task/<PrefectCluster>/*")
    in_cluster = {"ArnEquals": {"ecs:cluster": "<PrefectCluster.Arn>"}}
    bucket = "<PrefectStorageBucket.Arn>"
    assert statements(template, "PrefectExecutionRole") == in_order(
        [
            allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<PrefectLogGroup.Arn>"),
            allow("ssm:GetParameters", API_KEY_ARN),
        ]
    )
    assert statements(template, "PrefectWorkerRole") == in_order(
        [
            allow("ecs:RunTask", definitions, in_cluster),
            allow("ecs:StopTask", tasks, in_cluster),
            allow("ecs:TagResource", tasks, {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
            allow("ecs:RegisterTaskDefinition", definitions),
            allow("ecs:DescribeTaskDefinition", "*"),
            allow(
                "iam:PassRole",
                ["<PrefectExecutionRole.Arn>", "<PrefectFlowRole.Arn>"],
                {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
            allow("sqs:GetQueueUrl", arn.format("sqs", "Test-etl-no-observer")),
        ]
    )
    assert statements(template, "PrefectLazarusRole") == in_order(
        [
            allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<PrefectLazarusLogGroup.Arn>"),
            allow("logs:GetLogEvents", "<PrefectLogGroup.Arn>"),
            allow("ssm:GetParameter", API_KEY_ARN),
            allow("ecs:ListTasks", "*", in_cluster),
            allow(["ecs:DescribeTasks", "ecs:StopTask"], tasks, in_cluster),
            allow("sqs:SendMessage", "<PrefectLazarusDeadLetterQueue.Arn>"),
            allow(
                [
                    "sqs:DeleteMessage",
                    "sqs:GetQueueAttributes",
                    "sqs:ReceiveMessage",
                ],
                "<PrefectLazarusTaskEventsQueue.Arn>",
            ),
        ]
    )
    assert statements(template, "PrefectFlowRole") == in_order(
        [
            allow("s3:ListBucket", bucket),
            allow("s3:GetObject", f"{bucket}/*"),
            allow(
                ["s3:PutObject", "s3:AbortMultipartUpload"],
                [f"{bucket}/results/*", f"{bucket}/data/*"],
            ),
        ]
    )


def test_default_has_a_lazarus_for_this_pool_and_cluster(layer: PrefectExecutionLayer, template: Template) -> None:
    assert layer.lazarus is not None
    variables = lazarus_environment(template)
    assert {name: variables[name] for name in ("CLUSTER_ARN", "LOG_GROUP")} == {
        "CLUSTER_ARN": "<PrefectCluster.Arn>",
        "LOG_GROUP": "<PrefectLogGroup>",
    }
    assert json.loads(variables["POOLS"]) == {
        "etl": {
            "family": "Test-etl",
            "maxReschedules": 3,
            "patienceSeconds": 90,
            "spotAttempts": 2,
            "onDemand": "FARGATE",
            "spot": "FARGATE_SPOT",
        }
    }
    assert sigterm_behavior(template) == "relinquish"


def test_without_lazarus_runs_reschedule_themselves() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    layer = PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=cloud_api(), network=network, lazarus=False
    )
    assert layer.lazarus is None
    template = Template.from_stack(stack)
    assert sigterm_behavior(template) == "reschedule"
    for resource_type in ("AWS::SQS::Queue", "AWS::Events::Rule", "AWS::CloudWatch::Alarm"):
        template.resource_count_is(resource_type, 0)
    template.resource_count_is("AWS::Lambda::Function", 1)


def test_a_sigterm_behaviour_of_ones_own_stays() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=cloud_api(),
        network=network,
        flow_environment={SIGTERM_BEHAVIOR: "reschedule"},
    )
    assert sigterm_behavior(Template.from_stack(stack)) == "reschedule"


def test_the_secret_is_only_referred_to(template: Template) -> None:
    text = json.dumps(template.to_json())
    assert "{{resolve:" not in text
    worker = only(template, "AWS::ECS::TaskDefinition")["ContainerDefinitions"][0]
    assert not {"PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"} & {item["Name"] for item in worker["Environment"]}


def test_no_physical_names_but_those_that_others_must_know(template: Template) -> None:
    names = {"BucketName", "ClusterName", "ServiceName", "RoleName", "FunctionName", "LogGroupName", "GroupName"}
    names |= {"QueueName", "AlarmName"}
    for logical_id, found in template.to_json()["Resources"].items():
        # A custom resource names the pool, an endpoint the service that it reaches, and what belongs to a function
        # the function.
        if not found["Type"].startswith(("Custom::", "AWS::EC2::VPCEndpoint", *OF_A_FUNCTION)):
            assert not names & set(found.get("Properties", {})), logical_id


#: By share, and a run that Spot keeps interrupting is switched all the same.
FALLS_BACK = SpotPolicy("by share", spot_weight=1, on_demand_weight=1, falls_back=True)


def test_everything_given() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    cluster = FlowCluster(stack, "Cluster", vpc=network.vpc, default_strategy=[CapacityWeight("FARGATE", 1)])
    storage = FlowStorage(stack, "Storage")
    log_group = logs.LogGroup.from_log_group_name(stack, "Logs", "/prefect")
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=PrefectApi.self_hosted("https://prefect.example.com/api"),
        network=network,
        cluster=cluster,
        storage=storage,
        log_group=log_group,
        spot_policy=FALLS_BACK,
        image=FlowImage.from_registry("flows:1"),
        flow_cpu=2048,
        flow_memory_mib=4096,
        flow_environment={"TZ": "UTC"},
        concurrency_limit=10,
        worker_cpu=1024,
        worker_memory_mib=3072,
        worker_count=2,
        worker_poll_interval=cdk.Duration.minutes(1),
        enable_execute_command=True,
        cpu_architecture="ARM64",
        spot_attempts=4,
        max_reschedules=0,
        patience=cdk.Duration.minutes(2),
        delete_pool_with_deployments=True,
    )
    assert (layer.network, layer.cluster, layer.storage, layer.log_group) == (network, cluster, storage, log_group)
    template = Template.from_stack(stack)
    properties = decode(only(template, POOL))
    variables = properties["BaseJobTemplate"]["variables"]["properties"]
    assert (properties["ConcurrencyLimit"], properties["DeleteWithDeployments"]) == (10, True)
    assert (variables["cpu"]["default"], variables["memory"]["default"]) == (2048, 4096)
    assert variables["env"]["default"]["TZ"] == "UTC"
    assert variables["image"]["default"] == "flows:1"
    assert len(variables["capacity_provider_strategy"]["default"]) == 2
    definition = only(template, "AWS::ECS::TaskDefinition")
    assert (definition["Cpu"], definition["Memory"]) == ("1024", "3072")
    assert definition["RuntimePlatform"]["CpuArchitecture"] == "ARM64"
    assert definition["ContainerDefinitions"][0]["Image"] == "flows:1"
    environment = {item["Name"]: item["Value"] for item in definition["ContainerDefinitions"][0]["Environment"]}
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "60"
    assert "TZ" not in environment
    service = only(template, SERVICE)
    assert (service["DesiredCount"], service["EnableExecuteCommand"]) == (2, True)
    for resource_type in ("AWS::EC2::VPC", "AWS::EC2::Subnet"):
        template.resource_count_is(resource_type, 0)
    template.resource_count_is("AWS::S3::Bucket", 1)
    template.resource_count_is("AWS::Logs::LogGroup", 2)  # of the two functions
    lazarus = lazarus_environment(template)
    (pool,) = json.loads(lazarus["POOLS"]).values()
    assert (pool["spotAttempts"], pool["maxReschedules"], pool["patienceSeconds"]) == (4, 0, 120)
    assert (lazarus["CLUSTER_ARN"], lazarus["LOG_GROUP"]) == ("<Cluster.Arn>", "/prefect")
    assert "CREDENTIAL" not in lazarus


def test_a_cluster_without_spot_runs_on_demand() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=cloud_api(),
        network=network,
        cluster=FlowCluster(stack, "Cluster", vpc=network.vpc, spot=False),
    )
    assert layer.work_pool.spot_policy == SpotPolicy.ON_DEMAND
    assert only(Template.from_stack(stack), SERVICE)["LaunchType"] == "FARGATE"


def test_it_stands_for_the_flow_runs() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api(), network=network)
    bucket = s3.Bucket.from_bucket_name(stack, "Lake", "lake")
    bucket.grant_read(layer)
    database = ec2.SecurityGroup(stack, "Database", vpc=network.vpc)
    ec2.Connections(security_groups=[database], default_port=ec2.Port.tcp(5432)).allow_default_port_from(layer)
    template = Template.from_stack(stack)
    assert [s for s in statements(template, "PrefectFlowRole") if any("lake" in arn for arn in s["Resource"])]
    assert not [s for s in statements(template, "PrefectWorkerRole") if "lake" in str(s)]
    ingress = plain(only(template, "AWS::EC2::SecurityGroupIngress"))
    assert ingress["SourceSecurityGroupId"] == "<NetworkSecurityGroup.GroupId>"
    assert ingress["FromPort"] == 5432


def test_a_worker_host_takes_the_place_of_the_service() -> None:
    stack = new_stack()
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=cloud_api(),
        worker_instance_type=ec2.InstanceType("t4g.nano"),
        worker_poll_interval=cdk.Duration.seconds(20),
    )
    assert isinstance(layer.worker, WorkerHost)
    assert layer.worker_role is layer.worker.role
    template = Template.from_stack(stack)
    template.resource_count_is(SERVICE, 0)
    template.resource_count_is("AWS::ECS::TaskDefinition", 0)
    data = plain(only(template, "AWS::EC2::LaunchTemplate")["LaunchTemplateData"])
    assert data["InstanceType"] == "t4g.nano"
    assert data["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is True
    assert '"PREFECT_WORKER_QUERY_SECONDS":"20"' in data["UserData"]["Fn::Base64"]
    assert '"LogGroupName":"<PrefectLogGroup>"' in data["UserData"]["Fn::Base64"]
    assert json.loads(lazarus_environment(template)["POOLS"])["etl"]["family"] == "Test-etl"
    assert sigterm_behavior(template) == "relinquish"
    assert_no_ingress(template)


def test_lazarus_is_the_same_whoever_the_worker_is() -> None:
    guards = []
    for kwargs in ({}, {"worker_instance_type": ec2.InstanceType("t4g.micro")}):
        stack = new_stack()
        network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
        PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api(), network=network, **kwargs)  # type: ignore[arg-type]
        resources = Template.from_stack(stack).to_json()["Resources"]
        guards.append({key: found for key, found in resources.items() if key.startswith("PrefectLazarus")})
    assert guards[0] == guards[1]
    assert len(guards[0]) > 10


OF_A_SERVICE: list[dict[str, Any]] = [
    {"worker_cpu": 256},
    {"worker_memory_mib": 2048},
    {"worker_count": 2},
    {"worker_max_count": 2},
    {"enable_execute_command": True},
]


@pytest.mark.parametrize("kwargs", OF_A_SERVICE)
def test_refuses_to_shape_a_service_where_the_worker_is_a_host(kwargs: dict[str, Any]) -> None:
    stack = new_stack()
    given = {"work_pool_name": "etl", "api": cloud_api(), "worker_instance_type": ec2.InstanceType("t4g.micro")}
    ((name, value),) = kwargs.items()
    assert_refused(
        stack,
        lambda: PrefectExecutionLayer(stack, "Prefect", **(given | kwargs)),  # type: ignore[arg-type]
        f"worker_instance_type makes the worker a host, which has no {name} (got {value})",
        "Leave them out, or leave out worker_instance_type",
    )


def test_refuses_a_host_that_cannot_be() -> None:
    stack = new_stack()
    closed = FlowNetwork(stack, "Closed", mode="endpoints")
    api = PrefectApi.self_hosted("https://prefect.internal/api")
    image = FlowImage.from_registry("registry.internal:5000/flows:1")
    given = {"work_pool_name": "etl", "api": api, "image": image}
    for kwargs, words in (
        ({"worker_instance_type": ec2.InstanceType("micro")}, "'micro' is not an instance type"),
        ({"worker_instance_type": ec2.InstanceType("t4g.micro"), "network": closed}, "installs Prefect from PyPI"),
    ):
        assert_refused(stack, lambda kwargs=kwargs: PrefectExecutionLayer(stack, "Prefect", **(given | kwargs)), words)  # type: ignore[misc, arg-type]


def test_workers_scale() -> None:
    stack = new_stack()
    PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api(), worker_count=2, worker_max_count=5)
    target = only(Template.from_stack(stack), "AWS::ApplicationAutoScaling::ScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 5)


def test_refuses_and_makes_nothing() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    on_demand = FlowCluster(stack, "Cluster", vpc=network.vpc, spot=False)
    for kwargs, words in (
        ({"work_pool_name": ""}, ("work_pool_name must not be empty",)),
        ({"flow_cpu": 300}, ("cpu 300",)),
        ({"flow_memory_mib": 1024}, ("memory_mib 1024", "cpu 1024")),
        ({"worker_memory_mib": 512}, ("memory_mib 512", "cpu 512")),
        ({"worker_count": -1}, ("number of workers must be 0 to 5000; got -1",)),
        ({"worker_count": 3, "worker_max_count": 2}, ("up to max_count, at most 5000; got 3 and 2",)),
        ({"worker_poll_interval": cdk.Duration.millis(1)}, ("poll_interval", "0.001 seconds")),
        ({"concurrency_limit": -5}, ("concurrency_limit", "-5")),
        ({"cpu_architecture": "arm"}, ("'arm'",)),
        ({"spot_attempts": 0}, ("spot_attempts must be 1 or more; got 0",)),
        ({"max_reschedules": -1}, ("max_reschedules must be 0 or more; got -1",)),
        ({"patience": cdk.Duration.seconds(5)}, ("patience must be at least 10 seconds", "got 5 seconds")),
        ({"flow_environment": {"PREFECT_API_KEY": "x"}}, ("environment must not hold PREFECT_API_KEY",)),
        ({"spot_policy": SpotPolicy.SPOT, "cluster": on_demand}, ("spot_policy SPOT needs FARGATE_SPOT",)),
    ):
        given = {"work_pool_name": "etl", "api": cloud_api(), "network": network} | kwargs
        assert_refused(stack, lambda given=given: PrefectExecutionLayer(stack, "Prefect", **given), *words)  # type: ignore[misc, arg-type]


def test_two_in_one_stack_stay_apart() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    for construct_id, pool in (("Etl", "etl"), ("Ml", "ml")):
        PrefectExecutionLayer(stack, construct_id, work_pool_name=pool, api=cloud_api(), network=network)
    template = Template.from_stack(stack)
    template.resource_count_is(SERVICE, 2)
    template.resource_count_is(POOL, 2)
    template.resource_count_is("AWS::Lambda::Function", 3)  # one for both pools, and a Lazarus each
    for layer, other in (("Etl", "Ml"), ("Ml", "Etl")):
        for role in ("WorkerRole", "LazarusRole"):
            text = json.dumps(statements(template, f"{layer}{role}"))
            assert f"<{other}" not in text
            assert f"-{other.lower()}" not in text
        variables = lazarus_environment(template, layer)
        assert (list(json.loads(variables["POOLS"])), variables["CLUSTER_ARN"]) == (
            [layer.lower()],
            f"<{layer}Cluster.Arn>",
        )
        rule = plain(resource(template, f"{layer}LazarusTaskEventsRule")["Properties"])
        assert rule["EventPattern"]["detail"]["clusterArn"] == [f"<{layer}Cluster.Arn>"]


def test_two_environments_in_one_app_have_the_same_logical_ids() -> None:
    templates = []
    for name in ("Dev", "Prod"):
        stack = new_stack(name)
        PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api())
        resources = Template.from_stack(stack).to_json()["Resources"]
        # The CDK puts the stack's name into the ids of mappings and permissions, which hold nothing.
        templates.append({key for key, found in resources.items() if found["Type"] not in OF_A_FUNCTION})
    assert templates[0] == templates[1]


def test_lazarus_needs_no_reserved_concurrency() -> None:
    stack = new_stack()
    PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api(), lazarus_reserved_concurrency=None)
    functions = Template.from_stack(stack).find_resources("AWS::Lambda::Function")
    assert not [function for function in functions.values() if "ReservedConcurrentExecutions" in function["Properties"]]


# Several work pools


@pytest.fixture(scope="module")
def several() -> PrefectExecutionLayer:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    layer = PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=cloud_api(), network=network, cpu_architecture="ARM64"
    )
    gpu = layer.cluster.add_auto_scaling_capacity(
        "Gpu", network=network, instance_types=[ec2.InstanceType("g5.xlarge")], spot=True
    )
    layer.add_work_pool(
        "gpu",
        capacity=gpu.capacity,
        image=FlowImage.from_registry("models:1"),
        flow_gpus=1,
        flow_cpu=4000,
        flow_memory_mib=15000,
        flow_environment={"TZ": "UTC"},
        concurrency_limit=4,
        queues=[WorkQueue("urgent", 1)],
        worker_cpu=1024,
        worker_memory_mib=2048,
        worker_count=2,
        worker_max_count=4,
        worker_poll_interval=cdk.Duration.seconds(30),
        spot_attempts=1,
    )
    layer.add_work_pool("night shift", spot_policy=SpotPolicy.SPOT)
    return layer


@pytest.fixture(scope="module")
def several_template(several: PrefectExecutionLayer) -> Template:
    return Template.from_stack(cdk.Stack.of(several))


def test_several_pools_share_all_but_their_workers(several_template: Template) -> None:
    for resource_type, count in {
        "AWS::ECS::Cluster": 1,
        "AWS::S3::Bucket": 1,
        POOL: 3,
        SERVICE: 3,
        "AWS::ECS::TaskDefinition": 3,
        "AWS::Lambda::Function": 2,  # one for all pools in Prefect, one Lazarus
        "AWS::SQS::Queue": 3,
        "AWS::ApplicationAutoScaling::ScalableTarget": 1,
    }.items():
        several_template.resource_count_is(resource_type, count)
    assert_no_ingress(several_template)


def test_the_first_pools_resources_stay_what_they_are(several_template: Template) -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=cloud_api(), network=network, cpu_architecture="ARM64"
    )
    alone = Template.from_stack(stack).to_json()["Resources"]
    assert alone.keys() <= several_template.to_json()["Resources"].keys()


def test_each_pool_is_as_it_was_told(several: PrefectExecutionLayer, several_template: Template) -> None:
    assert list(several.pools) == ["gpu", "night shift"]
    pools = {p["Properties"]["Name"]: decode(p["Properties"]) for p in several_template.find_resources(POOL).values()}
    gpu = pools["gpu"]
    assert (gpu["ConcurrencyLimit"], [queue["Name"] for queue in gpu["WorkQueues"]]) == (4, ["urgent"])
    variables = gpu["BaseJobTemplate"]["variables"]["properties"]
    assert (variables["cpu"]["default"], variables["memory"]["default"]) == (4000, 15000)
    assert (variables["image"]["default"], variables["env"]["default"]["TZ"]) == ("models:1", "UTC")
    definition = gpu["BaseJobTemplate"]["job_configuration"]["task_definition"]
    assert definition["runtimePlatform"]["cpuArchitecture"] == "X86_64"  # of the machines
    night = pools["night shift"]["BaseJobTemplate"]["job_configuration"]["task_definition"]
    assert night["runtimePlatform"]["cpuArchitecture"] == "ARM64"  # of the layer
    assert several.pools["night shift"].work_pool.family.startswith("Test-night-shift-")


def test_each_worker_may_run_its_own_pool_only(several_template: Template) -> None:
    families = {"PrefectWorkerRole": "Test-etl", "PrefectPoolgpuWorkerRole": "Test-gpu"}
    for role, family in families.items():
        runs = [s for s in statements(several_template, role) if "ecs:RunTask" in s["Action"]]
        assert [plain(s["Resource"]) for s in runs] == [
            [f"arn:<AWS::Partition>:ecs:<AWS::Region>:<AWS::AccountId>:task-definition/{family}:*"]
        ]


def test_workers_of_each_pool(several_template: Template) -> None:
    service = resource(several_template, "PrefectPoolgpuWorkerService")["Properties"]
    assert service["CapacityProviderStrategy"] == [{"CapacityProvider": "FARGATE", "Weight": 1}]
    assert service["DesiredCount"] == 2
    definition = resource(several_template, "PrefectPoolgpuWorkerTaskDefinition")["Properties"]
    assert (definition["Cpu"], definition["Memory"]) == ("1024", "2048")
    (container,) = definition["ContainerDefinitions"]
    assert {"Name": "PREFECT_WORKER_QUERY_SECONDS", "Value": "30"} in container["Environment"]
    command = container["Command"]
    assert command[command.index("--pool") + 1] == "gpu"
    assert container["Image"] == FlowImage.default().reference  # the flow image of GPUs is large
    assert definition["RuntimePlatform"]["CpuArchitecture"] == "ARM64"


def test_one_lazarus_guards_them_all(several_template: Template) -> None:
    pools = json.loads(lazarus_environment(several_template)["POOLS"])
    assert {
        name: (pool.get("spotAttempts"), pool.get("onDemand"), pool.get("spot")) for name, pool in pools.items()
    } == {
        "etl": (2, "FARGATE", "FARGATE_SPOT"),
        "gpu": (1, "<PrefectClusterGpuOnDemandProvider>", "<PrefectClusterGpuSpotProvider>"),
        "night shift": (None, None, "FARGATE_SPOT"),
    }


def test_without_lazarus_no_pool_has_one() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    layer = PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=cloud_api(), network=network, lazarus=False
    )
    pool = layer.add_work_pool("ml").work_pool
    assert pool.job_template["variables"]["properties"]["env"]["default"][SIGTERM_BEHAVIOR] == "reschedule"


def test_a_pools_worker_may_be_a_host_of_its_own() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    nano = ec2.InstanceType("t4g.nano")
    layer = PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=cloud_api(), network=network, worker_instance_type=nano
    )
    hosted = layer.add_work_pool("hosted", worker_instance_type=nano)
    served = layer.add_work_pool("served")
    assert isinstance(layer.worker, WorkerHost)
    assert isinstance(hosted.worker, WorkerHost)
    assert isinstance(served.worker, WorkerService)
    assert hosted.worker_role is hosted.worker.role
    template = Template.from_stack(stack)
    template.resource_count_is(SERVICE, 1)
    template.resource_count_is("AWS::AutoScaling::AutoScalingGroup", 2)
    assert layer.worker.group_name != hosted.worker.group_name
    for role, pool in (("PrefectWorkerHostRole", "etl"), ("PrefectPoolhostedWorkerHostRole", "hosted")):
        runs = [s for s in statements(template, role) if "ecs:RunTask" in s["Action"]]
        assert [s["Resource"][0].rpartition("/")[2] for s in runs] == [f"Test-{pool}:*"]
    assert list(json.loads(lazarus_environment(template)["POOLS"])) == ["etl", "hosted", "served"]
    assert_no_ingress(template)
    for kwargs in OF_A_SERVICE:
        assert_refused(
            stack,
            lambda kwargs=kwargs: layer.add_work_pool("new", worker_instance_type=nano, **kwargs),  # type: ignore[misc]
            "worker_instance_type makes the worker a host",
        )


def test_refuses_a_pool_that_cannot_be(several: PrefectExecutionLayer) -> None:
    stack = cdk.Stack.of(several)
    for name, kwargs, words in (
        ("etl", {}, "this layer has a work pool 'etl' already"),
        ("gpu", {}, "this layer has a work pool 'gpu' already"),
        ("new", {"flow_gpus": 1}, "gpus 1 cannot be had on Fargate"),
        ("new", {"flow_cpu": 300}, "cpu 300 is not a Fargate size"),
        ("new", {"flow_storage_gib": 5}, "from 21 to 200; got 5"),
        ("new", {"worker_count": 0, "worker_max_count": 2}, "workers scale from desired_count"),
        ("new", {"worker_cpu": 1}, "cpu 1 is not a Fargate size"),
        ("new", {"max_reschedules": -1}, "max_reschedules must be 0 or more; got -1"),
        ("new", {"spot_attempts": 0}, "spot_attempts must be 1 or more; got 0"),
        ("new", {"spot_policy": SpotPolicy("x", 0, 0)}, "at least one item"),
        ("prefect", {}, "begins with 'prefect'"),
    ):
        assert_refused(
            stack,
            lambda name=name, kwargs=kwargs: several.add_work_pool(name, **kwargs),  # type: ignore[misc]
            words,
        )
