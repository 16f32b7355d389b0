import dataclasses
import re
from typing import Any

import pytest
from aws_cdk import aws_logs as logs

from cdk_prefect_ecs import SpotPolicy, WorkQueue
from stacks import environments
from stacks.config import (
    LOG_RETENTION_DAYS,
    MAX_ZONES,
    PLACEHOLDER_ID,
    CloudApi,
    DaskConfig,
    EnvironmentConfig,
    MonitoringConfig,
    OwnServer,
    PoolConfig,
    SelfHostedApi,
    WorkerConfig,
)
from stacks.environments import ENVIRONMENTS, LOCAL_API_URL, environment
from stacks.foundation import retention_days

UUID = "01234567-89ab-cdef-0123-456789abcdef"
VPC = "vpc-0123456789abcdef0"
PRIVATE = SelfHostedApi("https://prefect.internal/api", private=True)


def config(**changes: Any) -> EnvironmentConfig:
    given: dict[str, Any] = {
        "name": "dev",
        "region": "eu-west-1",
        "api": CloudApi(UUID, UUID, "/prefect/key"),
        "pool": PoolConfig("etl"),
    }
    return EnvironmentConfig(**(given | changes))


def test_defaults_are_careful() -> None:
    made = config()
    assert made.keep_data
    assert not made.execute_command
    assert made.dask is None
    assert made.account is None
    assert made.image is None
    assert (made.network, made.zones) == ("public", 3)
    assert made.pool.spot_policy == SpotPolicy.SPOT_WITH_FALLBACK
    assert (made.worker.host, made.worker.max_count) == (None, None)
    assert (made.pool.spot_attempts, made.pool.max_reschedules, made.pool.patience_seconds) == (2, 3, 90)
    assert not made.api.is_placeholder


@pytest.mark.parametrize(("region", "zones"), [("eu-west-1", 3), ("us-west-1", 2)])
def test_three_zones_where_there_are(region: str, zones: int) -> None:
    assert config(region=region).zones == zones
    assert config(region=region, zone_count=2).zones == 2


@pytest.mark.parametrize(
    ("network", "more"),
    [
        ("public", {}),
        ("nat", {}),
        ("nat", {"api": PRIVATE}),
        ("nat", {"api": OwnServer(multi_az=True)}),
        ("endpoints", {"api": PRIVATE, "image": "build"}),
        ("endpoints", {"api": OwnServer(), "image": "build"}),
        ("endpoints", {"api": PRIVATE, "image": "registry.internal:5000/flows:1"}),
        ("endpoints", {"api": SelfHostedApi("https://prefect.example.com/api"), "image": "build-with-flows"}),
        ("default-vpc", {"account": "123456789012"}),
        (VPC, {"account": "123456789012", "api": PRIVATE}),
    ],
)
def test_networks(network: str, more: dict[str, Any]) -> None:
    assert config(network=network, **more).network == network


