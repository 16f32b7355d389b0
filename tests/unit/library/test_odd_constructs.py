"""Hundreds of wrong and odd arguments thrown at the constructs: each ends in a sentence and an untouched tree, or in a
template that cfn-lint accepts. Never in a stack trace of jsii, and never in half a construct."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_values import assert_clear, odd
from odd_world import EVERYTHING, Of, World

from cdk_prefect_ecs import (
    DaskAccess,
    DeployRole,
    ExecutionMonitoring,
    ExecutionRole,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    FlowRepository,
    FlowRole,
    FlowStorage,
    Lazarus,
    PrefectApi,
    PrefectExecutionLayer,
    PrefectServer,
    ServerDatabase,
    TaskEvents,
    WorkerHost,
    WorkerService,
    WorkPool,
)

#: Rules of cfn-lint that are wrong here, each with the reason.
IGNORED = {
    "W3005": "DependsOn that a GetAtt implies already: the CDK writes both for a role, which is harmless.",
    "W2001": "A parameter that nothing refers to: it was made to be passed where it is refused.",
    "W3691": "RDS takes a major version by itself, and has its newest minor ones; cfn-lint takes it for the oldest.",
    "W3010": "Zones that are written down: those of an imported VPC.",
}
EXAMPLES = 12


@dataclass(frozen=True)
class Maker:
    """Something that users call, with arguments that it takes; and what else is often passed to it."""

    name: str
    make: Callable[..., object]
    valid: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    """Arguments that have a default."""


def construct(cls: Any, valid: dict[str, Any] | None = None, **more: Any) -> Maker:
    return Maker(cls.__name__, lambda world, **given: cls(world.stack, "Made", **given), valid or {}, more)


def method(owner: str, name: str, valid: dict[str, Any], **more: Any) -> Maker:
    return Maker(
        f"{owner}.{name}",
        lambda world, **given: getattr(world.get(owner), name)(**given),
        {**valid, "": Of(owner)},
        more,
    )


def factory(cls: Any, name: str, valid: dict[str, Any], **more: Any) -> Maker:
    return Maker(f"{cls.__name__}.{name}", lambda world, **given: getattr(cls, name)(**given), valid, more)


CLOUD = {
    "account_id": "01234567-89ab-cdef-0123-456789abcdef",
    "workspace_id": "fedcba98-7654-3210-fedc-ba9876543210",
    "api_key": Of("api_key"),
}
POOL = {
    "work_pool_name": "etl",
    "api": Of("api"),
    "cluster": Of("cluster"),
    "network": Of("network"),
    "storage": Of("storage"),
    "log_group": Of("log_group"),
    "execution_role": Of("execution_role"),
    "flow_role": Of("flow_role"),
}
SERVICE = {
    "work_pool": Of("pool"),
    "api": Of("api"),
    "cluster": Of("cluster"),
    "network": Of("network"),
    "log_group": Of("log_group"),
    "execution_role": Of("execution_role"),
    "worker_role": Of("worker_role"),
}
FLOWS = {
    "spot_policy": Of("spot"),
    "image": Of("ecr_image"),
    "flow_cpu": 512,
    "flow_memory_mib": 1024,
    "flow_environment": {"A": "1"},
    "flow_secrets": {"DB": Of("ecs_secret")},
    "flow_storage_gib": 40,
    "flow_volumes": [Of("volume")],
    "flow_tags": {"CostCenter": "42"},
    "concurrency_limit": 3,
    "queues": Of("queues"),
    "worker_cpu": 256,
    "worker_memory_mib": 512,
    "worker_count": 2,
    "worker_poll_interval": Of("one_minute"),
    "enable_execute_command": True,
    "cpu_architecture": "ARM64",
    "spot_attempts": 1,
    "max_reschedules": 0,
    "patience": Of("one_minute"),
}

MAKERS = [
    construct(
        FlowStorage,
        result_expiration=Of("two_days"),
        noncurrent_version_expiration=Of("two_days"),
        removal_policy=Of("destroy"),
        auto_delete_objects=False,
    ),
    Maker(
        "FlowStorage.from_bucket",
        lambda world, **given: FlowStorage.from_bucket(world.stack, "Made", **given),
        {"bucket": Of("bucket")},
        {},
    ),
    construct(FlowNetwork, mode="nat", max_azs=2, nat_gateways=1, flow_log_retention=Of("retention")),
    Maker(
        "FlowNetwork of an existing VPC",
        lambda world, **given: FlowNetwork(world.stack, "Made", **given),
        {"vpc": Of("vpc")},
        {"vpc_subnets": Of("select_public"), "security_group": Of("imported_group")},
    ),
    construct(
        FlowCluster,
        {"vpc": Of("vpc")},
        spot=True,
        default_strategy=Of("weights"),
        container_insights=Of("insights"),
    ),
    Maker(
        "FlowCluster.from_cluster",
        lambda world, **given: FlowCluster.from_cluster(world.stack, "Made", **given),
        {"cluster": Of("cdk_cluster")},
        {"capacity_providers": ["FARGATE"]},
    ),
    method(
        "cluster",
        "add_auto_scaling_capacity",
        {"construct_id": "Made", "network": Of("network"), "instance_types": [Of("type_x86")]},
        on_demand=True,
        spot=True,
        min_instances=1,
        max_instances=5,
        disk=Of("some_gib"),
        role=Of("imported_role"),
    ),
    method(
        "cluster",
        "add_managed_instances_capacity",
        {"construct_id": "Made", "network": Of("network")},
        on_demand=True,
        spot=True,
        instance_requirements=Of("requirements"),
        cpu_architecture="X86_64",
        has_gpu=False,
        disk=Of("some_gib"),
        infrastructure_role=Of("imported_role"),
        instance_role=Of("imported_role"),
    ),
    method(
        "cluster",
        "add_external_capacity",
        {"construct_id": "Made"},
        cpu_architecture="ARM64",
        has_gpu=True,
        registration_role=Of("imported_role"),
    ),
    construct(
        TaskEvents,
        {"cluster": Of("cluster")},
        visibility_timeout=Of("one_minute"),
        oldest_message_alarm=Of("thirteen_hours"),
    ),
    construct(ExecutionRole, {"log_group": Of("log_group"), "api": Of("api")}, image=Of("ecr_image")),
    construct(FlowRole, {"storage": Of("storage")}),
    construct(
        FlowRepository,
        untagged_expiration=Of("two_days"),
        encryption_key=Of("key"),
        removal_policy=Of("destroy"),
        auto_delete_images=False,
    ),
    construct(
        WorkPool,
        POOL,
        image=Of("image"),
        capacity=Of("gpu"),
        spot_policy=Of("spot"),
        cpu=1024,
        memory_mib=2048,
        cpu_architecture="X86_64",
        gpus=1,
        ephemeral_storage_gib=None,
        volumes=[Of("volume")],
        concurrency_limit=3,
        queues=Of("queues"),
        secrets={"DB": Of("ssm_secret")},
        tags={"a": "b"},
        environment={"A": "1"},
        description="Mine",
        delete_with_deployments=True,
    ),
    construct(
        WorkerService,
        SERVICE,
        image=Of("image"),
        cpu=1024,
        memory_mib=2048,
        cpu_architecture="X86_64",
        desired_count=2,
        max_count=4,
        poll_interval=Of("one_minute"),
        enable_execute_command=True,
        environment={"A": "1"},
    ),
    construct(
        WorkerHost,
        {"work_pool": Of("pool"), "api": Of("api"), "network": Of("network"), "log_group": Of("log_group")},
        instance_type=Of("type_arm"),
        machine_image=Of("machine_image"),
        poll_interval=Of("one_minute"),
        environment={"A": "1"},
    ),
    construct(
        Lazarus,
        {"cluster": Of("cluster"), "api": Of("api"), "work_pool": Of("pool"), "log_group": Of("log_group")},
        spot_attempts=1,
        max_reschedules=1,
        patience=Of("one_minute"),
        reserved_concurrency=None,
    ),
    method(
        "lazarus",
        "add_work_pool",
        {"work_pool": Of("pool")},
        spot_attempts=1,
        max_reschedules=1,
        patience=Of("one_minute"),
    ),
    construct(
        ExecutionMonitoring,
        {"layer": Of("layer")},
        alarm_email="on-call@example.com",
        encryption_key=Of("key"),
        dashboard=True,
        longest_wait=Of("one_minute"),
        shortage=5,
        leave_out=["Throttles"],
        runbook_url="https://wiki.example.com/prefect",
    ),
    construct(ExecutionMonitoring, {"layer": Of("layer")}, alarm_topic=Of("topic")),
    method("monitoring", "add_work_pool", {"work_pool": Of("pool"), "worker": Of("worker")}),
    construct(
        DaskAccess,
        {"cluster": Of("cluster"), "network": Of("network")},
        image=Of("image"),
        task_role=Of("imported_role"),
        log_group=Of("imported_logs"),
        scheduler_cpu=1024,
        scheduler_memory_mib=4096,
        worker_cpu=2048,
        worker_memory_mib=8192,
        cpu_architecture="X86_64",
        idle_timeout=Of("one_minute"),
    ),
    construct(
        DeployRole,
        {"trust": Of("deployments")},
        provider=Of("oidc_provider"),
        account="123456789012",
        regions=["us-east-1", "eu-west-1"],
        qualifier="data",
        read_only=False,
        publishes_images=True,
        max_session_duration=Of("two_hours"),
    ),
    construct(
        ServerDatabase,
        {"network": Of("network")},
        database_name="prefect",
        instance_type=Of("type_arm"),
        storage_gib=20,
        max_storage_gib=100,
        multi_az=True,
        backup_retention=Of("two_days"),
        encryption_key=Of("key"),
        deletion_protection=False,
        removal_policy=Of("destroy"),
    ),
    Maker(
        "ServerDatabase.from_existing",
        lambda world, **given: ServerDatabase.from_existing(world.stack, "Made", **given),
        {"host": "db.acme.internal", "secret": Of("secret")},
        {"port": 5432, "database_name": "prefect", "security_group": Of("imported_group")},
    ),
    construct(
        PrefectServer,
        {"network": Of("network")},
        database=Of("database"),
        auth_string=Of("api_key"),
        cluster=Of("cluster"),
        image=Of("image"),
        execution_role=Of("imported_role"),
        task_role=Of("imported_role"),
        log_group=Of("imported_logs"),
        encryption_key=Of("key"),
        host_name="prefect.acme.internal",
        port=4200,
        cpu=512,
        memory_mib=1024,
        cpu_architecture="X86_64",
        database_ca_file="/etc/ssl/rds.pem",
        environment={"A": "1"},
    ),
    construct(
        PrefectExecutionLayer,
        {"work_pool_name": "etl", "api": Of("api"), "network": Of("network")},
        cluster=Of("cluster"),
        storage=Of("storage"),
        log_group=Of("imported_logs"),
        worker_instance_type=None,
        lazarus=True,
        lazarus_reserved_concurrency=None,
        delete_pool_with_deployments=True,
        **FLOWS,
    ),
    method(
        "layer",
        "add_work_pool",
        {"work_pool_name": "etl"},
        capacity=None,
        flow_gpus=0,
        worker_max_count=5,
        **FLOWS,
    ),
    method(
        "new_network",
        "add_service_endpoint",
        {"service": "athena", "used_by": Of("network"), "reason": "Flows query Athena"},
        every_zone=False,
    ),
    method("network", "check_reach", {"api": Of("api"), "image": Of("image")}),
    method("storage", "grant_flow_access", {"grantee": Of("imported_role")}),
    method("storage", "grant_deploy_code", {"grantee": Of("imported_role")}),
    method("layer", "grant_deploy_flows", {"grantee": Of("imported_role")}),
    method("pool", "grant_run", {"worker_role": Of("imported_role")}),
    factory(PrefectApi, "cloud", CLOUD, vpc=Of("vpc"), vpc_subnets=Of("select_nothing")),
    factory(
        PrefectApi,
        "self_hosted",
        {"url": "https://prefect.example.com/api"},
        auth_string=Of("api_key"),
        vpc=Of("vpc"),
        vpc_subnets=Of("select_nothing"),
        server=Of("prefect_server"),
    ),
    factory(PrefectApi, "ssm_secure_string", {"parameter_name": "/prefect/api-key"}, encryption_key=Of("key")),
    factory(PrefectApi, "secrets_manager", {"secret": Of("secret")}, field="password"),
    factory(
        FlowImage,
        "from_registry",
        {"reference": "ghcr.io/acme/flows:1"},
        credentials=Of("secret"),
        cpu_architecture="ARM64",
        writable_paths=["/data"],
    ),
    factory(
        FlowImage,
        "from_ecr_repository",
        {"repository": Of("repository"), "tag_or_digest": "1.0"},
        cpu_architecture="ARM64",
        writable_paths=["/data"],
    ),
]


def by_name(maker: Maker) -> str:
    return maker.name


def test_they_are_hundreds() -> None:
    assert len(MAKERS) * EXAMPLES >= 200


@pytest.mark.parametrize("maker", MAKERS, ids=by_name)
def test_what_is_right_is_made(maker: Maker) -> None:
    world = World()
    arguments = world.resolve(maker.valid | maker.more)
    arguments.pop("", None)
    maker.make(world, **arguments)
    assert_right(world)


def oddities(maker: Maker) -> st.SearchStrategy[dict[str, Any]]:
    """What is right, with one to three arguments replaced by something odd, and none or some of the optional ones."""
    names = sorted({*maker.valid, *maker.more} - {""})
    replaced = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: strange() for name in chosen})
    )
    optional = st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in maker.more.items()})
    return st.builds(lambda more, change: {**maker.valid, **more, **change}, optional, replaced)


def strange() -> st.SearchStrategy[Any]:
    of_the_world = st.sampled_from(EVERYTHING)
    return st.one_of(
        of_the_world,
        of_the_world,
        odd().filter(lambda value: "Token[" not in repr(value)),  # tokens that are none: those of the world are
        st.lists(of_the_world, max_size=2),
        st.dictionaries(st.sampled_from(["A", "DB", ""]), of_the_world, max_size=2),
    )


@pytest.mark.parametrize("maker", MAKERS, ids=by_name)
def test_odd_arguments_make_a_sentence_or_a_right_template(maker: Maker) -> None:
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
    @given(arguments=oddities(maker))
    def throw(arguments: dict[str, Any]) -> None:
        try_it(maker, World(), arguments)

    throw()


def try_it(maker: Maker, world: World, arguments: dict[str, Any]) -> bool:
    """Make it and look at the template, or see that it was refused clearly and nothing was made."""
    given_arguments = world.resolve(arguments)
    given_arguments.pop("", None)
    before = world.paths()
    try:
        maker.make(world, **given_arguments)
    except Exception as error:
        assert_clear(error)
        assert world.paths() == before
        return False
    assert_right(world)
    return True


def assert_right(world: World) -> None:
    for stack in world.app.synth().stacks:
        if "Resources" in stack.template:
            assert said(Path(stack.template_full_path).read_text()) == []


@functools.cache
def said(template: str) -> list[str]:
    """What cfn-lint says of a template: errors and warnings."""
    matches = lint(template, config=ManualArgs(regions=["us-east-1"]))
    return [str(match) for match in matches if match.rule.id not in IGNORED]
