import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Annotations, Match, Template
from stack_helpers import ROOT, new_stage

from cdk_prefect_ecs import SpotPolicy, WorkQueue
from stacks.config import (
    OWN_KEY,
    CloudApi,
    EnvironmentConfig,
    MonitoringConfig,
    OwnServer,
    PoolConfig,
    SelfHostedApi,
    WorkerConfig,
)
from stacks.environments import ENVIRONMENTS, environment
from stacks.stage import PrefectStage

UUID = "01234567-89ab-cdef-0123-456789abcdef"
NAMES = list(ENVIRONMENTS)

# A new logical id is a new resource, and the old one with its data is left behind.
STATEFUL = {
    "AWS::S3::Bucket": ["StorageBucket5CB7C8EA"],
    "AWS::Logs::LogGroup": ["LogGroupF5B46931"],
    "AWS::EC2::VPC": ["NetworkVpc7FB7348F"],
}
ACCESS_LOGS = "StorageAccessLogs96FB524C"

# CloudFormation gives these no tags, or the CDK gives them none (functions of its own custom resources).
UNTAGGED = {
    "AWS::EC2::Route",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::ECS::ClusterCapacityProviderAssociations",
    "AWS::IAM::Policy",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::Permission",
    "AWS::S3::BucketPolicy",
    "AWS::SQS::QueuePolicy",
}


@cache
def stage(name: str) -> PrefectStage:
    return new_stage(environment(name))


@cache
def templates(name: str) -> tuple[Template, Template]:
    """Of the foundation and of the execution stack."""
    made = stage(name)
    return Template.from_stack(made.foundation), Template.from_stack(made.execution)


def resources(template: Template) -> dict[str, Any]:
    return dict(template.to_json()["Resources"])


@pytest.mark.parametrize("name", NAMES)
def test_two_stacks_named_after_the_environment(name: str) -> None:
    made = stage(name)
    assert [child.node.id for child in made.node.children] == ["Foundation", "Execution"]
    assert made.foundation.stack_name == f"Prefect{name.capitalize()}-Foundation"
    assert made.execution.stack_name == f"Prefect{name.capitalize()}-Execution"
    assert environment(name).stack_names == (made.foundation.stack_name, made.execution.stack_name)
    for template, word in zip(templates(name), ("stateful", "stateless"), strict=True):
        description = template.to_json()["Description"]
        assert name in description
        assert f"({word})" in description


@pytest.mark.parametrize("name", NAMES)
def test_stateful_is_apart_from_stateless(name: str) -> None:
    foundation, execution = templates(name)
    buckets = 2 if environment(name).access_logs else 1
    for resource_type, count in (("AWS::S3::Bucket", buckets), ("AWS::EC2::VPC", 1)):
        foundation.resource_count_is(resource_type, count)
        execution.resource_count_is(resource_type, 0)
    assert stage(name).foundation in stage(name).execution.dependencies


@pytest.mark.parametrize("name", NAMES)
def test_logical_ids_of_what_holds_data(name: str) -> None:
    foundation, _ = templates(name)
    for resource_type, ids in STATEFUL.items():
        found = [key for key in foundation.find_resources(resource_type) if "FlowLog" not in key]
        assert [key for key in found if key != ACCESS_LOGS] == ids


@pytest.mark.parametrize("name", NAMES)
def test_termination_protection_is_for_production_and_for_data(name: str) -> None:
    made = stage(name)
    assert bool(made.foundation.termination_protection) == (name == "prod")
    assert not made.execution.termination_protection


@pytest.mark.parametrize("name", NAMES)
def test_data_is_kept_or_not_as_configured(name: str) -> None:
    foundation, _ = templates(name)
    kept = environment(name).keep_data
    for logical_id in (*STATEFUL["AWS::S3::Bucket"], *STATEFUL["AWS::Logs::LogGroup"]):
        found = resources(foundation)[logical_id]
        policy = "Retain" if kept else "Delete"
        assert (found["DeletionPolicy"], found["UpdateReplacePolicy"]) == (policy, policy)
    foundation.resource_count_is("Custom::S3AutoDeleteObjects", 0 if kept else 1)


