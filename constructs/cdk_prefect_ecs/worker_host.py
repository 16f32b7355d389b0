"""The worker on one small EC2 instance: the cheapest one that is always on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.durations import seconds_of
from cdk_prefect_ecs.instance_types import check_host_type
from cdk_prefect_ecs.names import task_definition_family
from cdk_prefect_ecs.network import FlowNetwork
from cdk_prefect_ecs.network_reach import check_host_reach
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.required_policy import grantees, records
from cdk_prefect_ecs.settings import check_host_settings
from cdk_prefect_ecs.work_pool import WorkPool
from cdk_prefect_ecs.worker_environment import DEFAULT_POLL_SECONDS, worker_environment

DEFAULT_INSTANCE_TYPE: Final = "t4g.micro"

# Public parameters that name the newest image of Amazon Linux 2023. Source: "Launching AL2023 using the SSM parameter",
# Amazon Linux 2023 User Guide.
_IMAGE_PARAMETERS: Final = {
    "ARM64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
    "X86_64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
}
#: The disk of the images is 8 GiB; the system, the worker and a GiB of swap take 4 of them.
_DISK_GIB: Final = 8
#: Set-up takes two to four minutes, most of it pip. What is not online then never will be.
_ONLINE_WITHIN_MINUTES: Final = 15
#: A host lives this long: its successor starts from the newest image, with the newest kernel.
_LIFETIME_DAYS: Final = 7
_HOOK: Final = "online"

# What Session Manager needs, instead of AmazonSSMManagedInstanceCore, which may read every parameter of the account.
# Source: "Create a custom IAM role for Session Manager", AWS Systems Manager User Guide.
_SESSION_MANAGER_ACTIONS: Final = [
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
]


@jsii.implements(ec2.IConnectable, iam.IGrantable)
class WorkerHost(Construct):
    """Define the always-on Prefect worker as one small EC2 instance, in place of a
    :class:`~cdk_prefect_ecs.WorkerService`.

    Creates an Auto Scaling group of one Amazon Linux 2023 instance, its role and a security group without ingress. In
    us-east-1 at list price a t4g.micro with its disk is $6.77 a month, and $3.65 more for its address in a public
    subnet; the worker service is $18.02, and the same for its address. What it costs in care: systemd, the group and
    the weekly change of the host look after it, but it has no container image: Prefect is installed from PyPI at the
    versions that this release was tested with, so the host needs a way to the internet.

    systemd restarts the worker when it ends, and when it no longer polls; the group replaces the host when it is
    unhealthy, when its zone is lost, when anything of it changes, and every week. The new worker is online before the
    old one goes, or the old one stays; a deployment whose worker does not come online fails within 15 minutes.

    There is no SSH, no key and no open port: look inside with ``aws ssm start-session``. The API's credential is read
    by the host's role when the worker starts and is never on disk. Logs are in the log group, in
    ``worker/host/INSTANCE``.

    :param work_pool: The pool to serve; the host's role is granted to run its flow runs.
    :param api: The Prefect API to poll.
    :param network: Network of the host: it has a public address where tasks have one.
    :param log_group: Log group of the worker; streams begin with ``worker/``.
    :param role: Role of the host, assumed by EC2. Default: a new one; see :class:`~cdk_prefect_ecs.RequiredPolicy` for
        what one of your own needs.
    :param instance_type: Type of the instance, ARM or x86. The worker takes 140 to 330 MB, so a t4g.nano (512 MiB,
        $3.07 a month less than the default) needs its swap file. Default: t4g.micro.
    :param machine_image: An image of Amazon Linux 2023 for that architecture; a pinned one still gets its security
        updates, but for the kernel. Default: the newest one whenever a host starts.
    :param poll_interval: How often the worker asks for runs that are due. Default: 5 seconds.
    :param environment: More environment variables of the worker; no secrets. Default: none.
    :raises ValueError: ``poll_interval`` below a second, a credential in ``environment``, no instance type that runs
        Linux, a network in mode ``endpoints``.
    """

    role: iam.IRole
    """The host's role."""
    group: autoscaling.AutoScalingGroup
    """The Auto Scaling group of one."""
    group_name: str
    """Its name, known at synth."""
    launch_template: ec2.LaunchTemplate
    """How the group starts a host."""
    security_group: ec2.SecurityGroup
    """The host's security group: no ingress."""

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        work_pool: WorkPool,
        api: PrefectApi,
        network: FlowNetwork,
        log_group: logs.ILogGroup,
        role: iam.IRole | None = None,
        instance_type: ec2.InstanceType | None = None,
        machine_image: ec2.IMachineImage | None = None,
        poll_interval: cdk.Duration | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        poll_interval = poll_interval or cdk.Duration.seconds(DEFAULT_POLL_SECONDS)
        check_host_settings(seconds_of("poll_interval", poll_interval), environment)
        check_host_reach(network.mode)
        instance_type = instance_type or ec2.InstanceType(DEFAULT_INSTANCE_TYPE)
        architecture = check_host_type(instance_type.to_string())
        super().__init__(scope, construct_id)

        stack = cdk.Stack.of(self)
        image = machine_image or ec2.MachineImage.resolve_ssm_parameter_at_launch(_IMAGE_PARAMETERS[architecture])
        # The host calls the group by its name, which CloudFormation cannot tell it: the group is made from the host's
        # template. The address keeps two hosts of one pool apart.
        self.group_name = task_definition_family(
            cdk.Names.unique_id(stack) if cdk.Token.is_unresolved(stack.stack_name) else stack.stack_name,
            work_pool.work_pool_name,
            f"worker-{self.node.addr[-8:]}",
        )
        self.security_group = ec2.SecurityGroup(
            self, "SecurityGroup", vpc=network.vpc, description="Prefect worker host: no ingress"
        )
        code = s3_assets.Asset(
            self,
            "Code",
            path=str(Path(__file__).parent),
            exclude=[
                "*",
                "!host",
                "!host/*",
                "!container",
                "!container/*.py",
                "!functions",
                *(f"!functions/{name}.py" for name in ("__init__", "credential", "prefect_api")),
                "__pycache__",
            ],
            ignore_mode=cdk.IgnoreMode.GIT,
        )
        self.role = role or iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            description="Prefect ECS worker on an EC2 instance",
        )
        for grantee in grantees(self, self.role):
            self._grant(grantee, api, log_group, code)
            work_pool.grant_run(grantee)
        for record in records(self, self.role):  # the CDK grants it to the role itself
            iam.Grant.add_to_principal(
                grantee=record, actions=["cloudformation:SignalResource"], resource_arns=[cdk.Aws.STACK_ID]
            )
        settings = {
            "WorkPoolName": work_pool.work_pool_name,
            "Environment": {
                **worker_environment(api=api, work_pool=work_pool, poll_interval=poll_interval),
                "AWS_REGION": stack.region,
                "AWS_DEFAULT_REGION": stack.region,
                # The health check asks from the host itself; nobody else may.
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                **network.environment,
                **(environment or {}),
            },
            "Credential": api.function_reference(self),
            "SecretVariable": api.secret_variable,
            "LogGroupName": log_group.log_group_name,
            "Region": stack.region,
        }
        user_data = self._user_data(stack.to_json_string(settings), log_group, code)
        self.launch_template = ec2.LaunchTemplate(
            self,
            "LaunchTemplate",
            instance_type=instance_type,
            machine_image=image,
            role=self.role,
            security_group=self.security_group,
            user_data=user_data,
            associate_public_ip_address=network.assign_public_ip,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(
                        _DISK_GIB,
                        encrypted=True,
                        volume_type=ec2.EbsDeviceVolumeType.GP3,
                        delete_on_termination=True,
                    ),
                )
            ],
            require_imdsv2=True,
            http_endpoint=True,
            # Nothing behind the host, such as a container, gets the role's credentials.
            http_put_response_hop_limit=1,
        )
        online_within = cdk.Duration.minutes(_ONLINE_WITHIN_MINUTES)
        self.group = autoscaling.AutoScalingGroup(
            self,
            "Group",
            auto_scaling_group_name=self.group_name,
            vpc=network.vpc,
            vpc_subnets=ec2.SubnetSelection(subnets=list(network.subnets)),
            launch_template=self.launch_template,
            min_capacity=1,
            max_capacity=2,  # two at once do no harm, none at all does: the new one starts before the old one stops
            min_healthy_percentage=100,
            max_healthy_percentage=200,
            max_instance_lifetime=cdk.Duration.days(_LIFETIME_DAYS),
            health_checks=autoscaling.HealthChecks.ec2(),
            # Free, and what says that there is a host at all.
            group_metrics=[autoscaling.GroupMetrics(autoscaling.GroupMetric.IN_SERVICE_INSTANCES)],
            signals=autoscaling.Signals.wait_for_count(1, timeout=online_within),
            update_policy=autoscaling.UpdatePolicy.rolling_update(
                max_batch_size=1,
                min_instances_in_service=1,
                wait_on_resource_signals=True,
                pause_time=online_within,
            ),
        )
        user_data.add_signal_on_exit_command(self.group)
        self._wait_for_worker_at_every_start()
        # A wrong key or URL fails at the pool, in seconds. A host needs its permissions and a way out to start.
        self.group.node.add_dependency(work_pool.resource, self.role, network.connectivity)
        api.let_in(self, self.security_group, waiting=self.group)

    def _grant(
        self, grantee: iam.IGrantable, api: PrefectApi, log_group: logs.ILogGroup, code: s3_assets.Asset
    ) -> None:
        stack = cdk.Stack.of(self)

        def allow(actions: list[str], resource: str) -> None:
            iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=[resource])

        log_group.grant_write(grantee)
        api.grant_read_secret(self, grantee)
        # Not grant_read, which would open the whole bucket of all assets.
        allow(
            ["s3:GetObject"],
            stack.format_arn(
                service="s3",
                region="",
                account="",
                resource=code.s3_bucket_name,
                resource_name=code.s3_object_key,
            ),
        )
        allow(
            ["autoscaling:CompleteLifecycleAction"],
            stack.format_arn(
                service="autoscaling",
                resource="autoScalingGroup",
                resource_name=f"*:autoScalingGroupName/{self.group_name}",
                arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
            ),
        )
        allow(_SESSION_MANAGER_ACTIONS, "*")

    def _user_data(self, settings: str, log_group: logs.ILogGroup, code: s3_assets.Asset) -> ec2.UserData:
        user_data = ec2.UserData.for_linux()
        # A failed set-up says why where the worker would have logged; before pip there is only the AWS CLI.
        user_data.add_on_exit_commands(
            'if [ "$exitCode" -ne 0 ]; then',
            "  report_failure || echo 'Failed to report to CloudWatch Logs'",
            "fi",
        )
        code_folder = "/opt/prefect-worker/code/cdk_prefect_ecs"
        user_data.add_commands(
            "set -euo pipefail",
            f"export AWS_REGION={cdk.Aws.REGION} AWS_DEFAULT_REGION={cdk.Aws.REGION}",
            "instance=$(cat /var/lib/cloud/data/instance-id)",
            "report_failure() {",
            f"  local stream=worker/host/$instance-setup group={log_group.log_group_name}",
            '  aws logs create-log-stream --log-group-name "$group" --log-stream-name "$stream"',
            "  tail --bytes=20000 /var/log/cloud-init-output.log | python3 -c '"
            "import json, sys, time; print(json.dumps([{"
            '"timestamp": int(time.time() * 1000), "message": sys.stdin.read() or "no output"}]))'
            "' >/run/prefect-worker-failure.json",
            '  aws logs put-log-events --log-group-name "$group" --log-stream-name "$stream" '
            "--log-events file:///run/prefect-worker-failure.json >/dev/null",
            "}",
            f"mkdir -p /etc/prefect-worker {code_folder}",
            "cat >/etc/prefect-worker/settings.json <<'END_OF_SETTINGS'",
            settings,
            "END_OF_SETTINGS",
            f"aws s3 cp --only-show-errors {code.s3_object_url} /run/prefect-worker.zip",
            f"python3 -m zipfile -e /run/prefect-worker.zip {code_folder}",
            f"/bin/bash {code_folder}/host/install.sh",
            f"aws autoscaling complete-lifecycle-action --lifecycle-hook-name {_HOOK} "
            f'--auto-scaling-group-name {shlex.quote(self.group_name)} --instance-id "$instance" '
            "--lifecycle-action-result CONTINUE",
        )
        return user_data

    def _wait_for_worker_at_every_start(self) -> None:
        """Count a host as in service when it says so, not when it has booted: also when no deployment is watching.
        Otherwise the weekly change would give up a good host for one whose set-up failed. A hook of its own would come
        too late for the first host."""
        group = self.group.node.default_child
        assert isinstance(group, autoscaling.CfnAutoScalingGroup)
        group.lifecycle_hook_specification_list = [
            autoscaling.CfnAutoScalingGroup.LifecycleHookSpecificationProperty(
                lifecycle_hook_name=_HOOK,
                lifecycle_transition="autoscaling:EC2_INSTANCE_LAUNCHING",
                heartbeat_timeout=_ONLINE_WITHIN_MINUTES * 60,
                default_result="ABANDON",
            )
        ]

    @property
    def connections(self) -> ec2.Connections:
        """The host's connections."""
        return self.security_group.connections

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The host's role."""
        return self.role.grant_principal
