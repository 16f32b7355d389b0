"""What the rules say of values that AWS or Prefect would refuse later, or take and misunderstand."""

import re
from collections.abc import Callable
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from library_helpers import assert_refused, imported_vpc, make_parts, new_stack

from cdk_prefect_ecs import (
    CapacityKind,
    FlowCapacity,
    FlowImage,
    FlowNetwork,
    FlowRepository,
    FlowStorage,
    Lazarus,
    PrefectApi,
    PrefectExecutionLayer,
    TaskEvents,
    WorkerHost,
    WorkQueue,
)
from cdk_prefect_ecs.capacity import check_provider_names
from cdk_prefect_ecs.instance_types import check_disk, check_host_type
from cdk_prefect_ecs.names import check_prefect_name, check_work_pool_name
from cdk_prefect_ecs.queues import check_concurrency_limit, check_queues
from cdk_prefect_ecs.settings import (
    check_api_url,
    check_container_path,
    check_days,
    check_image_reference,
    check_lazarus_settings,
    check_parameter_name,
    check_tag_or_digest,
    check_task_events_settings,
    check_work_pool_settings,
    check_worker_settings,
)


def pool(**change: Any) -> Callable[[], None]:
    given: dict[str, Any] = {
        "work_pool_name": "etl",
        "cpu": 1024,
        "memory_mib": 2048,
        "cpu_architecture": None,
        "concurrency_limit": None,
        "environment": None,
    }
    return lambda: check_work_pool_settings(**(given | change))


RULES: list[tuple[Callable[[], object], str]] = [
    # Names
    (
        lambda: check_work_pool_name("a\nb"),
        r"work_pool_name 'a\nb' contains what cannot be printed, such as a line",
    ),
    (lambda: check_work_pool_name(".."), "work_pool_name '..' means a folder in the address of Prefect's API"),
    (lambda: check_work_pool_name("x" * 257), "work_pool_name must have at most 256 characters; got 257"),
    (lambda: check_prefect_name("the name of a queue", "a%"), "the name of a queue 'a%' contains %; Prefect refuses"),
    # What Prefect can store
    (lambda: check_concurrency_limit("limit", 2**31), "limit must be 0 to 2147483647; got 2147483648"),
    (lambda: check_queues([WorkQueue("a", 2**31)]), "priority of queue a must be 1 to 2147483647; got 2147483648"),
    # Capacity
    (lambda: FlowCapacity("x", CapacityKind.FARGATE, ""), "capacity 'x' has a capacity provider without a name"),
    (
        lambda: FlowCapacity("x", CapacityKind.EXTERNAL, cpu_architecture="arm64"),
        "capacity 'x': cpu_architecture must be X86_64 or ARM64, or None; got 'arm64'",
    ),
    (lambda: check_provider_names(["a", ""]), "a capacity provider has a name; got ''"),
    (lambda: check_provider_names(["a", "a"]), "each capacity provider may appear once; got a, a"),
    (lambda: check_disk(0), "disk must be a whole number of GiB from 1 to 65536; got 0 GiB"),
    (lambda: check_host_type("foo"), "'foo' is not an instance type that runs Linux; use one such as m7i.large"),
    (lambda: check_host_type("mac2.metal"), "'mac2.metal' is not an instance type that runs Linux"),
    # Workers
    (
        lambda: check_worker_settings(512, 1024, "X86_64", 5001, 5, None),
        "the number of workers must be 0 to 5000; got 5001",
    ),
    (
        lambda: check_worker_settings(512, 1024, "X86_64", 3, 5, None, max_count=2),
        "workers scale from desired_count, at least 1, up to max_count, at most 5000; got 3 and 2",
    ),
    # Variables, secrets and tags of flow runs
    (pool(environment={"A=B": "1"}), "'A=B' cannot be the name of an environment variable; use letters, digits and _"),
    (pool(environment={"": "1"}), "'' cannot be the name of an environment variable"),
    (pool(secret_names=["A B"]), "'A B' cannot be the name of an environment variable"),
    (
        pool(environment={"A": "x" * 6000}),
        "environment takes 6028 characters; a run is started with it, and ECS allows 8192 for that",
    ),
    (pool(tags={"team": "🐟"}), "tag 'team' = '🐟' cannot be: use letters, digits, spaces and + - = . _ : / @"),
    (pool(tags={"a;b": "c"}), "tag 'a;b' = 'c' cannot be: use letters"),
    # Lazarus and its queue
    (
        lambda: check_lazarus_settings(2, 3, 90, 0),
        "reserved_concurrency must be 1 or more, as with 0 Lambda would",
    ),
    (lambda: check_task_events_settings(59, 900), "visibility_timeout must be whole seconds, at least a minute"),
    (lambda: check_task_events_settings(43_201, None), "at most 12 hours; got 43201 seconds"),
    (lambda: check_task_events_settings(60.5, None), "visibility_timeout must be whole seconds"),
    (lambda: check_task_events_settings(360, 360), "oldest_message_alarm must be whole seconds and longer than"),
    # Places
    (lambda: check_parameter_name("/aws/key"), "'/aws/key' begins with aws or ssm, which SSM keeps for itself"),
    (lambda: check_parameter_name("SSMkey"), "'SSMkey' begins with aws or ssm"),
    (lambda: check_parameter_name("k" * 1012), "is not an SSM parameter name"),
    (lambda: check_api_url("https://h:99999/api"), "the URL of the Prefect API has a host or port that cannot be"),
    (
        lambda: check_api_url("https://[::1/api"),
        "has a host or port that cannot be, or a space; use one such as http",
    ),
    (lambda: check_api_url("https://a b/api"), "or a space"),
    (
        lambda: check_image_reference("Flows:1"),
        "'Flows:1' is not a reference of an image; use one such as ghcr.io",
    ),
    (lambda: check_image_reference("a b:1"), "'a b:1' is not a reference of an image"),
    (lambda: check_image_reference("flows@sha256:12"), "'flows@sha256:12' is not a reference of an image"),
    (lambda: check_tag_or_digest("a/b"), "tag_or_digest must be a tag such as 1.4.2 or a digest such as sha256:0123…"),
    (lambda: check_container_path("container_path", "/a\n"), r"container_path must be an absolute path below /"),
    (lambda: check_container_path("container_path", "/./a"), "without : and .., such as /data; got '/./a'"),
    # Times that are counted in days
    (lambda: check_days("expiration", 0), "expiration must be a whole number of days, 1 to 2147483647, as AWS counts"),
    (lambda: check_days("expiration", 2**31), "got 2.14748e+09 days"),
]