@pytest.mark.parametrize("name", NAMES)
def test_as_many_zones_as_configured_without_a_look_up(name: str) -> None:
    foundation, _ = templates(name)
    zones = [
        subnet["Properties"]["AvailabilityZone"] for subnet in foundation.find_resources("AWS::EC2::Subnet").values()
    ]
    assert zones == [{"Fn::Select": [index, {"Fn::GetAZs": ""}]} for index in range(environment(name).zones)]


@pytest.mark.parametrize("name", NAMES)
def test_logs_are_kept_as_long_as_configured(name: str) -> None:
    foundation, _ = templates(name)
    days = environment(name).log_retention_days
    for log_group in foundation.find_resources("AWS::Logs::LogGroup").values():
        assert log_group["Properties"]["RetentionInDays"] == days
    foundation.resource_count_is("AWS::EC2::FlowLog", 1 if environment(name).flow_logs else 0)


@pytest.mark.parametrize("name", NAMES)
def test_worker_and_pool_are_as_configured(name: str) -> None:
    config = environment(name)
    _, execution = templates(name)
    execution.has_resource_properties(
        "AWS::ECS::Service",
        {
            "DesiredCount": config.worker.count,
            "EnableExecuteCommand": config.execute_command,
            "CapacityProviderStrategy": [{"CapacityProvider": "FARGATE", "Weight": 1}],
        },
    )
    execution.has_resource_properties(
        "AWS::ECS::TaskDefinition", {"Cpu": str(config.worker.cpu), "Memory": str(config.worker.memory_mib)}
    )
    limit = config.pool.concurrency_limit
    execution.has_resource_properties(
        "Custom::PrefectWorkPool",
        {"Name": config.pool.name, "ConcurrencyLimit": f"json:{'null' if limit is None else limit}"},
    )


@pytest.mark.parametrize("name", NAMES)
def test_flow_runs_open_dask_clusters_only_where_configured(name: str) -> None:
    dask, (_, execution) = environment(name).dask, templates(name)
    families = {
        found["Properties"]["Family"]: (found["Properties"]["Cpu"], found["Properties"]["Memory"])
        for found in execution.find_resources("AWS::ECS::TaskDefinition").values()
        if "dask" in json.dumps(found["Properties"]["ContainerDefinitions"])
    }
    prefix = f"{stage(name).execution.stack_name}-Dask"
    assert families == (
        {
            f"{prefix}-scheduler": (str(dask.scheduler_cpu), str(dask.scheduler_memory_mib)),
            f"{prefix}-worker": (str(dask.worker_cpu), str(dask.worker_memory_mib)),
        }
        if dask
        else {}
    )
    (pool,) = execution.find_resources("Custom::PrefectWorkPool").values()
    variables = pool["Properties"]["BaseJobTemplate"]["variables"]["properties"]["env"]["default"]
    assert ("DASK_CLOUDPROVIDER__ECS__CLUSTER_ARN" in variables) == bool(dask)
    flow_policy = next(
        policy for name, policy in resources(execution).items() if name.startswith("PrefectFlowRoleDefaultPolicy")
    )
    assert ("ecs:RunTask" in json.dumps(flow_policy)) == bool(dask)


def lazarus_environment(template: Template) -> dict[str, Any]:
    """The environment of the one function that is Lazarus."""
    found = template.find_resources(
        "AWS::Lambda::Function", {"Properties": {"Handler": "functions.lazarus.handler"}}
    ).values()
    assert len(found) == 1
    return dict(next(iter(found))["Properties"]["Environment"]["Variables"])


@pytest.mark.parametrize("name", NAMES)
def test_lazarus_guards_the_pool_as_configured(name: str) -> None:
    config = environment(name)
    _, execution = templates(name)
    variables = lazarus_environment(execution)
    (guarded,) = json.loads(variables["POOLS"]).items()
    assert guarded[0] == config.pool.name
    assert guarded[1]["spotAttempts"] == config.pool.spot_attempts
    assert guarded[1]["maxReschedules"] == config.pool.max_reschedules
    assert guarded[1]["patienceSeconds"] == config.pool.patience_seconds
    execution.resource_count_is("AWS::Lambda::EventSourceMapping", 1)
    pool = next(iter(execution.find_resources("Custom::PrefectWorkPool").values()))["Properties"]
    flow_environment = pool["BaseJobTemplate"]["variables"]["properties"]["env"]["default"]
    assert flow_environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "relinquish"


