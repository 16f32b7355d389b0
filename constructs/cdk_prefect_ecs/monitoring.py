"""What an on-call engineer needs on the worst night: one dashboard, few alarms, and what to do about each."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct, IConstruct

from cdk_prefect_ecs.arguments import checked, is_token
from cdk_prefect_ecs.dashboard import GuardView, PoolView, View
from cdk_prefect_ecs.durations import seconds_of
from cdk_prefect_ecs.encryption import let_alarms_encrypt
from cdk_prefect_ecs.execution_layer import LayerPool, PrefectExecutionLayer
from cdk_prefect_ecs.functions.lazarus_metrics import DIMENSION, NAMESPACE
from cdk_prefect_ecs.lazarus import Lazarus
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.runbook import RUNBOOK, check_monitoring_settings, described
from cdk_prefect_ecs.work_pool import WorkPool
from cdk_prefect_ecs.worker_host import WorkerHost
from cdk_prefect_ecs.worker_service import WorkerService

_AT_LEAST: Final = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
_MORE: Final = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
_LESS: Final = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
#: A worker that is replaced is away for seconds, a host whose zone is lost for some minutes.
_WITHOUT_WORKER_MINUTES: Final = 5
#: Runs that are given up within this time are one message.
_GIVEN_UP_MINUTES: Final = 15
#: Of a dashboard's 255 characters; the region takes the others.
_MAX_NAME: Final = 230


class ExecutionMonitoring(Construct):
    """Define what watches an execution layer: a dashboard, and alarms that say what they mean and what to do.

    Creates, of every work pool, those added later included, the alarms ``NoWorker``, ``RunsWait``, ``GivenUp`` and
    ``CapacityShort``; gives them, and those that Lazarus has anyway, the action that tells somebody; and a dashboard
    that shows the alarms with a runbook, what became of the runs of each pool, what they run on, the workers, Lazarus
    and its queues, and the last given-up runs. docs/monitoring.md goes through the alarms one by one.

    Has Lazarus measure four more things (:meth:`~cdk_prefect_ecs.Lazarus.observe`). List prices in us-east-1 a month,
    beyond the free tier of 3 dashboards, 10 alarms and 10 metrics: the dashboard $3, an alarm $0.10, so $0.40 for each
    pool and $0.50 for Lazarus, a metric $0.30, so $3.00 for each pool, a key $1. Opening the dashboard reads logs, at
    $0.005 a gigabyte. Source: https://aws.amazon.com/cloudwatch/pricing/, June 2026.

    Metrics of Lazarus are by the name of the pool: two pools of one name, at two APIs, share theirs in an account and
    region. Without a Lazarus there is only what ECS and EC2 tell of the workers, and of the alarms only ``NoWorker``.

    :param layer: The layer; in the same stack.
    :param alarm_topic: Topic that every alarm and its end is told to. Its policy, and that of its key, has to let
        ``cloudwatch.amazonaws.com`` publish; CloudWatch cannot use a topic with the key ``alias/aws/sns``. Default: one
        is made for ``alarm_email``; without that, alarms only show in CloudWatch.
    :param alarm_email: Address that a topic of its own is made for: encrypted, over TLS only, for alarms of this
        account. SNS asks the address first; until it agrees, nothing is sent.
    :param encryption_key: Key of the topic that is made; CloudWatch is let use it, and an imported key's policy has to
        do so itself, see docs/security.md. Default: one is made.
    :param dashboard: Whether there is a dashboard. Default: True.
    :param longest_wait: How long a run may be due without a worker taking it. More than a concurrency limit makes runs
        wait as a rule. Default: 30 minutes.
    :param shortage: Flow runs in an hour that are switched to on-demand, of a pool that falls back, or find no machine,
        of others, before that is an alarm. Default: 10.
    :param leave_out: Alarms to leave out, by their ids; those of Lazarus stay, and tell nobody. Default: none.
    :param runbook_url: Where your team has docs/monitoring.md: descriptions and dashboard then lead there. Default:
        they name the file.
    :raises ValueError: A layer in another stack, ``alarm_email`` that is no address or comes with ``alarm_topic``, an
        ``encryption_key`` without ``alarm_email``, an unknown alarm, a ``longest_wait`` below a minute, a ``shortage``
        below 1.
    """

    alarms: list[cloudwatch.Alarm]
    """Every alarm: of the pools, and of Lazarus and its task events."""
    alarm_topic: sns.ITopic | None
    """Where alarms are told to; None when nowhere."""
    dashboard: cloudwatch.CfnDashboard | None
    """The dashboard; None without one. Its name is the stack's, this construct's and the region's."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        layer: PrefectExecutionLayer,
        alarm_topic: sns.ITopic | None = None,
        alarm_email: str | None = None,
        encryption_key: kms.IKey | None = None,
        dashboard: bool = True,
        longest_wait: cdk.Duration | None = None,
        shortage: int = 10,
        leave_out: Collection[str] = (),
        runbook_url: str | None = None,
    ) -> None:
        longest_wait = longest_wait or cdk.Duration.minutes(30)
        seconds = seconds_of("longest_wait", longest_wait)
        check_monitoring_settings(
            alarm_email,
            has_topic=alarm_topic is not None,
            has_key=encryption_key is not None,
            leave_out=leave_out,
            shortage=shortage,
            wait_seconds=seconds,
        )
        stack = cdk.Stack.of(scope)
        if stack.node.path != cdk.Stack.of(layer).node.path:
            raise ValueError(
                f"monitoring has to be in the stack of its layer, {cdk.Stack.of(layer).node.path}, as each of the two "
                f"names resources of the other; got {stack.node.path}"
            )
        super().__init__(scope, construct_id)
        self._lazarus = layer.lazarus
        self._wait_seconds = seconds
        self._shortage = shortage
        self._left_out = frozenset(leave_out)
        self._url = runbook_url or RUNBOOK
        self._view = View(
            title=f"Prefect on ECS: {layer.node.path}",
            region=stack.region,
            worker_logs=layer.log_group.log_group_name,
            runbook=self._url,
        )
        self.alarms = []
        self.alarm_topic = alarm_topic
        if alarm_email is not None:
            self.alarm_topic = self._new_topic(alarm_email, encryption_key)
        self.dashboard = self._new_dashboard() if dashboard else None
        if self._lazarus is not None:
            self._watch_lazarus(self._lazarus)
        layer.for_each_pool(self._watch_layer_pool)

    @checked
    def add_work_pool(self, work_pool: WorkPool, *, worker: WorkerService | WorkerHost | None = None) -> None:
        """Watch one more pool, which is not one of the layer's: those are watched by themselves.

        :param work_pool: The pool. For more than its worker, the layer's Lazarus has to guard it already.
        :param worker: Its worker. Default: it is not seen from the side of ECS or EC2.
        :raises ValueError: A pool that is watched already, or of which there is nothing to see.
        """
        name = work_pool.work_pool_name
        guarded = self._lazarus is not None and name in self._lazarus.guarded_pools
        if name in [pool.name for pool in self._view.pools]:
            raise ValueError(f"this monitoring watches the work pool {name!r} already")
        if not guarded and worker is None:
            raise ValueError(
                f"there is nothing to see of the work pool {name!r}: have the layer's Lazarus guard it first "
                "(lazarus.add_work_pool), or name its worker"
            )
        service = group = None
        if isinstance(worker, WorkerService):
            service = (worker.service.cluster.cluster_name, worker.service.service_name)
        elif worker is not None:
            group = worker.group_name
        pool = PoolView(name, guarded, work_pool.spot_policy.uses_spot, service, group)
        self._view.pools.append(pool)
        made = Construct(self, f"Pool-{name}")
        self._alarm(
            made,
            "NoWorker",
            metric=_workers(pool),
            threshold=1,
            comparison_operator=_LESS,
            evaluation_periods=_WITHOUT_WORKER_MINUTES,
            # While Lazarus does not look, nobody knows, and that is an alarm of its own.
            treat_missing_data=cloudwatch.TreatMissingData.IGNORE if guarded else cloudwatch.TreatMissingData.BREACHING,
        )
        if guarded:
            self._alarm(
                made,
                "RunsWait",
                metric=_metric(name, "SecondsWaiting", cloudwatch.Stats.MAXIMUM),
                threshold=self._wait_seconds,
                comparison_operator=_MORE,
                treat_missing_data=cloudwatch.TreatMissingData.IGNORE,
            )
            self._alarm(
                made,
                "GivenUp",
                metric=_metric(name, "GivenUp", cloudwatch.Stats.SUM),
                threshold=1,
                evaluation_periods=_GIVEN_UP_MINUTES,
                datapoints_to_alarm=1,
            )
            # Where there is a fallback, a machine that is not to be had is a matter of money.
            what = "Fallbacks" if work_pool.spot_policy.falls_back else "CapacityFailures"
            self._alarm(
                made,
                "CapacityShort",
                metric=_metric(name, what, cloudwatch.Stats.SUM, period=cdk.Duration.hours(1)),
                threshold=self._shortage,
            )

    def _watch_layer_pool(self, pool: LayerPool) -> None:
        self.add_work_pool(pool.work_pool, worker=pool.worker)

    def _watch_lazarus(self, lazarus: Lazarus) -> None:
        lazarus.observe()
        dead_letters = (lazarus.task_events.dead_letter_queue, lazarus.dead_letter_queue)
        self._view.guard = GuardView(
            function=lazarus.function.function_name,
            queue=lazarus.task_events.queue.queue_name,
            dead_letters=[queue.queue_name for queue in dead_letters],
            log_group=lazarus.function.log_group.log_group_name,
        )
        for alarm in lazarus.alarms:
            if alarm.node.id in self._left_out:
                continue
            resource = alarm.node.default_child
            assert isinstance(resource, cloudwatch.CfnAlarm)
            resource.alarm_description = described(alarm.node.id, url=self._url)
            self._watch(alarm)

    def _alarm(self, scope: Construct, name: str, **settings: Any) -> None:
        if name in self._left_out:
            return
        given = {
            "evaluation_periods": 1,
            "comparison_operator": _AT_LEAST,
            "treat_missing_data": cloudwatch.TreatMissingData.NOT_BREACHING,
            **settings,
        }
        subject = f"Work pool {scope.node.id.removeprefix('Pool-')}"
        self._watch(
            cloudwatch.Alarm(scope, name, alarm_description=described(name, subject=subject, url=self._url), **given)
        )

    def _watch(self, alarm: cloudwatch.Alarm) -> None:
        """Tell of an alarm, and show it."""
        self.alarms.append(alarm)
        self._view.alarms.append(alarm.alarm_arn)
        self._view.named.append(alarm.node.id)
        if self.alarm_topic is not None:
            action = actions.SnsAction(self.alarm_topic)
            alarm.add_alarm_action(action)
            alarm.add_ok_action(action)

    def _new_topic(self, email: str, encryption_key: kms.IKey | None) -> sns.Topic:
        stack = cdk.Stack.of(self)
        key = encryption_key or kms.Key(
            self,
            "Key",
            description=f"Alarms of {self.node.path}",
            enable_key_rotation=True,
            removal_policy=cdk.RemovalPolicy.DESTROY,  # what it protects is read within seconds
        )
        let_alarms_encrypt(key, self)
        topic = sns.Topic(self, "Topic", master_key=key, enforce_ssl=True)
        # The policy that enforces TLS takes the place of the one that SNS gives a topic. Source: "Example cases for
        # Amazon SNS access control", Amazon SNS Developer Guide.
        alarms = stack.format_arn(
            service="cloudwatch", resource="alarm", resource_name="*", arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
        )
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={
                    "ArnLike": {"aws:SourceArn": alarms},
                    "StringEquals": {"aws:SourceAccount": stack.account},
                },
            )
        )
        topic.add_subscription(subscriptions.EmailSubscription(email))
        return topic

    def _new_dashboard(self) -> cloudwatch.CfnDashboard:
        return cloudwatch.CfnDashboard(
            self,
            "Dashboard",
            dashboard_name=_dashboard_name(self),
            # When the app is synthesised: pools may still be added until then.
            dashboard_body=cdk.Lazy.string(_Body(self._view, cdk.Stack.of(self))),
        )


