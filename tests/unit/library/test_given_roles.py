"""Roles that somebody else made: what they get, what is written down for them, and that nothing is left to make."""

import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import canonical, cloud_api, new_app, new_stack, statements
from whole_library import whole_library

from cdk_prefect_ecs import (
    DaskAccess,
    FlowImage,
    FlowNetwork,
    FlowVolume,
    PrefectExecutionLayer,
    PrefectServer,
    RequiredPolicy,
    WorkerHost,
)

ROLES = (
    *("execution", "worker", "flow", "lazarus", "sync", "pool_worker", "host", "dask", "flow_log"),
    *("instances", "infrastructure", "server"),
)
#: Where they are made when they are not given.
OWN = {
    "execution": "PrefectExecutionRole",
    "worker": "PrefectWorkerRole",
    "flow": "PrefectFlowRole",
    "lazarus": "PrefectLazarusRole",
    "sync": "WorkPoolSync7B7F9B7DRole",
    "pool_worker": "PrefectPoolmoreWorkerRole",
    "host": "HostRole",
    "dask": "DaskExecutionRole",
    "server": "ServerExecutionRole",
    "flow_log": "NetworkVpcFlowLogIAMRole",
    "instances": "PrefectClusterMachinesRole",
    "infrastructure": "PrefectClusterManagedOnDemandProviderOnDemandProviderRole",
}
#: What AWS's managed policies allow is theirs to say: those who give a role attach them.
MANAGED_POLICIES = {"infrastructure": "AmazonECSInfrastructureRolePolicyForManagedInstances"}


def arn(name: str) -> str:
    return f"arn:aws:iam::123456789012:role/team/{name}"


def build(*, given: bool, mutable: bool = False, with_key: bool = False) -> cdk.Stack:
    """Everything that may be granted anything: ECR, secrets, EFS, ECS Exec, a key, hosts, Dask, flow logs, machines, a
    server."""
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    roles: dict[str, Any] = dict.fromkeys(ROLES)
    if given:
        roles = {name: iam.Role.from_role_arn(stack, f"{name}Role", arn(name), mutable=mutable) for name in ROLES}
    key = kms.Key(stack, "Key") if with_key else None
    network = FlowNetwork(
        stack, "Network", flow_log_retention=logs.RetentionDays.ONE_DAY, flow_log_role=roles["flow_log"]
    )
    image = FlowImage.from_ecr_repository(ecr.Repository(stack, "Images"), "1")
    other_image = FlowImage.from_ecr_repository(ecr.Repository(stack, "OtherImages"), "1")
    files = efs.FileSystem(stack, "Files", vpc=network.vpc)
    password = ecs.Secret.from_secrets_manager(secretsmanager.Secret(stack, "Password", encryption_key=key))
    api = cloud_api()
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=api,
        network=network,
        image=image,
        execution_role=roles["execution"],
        worker_role=roles["worker"],
        flow_role=roles["flow"],
        lazarus_role=roles["lazarus"],
        sync_role=roles["sync"],
        encryption_key=key,
        flow_secrets={"PASSWORD": password},
        flow_volumes=[FlowVolume(files.add_access_point("Data"), "/data")],
        enable_execute_command=True,
    )
    layer.add_work_pool("more", image=other_image, worker_role=roles["pool_worker"])
    WorkerHost(
        stack,
        "Host",
        work_pool=layer.work_pool,
        api=api,
        network=network,
        log_group=layer.log_group,
        role=roles["host"],
    )
    DaskAccess(stack, "Dask", cluster=layer.cluster, network=network, image=image, execution_role=roles["dask"])
    PrefectServer(
        stack,
        "Server",
        network=FlowNetwork(stack, "Private", mode="nat"),
        image=image,
        execution_role=roles["server"],
        encryption_key=key,
    )
    layer.cluster.add_auto_scaling_capacity(
        "Machines", network=network, instance_types=[ec2.InstanceType("m7g.large")], spot=True, role=roles["instances"]
    )
    layer.cluster.add_managed_instances_capacity(
        "Managed",
        network=network,
        infrastructure_role=roles["infrastructure"],
        instance_role=iam.Role.from_role_arn(stack, "managedRole", arn("managed"), mutable=mutable) if given else None,
    )
    return stack


