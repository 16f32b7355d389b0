import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk.assertions import Template
from library_helpers import assert_refused, cloud_api, new_app, new_stack, only, plain, resource

from cdk_prefect_ecs import ExecutionMonitoring, PrefectExecutionLayer, SpotPolicy, WorkerRole, WorkerService, WorkPool
from cdk_prefect_ecs.runbook import ADVICE

ALARM, DASHBOARD = "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard"
TOPIC_ARN = "arn:aws:sns:us-east-1:123456789012:on-call"
OF_A_POOL = ("NoWorker", "RunsWait", "GivenUp", "CapacityShort")


def new_layer(stack: cdk.Stack, construct_id: str = "Prefect", **settings: Any) -> PrefectExecutionLayer:
    return PrefectExecutionLayer(stack, construct_id, **({"work_pool_name": "etl", "api": cloud_api()} | settings))


def watch(
    stack: cdk.Stack, layer: PrefectExecutionLayer, construct_id: str = "Watch", **more: Any
) -> ExecutionMonitoring:
    return ExecutionMonitoring(stack, construct_id, layer=layer, **more)


def body(template: Template) -> dict[str, Any]:
    """The body of the one dashboard."""
    return dict(json.loads(plain(only(template, DASHBOARD)["DashboardBody"])))


def alarms(template: Template) -> dict[str, dict[str, Any]]:
    """Alarms by their logical ids without the hash."""
    found = template.find_resources(ALARM)
    return {name[:-8]: plain(each["Properties"]) for name, each in found.items()}


def function_environment(template: Template) -> dict[str, str]:
    return dict(resource(template, "PrefectLazarusFunction")["Properties"]["Environment"]["Variables"])


@pytest.fixture(scope="module")
def defaults() -> Template:
    stack = new_stack()
    watch(stack, new_layer(stack))
    return Template.from_stack(stack)


@pytest.fixture(scope="module")
def told() -> Template:
    stack = new_stack()
    watch(stack, new_layer(stack), alarm_email="on-call@example.com", runbook_url="https://wiki.example.com/prefect")
    return Template.from_stack(stack)


def test_defaults_watch_the_pool_and_tell_nobody(defaults: Template) -> None:
    assert {name for name in alarms(defaults) if name.startswith("Watch")} == {f"WatchPooletl{a}" for a in OF_A_POOL}
    assert not any(each.keys() & {"AlarmActions", "OKActions"} for each in alarms(defaults).values())
    defaults.resource_count_is("AWS::SNS::Topic", 0)
    defaults.resource_count_is("AWS::KMS::Key", 0)
    assert plain(only(defaults, DASHBOARD)["DashboardName"]) == "Test-Watch-<AWS::Region>"
    assert function_environment(defaults)["OBSERVE"] == "true"


def test_without_monitoring_lazarus_observes_nothing() -> None:
    stack = new_stack()
    new_layer(stack)
    assert "OBSERVE" not in function_environment(Template.from_stack(stack))


def test_alarms_of_a_pool(defaults: Template) -> None:
    kept = (
        "MetricName", "Statistic", "Period", "EvaluationPeriods", "DatapointsToAlarm", "ComparisonOperator",
        "Threshold", "TreatMissingData",
    )  # fmt: skip
    found = alarms(defaults)
    rules = {name: tuple(found[f"WatchPooletl{name}"].get(key) for key in kept) for name in OF_A_POOL}
    at_least, more, less = "GreaterThanOrEqualToThreshold", "GreaterThanThreshold", "LessThanThreshold"
    assert rules == {
        "NoWorker": ("WorkersOnline", "Maximum", 60, 5, None, less, 1, "ignore"),
        "RunsWait": ("SecondsWaiting", "Maximum", 60, 1, None, more, 1800, "ignore"),
        "GivenUp": ("GivenUp", "Sum", 60, 15, 1, at_least, 1, "notBreaching"),
        "CapacityShort": ("Fallbacks", "Sum", 3600, 1, None, at_least, 10, "notBreaching"),
    }
    for name in OF_A_POOL:
        alarm = found[f"WatchPooletl{name}"]
        assert (alarm["Namespace"], alarm["Dimensions"]) == ("PrefectOnEcs", [{"Name": "WorkPool", "Value": "etl"}])
        assert alarm["AlarmDescription"].startswith(f"Work pool etl: {ADVICE[name].means}.")


def test_every_alarm_of_the_layer_tells_the_topic_and_leads_to_the_runbook(told: Template) -> None:
    found = alarms(told)
    assert len(found) == len(ADVICE)
    for name, alarm in found.items():
        assert (alarm["AlarmActions"], alarm["OKActions"]) == (["<WatchTopic>"], ["<WatchTopic>"])
        link = alarm["AlarmDescription"].rpartition(" ")[2]
        assert link.startswith("https://wiki.example.com/prefect#")
        assert name.lower().endswith(link.rpartition("#")[2])