@jsii.implements(cdk.IStableStringProducer)
class _Body:
    """The body of the dashboard, once all is known that is on it."""

    def __init__(self, view: View, stack: cdk.Stack) -> None:
        self._view = view
        self._stack = stack

    def produce(self) -> str:
        return self._stack.to_json_string(self._view.body())


def _workers(pool: PoolView) -> cloudwatch.Metric:
    """How many workers a pool has: as Prefect sees it or, where no Lazarus asks, as ECS or EC2 Auto Scaling does."""
    if pool.guarded:
        return _metric(pool.name, "WorkersOnline", cloudwatch.Stats.MAXIMUM)
    if pool.service is not None:
        # Each running task sends one sample a minute, with Container Insights or without. Source: "Service RUNNING
        # task count", Amazon ECS Developer Guide.
        cluster, service = pool.service
        return cloudwatch.Metric(
            namespace="AWS/ECS",
            metric_name="CPUUtilization",
            dimensions_map={"ClusterName": cluster, "ServiceName": service},
            statistic=cloudwatch.Stats.SAMPLE_COUNT,
            period=cdk.Duration.minutes(1),
        )
    assert pool.group is not None  # or there would be nothing to see
    return cloudwatch.Metric(
        namespace="AWS/AutoScaling",
        metric_name="GroupInServiceInstances",
        dimensions_map={"AutoScalingGroupName": pool.group},
        statistic=cloudwatch.Stats.MINIMUM,
        period=cdk.Duration.minutes(1),
    )


def _metric(pool: str, name: str, statistic: str, *, period: cdk.Duration | None = None) -> cloudwatch.Metric:
    """A metric of Lazarus, by the minute unless told otherwise."""
    return cloudwatch.Metric(
        namespace=NAMESPACE,
        metric_name=name,
        dimensions_map={DIMENSION: pool},
        statistic=statistic,
        period=period or cdk.Duration.minutes(1),
    )


def _dashboard_name(scope: IConstruct) -> str | None:
    """A name to look for in the middle of the night: the stack's, the ids below it, and the region, as dashboards of an
    account share their names. None, which leaves it to CloudFormation, where the stack is nested: its name is known at
    deploy only."""
    stack = cdk.Stack.of(scope)
    if is_token(stack.stack_name):
        return None
    ids = scope.node.path.removeprefix(stack.node.path).split("/")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join([stack.stack_name, *filter(None, ids)]))
    return f"{name[:_MAX_NAME]}-{stack.region}"