@pytest.mark.parametrize(("rule", "message"), RULES)
def test_rules_say(rule: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rule()


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_image_reference("localhost:5000/a/b__c:1.0_x"),
        lambda: check_image_reference("[::1]:5000/flows:1@sha256:" + "0" * 64),
        lambda: check_image_reference("123456789012.dkr.ecr.us-east-1.amazonaws.com/team/flows:2026-11-26"),
        lambda: check_tag_or_digest("sha256:" + "0f" * 32),
        lambda: check_api_url("http://[::1]:4200/api"),
        lambda: check_parameter_name("prefect-ssm"),
        pool(tags={"équipe": "données + x=1:2/3@4"}, environment={"my.var-1": "a\nb=é"}),
    ],
)
def test_takes_what_is_unusual_and_right(check: Callable[[], object]) -> None:
    check()


def test_architectures_of_instances() -> None:
    names = ["t4g.micro", "a1.large", "im4gn.large", "is4gen.medium", "m7i.large", "g5.xlarge", "u7i-12tb.224xlarge"]
    assert [check_host_type(name) for name in names] == ["ARM64"] * 4 + ["X86_64"] * 3


def token_time(stack: cdk.Stack, unit: str) -> cdk.Duration:
    number = cdk.CfnParameter(stack, f"Number{unit}", type="Number").value_as_number
    duration: cdk.Duration = getattr(cdk.Duration, unit)(number)
    return duration


def test_times_that_are_tokens() -> None:
    parts = make_parts()
    stack = parts.stack
    hours, seconds = token_time(stack, "hours"), token_time(stack, "seconds")
    work_pool = parts.pool()
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: Lazarus(
                stack,
                "Lazarus",
                cluster=parts.cluster,
                api=parts.api,
                work_pool=work_pool,
                log_group=parts.log_group,
                patience=seconds,
            ),
            "patience must be known at synth; got a token",
        ),
        (lambda: parts.worker(work_pool, poll_interval=seconds), "poll_interval must be known at synth; got a token"),
        (
            lambda: TaskEvents(stack, "Events", cluster=parts.cluster, visibility_timeout=hours),
            "visibility_timeout is a token in hours; make it with Duration.seconds",
        ),
        (
            lambda: FlowStorage(stack, "Other", result_expiration=hours),
            "result_expiration is a token in hours; make it with Duration.days",
        ),
    ]
    for make, message in cases:
        assert_refused(stack, make, message)


