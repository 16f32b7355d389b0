"""Findings of cdk-nag's NIST 800-53 r5 pack that we accept."""

from __future__ import annotations

from typing import Final

from constructs import IConstruct

from cdk_prefect_ecs import FlowNetwork, Lazarus
from cdk_prefect_ecs.work_pool import WorkPoolSync
from stacks.accepting import accept, resources
from stacks.config import EnvironmentConfig
from stacks.stage import PrefectStage

#: With Control IDs: https://github.com/cdklabs/cdk-nag/blob/main/RULES.md
_PACK: Final = "NIST.800.53.R5"

_ADDRESS: Final = (
    "The network mode is public: tasks have public addresses, so that nothing needs a NAT gateway. The security groups "
    "let nothing in. ECS Managed Instances get their address from the subnet; whatever else is launched here asks for "
    "one by itself. EnvironmentConfig.network nat or endpoints has none."
)
_OUT: Final = (
    "The route to the internet gateway is what makes the subnet a public one, and the only way out. No security group "
    "of worker or flow runs has ingress from outside. EnvironmentConfig.network endpoints has no such route."
)
_OUT_OF_NAT: Final = (
    "The subnet holds NAT gateways and nothing else, and they need this route. Worker and flow runs are in private "
    "subnets. EnvironmentConfig.network endpoints has no such route."
)


def acknowledge_nist(stage: PrefectStage) -> None:
    """Acknowledge the findings of NIST 800-53 r5 that are as they should be."""
    config = stage.config
    _acknowledge_network(stage.foundation.network, config)
    _acknowledge_storage(stage, config)
    if config.encryption_key is None:
        for log_group in resources(stage, "AWS::Logs::LogGroup"):
            _accept(
                log_group,
                "CloudWatchLogGroupEncrypted",
                "CloudWatch Logs encrypts every log group, here with a key of its own. A key of the account is made or "
                "taken by EnvironmentConfig.encryption_key; it costs, and whoever loses it loses the logs.",
            )
    for policy in resources(stage, "AWS::IAM::Policy"):
        _accept(
            policy,
            "IAMNoInlinePolicy",
            "The policy belongs to this one role, which nobody else can attach it to, and goes with it: what AWS "
            "recommends inline policies for. It is code, reviewed in cdk diff.",
        )
    for child in stage.execution.node.children:
        if isinstance(child, WorkPoolSync):
            _acknowledge_sync(child)
    lazarus, monitoring = stage.execution.layer.lazarus, stage.execution.monitoring
    if lazarus is not None:
        _acknowledge_lazarus(lazarus, config)
    told_of = monitoring.alarms if monitoring else []
    silent = {alarm.node.path: alarm for alarm in (*(lazarus.alarms if lazarus else ()), *told_of)}
    if monitoring is not None and monitoring.alarm_topic is not None:
        for alarm in told_of:
            del silent[alarm.node.path]
    for alarm in silent.values():
        _accept(
            alarm,
            "CloudWatchAlarmAction",
            "Whom an alarm wakes, and how, is the organisation's to say: EnvironmentConfig.monitoring takes an address "
            "or a topic. Until then its state is seen in CloudWatch.",
        )


def _acknowledge_network(network: FlowNetwork, config: EnvironmentConfig) -> None:
    if network.mode is None:
        return
    if not config.flow_logs:
        _accept(
            network.vpc,
            "VPCFlowLogsEnabled",
            "Flow logs are billed by the gigabyte and are off outside production (EnvironmentConfig.flow_logs). The "
            "security groups let nothing in.",
        )
    for subnet in network.vpc.public_subnets:
        if network.mode == "public":
            _accept(subnet.node.find_child("Subnet"), "VPCSubnetAutoAssignPublicIpDisabled", _ADDRESS)
        route = subnet.node.find_child("DefaultRoute")
        _accept(route, "VPCNoUnrestrictedRouteToIGW", _OUT if network.mode == "public" else _OUT_OF_NAT)


def _acknowledge_storage(stage: PrefectStage, config: EnvironmentConfig) -> None:
    storage = stage.foundation.storage
    _accept(
        storage.bucket,
        "S3BucketReplicationEnabled",
        "What is in the bucket can be made again: code from the repository, results by running a task again. It is "
        "versioned, in at least three zones. Who needs a copy in another region adds a replication rule.",
    )
    if config.encryption_key is None:
        _accept(
            storage.bucket,
            "S3DefaultEncryptionKMS",
            "Objects are encrypted with keys of S3 (SSE-S3), which costs nothing. A key of the account is made or "
            "taken by EnvironmentConfig.encryption_key.",
        )
    if storage.access_log_bucket is None:
        _accept(
            storage.bucket,
            "S3BucketLoggingEnabled",
            "Access logs are off outside production (EnvironmentConfig.access_logs). The bucket is private, TLS only "
            "and versioned.",
        )
        return
    _accept(
        storage.access_log_bucket,
        "S3DefaultEncryptionKMS",
        "S3 delivers access logs to buckets that are encrypted with keys of S3 (SSE-S3), and to no others.",
    )
    _accept(
        storage.access_log_bucket,
        "S3BucketReplicationEnabled",
        "Access logs are a record of best effort, in at least three zones. Who has to prove every access records data "
        "events with CloudTrail, in an account of their own.",
    )


def _acknowledge_sync(sync: WorkPoolSync) -> None:
    if not sync.function.is_bound_to_vpc:
        _accept(sync.function, "LambdaInsideVPC", _outside("It calls the Prefect API, which is on the internet"))
    _accept(
        sync.function,
        "LambdaConcurrency",
        "Only CloudFormation invokes it, once for each change of a pool. To reserve concurrency would take it from the "
        "account's quota, of which new accounts have 10.",
    )
    _accept(
        sync.function,
        "LambdaDLQ",
        "CloudFormation waits for its answer and fails the deployment without one: nothing is lost that a queue could "
        "keep.",
    )


def _acknowledge_lazarus(lazarus: Lazarus, config: EnvironmentConfig) -> None:
    if not lazarus.function.is_bound_to_vpc:
        _accept(
            lazarus.function, "LambdaInsideVPC", _outside("It calls the Prefect API, which is on the internet, and ECS")
        )
    if config.pool.reserved_concurrency is None:
        _accept(
            lazarus.function,
            "LambdaConcurrency",
            "The account's quota is too small to reserve any (PoolConfig.reserved_concurrency). Two at once do no "
            "harm.",
        )


def _outside(why: str) -> str:
    return (
        f"{why}. In a VPC it would need a NAT gateway; nothing can connect to it either way. With a private API it is "
        "placed in the VPC."
    )


def _accept(scope: IConstruct, rule: str, reason: str) -> None:
    accept(scope, {f"{_PACK}-{rule}": reason})
