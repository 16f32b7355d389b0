"""The roles that the constructs make: whose code uses each, and what AWS itself does with it.

A role may do what its code calls and what AWS does with it, and nothing else: tests/unit/permissions compares. Where
code names a call that it does not make here, that is said too, with the reason.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import yaml

from tools.permissions.example import HOSTED, ROOT, Example, example
from tools.permissions.operations import cli_calls
from tools.permissions.source_calls import Module, SourceCall, modules, source_calls

FLOWS: Final = ROOT / "flows"
HOST: Final = ROOT / "constructs" / "cdk_prefect_ecs" / "host"


@dataclass(frozen=True)
class NotMade:
    """Calls that are in the code and are not made with this role.

    :param why: A sentence.
    :param calls: Patterns of function, service and method, such as ``*.run sqs:receive_message``.
    """

    why: str
    calls: tuple[str, ...]

    def covers(self, call: SourceCall) -> bool:
        """Whether this is about that call."""
        text = f"{call.function} {call.service}:{call.method}"
        return any(fnmatch.fnmatchcase(text, pattern) for pattern in self.calls)


@dataclass(frozen=True)
class Kind:
    """A kind of role.

    :param title: What it is, in a heading.
    :param who: Who has it and what for; sentences.
    :param calls: The calls that its code names.
    :param by_aws: What AWS does with it, or what goes with a call: IAM actions, each with a sentence.
    :param not_made: Calls of the code that are not made.
    """

    title: str
    who: str
    calls: Callable[[], Iterable[SourceCall]] = tuple
    by_aws: Mapping[str, str] = field(default_factory=dict)
    not_made: tuple[NotMade, ...] = ()

    def named(self) -> set[SourceCall]:
        """Every call that the code names."""
        return set(self.calls())

    def made(self) -> set[SourceCall]:
        """The calls that the code makes with this role."""
        return {call for call in self.named() if not any(reason.covers(call) for reason in self.not_made)}


@cache
def worker_calls() -> set[SourceCall]:
    """What the worker of the pinned prefect-aws calls."""
    return source_calls(modules(["prefect_aws.workers.ecs_worker"], within=["prefect_aws"]))


@cache
def function_calls(name: str) -> set[SourceCall]:
    """What one of our functions calls."""
    package = "cdk_prefect_ecs.functions"
    return source_calls(modules([f"{package}.{name}"], within=[package]))


def host_calls() -> set[SourceCall]:
    """What a host calls: the worker, our own code beside it, and the script that sets it up."""
    own = [f"cdk_prefect_ecs.host.{path.stem}" for path in sorted(HOST.glob("*.py")) if path.stem != "__init__"]
    within = ["cdk_prefect_ecs.host", "cdk_prefect_ecs.functions"]
    return {*worker_calls(), *source_calls(modules(own, within=within)), *user_data_calls(example())}


def user_data_calls(app: Example) -> set[SourceCall]:
    """What the user data of the host calls, through the AWS CLI."""
    (template,) = (
        resource["Properties"]["LaunchTemplateData"]
        for resource in app.templates.resources(HOSTED).values()
        if resource["Type"] == "AWS::EC2::LaunchTemplate"
    )
    return {SourceCall(service, method, "user data", "") for service, method in cli_calls(template["UserData"])}


@cache
def flow_calls() -> set[SourceCall]:
    """What flow runs call: the example flows, Prefect's pull step and result storage, dask-cloudprovider."""
    own = [Module(path.stem, path) for path in sorted(FLOWS.glob("*.py"))]
    dask = modules(["dask_cloudprovider.aws.ecs"], within=["dask_cloudprovider.aws.helper"])
    prefect = modules(["prefect_aws.s3", "prefect_aws.deployments.steps"], within=["prefect_aws"])
    entries = {*result_storage_methods(), *steps("pull")}
    return {*source_calls(own), *source_calls(dask), *source_calls(prefect, entries=entries)}