def test_limits_of_lazarus_reach_its_function() -> None:
    config = environment("staging")
    pool = dataclasses.replace(config.pool, spot_attempts=5, max_reschedules=0, patience_seconds=240)
    made = new_stage(dataclasses.replace(config, pool=pool))
    variables = lazarus_environment(Template.from_stack(made.execution))
    (guarded,) = json.loads(variables["POOLS"]).values()
    assert (guarded["spotAttempts"], guarded["maxReschedules"], guarded["patienceSeconds"]) == (5, 0, 240)


def test_further_pools_have_workers_of_their_own_and_the_same_lazarus() -> None:
    config = environment("staging")
    more = (
        PoolConfig("nightly", spot_policy=SpotPolicy.SPOT, cpu=4096, memory_mib=30720, worker=WorkerConfig(count=2)),
        PoolConfig("urgent", spot_policy=SpotPolicy.ON_DEMAND, queues=(WorkQueue("now", 1), WorkQueue("soon", 2, 5))),
    )
    made = new_stage(dataclasses.replace(config, more_pools=more))
    template = Template.from_stack(made.execution)
    pools = {
        p["Properties"]["Name"]: p["Properties"] for p in template.find_resources("Custom::PrefectWorkPool").values()
    }
    assert list(pools) == ["etl-staging", "nightly", "urgent"]
    assert [queue["Name"] for queue in pools["urgent"]["WorkQueues"]] == ["now", "soon"]
    services = template.find_resources("AWS::ECS::Service").values()
    assert sorted(service["Properties"]["DesiredCount"] for service in services) == [1, 1, 2]
    assert list(json.loads(lazarus_environment(template)["POOLS"])) == ["etl-staging", "nightly", "urgent"]
    # The tags of the environment reach the tasks, which no stack makes.
    for pool in pools.values():
        tags = pool["BaseJobTemplate"]["job_configuration"]["task_run_request"]["tags"]
        assert {tag["key"]: tag["value"] for tag in tags} == config.tags
    # Beside other pools, the first one's resources are what they were.
    alone = new_stage(config).execution
    assert set(Template.from_stack(alone).to_json()["Resources"]) <= set(template.to_json()["Resources"])


def test_a_worker_host_takes_the_place_of_the_service() -> None:
    config = dataclasses.replace(environment("staging"), worker=WorkerConfig(host="t4g.nano", poll_seconds=20))
    made = new_stage(config)
    template = Template.from_stack(made.execution)
    template.resource_count_is("AWS::ECS::Service", 0)
    template.resource_count_is("AWS::ECS::TaskDefinition", 0)
    template.has_resource_properties("AWS::AutoScaling::AutoScalingGroup", {"MinSize": "1", "MaxSize": "2"})
    (launch,) = template.find_resources("AWS::EC2::LaunchTemplate").values()
    data = launch["Properties"]["LaunchTemplateData"]
    assert data["InstanceType"] == "t4g.nano"
    user_data = data["UserData"]["Fn::Base64"]["Fn::Join"][1]
    assert '"PREFECT_WORKER_QUERY_SECONDS":"20"' in "".join(part for part in user_data if isinstance(part, str))
    template.has_resource_properties("Custom::PrefectWorkPool", {"Name": config.pool.name})
    assert list(json.loads(lazarus_environment(template)["POOLS"])) == [config.pool.name]


def test_a_worker_host_is_found_by_its_group() -> None:
    made = new_stage(dataclasses.replace(environment("staging"), worker=WorkerConfig(host="t4g.nano")))
    template = Template.from_stack(made.execution)
    (group,) = template.find_resources("AWS::AutoScaling::AutoScalingGroup")
    outputs = template.to_json()["Outputs"]
    assert set(outputs) == {"WorkPoolName", "ClusterName", "WorkerGroupName", "FlowRoleArn"}
    assert outputs["WorkerGroupName"]["Value"] == {"Ref": group}
    assert "aws ssm start-session" in outputs["WorkerGroupName"]["Description"]