def test_topic_is_encrypted_and_for_alarms_of_this_account_only(told: Template) -> None:
    assert plain(only(told, "AWS::SNS::Topic")) == {"KmsMasterKeyId": "<WatchKey.Arn>"}
    subscription = plain(only(told, "AWS::SNS::Subscription"))
    assert subscription == {"Protocol": "email", "Endpoint": "on-call@example.com", "TopicArn": "<WatchTopic>"}
    insecure, allowed = plain(only(told, "AWS::SNS::TopicPolicy"))["PolicyDocument"]["Statement"]
    assert (insecure["Effect"], insecure["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    del allowed["Sid"]
    assert allowed == {
        "Effect": "Allow",
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": "<WatchTopic>",
        "Condition": {
            "ArnLike": {"aws:SourceArn": "arn:<AWS::Partition>:cloudwatch:<AWS::Region>:<AWS::AccountId>:alarm:*"},
            "StringEquals": {"aws:SourceAccount": "<AWS::AccountId>"},
        },
    }
    key = plain(only(told, "AWS::KMS::Key"))
    assert key["EnableKeyRotation"] is True
    _, alarm_use = key["KeyPolicy"]["Statement"]
    assert alarm_use == {
        "Effect": "Allow",
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
        "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
        "Resource": "*",
        "Condition": {
            "ArnLike": {
                "kms:EncryptionContext:aws:sns:topicArn": "arn:<AWS::Partition>:sns:<AWS::Region>:<AWS::AccountId>:*"
            }
        },
    }


def test_topic_of_its_own_takes_a_key_that_is_given() -> None:
    stack = new_stack()
    key = kms.Key(stack, "Mine")
    watch(stack, new_layer(stack), alarm_email="on-call@example.com", encryption_key=key)
    template = Template.from_stack(stack)
    assert plain(only(template, "AWS::SNS::Topic"))["KmsMasterKeyId"] == "<Mine.Arn>"
    principals = [statement["Principal"] for statement in only(template, "AWS::KMS::Key")["KeyPolicy"]["Statement"]]
    assert {"Service": "cloudwatch.amazonaws.com"} in principals


@pytest.mark.parametrize("arn", [TOPIC_ARN, cdk.Fn.import_value("OnCall")], ids=["known", "token"])
def test_topic_that_there_is(arn: str) -> None:
    stack = new_stack()
    topic = sns.Topic.from_topic_arn(stack, "OnCall", arn)
    monitoring = watch(stack, new_layer(stack), alarm_topic=topic)
    template = Template.from_stack(stack)
    assert monitoring.alarm_topic is topic
    assert {json.dumps(alarm["AlarmActions"]) for alarm in alarms(template).values()} == {
        json.dumps(plain(stack.resolve([arn])))
    }
    for each in ("AWS::SNS::Topic", "AWS::SNS::TopicPolicy", "AWS::KMS::Key"):
        template.resource_count_is(each, 0)


def test_address_and_runbook_that_are_known_at_deploy() -> None:
    stack = new_stack()
    address, url = (cdk.CfnParameter(stack, name).value_as_string for name in ("Address", "Runbook"))
    watch(stack, new_layer(stack), alarm_email=address, runbook_url=url)
    template = Template.from_stack(stack)
    assert plain(only(template, "AWS::SNS::Subscription"))["Endpoint"] == "<Address>"
    assert alarms(template)["WatchPooletlGivenUp"]["AlarmDescription"].endswith(" Runbook: <Runbook>#givenup")
    assert "| GivenUp |" in body(template)["widgets"][0]["properties"]["markdown"]


def test_pools_that_are_added_later_are_watched_and_shown() -> None:
    stack = new_stack()
    layer = new_layer(stack)
    layer.add_work_pool("before")
    monitoring = watch(stack, layer)
    layer.add_work_pool("after", worker_instance_type=ec2.InstanceType("t4g.micro"))
    template = Template.from_stack(stack)
    text = json.dumps(body(template))
    for pool in ("etl", "before", "after"):
        assert f'["PrefectOnEcs", "GivenUp", "WorkPool", "{pool}"' in text
        assert f"WatchPool{pool}GivenUp" in alarms(template)
    assert '["AWS/AutoScaling", "GroupInServiceInstances", "AutoScalingGroupName", "Test-' in text
    assert len(monitoring.alarms) == 5 + 3 * 4 == len(set(_shown(template)))


def _shown(template: Template) -> list[str]:
    (widget,) = [each for each in body(template)["widgets"] if each["type"] == "alarm"]
    return list(widget["properties"]["alarms"])


def test_everything_that_the_dashboard_names_is_in_the_stack(defaults: Template) -> None:
    text = json.dumps(body(defaults))
    for reference in (
        "<PrefectLazarusFunction>", "<PrefectLazarusTaskEventsQueue.QueueName>", "<PrefectLazarusLogGroup>",
        "<PrefectLazarusTaskEventsDeadLetterQueue.QueueName>", "<PrefectLazarusDeadLetterQueue.QueueName>",
        "<PrefectLogGroup>", "<PrefectWorkerService.Name>", "<PrefectCluster>",
    ):  # fmt: skip
        assert reference in text


def test_two_layers_and_two_that_watch_in_one_stack() -> None:
    stack = new_stack()
    first = new_layer(stack)
    second = new_layer(stack, "Second", work_pool_name="ml")
    for layer in (first, second):
        watch(stack, layer, f"Watch{layer.node.id}", alarm_email="on-call@example.com")
    template = Template.from_stack(stack)
    names = {plain(each["Properties"]["DashboardName"]) for each in template.find_resources(DASHBOARD).values()}
    assert names == {"Test-WatchPrefect-<AWS::Region>", "Test-WatchSecond-<AWS::Region>"}
    actions = {name: alarm["AlarmActions"] for name, alarm in alarms(template).items()}
    assert actions["PrefectLazarusErrors"] == ["<WatchPrefectTopic>"]
    assert actions["SecondLazarusErrors"] == ["<WatchSecondTopic>"]


def test_a_layer_without_lazarus_has_an_alarm_for_its_worker() -> None:
    stack = new_stack()
    layer = new_layer(stack, lazarus=False)
    layer.add_work_pool("hosted", worker_instance_type=ec2.InstanceType("t4g.micro"))
    watch(stack, layer)
    template = Template.from_stack(stack)
    found = alarms(template)
    assert set(found) == {"WatchPooletlNoWorker", "WatchPoolhostedNoWorker"}
    service, host = found["WatchPooletlNoWorker"], found["WatchPoolhostedNoWorker"]
    assert (service["Namespace"], service["MetricName"], service["Statistic"]) == (
        "AWS/ECS", "CPUUtilization", "SampleCount",
    )  # fmt: skip
    assert {each["Name"] for each in service["Dimensions"]} == {"ClusterName", "ServiceName"}
    assert (host["MetricName"], host["Statistic"]) == ("GroupInServiceInstances", "Minimum")
    assert {each["TreatMissingData"] for each in (service, host)} == {"breaching"}
    collected = only(template, "AWS::AutoScaling::AutoScalingGroup")["MetricsCollection"]
    assert collected == [{"Granularity": "1Minute", "Metrics": ["GroupInServiceInstances"]}]
    titles = [each["properties"]["title"] for each in body(template)["widgets"] if each["type"] != "text"]
    assert titles == ["Alarms", "Workers", "Workers", "Last errors of workers"]


@pytest.mark.parametrize(
    ("policy", "metric"),
    [
        (SpotPolicy.SPOT_WITH_FALLBACK, "Fallbacks"),
        (SpotPolicy.SPOT, "CapacityFailures"),
        (SpotPolicy.ON_DEMAND, "CapacityFailures"),
    ],
)
def test_shortage_of_machines_is_read_from_what_the_pool_does_about_it(policy: SpotPolicy, metric: str) -> None:
    stack = new_stack()
    watch(stack, new_layer(stack, spot_policy=policy), shortage=3, longest_wait=cdk.Duration.hours(2))
    found = alarms(Template.from_stack(stack))
    assert (found["WatchPooletlCapacityShort"]["MetricName"], found["WatchPooletlCapacityShort"]["Threshold"]) == (
        metric,
        3,
    )
    assert found["WatchPooletlRunsWait"]["Threshold"] == 7200


def test_nothing_on() -> None:
    stack = new_stack()
    monitoring = watch(stack, new_layer(stack), dashboard=False, leave_out=list(ADVICE))
    template = Template.from_stack(stack)
    assert (monitoring.alarms, monitoring.dashboard, monitoring.alarm_topic) == ([], None, None)
    template.resource_count_is(DASHBOARD, 0)
    template.resource_count_is(ALARM, 5)  # those of Lazarus stay


def test_what_is_left_out_tells_nobody_and_is_not_shown() -> None:
    stack = new_stack()
    watch(stack, new_layer(stack), alarm_email="on-call@example.com", leave_out=["GivenUp", "Throttles"])
    template = Template.from_stack(stack)
    found = alarms(template)
    assert "WatchPooletlGivenUp" not in found
    assert "AlarmActions" not in found["PrefectLazarusThrottles"]
    assert "AlarmActions" in found["PrefectLazarusErrors"]
    markdown = body(template)["widgets"][0]["properties"]["markdown"]
    assert "| Throttles |" not in markdown
    assert "| Errors |" in markdown
    assert len(_shown(template)) == 7


def _beside(layer: PrefectExecutionLayer, name: str) -> tuple[WorkPool, WorkerService]:
    """A pool that is not one of the layer's, and its worker."""
    stack = cdk.Stack.of(layer)
    shared: Any = {"api": cloud_api(), "cluster": layer.cluster, "network": layer.network, "log_group": layer.log_group}
    pool = WorkPool(
        stack, f"{name}Pool", work_pool_name=name, storage=layer.storage, execution_role=layer.execution_role,
        flow_role=layer.flow_role, **shared,
    )  # fmt: skip
    worker = WorkerService(
        stack, f"{name}Worker", work_pool=pool, execution_role=layer.execution_role,
        worker_role=WorkerRole(stack, f"{name}Role"), **shared,
    )  # fmt: skip
    return pool, worker


def test_a_pool_beside_the_layer() -> None:
    stack = new_stack()
    layer = new_layer(stack)
    assert layer.lazarus is not None
    monitoring = watch(stack, layer)
    guarded, _ = _beside(layer, "guarded")
    unguarded, worker = _beside(layer, "unguarded")
    assert_refused(stack, lambda: monitoring.add_work_pool(guarded), "nothing to see of the work pool 'guarded'")
    layer.lazarus.add_work_pool(guarded)
    assert layer.lazarus.guarded_pools == ("etl", "guarded")
    monitoring.add_work_pool(guarded)
    monitoring.add_work_pool(unguarded, worker=worker)
    assert_refused(stack, lambda: monitoring.add_work_pool(guarded), "watches the work pool 'guarded' already")
    found = {name for name in alarms(Template.from_stack(stack)) if name.startswith("WatchPool")}
    expected = {f"WatchPool{pool}{alarm}" for pool in ("etl", "guarded") for alarm in OF_A_POOL}
    assert found == {*expected, "WatchPoolunguardedNoWorker"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alarm_email": "nobody"}, ["alarm_email must be an address", "'nobody'"]),
        ({"alarm_email": "a@example.com", "topic": True}, ["leave out alarm_email", "add_subscription"]),
        ({"key": True}, ["encryption_key is that of the topic that alarm_email makes"]),
        ({"leave_out": ["Errors", "Everything"]}, ["names no alarm with Everything", "NoWorker, HeartbeatMissing"]),
        ({"shortage": 0}, ["shortage must be 1 or more", "got 0"]),
        ({"longest_wait": cdk.Duration.seconds(30)}, ["longest_wait must be at least a minute", "got 30 seconds"]),
        ({"longest_wait": cdk.Duration.seconds(cdk.Token.as_number({"Ref": "A"}))}, ["longest_wait must be known"]),
        ({"leave_out": "Errors"}, ["leave_out must be a list", "got a string"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusals(settings: dict[str, Any], words: list[str]) -> None:
    stack = new_stack()
    layer = new_layer(stack)
    topic = sns.Topic.from_topic_arn(stack, "Topic", TOPIC_ARN)
    key = kms.Key(stack, "Key")
    given = {name: value for name, value in settings.items() if name not in ("topic", "key")}
    if settings.get("topic"):
        given["alarm_topic"] = topic
    if settings.get("key"):
        given["encryption_key"] = key
    assert_refused(stack, lambda: watch(stack, layer, **given), *words)


def test_a_layer_in_another_stack_is_refused() -> None:
    app = new_app()
    layer = new_layer(cdk.Stack(app, "There"))
    here = cdk.Stack(app, "Here")
    assert_refused(here, lambda: watch(here, layer), "has to be in the stack of its layer, There", "got Here")


def test_long_names_are_cut_to_what_cloudwatch_takes() -> None:
    stack = new_stack("S" * 100, env=cdk.Environment(region="ap-southeast-4"))
    monitoring = watch(stack, new_layer(stack), "W" * 150)
    assert monitoring.dashboard is not None
    name = monitoring.dashboard.dashboard_name
    assert name is not None
    assert len(name) <= 255
    assert name.endswith("W-ap-southeast-4")


def test_name_of_the_dashboard() -> None:
    stage = cdk.Stage(new_app(), "PrefectProd", env=cdk.Environment(region="eu-west-1"))
    stack = cdk.Stack(stage, "Execution")
    monitoring = watch(stack, new_layer(stack))
    assert monitoring.dashboard is not None
    assert monitoring.dashboard.dashboard_name == "PrefectProd-Execution-Watch-eu-west-1"
    nested = cdk.NestedStack(new_stack(), "Nested")
    monitoring = watch(nested, new_layer(nested))
    assert monitoring.dashboard is not None
    assert monitoring.dashboard.dashboard_name is None