def test_everything_set() -> None:
    made = config(
        account="123456789012",
        zone_count=MAX_ZONES,
        termination_protection=True,
        log_retention_days=3653,
        flow_logs=True,
        container_insights=False,
        execute_command=True,
        pool=PoolConfig("etl", storage_gib=200, spot_attempts=1, max_reschedules=0, patience_seconds=10),
        worker=WorkerConfig(count=3, max_count=6, cpu=1024, memory_mib=4096, poll_seconds=10),
        tags={"Team": "data"},
    )
    assert made.worker.count == 3
    assert (made.pool.spot_attempts, made.pool.max_reschedules, made.pool.patience_seconds) == (1, 0, 10)
    assert made.tags["Team"] == "data"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Dev"}, "environment name 'Dev' must begin with a lower-case letter and hold only a-z and 0-9"),
        ({"name": "my-dev"}, "environment name 'my-dev'"),
        ({"name": ""}, "environment name ''"),
        ({"region": "Ireland"}, "environment dev: 'Ireland' is not a region; use one such as eu-west-1"),
        ({"account": "1234"}, "environment dev: account '1234' must be the 12 digits of an AWS account, or None"),
        ({"image": "flows"}, "environment dev: image 'flows' is not pinned; add a tag"),
        ({"image": "bulid"}, "or use 'build', 'build-with-flows' or None"),
        ({"image": ""}, "environment dev: image '' is not pinned"),
        ({"zone_count": 1}, "environment dev: zone_count must be 2 to 6, as Spot capacity is per zone; got 1"),
        ({"zone_count": 7}, "zone_count must be 2 to 6, as Spot capacity is per zone; got 7"),
        (
            {"network": "private"},
            "environment dev: network must be one of public, nat, endpoints, default-vpc or the id of a VPC such as "
            "vpc-0123456789abcdef0; got 'private'",
        ),
        ({"network": "vpc-1"}, "got 'vpc-1'"),
        ({"network": "default-vpc"}, "network default-vpc is looked up, which takes an account; set account too"),
        ({"network": VPC}, f"network {VPC} is looked up, which takes an account"),
        (
            {"network": VPC, "account": "123456789012", "flow_logs": True},
            f"zone_count and flow_logs are of a new VPC; network {VPC} has its own",
        ),
        ({"network": "default-vpc", "account": "123456789012", "zone_count": 2}, "network default-vpc has its own"),
        (
            {"network": "endpoints"},
            "environment dev: network endpoints has no way to Prefect Cloud; use nat or public, or a server of your",
        ),
        (
            {"network": "endpoints", "api": PRIVATE},
            "environment dev: network endpoints has no way to docker.io, where the image is; use image='build'",
        ),
        ({"network": "endpoints", "api": PRIVATE, "image": "ghcr.io/acme/flows:1"}, "no way to ghcr.io"),
        ({"api": OwnServer()}, "environment dev: a private API is called by functions in the VPC"),
        ({"api": OwnServer(), "network": "default-vpc", "account": "123456789012"}, "a private API is called by"),
        (
            {"api": PRIVATE},
            "a private API is called by functions in the VPC, which reach no AWS service from the public subnets of "
            "network public; use nat, endpoints or the id of a VPC",
        ),
        ({"api": PRIVATE, "network": "default-vpc", "account": "123456789012"}, "subnets of network default-vpc"),
        ({"log_retention_days": 8}, "log_retention_days 8 is not one that CloudWatch Logs offers; use one of 1, 3, 5,"),
        (
            {"termination_protection": True, "keep_data": False},
            "environment dev: termination_protection with keep_data=False contradicts itself",
        ),
    ],
)
def test_environment_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**changes)


@pytest.mark.parametrize("image", [None, "build", "build-with-flows", "ghcr.io/acme/flows:1.4.2"])
def test_images(image: str | None) -> None:
    assert config(image=image).image == image


def test_images_of_the_environments() -> None:
    assert {name: environment(name).image for name in ENVIRONMENTS} == {
        "dev": None,
        "staging": "build",
        "prod": "build",
        "embedded": None,  # neither needs a builder
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "prefect"}, "'prefect' begins with 'prefect'"),
        ({"cpu": 300}, "cpu 300 is not a Fargate size"),
        ({"memory_mib": 1024}, "memory_mib 1024 does not go with cpu 1024"),
        ({"concurrency_limit": -1}, "concurrency_limit must be 0 to 2147483647; got -1"),
        ({"storage_gib": 20}, "from 21 to 200; got 20"),
        ({"queues": (WorkQueue("now", 0),)}, "priority of queue now must be 1 to 2147483647; got 0"),
        ({"spot_attempts": 0}, "spot_attempts must be 1 or more; got 0. For no Spot at all use SpotPolicy.ON_DEMAND"),
        ({"max_reschedules": -1}, "max_reschedules must be 0 or more; got -1"),
        ({"patience_seconds": 5}, "patience must be at least 10 seconds"),
    ],
)
def test_pool_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PoolConfig(**({"name": "etl"} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": -1}, "number of workers must be 0 to 5000; got -1"),
        ({"memory_mib": 512}, "memory_mib 512 does not go with cpu 512"),
        ({"poll_seconds": 0}, "poll_interval must be at least one second; got 0 seconds"),
        (
            {"count": 3, "max_count": 2},
            "up to max_count, at most 5000; got 3 and 2",
        ),
        ({"host": "micro"}, "'micro' is not an instance type that runs Linux; use one such as m7i.large"),
        ({"host": ""}, "'' is not an instance type"),
        ({"host": "t4g.micro", "poll_seconds": 0}, "poll_interval must be at least one second"),
        ({"host": "t4g.micro", "count": 2}, "host makes the worker a host, which has no count (got 2)"),
        ({"host": "t4g.micro", "count": 0}, "which has no count (got 0)"),
        ({"host": "t4g.micro", "max_count": 2}, "which has no max_count (got 2)"),
        ({"host": "t4g.micro", "cpu": 300}, "which has no cpu (got 300)"),
        (
            {"host": "t4g.micro", "cpu": 256, "memory_mib": 512},
            "which has no cpu (got 256), no memory_mib (got 512): these shape a worker service. Leave them out, or "
            "leave out host",
        ),
    ],
)
def test_worker_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        WorkerConfig(**changes)