def test_each_pool_has_the_kind_of_worker_that_it_asks_for() -> None:
    host = WorkerConfig(host="t4g.micro")
    more = (PoolConfig("hosted"), PoolConfig("served", worker=WorkerConfig(count=2, max_count=4)))
    config = dataclasses.replace(environment("staging"), worker=host, more_pools=more, execute_command=True)
    template = Template.from_stack(new_stage(config).execution)
    template.resource_count_is("AWS::AutoScaling::AutoScalingGroup", 2)
    (service,) = template.find_resources("AWS::ECS::Service").values()
    assert (service["Properties"]["DesiredCount"], service["Properties"]["EnableExecuteCommand"]) == (2, True)
    template.has_resource_properties(
        "AWS::ApplicationAutoScaling::ScalableTarget", {"MinCapacity": 2, "MaxCapacity": 4}
    )
    assert list(json.loads(lazarus_environment(template)["POOLS"])) == ["etl-staging", "hosted", "served"]


def test_workers_and_disks_of_the_first_pool_are_as_configured() -> None:
    config = environment("staging")
    pool = dataclasses.replace(config.pool, storage_gib=100, worker=WorkerConfig(count=1, max_count=3))
    more = (PoolConfig("large", storage_gib=200),)
    template = Template.from_stack(new_stage(dataclasses.replace(config, pool=pool, more_pools=more)).execution)
    targets = template.find_resources("AWS::ApplicationAutoScaling::ScalableTarget").values()
    assert [(t["Properties"]["MinCapacity"], t["Properties"]["MaxCapacity"]) for t in targets] == [(1, 3)]
    disks = {}
    for made in template.find_resources("Custom::PrefectWorkPool").values():
        variables = made["Properties"]["BaseJobTemplate"]["variables"]["properties"]
        disks[made["Properties"]["Name"]] = variables["ephemeral_storage"]["default"]["sizeInGiB"]
    assert disks == {"etl-staging": "json:100", "large": "json:200"}


@pytest.mark.parametrize("name", NAMES)
def test_no_queue_is_open_or_unencrypted(name: str) -> None:
    _, execution = templates(name)
    queues = execution.find_resources("AWS::SQS::Queue")
    assert len(queues) == 3
    assert all(queue["Properties"]["SqsManagedSseEnabled"] for queue in queues.values())
    policies = execution.find_resources("AWS::SQS::QueuePolicy").values()
    over_tls_only = {
        policy["Properties"]["Queues"][0]["Ref"]
        for policy in policies
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    }
    assert over_tls_only == set(queues)


@pytest.mark.parametrize("name", NAMES)
def test_no_security_group_has_ingress_but_that_of_dask_clusters(name: str) -> None:
    for template in templates(name):
        for rule in template.find_resources("AWS::EC2::SecurityGroupIngress").values():
            assert environment(name).dask
            assert rule["Properties"]["GroupId"]["Fn::GetAtt"][0].startswith("DaskSecurityGroup")
            assert "SourceSecurityGroupId" in rule["Properties"]
        for group in template.find_resources("AWS::EC2::SecurityGroup").values():
            assert "SecurityGroupIngress" not in group["Properties"]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_described_and_not_exported(name: str) -> None:
    foundation, execution = (template.to_json()["Outputs"] for template in templates(name))
    # The CDK publishes what the execution stack refers to; these are not ours to describe.
    ours = {key: value for key, value in foundation.items() if not key.startswith("PublishOutput")}
    assert set(ours) == {"BucketName", "LogGroupName"}
    watched = {"DashboardName"} if environment(name).monitoring else set()
    assert set(execution) == {"WorkPoolName", "ClusterName", "WorkerServiceName", "FlowRoleArn", *watched}
    for output in (*ours.values(), *execution.values()):
        assert output["Description"]
        assert "Export" not in output


