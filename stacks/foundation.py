"""What must outlive a redeployment: network, bucket, log group, and the database of a server of its own."""

from __future__ import annotations

from typing import Any, cast

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs import FlowNetwork, FlowStorage, ServerDatabase
from cdk_prefect_ecs.encryption import new_log_group
from cdk_prefect_ecs.network_modes import NETWORK_MODES, NetworkMode
from stacks.config import DEFAULT_VPC, OWN_KEY, EnvironmentConfig, OwnServer


class FoundationStack(cdk.Stack):
    """The stateful half of an environment."""

    def __init__(self, scope: Construct, construct_id: str, *, config: EnvironmentConfig, **kwargs: Any) -> None:
        self._zone_count = config.zones
        super().__init__(scope, construct_id, termination_protection=config.termination_protection, **kwargs)
        removal_policy = cdk.RemovalPolicy.RETAIN if config.keep_data else cdk.RemovalPolicy.DESTROY
        retention = retention_days(config.log_retention_days)

        self.key = self._encryption_key(config.encryption_key, removal_policy)
        self.network = self._new_network(config, retention)
        self.storage = FlowStorage(
            self,
            "Storage",
            encryption_key=self.key,
            access_logs=config.access_logs,
            removal_policy=removal_policy,
            auto_delete_objects=not config.keep_data,
        )
        self.log_group = new_log_group(
            self, "LogGroup", retention=retention, removal_policy=removal_policy, encryption_key=self.key
        )
        self.database = (
            ServerDatabase(
                self,
                "Database",
                network=self.network,
                multi_az=config.api.multi_az,
                encryption_key=self.key,
                deletion_protection=config.keep_data,
                removal_policy=removal_policy,
            )
            if isinstance(config.api, OwnServer)
            else None
        )

        cdk.CfnOutput(
            self,
            "BucketName",
            value=self.storage.bucket_name,
            description="Bucket of flow code (code/), task results (results/) and data (data/)",
        )
        cdk.CfnOutput(
            self,
            "LogGroupName",
            value=self.log_group.log_group_name,
            description="Logs of the worker (worker/…) and of flow runs (flow-run/…)",
        )

    def _new_network(self, config: EnvironmentConfig, retention: logs.RetentionDays) -> FlowNetwork:
        if config.network == DEFAULT_VPC:
            return FlowNetwork.from_default_vpc(self, "Network")
        if config.network not in NETWORK_MODES:
            return FlowNetwork(self, "Network", vpc=ec2.Vpc.from_lookup(self, "Vpc", vpc_id=config.network))
        return FlowNetwork(
            self,
            "Network",
            mode=cast(NetworkMode, config.network),
            max_azs=config.zones,
            flow_log_retention=retention if config.flow_logs else None,
            flow_log_encryption_key=self.key if config.flow_logs else None,
        )

    def _encryption_key(self, setting: str | None, removal_policy: cdk.RemovalPolicy) -> kms.IKey | None:
        if setting is None:
            return None
        if setting != OWN_KEY:
            return kms.Key.from_key_arn(self, "Key", setting)
        return kms.Key(
            self,
            "Key",
            description=f"Bucket, logs and queues of {cdk.Stack.of(self).stack_name}",
            enable_key_rotation=True,
            removal_policy=removal_policy,
        )

    @property
    def availability_zones(self) -> list[str]:
        """As many zones of the region as configured. CDK's own way would look them up, which takes credentials at
        synth, or stop at two."""
        return [cdk.Fn.select(index, cdk.Fn.get_azs()) for index in range(self._zone_count)]


def retention_days(days: int) -> logs.RetentionDays:
    """CDK's name for a number of days that CloudWatch Logs offers."""
    names = {
        1: "ONE_DAY", 3: "THREE_DAYS", 5: "FIVE_DAYS", 7: "ONE_WEEK", 14: "TWO_WEEKS", 30: "ONE_MONTH",
        60: "TWO_MONTHS", 90: "THREE_MONTHS", 120: "FOUR_MONTHS", 150: "FIVE_MONTHS", 180: "SIX_MONTHS",
        365: "ONE_YEAR", 400: "THIRTEEN_MONTHS", 545: "EIGHTEEN_MONTHS", 731: "TWO_YEARS", 1096: "THREE_YEARS",
        1827: "FIVE_YEARS", 2192: "SIX_YEARS", 2557: "SEVEN_YEARS", 2922: "EIGHT_YEARS", 3288: "NINE_YEARS",
        3653: "TEN_YEARS",
    }  # fmt: skip
    return logs.RetentionDays[names[days]]