# Worker hosts

HOST = WorkerConfig(host="t4g.micro", poll_seconds=10)


def test_each_pool_has_the_workers_of_the_environment_or_its_own() -> None:
    etl, ml = PoolConfig("etl"), PoolConfig("ml", worker=WorkerConfig(count=2))
    made = config(pool=etl, more_pools=(ml,), worker=HOST)
    assert made.worker_of(etl) is HOST
    assert made.worker_of(ml).count == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"worker": HOST},
        {"worker": HOST, "network": "nat"},
        {"worker": HOST, "network": "default-vpc", "account": "123456789012"},
        {"worker": HOST, "more_pools": (PoolConfig("ml"),)},
        {"pool": PoolConfig("etl", worker=HOST)},
        {"more_pools": (PoolConfig("ml", worker=HOST),)},
        # In the mode endpoints a pool may overrule a host of the environment.
        {
            "worker": HOST,
            "pool": PoolConfig("etl", worker=WorkerConfig()),
            "network": "endpoints",
            "api": PRIVATE,
            "image": "build",
        },
        # Into the services that there are.
        {"more_pools": (PoolConfig("ml", worker=HOST),), "execute_command": True},
    ],
)
def test_any_worker_may_be_a_host(changes: dict[str, Any]) -> None:
    config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"worker": HOST, "execute_command": True},
            "environment dev: execute_command goes into ECS services, and every worker is a host; leave it out: "
            "Session Manager works",
        ),
        (
            {
                "more_pools": (PoolConfig("ml", worker=HOST),),
                "pool": PoolConfig("etl", worker=HOST),
                "execute_command": True,
            },
            "every worker is a host",
        ),
        (
            {"more_pools": (PoolConfig("ml", worker=HOST),), "network": "endpoints", "api": PRIVATE, "image": "build"},
            "environment dev, pool ml: a worker host installs Prefect from PyPI, which a network in mode 'endpoints' "
            "does not reach; use a worker service there, or mode 'public' or 'nat'",
        ),
        (
            {"worker": HOST, "network": "endpoints", "api": PRIVATE, "image": "build"},
            "environment dev, pool etl: a worker host installs Prefect from PyPI",
        ),
    ],
)
def test_hosts_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("my-team", UUID, "/key"), "account_id must be a UUID"),
        ((UUID, "prod", "/key"), "workspace_id must be a UUID"),
        ((UUID, UUID, "a key"), "'a key' is not an SSM parameter name"),
    ],
)
def test_cloud_api_refuses(values: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CloudApi(*values)


@pytest.mark.parametrize(
    ("url", "parameter", "message"),
    [
        ("nonsense", None, "must be http:// or https:// with a host"),
        ("https://prefect.example.com", None, "ends in /api"),
        ("https://prefect.example.com/api", "a key", "'a key' is not an SSM parameter name"),
    ],
)
def test_self_hosted_api_refuses(url: str, parameter: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SelfHostedApi(url, parameter)


def test_own_server_refuses_what_fargate_does_not_offer() -> None:
    with pytest.raises(ValueError, match="cpu"):
        OwnServer(cpu=512, memory_mib=512)


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().region = "us-east-1"  # type: ignore[misc]


@pytest.mark.parametrize("placeholder", [(PLACEHOLDER_ID, UUID), (UUID, PLACEHOLDER_ID)])
def test_one_placeholder_is_enough(placeholder: tuple[str, str]) -> None:
    assert CloudApi(*placeholder, "/key").is_placeholder


def test_every_retention_has_a_name_in_the_cdk() -> None:
    assert len({retention_days(days) for days in LOG_RETENTION_DAYS}) == len(LOG_RETENTION_DAYS)
    assert retention_days(7) == logs.RetentionDays.ONE_WEEK
    # all that the CDK has, but "infinite"
    assert len(LOG_RETENTION_DAYS) == len(logs.RetentionDays) - 1


# The environments


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_are_valid_and_named_by_their_key(name: str) -> None:
    made = environment(name)
    assert made.name == name
    assert made.tags["Environment"] == name


def test_pools_and_parameters_of_cloud_environments_are_apart() -> None:
    clouds = [made for made in map(environment, ENVIRONMENTS) if isinstance(made.api, CloudApi)]
    assert len({made.pool.name for made in clouds}) == len(clouds)
    assert len({made.api.api_key_parameter for made in clouds if isinstance(made.api, CloudApi)}) == len(clouds)


def test_production_is_protected_and_nothing_else_loses_data_by_accident() -> None:
    assert environment("prod").termination_protection
    assert [name for name in ENVIRONMENTS if not environment(name).keep_data] == ["dev", "embedded"]


@pytest.mark.parametrize(("name", "words"), [(None, "no environment given"), ("", "no environment given")])
def test_no_environment_lists_the_known_ones(name: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        environment(name)
    assert "-c env=NAME with one of dev, staging, prod, embedded" in str(error.value)


def test_unknown_environment_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown environment 'nope'; use one of dev, staging, prod, embedded"):
        environment("nope")


def test_an_address_is_for_the_embedded_environment_only() -> None:
    api = environment("embedded", api_url="http://127.0.0.1:9999/api").api
    assert isinstance(api, SelfHostedApi)
    assert api.url == "http://127.0.0.1:9999/api"
    default = environment("embedded").api
    assert isinstance(default, SelfHostedApi)
    assert default.url == LOCAL_API_URL
    with pytest.raises(ValueError, match="is for the environment embedded; prod has its own in stacks/environments"):
        environment("prod", api_url="http://127.0.0.1:9999/api")


def test_an_image_from_outside_is_for_the_embedded_environment_only() -> None:
    assert environment("embedded").image is None
    assert environment("embedded", image="build").image == "build"
    with pytest.raises(ValueError, match="image is for the environment embedded; dev has its own in stacks/environ"):
        environment("dev", image="build")
    with pytest.raises(ValueError, match="'build-with-flows'"):
        environment("embedded", image="latest")


def test_only_the_asked_environment_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str | None) -> EnvironmentConfig:
        raise AssertionError("another environment was made")

    others = {name: refuse for name in ENVIRONMENTS if name != "dev"}
    monkeypatch.setattr(environments, "ENVIRONMENTS", ENVIRONMENTS | others)
    assert environment("dev").name == "dev"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"worker_cpu": 3000}, "Dask worker: cpu 3000 is not a Fargate size"),
        ({"scheduler_cpu": 512, "scheduler_memory_mib": 8192}, "Dask scheduler: memory_mib 8192"),
        ({"idle_seconds": 30}, "idle_timeout must be at least 60 seconds"),
    ],
)
def test_dask_sizes_are_checked(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DaskConfig(**wrong)


TOPIC = "arn:aws:sns:eu-west-1:123456789012:on-call"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alarm_email": "nobody"}, "alarm_email must be an address such as on-call@example.com; got 'nobody'"),
        ({"alarm_email": "a@example.com", "alarm_topic_arn": TOPIC}, "leave out alarm_email"),
        ({"alarm_topic_arn": "on-call"}, "alarm_topic_arn must be the ARN of an SNS topic that is not FIFO"),
        ({"alarm_topic_arn": f"{TOPIC}.fifo"}, "got 'arn:aws:sns:eu-west-1:123456789012:on-call.fifo'"),
        ({"longest_wait_minutes": 0}, "longest_wait must be at least a minute"),
        ({"shortage": 0}, "shortage must be 1 or more flow runs in an hour; got 0"),
        ({"leave_out": ("All",)}, "leave_out names no alarm with All; use some of NoWorker,"),
    ],
)
def test_monitoring_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MonitoringConfig(**wrong)


def test_alarms_are_told_to_a_topic_of_the_region() -> None:
    monitoring = MonitoringConfig(alarm_topic_arn=TOPIC)
    assert config(monitoring=monitoring).monitoring == monitoring
    with pytest.raises(ValueError, match=f"topics of their own region, here us-east-1; got {TOPIC}"):
        config(monitoring=monitoring, region="us-east-1")


def test_production_is_watched() -> None:
    assert environment("prod").monitoring == MonitoringConfig()
    assert config().monitoring is None


def test_further_pools() -> None:
    made = config(more_pools=(PoolConfig("gpu"), PoolConfig("nightly", worker=WorkerConfig(count=2))))
    assert [pool.name for pool in made.pools] == ["etl", "gpu", "nightly"]
    with pytest.raises(ValueError, match="each pool has a name of its own; got etl, gpu, etl"):
        config(more_pools=(PoolConfig("gpu"), PoolConfig("etl")))


def test_refuses_queues_that_prefect_would() -> None:
    with pytest.raises(ValueError, match="another priority; got 1, 1"):
        PoolConfig("etl", queues=(WorkQueue("a", 1), WorkQueue("b", 1)))