@pytest.mark.parametrize("name", NAMES)
def test_whatever_can_be_tagged_is(name: str) -> None:
    expected = dict(environment(name).tags)
    for template in templates(name):
        for logical_id, resource in resources(template).items():
            if resource["Type"] in UNTAGGED or resource["Type"].startswith("Custom::"):
                continue
            if logical_id.startswith("Custom"):  # functions and roles of the CDK's own custom resources
                continue
            tags = {tag["Key"]: tag["Value"] for tag in resource["Properties"].get("Tags", [])}
            assert expected.items() <= tags.items(), f"{logical_id} ({resource['Type']})"


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_in_any_template(name: str) -> None:
    for template in templates(name):
        text = json.dumps(template.to_json())
        assert "{{resolve:" not in text
        assert "NoEcho" not in text


WARNING = Match.string_like_regexp("still names the placeholder workspace.*stacks/environments.py")


def changed(config: EnvironmentConfig, account_id: str, workspace_id: str) -> EnvironmentConfig:
    return dataclasses.replace(config, api=CloudApi(account_id, workspace_id, "/prefect/key"))


def test_placeholder_workspace_is_warned_of() -> None:
    for name in NAMES:
        found = Annotations.from_stack(stage(name).execution).find_warning("*", WARNING)
        assert bool(found) == environment(name).api.is_placeholder, name


def test_a_workspace_of_ones_own_is_not_warned_of() -> None:
    made = new_stage(changed(environment("prod"), UUID, UUID))
    Annotations.from_stack(made.execution).has_no_warning("*", WARNING)


def test_pinned_account_and_region_reach_the_stacks() -> None:
    made = new_stage(dataclasses.replace(environment("staging"), account="123456789012", region="eu-west-1"))
    assert (made.execution.account, made.execution.region) == ("123456789012", "eu-west-1")
    assert made.foundation.environment == "aws://123456789012/eu-west-1"
    assert cdk.Token.is_unresolved(stage("staging").execution.account)


# The image


def images(image: str | None) -> tuple[PrefectStage, str, set[str]]:
    """A stage with this image; the worker's image, and the images of worker and flow runs."""
    made = new_stage(dataclasses.replace(environment("dev"), image=image))
    (definition,) = Template.from_stack(made.execution).find_resources("AWS::ECS::TaskDefinition").values()
    worker = definition["Properties"]["ContainerDefinitions"][0]["Image"]
    template = made.execution.layer.work_pool.job_template
    flow_runs = made.execution.resolve(template["variables"]["properties"]["image"]["default"])
    return made, worker, {json.dumps(worker), json.dumps(flow_runs)}


def test_official_image_and_a_reference() -> None:
    assert images(None)[1].startswith("prefecthq/prefect-aws:")
    _, worker, both = images("ghcr.io/acme/flows:1.4.2")
    assert (worker, len(both)) == ("ghcr.io/acme/flows:1.4.2", 1)


@pytest.mark.parametrize(("image", "target"), [("build", "default"), ("build-with-flows", "baked")])
def test_image_that_is_built(image: str, target: str) -> None:
    made, _, both = images(image)
    assert len(both) == 1, "worker and flow runs have the same image"
    assembly = cdk.Stage.of(made.execution).synth()  # type: ignore[union-attr]
    (manifest,) = Path(assembly.directory).glob("*Execution*.assets.json")
    (asset,) = json.loads(manifest.read_text())["dockerImages"].values()
    source = asset["source"]
    staged = Path(assembly.directory, source.pop("directory"))
    assert source == {
        "dockerFile": "docker/flow/Dockerfile",
        "dockerBuildTarget": target,
        "platform": "linux/amd64",
    }
    names = {file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()}
    lock = {f"docker/flow/{name}" for name in ("Dockerfile", "installer.txt", "requirements.txt")}
    assert names == {".dockerignore", *lock, *(f"flows/{file.name}" for file in (ROOT / "flows").glob("*.py"))}


# Networks

ACCOUNT = "123456789012"
VPC = "vpc-0123456789abcdef0"


