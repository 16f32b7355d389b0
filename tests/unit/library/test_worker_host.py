import json
import re
import subprocess
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import (
    API_KEY_ARN,
    CLOUD_URL,
    Parts,
    allow,
    assert_no_ingress,
    assert_refused,
    imported_vpc,
    in_order,
    make_parts,
    new_app,
    new_stack,
    only,
    plain,
    statements,
)

import cdk_prefect_ecs
from cdk_prefect_ecs import FlowNetwork, PrefectApi, WorkerHost
from cdk_prefect_ecs.functions.credential import CredentialReference
from cdk_prefect_ecs.host.settings import HostSettings

GROUP = "AWS::AutoScaling::AutoScalingGroup"
TEMPLATE = "AWS::EC2::LaunchTemplate"
ECS = "arn:<AWS::Partition>:ecs:<AWS::Region>:<AWS::AccountId>"


def make_host(parts: Parts, construct_id: str = "Host", **kwargs: Any) -> WorkerHost:
    given: dict[str, Any] = {"api": parts.api, "network": parts.network, "log_group": parts.log_group}
    given |= kwargs
    work_pool = given.pop("work_pool", None) or parts.pool()
    return WorkerHost(parts.stack, construct_id, work_pool=work_pool, **given)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(scope="module")
def host(parts: Parts) -> WorkerHost:
    return make_host(parts)


@pytest.fixture(scope="module")
def template(parts: Parts, host: WorkerHost) -> Template:
    return Template.from_stack(parts.stack)


def launch(template: Template) -> dict[str, Any]:
    return dict(plain(only(template, TEMPLATE)["LaunchTemplateData"]))


def user_data(template: Template) -> str:
    return str(launch(template)["UserData"]["Fn::Base64"])


def settings(template: Template, tmp_path: Path) -> HostSettings:
    """The settings as the host will read them."""
    match = re.search(r"<<'END_OF_SETTINGS'\n(.*)\nEND_OF_SETTINGS\n", user_data(template))
    assert match is not None
    file = tmp_path / "settings.json"
    file.write_text(match[1])
    return HostSettings.read(file)


def group(template: Template) -> dict[str, Any]:
    return dict(next(iter(template.find_resources(GROUP).values())))


def test_a_group_of_one_that_is_replaced_without_a_gap(template: Template) -> None:
    found = plain(group(template))
    assert found["Properties"] == {
        "AutoScalingGroupName": found["Properties"]["AutoScalingGroupName"],
        "HealthCheckType": "EC2",
        "InstanceMaintenancePolicy": {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200},
        "LaunchTemplate": {
            "LaunchTemplateId": "<HostLaunchTemplate>",
            "Version": "<HostLaunchTemplate.LatestVersionNumber>",
        },
        "LifecycleHookSpecificationList": [
            {
                "DefaultResult": "ABANDON",
                "HeartbeatTimeout": 900,
                "LifecycleHookName": "online",
                "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
            }
        ],
        "MaxInstanceLifetime": 604800,
        "MetricsCollection": [{"Granularity": "1Minute", "Metrics": ["GroupInServiceInstances"]}],
        "MinSize": "1",
        "MaxSize": "2",
        "VPCZoneIdentifier": ["subnet-private-1", "subnet-private-2"],
    }
    assert found["CreationPolicy"] == {"ResourceSignal": {"Count": 1, "Timeout": "PT15M"}}
    rolling = found["UpdatePolicy"]["AutoScalingRollingUpdate"]
    assert (rolling["MinInstancesInService"], rolling["MaxBatchSize"]) == (1, 1)
    assert (rolling["WaitOnResourceSignals"], rolling["PauseTime"]) == (True, "PT15M")


def test_the_host_is_small_encrypted_and_closed(template: Template) -> None:
    data = launch(template)
    del data["UserData"], data["TagSpecifications"]
    assert data == {
        "InstanceType": "t4g.micro",
        "ImageId": "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
        "IamInstanceProfile": {"Arn": "<HostLaunchTemplateProfile.Arn>"},
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/xvda",
                "Ebs": {"DeleteOnTermination": True, "Encrypted": True, "VolumeSize": 8, "VolumeType": "gp3"},
            }
        ],
        "NetworkInterfaces": [
            {"AssociatePublicIpAddress": False, "DeviceIndex": 0, "Groups": ["<HostSecurityGroup.GroupId>"]}
        ],
    }