def flat(policy: list[dict[str, Any]]) -> set[str]:
    """One string for each action on each resource under each condition: however the CDK has merged statements."""
    return {
        json.dumps([statement["Effect"], action, resource, statement.get("Condition")], sort_keys=True)
        for statement in policy
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


@pytest.mark.parametrize("with_key", [False, True])
def test_what_is_written_down_is_what_a_role_of_our_own_is_granted(with_key: bool) -> None:
    own = Template.from_stack(build(given=False, with_key=with_key))
    stack = build(given=True, with_key=with_key)
    required = RequiredPolicy.of(stack)
    assert set(required) == {arn(name) for name in ROLES}
    resolved = {name: stack.resolve(document)["Statement"] for name, document in required.items()}
    for name in ROLES:
        said = flat([canonical(statement) for statement in resolved[arn(name)]])
        granted = flat(statements(own, OWN[name], MANAGED_POLICIES.get(name)))
        # Roles are passed by ARN: theirs are other ones than ours.
        passed = {entry for entry in said | granted if "iam:PassRole" in entry}
        assert granted, name
        assert said - passed == granted - passed, name
        assert len(said & passed) == len(granted & passed)


def test_nothing_is_added_to_immutable_roles() -> None:
    template = Template.from_stack(build(given=True))
    made = {key.rstrip("0123456789ABCDEF") for key in template.find_resources("AWS::IAM::Role")}
    # Of the CDK's own custom resource, and those that Dask's tasks and a server have without any permission.
    assert made == {"CustomVpcRestrictDefaultSGCustomResourceProviderRole", "DaskTaskRole", "ServerTaskRole"}
    template.resource_count_is("AWS::IAM::Policy", 0)


def test_mutable_roles_get_what_is_written_down() -> None:
    stack = build(given=True, mutable=True)
    required = RequiredPolicy.of(stack)
    policies = Template.from_stack(stack).find_resources("AWS::IAM::Policy").values()
    by_role: dict[str, list[dict[str, Any]]] = {}
    for policy in policies:
        (role,) = policy["Properties"]["Roles"]
        by_role.setdefault(arn(role), []).extend(policy["Properties"]["PolicyDocument"]["Statement"])
    assert set(by_role) == set(required)
    for role, document in required.items():
        written = flat([canonical(statement) for statement in stack.resolve(document)["Statement"]])
        assert flat([canonical(statement) for statement in by_role[role]]) == written, role


def test_the_roles_are_those_that_are_used() -> None:
    template = Template.from_stack(build(given=True))
    definitions = [each["Properties"] for each in template.find_resources("AWS::ECS::TaskDefinition").values()]
    assert {definition["ExecutionRoleArn"] for definition in definitions} == {
        arn(name) for name in ("execution", "dask", "server")
    }
    assert {definition["TaskRoleArn"] for definition in definitions if isinstance(definition["TaskRoleArn"], str)} == {
        arn("worker"),
        arn("pool_worker"),
    }
    functions = [each["Properties"] for each in template.find_resources("AWS::Lambda::Function").values()]
    assert {arn("lazarus"), arn("sync")} <= {str(function["Role"]) for function in functions}
    profiles = template.find_resources("AWS::IAM::InstanceProfile").values()
    assert sorted(profile["Properties"]["Roles"] for profile in profiles) == [["host"], ["instances"], ["managed"]]
    providers = [each["Properties"] for each in template.find_resources("AWS::ECS::CapacityProvider").values()]
    managed = [each["ManagedInstancesProvider"] for each in providers if "ManagedInstancesProvider" in each]
    assert [each["InfrastructureRoleArn"] for each in managed] == [arn("infrastructure")]
    (flow_log,) = template.find_resources("AWS::EC2::FlowLog").values()
    assert flow_log["Properties"]["DeliverLogsPermissionArn"] == arn("flow_log")
    pools = [str(each["Properties"]) for each in template.find_resources("Custom::PrefectWorkPool").values()]
    assert [(arn("flow") in pool, arn("execution") in pool) for pool in pools] == [(True, True)] * 2


def test_a_role_that_the_app_makes_has_its_policy_in_the_template_and_no_record() -> None:
    stack = new_stack()
    role = iam.Role(stack, "Mine", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
    PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api(), flow_role=role)
    assert RequiredPolicy.of(stack) == {}
    assert len(statements(Template.from_stack(stack), "Mine")) == 3


def test_what_is_written_down_can_be_handed_over() -> None:
    """The platform team's own stack makes a policy of it."""
    stack = build(given=True)
    document = RequiredPolicy.of(stack)[arn("sync")]
    iam.ManagedPolicy(stack, "ForTheSync", document=document)
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::IAM::ManagedPolicy", 1)


# For those who may make no role at all, the CDK has a way; it reaches the roles of machines and its own too.


def test_every_role_can_be_replaced_by_one_that_exists(tmp_path: Path) -> None:
    first = new_app()
    iam.Role.customize_roles(first)
    whole_library(first)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        first.synth()
    report = json.loads((Path(first.outdir) / "iam-policy-report.json").read_text())["roles"]
    # One that is not missing is of AWS: the service-linked role of Application Auto Scaling.
    paths = [role["roleConstructPath"] for role in report if role.get("missing")]
    assert len(paths) == 22
    assert "Whole/Custom::S3AutoDeleteObjectsCustomResourceProvider/Role" in paths
    (worker,) = [role for role in report if role["roleConstructPath"] == "Whole/Prefect/WorkerRole"]
    assert "ecs:RunTask" in json.dumps(worker["identityPolicyStatements"])
    assert "ecs-tasks.amazonaws.com" in json.dumps(worker["assumeRolePolicy"])

    second = new_app()
    names = {path: f"team-{number}" for number, path in enumerate(paths)}
    iam.Role.customize_roles(second, use_precreated_roles=names)
    template = Template.from_stack(whole_library(second))
    template.resource_count_is("AWS::IAM::Role", 0)
    template.resource_count_is("AWS::IAM::Policy", 0)
    text = json.dumps(template.to_json())
    unused = [path for path, name in names.items() if f"role/{name}" not in text and f'"{name}"' not in text]
    # In a command that is run by hand, and in the settings of a repository.
    assert unused == ["Whole/Cluster/OnPremises/Role", "Whole/Deploy/Role", "Whole/Diff/Role"]