def looked_up(search: str, vpc_id: str, group: str) -> dict[str, Any]:
    """A VPC with three subnets of one kind, as the CDK CLI keeps what it found."""
    subnets = [
        {
            "subnetId": f"subnet-{zone}",
            "cidr": f"172.31.{number * 16}.0/20",
            "availabilityZone": f"us-east-1{zone}",
            "routeTableId": "rtb-1",
        }
        for number, zone in enumerate("abc")
    ]
    key = f"vpc-provider:account={ACCOUNT}:filter.{search}:region=us-east-1:returnAsymmetricSubnets=true"
    groups = [{"name": group, "type": group, "subnets": subnets}]
    found = {"vpcId": vpc_id, "vpcCidrBlock": "172.31.0.0/16", "ownerAccountId": ACCOUNT}
    return {key: {**found, "availabilityZones": [], "subnetGroups": groups}}


def in_network(network: str, context: dict[str, Any] | None = None, **changes: Any) -> PrefectStage:
    return new_stage(dataclasses.replace(environment("staging"), network=network, **changes), context)


def pool_network(made: PrefectStage) -> dict[str, Any]:
    """Where the pool's flow runs are."""
    variables = made.execution.layer.work_pool.job_template["variables"]["properties"]
    return dict(made.execution.resolve(variables["network_configuration"]["default"]))


def test_network_nat() -> None:
    made = in_network("nat", flow_logs=True)
    template = Template.from_stack(made.foundation)
    template.resource_count_is("AWS::EC2::NatGateway", 3)
    template.resource_count_is("AWS::EC2::FlowLog", 1)
    assert pool_network(made)["assignPublicIp"] == "DISABLED"
    zones = [subnet.availability_zone for subnet in made.foundation.network.subnets]
    assert made.foundation.resolve(zones) == [{"Fn::Select": [index, {"Fn::GetAZs": ""}]} for index in range(3)]


@pytest.mark.parametrize(
    ("network", "search", "group", "address"),
    [
        ("default-vpc", "isDefault=true", "Public", "ENABLED"),
        (VPC, f"vpc-id={VPC}", "Private", "DISABLED"),
    ],
)
def test_network_that_exists(network: str, search: str, group: str, address: str) -> None:
    made = in_network(network, looked_up(search, VPC, group), account=ACCOUNT)
    assert made.foundation.network.vpc.vpc_id == VPC
    template = Template.from_stack(made.foundation)
    template.resource_count_is("AWS::EC2::VPC", 0)
    template.has_resource_properties("AWS::EC2::SecurityGroup", {"VpcId": VPC})
    found = pool_network(made)
    assert (found["subnets"], found["assignPublicIp"]) == (["subnet-a", "subnet-b", "subnet-c"], address)


def test_network_endpoints() -> None:
    api = SelfHostedApi("https://prefect.internal/api", "/prefect/auth-string", private=True)
    made = in_network("endpoints", api=api, image="build")
    template = Template.from_stack(made.foundation)
    template.resource_count_is("AWS::EC2::Route", 0)
    # of an image in ECR, a credential in SSM, the log, the worker and its observer; and of S3
    template.resource_count_is("AWS::EC2::VPCEndpoint", 7)
    assert pool_network(made)["assignPublicIp"] == "DISABLED"
    assert made.foundation.dependencies == []
    # Of the worker, Lazarus and the function of the pool; that of the flow runs is where the network is.
    rules = Template.from_stack(made.execution).find_resources("AWS::EC2::SecurityGroupIngress").values()
    assert [rule["Properties"]["FromPort"] for rule in rules] == [443] * 3
    template.resource_count_is("AWS::EC2::SecurityGroupIngress", 1)


def test_functions_that_call_a_private_api_are_in_the_network() -> None:
    api = SelfHostedApi("https://prefect.internal/api", private=True)
    made = in_network("nat", api=api)
    assert made.execution.layer.lazarus is not None
    assert made.execution.layer.lazarus.function.is_bound_to_vpc
    template = Template.from_stack(made.execution)
    inside = [
        function
        for function in template.find_resources("AWS::Lambda::Function").values()
        if "VpcConfig" in function["Properties"]
    ]
    assert len(inside) == 2


