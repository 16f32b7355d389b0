"""Lazarus: no flow run is lost."""

from __future__ import annotations

import json
from typing import Any, Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.durations import seconds_of
from cdk_prefect_ecs.encryption import grant_key_use, new_log_group
from cdk_prefect_ecs.events import TaskEvents
from cdk_prefect_ecs.function import function_role, function_runtime, functions_code, wake_by_queue
from cdk_prefect_ecs.job_template import CONTAINER_NAME, STREAM_PREFIX
from cdk_prefect_ecs.network import add_service_endpoints, is_inside
from cdk_prefect_ecs.network_reach import lazarus_calls
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.required_policy import grantees, records
from cdk_prefect_ecs.runbook import described
from cdk_prefect_ecs.settings import DEFAULT_PATIENCE_SECONDS, check_lazarus_settings
from cdk_prefect_ecs.work_pool import WorkPool

#: Of Lambda's 4 KB for all environment variables; the others, and ids that are known at deploy, take the rest.
_MAX_POOLS_CHARACTERS: Final = 3000


@jsii.implements(iam.IGrantable)
class Lazarus(Construct):
    """Define the guard of work pools: a flow run whose ECS task is gone is rescheduled, and goes on where it was.

    One function, woken by task events for speed and every minute for certainty, compares what Prefect believes with
    what ECS says and repairs the difference. It reschedules the same flow run, so finished tasks with persisted results
    are not executed again, and only when the task of its current attempt has really stopped, so no two tasks ever
    execute one run. It says why in the run's own log.

    Creates an ARM function (about 45,000 short invocations a month: some $0.10 at list price), its role, log group,
    dead-letter queue and schedule, and the alarms in :attr:`alarms` ($0.10 each). It writes up to six metrics of each
    pool, at $0.30 a month. The pool's flow runs then leave their state alone
    on SIGTERM (``relinquish``) instead of rescheduling themselves while they still run.

    :param cluster: Cluster of the flow runs.
    :param api: The Prefect API.
    :param work_pool: The pool to guard; :meth:`add_work_pool` adds more of the same cluster and log group.
    :param log_group: Log group of the flow runs, for the last words of one that never started.
    :param task_events: The queue that wakes it; of this cluster, and not shared with another Lazarus: each message
        wakes only one of them, and the other waits for its schedule. Default: one is made.
    :param spot_attempts: Interruptions and capacity failures of one run before it is switched to on-demand capacity,
        for a pool whose Spot policy falls back. Default: 2.
    :param max_reschedules: How often one run is rescheduled for other failures of its infrastructure: out of memory,
        an image that cannot be pulled, a machine that died. Interruptions do not count. Default: 3, as Prefect 1's
        Lazarus had.
    :param patience: How long a run may be without a task that anybody knows, which is how long a worker may take, at
        most, to start one. Default: 90 seconds.
    :param reserved_concurrency: Concurrent executions to reserve, so that one look follows the other. Two at once do no
        harm. None, for an account whose quota is too small to reserve any. Default: 1.
    :param role: Role of the function, assumed by Lambda. Default: a new one; see
        :class:`~cdk_prefect_ecs.RequiredPolicy` for what one of your own needs.
    :param encryption_key: Key of its log and of the queues that it makes; an imported key's policy has to let in
        CloudWatch Logs and EventBridge, see docs/security.md. Default: keys of AWS.
    :raises ValueError: A count below 1 or 0, a patience below 10 seconds.
    """

    function: lambda_.Function
    """The function."""
    role: iam.IRole
    """Its role."""
    task_events: TaskEvents
    """The queue that wakes it."""
    dead_letter_queue: sqs.Queue
    """Scheduled invocations that failed twice over; the next minute's tends the runs all the same."""
    alarms: list[cloudwatch.Alarm]
    """Errors, throttles, heartbeat missing, and those of the task events. Add your own actions."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: FlowCluster,
        api: PrefectApi,
        work_pool: WorkPool,
        log_group: logs.ILogGroup,
        task_events: TaskEvents | None = None,
        spot_attempts: int = 2,
        max_reschedules: int = 3,
        patience: cdk.Duration | None = None,
        reserved_concurrency: int | None = 1,
        role: iam.IRole | None = None,
        encryption_key: kms.IKey | None = None,
    ) -> None:
        patience = patience or cdk.Duration.seconds(DEFAULT_PATIENCE_SECONDS)
        check_lazarus_settings(spot_attempts, max_reschedules, seconds_of("patience", patience), reserved_concurrency)
        super().__init__(scope, construct_id)

        self.task_events = task_events or TaskEvents(self, "TaskEvents", cluster=cluster, encryption_key=encryption_key)
        own_log = new_log_group(
            self, "LogGroup", encryption_key=encryption_key, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        self.role = function_role(self, role, log_group=own_log, in_vpc=api.vpc is not None)
        self.dead_letter_queue = sqs.Queue(
            self,
            "DeadLetterQueue",
            encryption=sqs.QueueEncryption.KMS if encryption_key else sqs.QueueEncryption.SQS_MANAGED,
            encryption_master_key=encryption_key,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
        )
        environment = {
            "API_URL": api.url,
            "CLUSTER_ARN": cluster.cluster_arn,
            "LOG_GROUP": log_group.log_group_name,
            "STREAM_PREFIX": f"{STREAM_PREFIX}/{CONTAINER_NAME}",
        }
        credential = api.function_reference(self)
        if credential is not None:
            environment["CREDENTIAL"] = cdk.Stack.of(self).to_json_string(credential)
        self.function = lambda_.Function(
            self,
            "Function",
            description="Reschedules flow runs whose ECS task is gone",
            runtime=function_runtime(),
            architecture=lambda_.Architecture.ARM_64,
            handler="functions.lazarus.handler",
            code=functions_code(),
            memory_size=512,
            timeout=cdk.Duration.seconds(60),
            role=self.role,
            log_group=own_log,
            environment=environment,
            reserved_concurrent_executions=reserved_concurrency,
            dead_letter_queue=self.dead_letter_queue,
            retry_attempts=1,
            max_event_age=cdk.Duration.minutes(2),  # the schedule's next turn is as good as one that waited
            vpc=api.vpc,
            vpc_subnets=api.vpc_subnets,
        )
        wake_by_queue(self.function, self.task_events.queue, grantees(self, self.role))
        events.Rule(
            self,
            "EveryMinute",
            description="Wakes Lazarus, which reschedules flow runs whose ECS task is gone",
            schedule=events.Schedule.rate(cdk.Duration.minutes(1)),
            targets=[targets.LambdaFunction(self.function, retry_attempts=0)],
        )
        if encryption_key is not None:
            # What it could not deal with goes to its dead letters; the CDK grants sending, and not the key.
            actions = ["kms:Decrypt", "kms:GenerateDataKey"]
            for grantee in grantees(self, self.role):
                grant_key_use(encryption_key, grantee, self, service="sqs", actions=actions)
        for grantee in grantees(self, self.role):
            api.grant_read_secret(self, grantee)
        for record in records(self, self.role):  # the CDK grants it to the role itself
            iam.Grant.add_to_principal(
                grantee=record, actions=["sqs:SendMessage"], resource_arns=[self.dead_letter_queue.queue_arn]
            )
        self._grant(cluster, log_group)
        self._pools: dict[str, dict[str, Any]] = {}
        self._settings = (spot_attempts, max_reschedules, patience)
        if is_inside(work_pool.network, api):
            add_service_endpoints(work_pool.network, self.function, lazarus_calls(secret_service=api.secret_service))
        if api.server is not None:
            api.let_in(self, self.function)
        self.add_work_pool(work_pool)
        self.alarms = [*self._alarms(), *self.task_events.alarms]

    @checked
    def add_work_pool(
        self,
        work_pool: WorkPool,
        *,
        spot_attempts: int | None = None,
        max_reschedules: int | None = None,
        patience: cdk.Duration | None = None,
    ) -> None:
        """Guard one more pool. It costs nothing: one look sees the runs of all pools.

        :param work_pool: A pool at the same API, whose flow runs are in the same cluster and log group.
        :param spot_attempts: For this pool. Default: as the Lazarus.
        :param max_reschedules: For this pool. Default: as the Lazarus.
        :param patience: For this pool; instances take longer to start than Fargate, but a task that waits for one is
            known to ECS, so this is still about the worker. Default: as the Lazarus.
        :raises ValueError: A pool that it guards already, or more pools than a function's settings hold: about 20.
        """
        attempts, reschedules, seconds = self.check_addition(spot_attempts, max_reschedules, patience)
        if work_pool.work_pool_name in self._pools:
            raise ValueError(f"this Lazarus guards the work pool {work_pool.work_pool_name!r} already")
        settings: dict[str, Any] = {
            "family": work_pool.family,
            "maxReschedules": reschedules,
            "patienceSeconds": seconds,
        }
        if work_pool.spot_policy.falls_back:
            settings["spotAttempts"] = attempts
            settings["onDemand"] = work_pool.capacity.on_demand
        if work_pool.spot_policy.uses_spot:
            settings["spot"] = work_pool.capacity.spot
        pools = {**self._pools, work_pool.work_pool_name: settings}
        size = len(json.dumps(pools))
        if size > _MAX_POOLS_CHARACTERS:
            raise ValueError(
                f"one Lazarus cannot guard {len(pools)} work pools: Lambda allows 4 KB of environment variables, and "
                f"their settings take {size} characters. Make another layer for the others"
            )
        self._pools = pools
        self.function.add_environment("POOLS", cdk.Stack.of(self).to_json_string(pools))
        work_pool.guard()

    @property
    def guarded_pools(self) -> tuple[str, ...]:
        """Names of the pools that it guards."""
        return tuple(self._pools)

    def observe(self) -> None:
        """Have it measure, too, what only somebody who watches needs; :class:`~cdk_prefect_ecs.ExecutionMonitoring`
        does this.

        Of every pool ``WorkersOnline``, ``SecondsWaiting`` (of the run that has been due for longest), ``TasksOnSpot``
        and ``TasksOnDemand``: four metrics of CloudWatch, $0.30 a month each in us-east-1, and for the first two a
        request each to the Prefect API, once a minute and at most three times.
        """
        self.function.add_environment("OBSERVE", "true")

    @checked
    def check_addition(
        self, spot_attempts: int | None, max_reschedules: int | None, patience: cdk.Duration | None
    ) -> tuple[int, int, float]:
        """What :meth:`add_work_pool` would guard one more pool with: attempts, reschedules, seconds of patience.

        :raises ValueError: As :meth:`add_work_pool`.
        """
        default_attempts, default_reschedules, default_patience = self._settings
        attempts = default_attempts if spot_attempts is None else spot_attempts
        reschedules = default_reschedules if max_reschedules is None else max_reschedules
        seconds = seconds_of("patience", patience or default_patience)
        check_lazarus_settings(attempts, reschedules, seconds)
        return attempts, reschedules, seconds

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The function's role."""
        return self.role.grant_principal

    def _grant(self, cluster: FlowCluster, log_group: logs.ILogGroup) -> None:
        stack = cdk.Stack.of(self)
        tasks = stack.format_arn(service="ecs", resource="task", resource_name=f"{cluster.cluster_name}/*")
        in_cluster = {"ArnEquals": {"ecs:cluster": cluster.cluster_arn}}
        for actions, resources, conditions in (
            # ListTasks supports no resource but container instances. Source: Service Authorization Reference.
            (["ecs:ListTasks"], ["*"], in_cluster),
            (["ecs:DescribeTasks", "ecs:StopTask"], [tasks], in_cluster),
            (["logs:GetLogEvents"], [log_group.log_group_arn], None),
        ):
            for grantee in grantees(self, self.role):
                iam.Grant.add_to_principal(
                    grantee=grantee, actions=actions, resource_arns=resources, conditions=conditions
                )

    def _alarms(self) -> list[cloudwatch.Alarm]:
        minute = cdk.Duration.minutes(1)
        at_least = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
        return [
            cloudwatch.Alarm(
                self,
                "Errors",
                alarm_description=described("Errors"),
                metric=self.function.metric_errors(period=minute),
                threshold=1,
                evaluation_periods=5,
                datapoints_to_alarm=3,
                comparison_operator=at_least,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
            cloudwatch.Alarm(
                self,
                "Throttles",
                alarm_description=described("Throttles"),
                metric=self.function.metric_throttles(period=minute),
                threshold=1,
                evaluation_periods=10,
                datapoints_to_alarm=8,
                comparison_operator=at_least,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
            cloudwatch.Alarm(
                self,
                "HeartbeatMissing",
                alarm_description=described("HeartbeatMissing"),
                metric=self.function.metric_invocations(period=minute),
                threshold=1,
                evaluation_periods=5,
                comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
                treat_missing_data=cloudwatch.TreatMissingData.BREACHING,
            ),
        ]