def result_storage_methods() -> set[str]:
    """The methods of a storage block that Prefect calls to keep results, and their asynchronous twins."""
    (results,) = modules(["prefect.results"], within=())
    called = {
        node.args[1].value
        for node in ast.walk(results.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.startswith("call_explicitly_")
        and isinstance(node.args[1], ast.Constant)
        and isinstance(node.args[1].value, str)
    }
    return {f"{prefix}{name}" for name in called for prefix in ("", "a")}


def steps(kind: str) -> set[str]:
    """The functions of prefect-aws that are executed to ``push`` flow code, or to ``pull`` it."""
    listed: list[dict[str, Any]] = yaml.safe_load((FLOWS / "prefect.yaml").read_text())[kind]
    return {name.rpartition(".")[2] for step in listed for name in step if name.startswith("prefect_aws.")}


@cache
def deployer_calls() -> set[SourceCall]:
    """What a workflow that deploys calls by itself: ``make flows``, and Prefect's push step in it."""
    own = modules(["tools.deploy_flows", "cdk_prefect_ecs.functions.credential"], within=())
    prefect = modules(["prefect_aws.s3", "prefect_aws.deployments.steps"], within=["prefect_aws"])
    return {*source_calls(own), *source_calls(prefect, entries=steps("push"))}


_SECRET_KEY: Final = {"kms:Decrypt": "SSM or Secrets Manager decrypts a secret for it that has a key of your own."}
_LOG: Final = dict.fromkeys(("logs:CreateLogStream", "logs:PutLogEvents"), "The agent writes the log of a task.")
_PULL: Final = dict.fromkeys(
    (
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetAuthorizationToken",
        "ecr:GetDownloadUrlForLayer",
    ),
    "The agent pulls an image from ECR.",
)
_LAMBDA_LOG: Final = dict.fromkeys(
    ("logs:CreateLogStream", "logs:PutLogEvents"), "Lambda writes the function's own log."
)
_LAMBDA_IN_VPC: Final = dict.fromkeys(
    (
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:UnassignPrivateIpAddresses",
    ),
    "Lambda manages the network interfaces of a function in a VPC, where it is for a private API.",
)
_SHELL: Final = (
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
)
_STARTS_TASKS: Final = {
    "iam:PassRole": "Who starts a task hands it its two roles.",
    "ecs:TagResource": "RunTask with tags asks for it as well; only as a part of RunTask.",
}
_CREDENTIALS_BLOCK: Final = NotMade(
    "Only with an AWS credentials block that names a role; neither the pool nor its result storage has one.",
    ("AwsCredentials.get_boto3_session sts:assume_role",),
)
_WORKER_NOT_MADE: Final = (
    NotMade(
        "The pool's template puts networkConfiguration into the request itself, so the worker looks up no VPC.",
        ("ECSWorker._load_network_configuration *", "ECSWorker._custom_network_configuration *"),
    ),
    NotMade(
        "The observer of prefect-aws asks for a queue that does not exist, and ends: Lazarus does its work.",
        (
            "EcsTaskTagsReader.read_tags *",
            "SqsSubscriber.stream_messages sqs:receive_message",
            "SqsSubscriber.stream_messages sqs:delete_message",
            "SqsSubscriber.stream_messages sqs:change_message_visibility",
            "_forward_cloudwatch_logs *",
            "fetch_cloudwatch_logs *",
            "deregister_task_definition *",
        ),
    ),
    _CREDENTIALS_BLOCK,
    NotMade(
        "Not of AWS: pydantic's SecretStr has a method of that name.",
        (
            "AwsCredentials.get_boto3_session secretsmanager:get_secret_value",
            "MinIOCredentials.get_boto3_session secretsmanager:get_secret_value",
        ),
    ),
)
_FLOW_NOT_MADE: Final = (
    _CREDENTIALS_BLOCK,
    NotMade("Not of AWS: Dask's client has a method of that name.", ("estimate s3:upload_file",)),
    NotMade(
        "dask-cloudprovider creates what it is not given, and deletes that again. It is given all of it: docs/dask.md.",
        (
            "ECSCluster._create_cloudwatch_logs_group *",
            "ECSCluster._create_cluster *",
            "ECSCluster._create_execution_role *",
            "ECSCluster._create_scheduler_task_definition_arn *",
            "ECSCluster._create_task_role *",
            "ECSCluster._create_worker_task_definition_arn *",
            "ECSCluster._delete_cluster *",
            "ECSCluster._delete_role *",
            "ECSCluster._delete_scheduler_task_definition_arn *",
            "ECSCluster._delete_security_groups *",
            "ECSCluster._delete_worker_task_definition_arn *",
            "create_default_security_group *",
            "get_default_vpc *",
            "get_latest_ami_id *",
            "get_security_group *",
            "get_vpc_subnets *",
        ),
    ),
    NotMade(
        "dask-cloudprovider would delete what it takes for abandoned; the setting skip_cleanup keeps it from that.",
        ("_cleanup_stale_resources *",),
    ),
    NotMade("Nobody asks a Dask cluster for the logs of its tasks; they are in CloudWatch.", ("Task.logs *",)),
)

KINDS: Final[Mapping[str, Kind]] = {
    "execution": Kind(
        "Execution role",
        "The ECS agent has it while it starts the worker and flow runs. No code in a container can use it.",
        by_aws={
            **_LOG,
            "ssm:GetParameters": "The agent injects what is in SSM parameters.",
            "secretsmanager:GetSecretValue": "The agent injects what is in Secrets Manager.",
            **_SECRET_KEY,
            **_PULL,
        },
    ),
    "worker": Kind(
        "Worker role",
        "The worker service has it: prefect-aws starts and stops the flow runs of its pool.",
        calls=worker_calls,
        by_aws={
            **_STARTS_TASKS,
            **dict.fromkeys(_SHELL, "ECS Exec into the worker, where it is turned on."),
        },
        not_made=_WORKER_NOT_MADE,
    ),
    "worker-host": Kind(
        "Role of a worker host",
        "The worker on an EC2 instance has it, in place of the worker role.",
        calls=host_calls,
        by_aws={
            **_STARTS_TASKS,
            **_SECRET_KEY,
            "cloudformation:SignalResource": "cfn-signal ends the deployment's wait for the host.",
            **dict.fromkeys(
                ("ssm:UpdateInstanceInformation", *_SHELL), "The agent of Session Manager: the only way into the host."
            ),
        },
        not_made=_WORKER_NOT_MADE,
    ),
    "flow": Kind(
        "Flow role",
        "Flow runs have it. What your flows need besides, you grant to it.",
        calls=flow_calls,
        by_aws={
            **_STARTS_TASKS,
            "elasticfilesystem:ClientMount": "A volume is mounted, where the pool has one.",
            "elasticfilesystem:ClientWrite": "It is written to, unless it is read-only.",
        },
        not_made=_FLOW_NOT_MADE,
    ),
    "lazarus": Kind(
        "Lazarus's role",
        "The function that reschedules flow runs has it.",
        calls=lambda: function_calls("lazarus"),
        by_aws={
            **_LAMBDA_LOG,
            **_LAMBDA_IN_VPC,
            **_SECRET_KEY,
            **dict.fromkeys(
                ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"),
                "Lambda reads the queue of task events for the function.",
            ),
            "sqs:SendMessage": "Lambda puts a scheduled call that failed twice among the dead letters.",
        },
    ),
    "work-pool-sync": Kind(
        "Role of the work pool's function",
        "The function that creates and updates the work pool in Prefect has it.",
        calls=lambda: function_calls("work_pool_sync"),
        by_aws={**_LAMBDA_LOG, **_LAMBDA_IN_VPC, **_SECRET_KEY},
    ),
    "dask-execution": Kind(
        "Execution role of Dask tasks",
        "The ECS agent has it while it starts schedulers and workers of Dask.",
        by_aws=_LOG,
    ),
    "dask-task": Kind(
        "Role of Dask tasks",
        "Schedulers and workers of Dask have it. It may do nothing until you grant it something.",
    ),
    "deploy": Kind(
        "Deploy role",
        "Jobs of CI that deploy have it: the CDK CLI and `make flows`. Which jobs, its trust policy says by their full "
        "names ([docs/pipeline.md](pipeline.md)).",
        calls=deployer_calls,
        by_aws={
            "sts:AssumeRole": "The CDK CLI takes the roles of `cdk bootstrap`, and does all else with those.",
            **_SECRET_KEY,
        },
        not_made=(_CREDENTIALS_BLOCK,),
    ),
    "diff": Kind(
        "Diff role",
        "Jobs of pull requests have it: `cdk diff --method=template`. It is a deploy role with `read_only`.",
        by_aws={"sts:AssumeRole": "The CDK CLI takes the role of `cdk bootstrap` that may look things up."},
    ),
    "server-execution": Kind(
        "Execution role of a Prefect server",
        "The ECS agent has it while it starts the server.",
        by_aws={
            **_PULL,
            **_LOG,
            "secretsmanager:GetSecretValue": "The agent injects the credential and the password of the database.",
            **_SECRET_KEY,
        },
    ),
    "server-task": Kind(
        "Role of a Prefect server",
        "The server has it. It may do nothing: the server calls nothing of AWS.",
    ),
    "instances": Kind(
        "Role of instances",
        "The ECS agent of EC2 instances has it, where the cluster has Auto Scaling capacity. Flow runs cannot use it.",
        by_aws={
            "ecs:RegisterContainerInstance": "The instance joins the cluster.",
            "ecs:DeregisterContainerInstance": "It leaves the cluster.",
            "ecs:DiscoverPollEndpoint": "The agent asks where to ask for tasks.",
            "ecs:Poll": "It asks for tasks.",
            "ecs:StartTelemetrySession": "It reports metrics.",
            "ecs:SubmitAttachmentStateChanges": "It reports what became of a network interface.",
            "ecs:SubmitContainerStateChange": "It reports what became of a container.",
            "ecs:SubmitTaskStateChange": "It reports what became of a task.",
            "ecs:UpdateContainerInstancesState": "It takes no new task once Spot is about to take the instance.",
        },
    ),
}

#: Roles of the example that are not of our making: how their logical id begins, and why they are there.
OTHERS: Final[Mapping[str, str]] = {
    "CustomVpcRestrictDefaultSG": "The CDK's function that empties the default security group of a new VPC.",
    "ClusterManagedOnDemandProviderOnDemandProviderRole": "ECS has it to start and stop Managed Instances.",
    "ClusterManagedOnDemandProviderInstanceRole": "The ECS agent of Managed Instances has it. The CDK writes it.",
    "ClusterOwnRole": "A machine of your own has it once it is registered (`FlowCluster.add_external_capacity`).",
}