@pytest.mark.parametrize("network", ["nat", "endpoints"])
def test_own_server(network: str) -> None:
    made = in_network(network, api=OwnServer(multi_az=True), image="build", encryption_key=OWN_KEY)
    foundation, execution = Template.from_stack(made.foundation), Template.from_stack(made.execution)
    foundation.has_resource_properties("AWS::RDS::DBInstance", {"MultiAZ": True, "DeletionProtection": True})
    foundation.has_resource("AWS::RDS::DBInstance", {"DeletionPolicy": "Retain"})
    execution.resource_count_is("AWS::RDS::DBInstance", 0)
    execution.resource_count_is("AWS::ECS::Service", 2)
    assert {"ApiUrl", "AuthSecretArn"} <= execution.to_json()["Outputs"].keys()
    assert made.execution.layer.lazarus is not None
    assert made.execution.layer.lazarus.function.is_bound_to_vpc
    # `make deploy` is strict: a warning would stop it.
    for stack in (made.foundation, made.execution):
        Annotations.from_stack(stack).has_no_warning("*", Match.any_value())


def test_database_of_what_is_not_kept_goes_with_its_stack() -> None:
    made = in_network("nat", api=OwnServer(), keep_data=False)
    template = Template.from_stack(made.foundation)
    template.has_resource_properties("AWS::RDS::DBInstance", {"MultiAZ": False, "DeletionProtection": False})
    template.has_resource("AWS::RDS::DBInstance", {"DeletionPolicy": "Delete"})


@pytest.mark.parametrize(
    ("monitoring", "topics", "outputs"),
    [
        (MonitoringConfig(), 0, {"DashboardName"}),
        (MonitoringConfig(alarm_email="on-call@example.com"), 1, {"DashboardName", "AlarmTopicArn"}),
        (
            MonitoringConfig(alarm_topic_arn="arn:aws:sns:us-east-1:123456789012:on-call", dashboard=False),
            0,
            {"AlarmTopicArn"},
        ),
    ],
    ids=["silent", "email", "topic"],
)
def test_every_pool_is_watched(monitoring: MonitoringConfig, topics: int, outputs: set[str]) -> None:
    config = dataclasses.replace(
        environment("dev"),
        monitoring=dataclasses.replace(monitoring, longest_wait_minutes=5, shortage=2, leave_out=("Throttles",)),
        more_pools=(PoolConfig("ml", spot_policy=SpotPolicy.ON_DEMAND),),
    )
    template = Template.from_stack(new_stage(config).execution)
    template.resource_count_is("AWS::SNS::Topic", topics)
    assert set(template.to_json()["Outputs"]) & {"DashboardName", "AlarmTopicArn"} == outputs
    alarms = template.find_resources("AWS::CloudWatch::Alarm")
    assert sum(name.startswith("MonitoringPool") for name in alarms) == 2 * 4
    told = [alarm["Properties"].get("AlarmActions") for alarm in alarms.values()]
    assert sum(actions is not None for actions in told) == (2 * 4 + 4 if "AlarmTopicArn" in outputs else 0)
    wait = {"MetricName": "SecondsWaiting", "Threshold": 300}
    template.resource_properties_count_is("AWS::CloudWatch::Alarm", wait, 2)
    template.resource_properties_count_is(
        "AWS::CloudWatch::Alarm", {"MetricName": "CapacityFailures", "Threshold": 2}, 1
    )


def test_topic_of_alarms_has_the_key_of_the_environment() -> None:
    monitoring = MonitoringConfig(alarm_email="on-call@example.com")
    made = new_stage(dataclasses.replace(environment("dev"), monitoring=monitoring, encryption_key=OWN_KEY))
    Template.from_stack(made.execution).resource_count_is("AWS::KMS::Key", 0)
    (key,) = Template.from_stack(made.foundation).find_resources("AWS::KMS::Key").values()
    services = [each["Principal"].get("Service") for each in key["Properties"]["KeyPolicy"]["Statement"]]
    assert "cloudwatch.amazonaws.com" in services
