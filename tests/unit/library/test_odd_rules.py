"""Thousands of wrong and odd arguments thrown at the pure rules: each is taken, or refused in a sentence."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_values import ODD, assert_clear, changes

from cdk_prefect_ecs import CapacityKind, CapacityWeight, FlowCapacity, JobTrust, SpotPolicy, WorkQueue
from cdk_prefect_ecs.capacity import (
    check_architecture,
    check_gpus,
    check_provider_names,
    check_strategy,
    default_spot_policy,
    flow_run_strategy,
)
from cdk_prefect_ecs.fargate import check_ephemeral_storage, check_fargate_size
from cdk_prefect_ecs.instance_types import check_disk, check_instance_counts, check_instance_size, check_instance_types
from cdk_prefect_ecs.job_template import JobTemplate
from cdk_prefect_ecs.job_trust import check_deploy_settings, check_provider
from cdk_prefect_ecs.names import block_name, check_prefect_name, check_work_pool_name, task_definition_family
from cdk_prefect_ecs.network_modes import check_network_settings
from cdk_prefect_ecs.queues import check_concurrency_limit, check_queues
from cdk_prefect_ecs.runbook import check_monitoring_settings
from cdk_prefect_ecs.settings import (
    check_api_url,
    check_cloud_id,
    check_container_path,
    check_dask_settings,
    check_days,
    check_host_settings,
    check_image_reference,
    check_lazarus_settings,
    check_parameter_name,
    check_tag_or_digest,
    check_task_events_settings,
    check_work_pool_settings,
    check_worker_settings,
    check_writable_paths,
)

ON_FARGATE = FlowCapacity("Fargate", CapacityKind.FARGATE, "FARGATE", "FARGATE_SPOT")
EXAMPLES = 120


@dataclass(frozen=True)
class Rule:
    """A rule and arguments that it takes."""

    check: Callable[..., object]
    valid: dict[str, Any]


POOL: dict[str, Any] = {
    "work_pool_name": "etl",
    "cpu": 1024,
    "memory_mib": 2048,
    "cpu_architecture": None,
    "concurrency_limit": 5,
    "environment": {"LOG_LEVEL": "INFO"},
    "capacity": ON_FARGATE,
    "gpus": 0,
    "ephemeral_storage_gib": 30,
    "queues": [WorkQueue("urgent", 1, 5)],
    "secret_names": ["DB_PASSWORD"],
    "tags": {"CostCenter": "42"},
}
STRATEGY = {"strategy": [CapacityWeight("FARGATE", 1)], "known": ["FARGATE", "FARGATE_SPOT"]}

RULES = [
    Rule(check_work_pool_settings, POOL),
    Rule(
        check_worker_settings,
        {
            "cpu": 512,
            "memory_mib": 1024,
            "cpu_architecture": "ARM64",
            "desired_count": 1,
            "poll_seconds": 5,
            "environment": {"A": "1"},
            "max_count": 4,
        },
    ),
    Rule(check_host_settings, {"poll_seconds": 5, "environment": None}),
    Rule(
        check_lazarus_settings,
        {"spot_attempts": 2, "max_reschedules": 3, "patience_seconds": 90, "reserved_concurrency": 1},
    ),
    Rule(
        check_dask_settings,
        {
            "scheduler_size": (1024, 4096),
            "worker_size": (4096, 16384),
            "cpu_architecture": "X86_64",
            "idle_seconds": 300,
        },
    ),
    Rule(
        check_monitoring_settings,
        {
            "alarm_email": "on-call@example.com",
            "has_topic": False,
            "has_key": True,
            "leave_out": ["Throttles"],
            "shortage": 10,
            "wait_seconds": 1800,
        },
    ),
    Rule(check_task_events_settings, {"visibility_seconds": 360, "oldest_seconds": 900}),
    Rule(check_days, {"name": "expiration", "days": 30}),
    Rule(check_cloud_id, {"name": "account_id", "value": "01234567-89ab-cdef-0123-456789abcdef"}),
    Rule(check_parameter_name, {"parameter_name": "/prefect/api-key"}),
    Rule(check_api_url, {"url": "https://prefect.example.com/api"}),
    Rule(check_image_reference, {"reference": "ghcr.io/acme/flows:1.4.2"}),
    Rule(check_tag_or_digest, {"tag_or_digest": "1.4.2"}),
    Rule(check_writable_paths, {"paths": ["/tmp", "/work"]}),  # noqa: S108
    Rule(check_container_path, {"what": "container_path", "path": "/data"}),
    Rule(check_work_pool_name, {"name": "etl"}),
    Rule(check_prefect_name, {"what": "the name", "name": "etl"}),
    Rule(check_queues, {"queues": [WorkQueue("urgent", 1), WorkQueue("default", 2)]}),
    Rule(check_concurrency_limit, {"what": "concurrency_limit", "limit": 3}),
    Rule(check_fargate_size, {"cpu": 1024, "memory_mib": 2048}),
    Rule(check_ephemeral_storage, {"size_gib": 50}),
    Rule(check_instance_types, {"instance_types": ["m7i.large"]}),
    Rule(check_instance_counts, {"minimum": 0, "maximum": 10, "disk_gib": 50}),
    Rule(check_instance_size, {"cpu": 1024, "memory_mib": 2048}),
    Rule(check_disk, {"disk_gib": 50}),
    Rule(check_network_settings, {"mode": "nat", "max_azs": 3, "nat_gateways": 1}),
    Rule(check_strategy, STRATEGY),
    Rule(check_provider_names, {"names": ["FARGATE"]}),
    Rule(check_gpus, {"gpus": 0, "capacity": ON_FARGATE}),
    Rule(check_architecture, {"cpu_architecture": "ARM64", "capacity": ON_FARGATE}),
    Rule(
        flow_run_strategy,
        {"policy": SpotPolicy.SPOT, "capacity": ON_FARGATE, "known": ["FARGATE", "FARGATE_SPOT"]},
    ),
    Rule(
        JobTrust, {"issuer": "https://gitlab.com", "audience": "sts.amazonaws.com", "subject": "project_path:acme/etl"}
    ),
    Rule(JobTrust.github, {"repository": "acme/etl", "environment": "prod", "branch": None, "pull_requests": False}),
    Rule(
        check_deploy_settings,
        {
            "trust": JobTrust.github("acme/etl", branch="main"),
            "account": "123456789012",
            "regions": ["us-east-1"],
            "qualifier": "hnb659fds",
            "read_only": False,
            "publishes_images": True,
            "session_seconds": 3600,
        },
    ),
    Rule(
        check_provider,
        {"trust": JobTrust.github("acme/etl", branch="main"), "issuer": "token.actions.githubusercontent.com"},
    ),
    Rule(SpotPolicy.weights, {"spot": 3, "on_demand": 1}),
    Rule(SpotPolicy, {"name": "x", "spot_weight": 1, "on_demand_weight": 0, "falls_back": True}),
    Rule(CapacityWeight, {"capacity_provider": "FARGATE", "weight": 1, "base": 0}),
    Rule(WorkQueue, {"name": "urgent", "priority": 1, "concurrency_limit": None}),
    Rule(
        FlowCapacity,
        {
            "name": "Gpu",
            "kind": CapacityKind.AUTO_SCALING,
            "on_demand": "a",
            "spot": "b",
            "cpu_architecture": "X86_64",
            "has_gpu": True,
        },
    ),
]


def name_of(rule: Rule) -> str:
    return rule.check.__name__


def test_they_are_thousands() -> None:
    assert len(RULES) * EXAMPLES >= 2000


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_what_is_right_is_taken(rule: Rule) -> None:
    rule.check(**rule.valid)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_each_odd_value_in_each_place_is_taken_or_refused_in_a_sentence(rule: Rule) -> None:
    for name in rule.valid:
        for value in ODD:
            try_it(rule.check, {**rule.valid, name: value})


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_several_at_once(rule: Rule) -> None:
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
    @given(change=changes(rule.valid))
    def throw(change: dict[str, Any]) -> None:
        try_it(rule.check, {**rule.valid, **change})

    throw()


@settings(max_examples=300)
@given(change=changes(POOL))
def test_what_is_taken_makes_a_job_template(change: dict[str, Any]) -> None:
    given_settings = {**POOL, **change}
    if not try_it(check_work_pool_settings, given_settings):
        return
    capacity: FlowCapacity = given_settings["capacity"] or ON_FARGATE
    name = given_settings["work_pool_name"]
    template = JobTemplate(
        family=task_definition_family("Stack", name),
        image="flows:1",
        cpu=given_settings["cpu"],
        memory_mib=given_settings["memory_mib"],
        cpu_architecture=check_architecture(given_settings["cpu_architecture"], capacity),
        cluster_arn="arn:aws:ecs:us-east-1:123456789012:cluster/c",
        capacity=capacity,
        strategy=flow_run_strategy(default_spot_policy(capacity), capacity, capacity.capacity_providers),
        vpc_id="vpc-1",
        subnet_ids=["subnet-1"],
        security_group_ids=["sg-1"],
        assign_public_ip=True,
        execution_role_arn="arn:aws:iam::123456789012:role/e",
        flow_role_arn="arn:aws:iam::123456789012:role/f",
        log_group_name="logs",
        region="us-east-1",
        result_block=block_name(name),
        environment=given_settings["environment"] or {},
        secrets=dict.fromkeys(given_settings["secret_names"], "arn:aws:ssm:…"),
        gpus=given_settings["gpus"],
        ephemeral_storage_gib=given_settings["ephemeral_storage_gib"],
        tags=given_settings["tags"] or {},
    ).render()
    json.dumps(template, allow_nan=False).encode()


@settings(max_examples=300)
@given(name=st.text(max_size=300))
def test_what_prefect_is_given_as_a_name_it_takes(name: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    if try_it(check_work_pool_name, {"name": name}):
        assert WorkPoolCreate(name=name, type="ecs").name == name


def try_it(check: Callable[..., object], arguments: dict[str, Any]) -> bool:
    """Whether the rule takes the arguments; that it refuses others clearly is asserted."""
    try:
        check(**arguments)
    except Exception as error:
        assert_clear(error)
        return False
    return True