def test_disks_that_cannot_be() -> None:
    parts = make_parts()
    for disk, message in (
        (cdk.Size.mebibytes(60_001), "disk must be a whole number of GiB from 1 to 65536; got 58.5947 GiB"),
        (cdk.Size.tebibytes(500), "got 512000 GiB"),
        (cdk.Size.gibibytes(cdk.CfnParameter(parts.stack, "Gib", type="Number").value_as_number), "got a token"),
    ):
        assert_refused(
            parts.stack,
            lambda disk=disk: parts.cluster.add_managed_instances_capacity("M", network=parts.network, disk=disk),  # type: ignore[misc]
            message,
        )
        parts.stack.node.try_remove_child("Gib")


def test_there_are_no_snapshots_of_buckets_and_images() -> None:
    stack = new_stack()
    for make in (
        lambda: FlowStorage(stack, "Data", removal_policy=cdk.RemovalPolicy.SNAPSHOT),
        lambda: FlowRepository(stack, "Data", removal_policy=cdk.RemovalPolicy.SNAPSHOT),
    ):
        assert_refused(stack, make, "removal_policy must be RETAIN, DESTROY or", "AWS makes no snapshot of it")


def test_subnets_that_the_vpc_does_not_have() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    unknown = ec2.SubnetSelection(subnet_group_name="nope")
    assert_refused(
        stack,
        lambda: FlowNetwork(stack, "Network", vpc=vpc, vpc_subnets=unknown),
        "vpc_subnets selects nothing that this VPC has",
        "nope",
    )


def test_functions_that_call_the_api_need_private_subnets() -> None:
    stack = new_stack()
    public = imported_vpc(stack, private=False)
    with pytest.raises(ValueError, match="placed in private subnets of vpc, and it has none; a function in a public"):
        PrefectApi.self_hosted("https://prefect.internal/api", vpc=public)
    with pytest.raises(ValueError, match=r"vpc_subnets must select private subnets, .* got public ones"):
        PrefectApi.self_hosted(
            "https://prefect.internal/api",
            vpc=imported_vpc(stack, construct_id="Other"),
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
        )
    with pytest.raises(ValueError, match=r"vpc_subnets must select private subnets, .* got none"):
        PrefectApi.self_hosted("https://prefect.internal/api", vpc=public, vpc_subnets=ec2.SubnetSelection(subnets=[]))


def test_a_host_runs_linux() -> None:
    parts = make_parts()
    work_pool = parts.pool()
    for name in ("mac2-m2.metal", "large"):
        assert_refused(
            parts.stack,
            lambda name=name: WorkerHost(  # type: ignore[misc]
                parts.stack,
                "Host",
                work_pool=work_pool,
                api=parts.api,
                network=parts.network,
                log_group=parts.log_group,
                instance_type=ec2.InstanceType(name),
            ),
            f"'{name}' is not an instance type that runs Linux",
        )


def test_build_arguments_are_known_at_synth(tmp_path: Any) -> None:
    stack = new_stack()
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    token = cdk.Token.as_string({"Ref": "AWS::Region"})
    assert_refused(
        stack,
        lambda: FlowImage.from_asset(stack, "Image", directory=str(tmp_path), build_args={"REGION": token}),
        "build_args must be known at synth, as the image's hash is; REGION holds a token",
    )
    assert_refused(
        stack,
        lambda: FlowImage.from_asset(stack, "Image", directory=str(tmp_path), file="Other"),
        f"there is no file '{tmp_path}/Other'; directory is the build's context",
    )


def test_a_layer_says_it_before_its_parts() -> None:
    parts = make_parts()
    assert_refused(
        parts.stack,
        lambda: PrefectExecutionLayer(
            parts.stack,
            "Layer",
            work_pool_name="etl",
            api=parts.api,
            worker_instance_type=ec2.InstanceType("mac2.metal"),
        ),
        "'mac2.metal' is not an instance type that runs Linux",
    )
    assert_refused(
        parts.stack,
        lambda: PrefectExecutionLayer(
            parts.stack, "Layer", work_pool_name="etl", api=parts.api, lazarus_reserved_concurrency=0
        ),
        "reserved_concurrency must be 1 or more",
    )