def test_nothing_comes_in_and_there_is_no_key(template: Template) -> None:
    assert_no_ingress(template)
    assert "KeyName" not in launch(template)
    template.resource_count_is("AWS::EC2::KeyPair", 0)


def test_the_role_may_do_this_and_nothing_else(template: Template, host: WorkerHost) -> None:
    name = plain(group(template))["Properties"]["AutoScalingGroupName"]
    code = re.search(r"s3://cdk-hnb659fds-assets-\S+?/([0-9a-f]{64}\.zip)", user_data(template))
    assert code is not None
    bucket = {"Fn::Sub": "cdk-hnb659fds-assets-${AWS::AccountId}-${AWS::Region}"}
    assert statements(template, "HostRole") == in_order(
        [
            allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<Logs.Arn>"),
            allow("ssm:GetParameter", API_KEY_ARN),
            allow("s3:GetObject", f"arn:<AWS::Partition>:s3:::{bucket}/{code[1]}"),
            allow(
                "autoscaling:CompleteLifecycleAction",
                "arn:<AWS::Partition>:autoscaling:<AWS::Region>:<AWS::AccountId>:"
                f"autoScalingGroup:*:autoScalingGroupName/{name}",
            ),
            allow(
                [
                    "ecs:DescribeTaskDefinition",
                    "ssm:UpdateInstanceInformation",
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ],
                "*",
            ),
            allow("cloudformation:SignalResource", "<AWS::StackId>"),
            # What every worker has
            allow("ecs:RunTask", f"{ECS}:task-definition/Test-etl:*", {"ArnEquals": {"ecs:cluster": "<Cluster.Arn>"}}),
            allow("ecs:StopTask", f"{ECS}:task/<Cluster>/*", {"ArnEquals": {"ecs:cluster": "<Cluster.Arn>"}}),
            allow("ecs:TagResource", f"{ECS}:task/<Cluster>/*", {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
            allow("ecs:RegisterTaskDefinition", f"{ECS}:task-definition/Test-etl:*"),
            allow(
                "iam:PassRole",
                ["<ExecutionRole.Arn>", "<FlowRole.Arn>"],
                {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
            allow("sqs:GetQueueUrl", "arn:<AWS::Partition>:sqs:<AWS::Region>:<AWS::AccountId>:Test-etl-no-observer"),
        ]
    )


def test_the_host_widens_no_other_role(template: Template) -> None:
    actions = {action for statement in statements(template, "ExecutionRole") for action in statement["Action"]}
    assert actions == {"logs:CreateLogStream", "logs:PutLogEvents", "ssm:GetParameters"}
    assert statements(template, "WorkerRole") == []


def test_settings_are_what_the_host_reads(template: Template, tmp_path: Path) -> None:
    read = settings(template, tmp_path)
    assert read.environment == {
        "PREFECT_API_URL": CLOUD_URL,
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME": "Test-etl-no-observer",
        "AWS_RETRY_MODE": "adaptive",
        "AWS_MAX_ATTEMPTS": "10",
        "PREFECT_INTEGRATIONS_AWS_ECS_WORKER_CREATE_TASK_RUN_MAX_ATTEMPTS": "3",
        "PREFECT_INTEGRATIONS_AWS_ECS_WORKER_REGISTER_TASK_DEFINITION_MAX_ATTEMPTS": "6",
        "AWS_REGION": "<AWS::Region>",
        "AWS_DEFAULT_REGION": "<AWS::Region>",
    }
    assert (read.work_pool_name, read.log_group_name, read.region) == ("etl", "<Logs>", "<AWS::Region>")
    assert read.secret_variable == "PREFECT_API_KEY"
    assert read.credential is not None
    assert CredentialReference.parse(read.credential).source == "SSM parameter '/prefect/api-key'"


def test_user_data_signals_in_the_end_and_completes_the_launch(template: Template) -> None:
    text = user_data(template)
    (logical_id,) = template.find_resources(GROUP)
    assert f"cfn-signal --stack Test --resource {logical_id} " in text
    name = plain(group(template))["Properties"]["AutoScalingGroupName"]
    last = text.splitlines()[-1]
    assert last.startswith("aws autoscaling complete-lifecycle-action --lifecycle-hook-name online ")
    assert f"--auto-scaling-group-name {name} " in last
    assert len(text) < 16 * 1024, "user data is at most 16 KiB"


def test_scripts_are_bash(template: Template) -> None:
    install = Path(cdk_prefect_ecs.__file__).parent / "host" / "install.sh"
    for script in (re.sub(r"<[A-Z][\w:.]+>", "token", user_data(template)), install.read_text()):
        assert script.startswith("#!/bin/bash\n")
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_host_starts_after_its_pool_and_its_permissions(template: Template) -> None:
    pool = next(iter(template.find_resources("Custom::PrefectWorkPool")))
    policy = next(i for i in template.find_resources("AWS::IAM::Policy") if i.startswith("HostRole"))
    assert {pool, policy} <= set(group(template)["DependsOn"])


def test_the_code_is_the_hosts_and_nothing_else() -> None:
    app = new_app()
    parts = make_parts(cdk.Stack(app, "Test"))
    make_host(parts)
    out = Path(app.synth().directory)
    (folder,) = [path.parent for path in out.glob("asset.*/host")]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in files if name.startswith("functions/")} == {
        "functions/__init__.py",
        "functions/credential.py",
        "functions/prefect_api.py",
    }
    assert {"host/install.sh", "host/requirements.txt", "host/run_worker.py", "host/prefect-worker.service"} <= files
    container = {"container/__init__.py", "container/start_worker.py"}
    assert {name for name in files if not name.startswith(("host/", "functions/"))} == container
    assert not [name for name in files if "__pycache__" in name]


def test_everything_set(tmp_path: Path) -> None:
    stack = new_stack()
    secret = secretsmanager.Secret.from_secret_complete_arn(
        stack, "Secret", "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf"
    )
    api = PrefectApi.self_hosted(
        "https://prefect.example.com/api", auth_string=PrefectApi.secrets_manager(secret, field="auth")
    )
    parts = make_parts(stack, api=api, vpc=imported_vpc(stack, private=False))
    make_host(
        parts,
        instance_type=ec2.InstanceType("t3.small"),
        machine_image=ec2.MachineImage.resolve_ssm_parameter_at_launch("/images/ours", parameter_version="7"),
        poll_interval=cdk.Duration.seconds(30),
        environment={"PREFECT_LOGGING_LEVEL": "DEBUG", "AWS_MAX_ATTEMPTS": "3"},
    )
    template = Template.from_stack(stack)
    data = launch(template)
    assert (data["InstanceType"], data["ImageId"]) == ("t3.small", "resolve:ssm:/images/ours:7")
    assert data["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is True
    assert plain(group(template))["Properties"]["VPCZoneIdentifier"] == ["subnet-public-1", "subnet-public-2"]
    read = settings(template, tmp_path)
    assert read.environment["PREFECT_WORKER_QUERY_SECONDS"] == "30"
    assert read.environment["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert read.environment["AWS_MAX_ATTEMPTS"] == "3"
    assert read.secret_variable == "PREFECT_API_AUTH_STRING"
    assert read.credential == {"Kind": "SecretsManager", "Id": secret.secret_arn, "Field": "auth", "Scheme": "Basic"}
    granted = {action for statement in statements(template, "HostRole") for action in statement["Action"]}
    assert "secretsmanager:GetSecretValue" in granted
    assert "ssm:GetParameter" not in granted


@pytest.mark.parametrize(
    ("instance_type", "architecture"),
    [("t4g.nano", "arm64"), ("t4g.small", "arm64"), ("t3.micro", "x86_64"), ("t3a.nano", "x86_64")],
)
def test_the_image_fits_the_instance(instance_type: str, architecture: str) -> None:
    parts = make_parts()
    make_host(parts, instance_type=ec2.InstanceType(instance_type))
    image = launch(Template.from_stack(parts.stack))["ImageId"]
    assert image == f"resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"


def test_an_api_without_a_secret(tmp_path: Path) -> None:
    stack = new_stack()
    parts = make_parts(stack, api=PrefectApi.self_hosted("http://prefect.internal:4200/api"))
    make_host(parts)
    template = Template.from_stack(stack)
    assert settings(template, tmp_path).credential is None
    granted = {action for statement in statements(template, "HostRole") for action in statement["Action"]}
    assert not granted & {"ssm:GetParameter", "secretsmanager:GetSecretValue"}


def test_a_token_passes_as_url() -> None:
    stack = new_stack()
    url = cdk.CfnParameter(stack, "Url").value_as_string
    make_host(make_parts(stack, api=PrefectApi.self_hosted(url)))
    assert '"PREFECT_API_URL":"<Url>"' in user_data(Template.from_stack(stack))


def test_refuses_what_cannot_be() -> None:
    parts = make_parts()
    pool = parts.pool()
    for kwargs, words in (
        ({"poll_interval": cdk.Duration.millis(500)}, ("poll_interval must be at least one second; got 0.5 seconds",)),
        ({"environment": {"PREFECT_API_KEY": "pnu_1"}}, ("PREFECT_API_KEY", "ssm_secure_string")),
        ({"instance_type": ec2.InstanceType("micro")}, ("'micro' is not an instance type that runs Linux; use one",)),
    ):
        assert_refused(
            parts.stack,
            lambda kwargs=kwargs: make_host(parts, work_pool=pool, **kwargs),  # type: ignore[misc]
            *words,
        )


def test_a_network_without_a_way_out_is_refused() -> None:
    parts = make_parts()
    pool = parts.pool()
    closed = FlowNetwork(parts.stack, "Closed", mode="endpoints")
    assert_refused(
        parts.stack,
        lambda: make_host(parts, work_pool=pool, network=closed),
        "installs Prefect from PyPI",
        "mode 'public' or 'nat'",
    )


def test_the_host_starts_after_its_way_out() -> None:
    parts = make_parts()
    pool = parts.pool()
    make_host(parts, work_pool=pool, network=FlowNetwork(parts.stack, "Nat", mode="nat"))
    template = Template.from_stack(parts.stack)
    routes = [name for name in template.find_resources("AWS::EC2::Route") if name.startswith("NatVpcPrivate")]
    assert routes
    assert set(routes) <= set(group(template)["DependsOn"])


def test_two_in_one_stack() -> None:
    parts = make_parts()
    pool = parts.pool()
    make_host(parts, "One", work_pool=pool)
    make_host(parts, "Two", work_pool=pool)
    template = Template.from_stack(parts.stack)
    names = {found["Properties"]["AutoScalingGroupName"] for found in template.find_resources(GROUP).values()}
    assert len(names) == 2


def test_it_stands_for_the_worker() -> None:
    parts = make_parts()
    host = make_host(parts)
    assert [g.security_group_id for g in host.connections.security_groups] == [host.security_group.security_group_id]
    log_group = logs.LogGroup(parts.stack, "Audit", retention=logs.RetentionDays.ONE_DAY)
    log_group.grant_write(host)
    found = statements(Template.from_stack(parts.stack), "HostRole")
    assert (
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], ["<Audit.Arn>", "<Logs.Arn>"]) in found
        or allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<Audit.Arn>") in found
    )


def test_imported_resources() -> None:
    stack = new_stack()
    parts = make_parts(stack)
    network = FlowNetwork(
        stack,
        "Other",
        vpc=imported_vpc(stack, construct_id="OtherVpc"),
        security_group=ec2.SecurityGroup.from_security_group_id(stack, "Group", "sg-1"),
    )
    log_group = logs.LogGroup.from_log_group_name(stack, "OtherLogs", "/ours")
    make_host(parts, network=network, log_group=log_group)
    template = Template.from_stack(stack)
    assert json.dumps("/ours")[1:-1] in user_data(template)
    arn = "arn:<AWS::Partition>:logs:<AWS::Region>:<AWS::AccountId>:log-group:/ours:*"
    assert allow(["logs:CreateLogStream", "logs:PutLogEvents"], arn) in statements(template, "HostRole")
