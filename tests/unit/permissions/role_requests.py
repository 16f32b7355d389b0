"""What each role is for, as AWS asks IAM about it: actions, resources and condition keys."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from recorded_worker import TASK, Call, recorded

from embedded.emulator.authorization import required
from tools.permissions.catalogue import KINDS
from tools.permissions.evaluation import Request
from tools.permissions.example import PARAMETER, SERVICE, example
from tools.permissions.policies import ACCOUNT, REGION
from tools.permissions.reference import find_action

ECS_TASKS = "ecs-tasks.amazonaws.com"
CLUSTER = "ecs:cluster"
KEY = "AWS::KMS::Key"
LOG_GROUP = "AWS::Logs::LogGroup"
QUEUE = "AWS::SQS::Queue"


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


def made(prefix: str, kind: str) -> str:
    """The ARN of the one resource of this type whose logical id begins so."""
    resources = example().templates.resources(SERVICE)
    (logical_id,) = (
        name for name, resource in resources.items() if name.startswith(prefix) and resource["Type"] == kind
    )
    return str(example().templates.resolve(SERVICE, {"Fn::GetAtt": [logical_id, "Arn"]}))


def cluster() -> str:
    return made("Cluster", "AWS::ECS::Cluster")


def in_cluster(kind: str, name: str) -> str:
    """The ARN of something in the cluster, which has its name in it."""
    return arn("ecs", f"{kind}/{cluster().rpartition('/')[2]}/{name}")


def stream(log_group: str, name: str) -> str:
    return f"{made(log_group, LOG_GROUP).removesuffix(':*')}:log-stream:{name}"


def writing(log_group: str, name: str) -> list[Request]:
    return [Request(f"logs:{action}", stream(log_group, name)) for action in ("CreateLogStream", "PutLogEvents")]


def decrypting(service: str) -> Request:
    return Request("kms:Decrypt", made("Key", KEY), {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"})


def passing(*kinds: str) -> list[Request]:
    return [Request("iam:PassRole", example().role(kind).arn, {"iam:PassedToService": ECS_TASKS}) for kind in kinds]


def reading_the_credential() -> list[Request]:
    return [Request("ssm:GetParameter", arn("ssm", f"parameter{PARAMETER}")), decrypting("ssm")]


def by_aws(kind: str, prefix: str, resource: Callable[[str], str]) -> list[Request]:
    """The actions of a service that AWS takes with a role; on ``*`` those that support no resource."""
    return [
        Request(action, resource(action) if find_action(action).resource_types else "*")
        for action in KINDS[kind].by_aws
        if action.startswith(prefix)
    ]


def network_interfaces(kind: str) -> list[Request]:
    on_subnet = {"ec2:CreateNetworkInterface": "subnet/subnet-1"}
    return by_aws(kind, "ec2:", lambda action: arn("ec2", on_subnet.get(action, "network-interface/eni-1")))


@functools.cache
def of_the_worker() -> tuple[Request, ...]:
    """What AWS asks IAM about the calls of the recorded worker."""
    return tuple(dict.fromkeys(request for call in recorded(example()) for request in asked(call)))


def asked(call: Call) -> Iterator[Request]:
    if call.service == "sqs":
        yield Request("sqs:GetQueueUrl", arn("sqs", call.arguments["QueueName"]))
        return
    assert call.service == "ecs", call
    tags = {f"aws:RequestTag/{tag['key']}": tag["value"] for tag in call.arguments.get("tags", [])}
    checks = required(call.operation, dict(call.arguments), account=ACCOUNT, region=REGION, definition=call.definition)
    for check in checks:
        tagged = tags if check.action in ("ecs:RunTask", "ecs:TagResource") else {}
        # The id of a task that is not there yet, and the revision of a task definition.
        resource = re.sub(r"\*$", TASK if ":task/" in check.resource else "1", check.resource)
        yield Request(check.action, resource if len(check.resource) > 1 else "*", {**check.context, **tagged})


def of_the_host() -> list[Request]:
    resources = example().templates.resources(SERVICE).values()
    (script,) = (
        resource["Properties"]["LaunchTemplateData"]["UserData"]
        for resource in resources
        if resource["Type"] == "AWS::EC2::LaunchTemplate" and "prefect-worker" in str(resource)
    )
    (code,) = re.findall(r"aws s3 cp --only-show-errors s3://(\S+)", script)
    (group,) = set(re.findall(r"--auto-scaling-group-name (\S+)", script))
    return [
        *of_the_worker(),
        *writing("PrefectLogGroup", "worker/host/i-1"),
        *reading_the_credential(),
        Request("s3:GetObject", f"arn:aws:s3:::{code}"),
        Request(
            "autoscaling:CompleteLifecycleAction",
            arn("autoscaling", f"autoScalingGroup:1:autoScalingGroupName/{group}"),
        ),
        Request("cloudformation:SignalResource", example().templates.resolve(SERVICE, {"Ref": "AWS::StackId"})),
        *by_aws("worker-host", "ssm", lambda _: arn("ec2", "instance/i-1")),
    ]


def of_flow_runs() -> list[Request]:
    bucket = made("PrefectStorageBucket", "AWS::S3::Bucket")
    files = made("Files", "AWS::EFS::FileSystem")
    access_point = {"elasticfilesystem:AccessPointArn": made("FilesData", "AWS::EFS::AccessPoint")}
    mine = f"{SERVICE}-Dask"
    return [
        Request("s3:ListBucket", bucket, {"s3:prefix": "code/flows/"}),
        *(Request("s3:GetObject", f"{bucket}/{key}") for key in ("code/flows/flights.py", "results/1", "data/1.csv")),
        *(
            Request(action, f"{bucket}/{key}")
            for action in ("s3:PutObject", "s3:AbortMultipartUpload")
            for key in ("results/1", "data/1.parquet")
        ),
        *(Request(f"elasticfilesystem:Client{what}", files, access_point) for what in ("Mount", "Write")),
        Request("ecs:DescribeClusters", cluster()),
        Request("ecs:ListAccountSettings", "*"),
        Request("ec2:DescribeNetworkInterfaces", "*"),
        *(
            Request(
                "ecs:RunTask",
                arn("ecs", f"task-definition/{mine}-{what}:3"),
                {CLUSTER: cluster(), "aws:RequestTag/dask-access": mine},
            )
            for what in ("scheduler", "worker")
        ),
        Request(
            "ecs:TagResource",
            in_cluster("task", TASK),
            {"ecs:CreateAction": "RunTask", "aws:RequestTag/dask-access": mine},
        ),
        *(
            Request(action, in_cluster("task", TASK), {CLUSTER: cluster(), "aws:ResourceTag/dask-access": mine})
            for action in ("ecs:DescribeTasks", "ecs:StopTask")
        ),
        *passing("dask-execution", "dask-task"),
    ]


def of_lazarus() -> list[Request]:
    queue = made("PrefectLazarusTaskEventsQueue", QUEUE)
    return [
        *writing("PrefectLazarusLogGroup", "2026/01/01/[1]"),
        *network_interfaces("lazarus"),
        *reading_the_credential(),
        Request("ecs:ListTasks", "*", {CLUSTER: cluster()}),
        Request("ecs:DescribeTasks", in_cluster("task", TASK), {CLUSTER: cluster()}),
        Request("ecs:StopTask", in_cluster("task", TASK), {CLUSTER: cluster()}),
        Request("logs:GetLogEvents", stream("PrefectLogGroup", f"flow-run/prefect/{TASK}")),
        *(Request(f"sqs:{action}", queue) for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")),
        Request("sqs:SendMessage", made("PrefectLazarusDeadLetterQueue", QUEUE)),
    ]


def of_instances() -> list[Request]:
    of_cluster = [action for action in KINDS["instances"].by_aws if re.search("Submit|egister", action)]
    return [
        *(Request(action, cluster()) for action in of_cluster),
        *(
            Request(f"ecs:{action}", in_cluster("container-instance", "1"), {CLUSTER: cluster()})
            for action in ("Poll", "StartTelemetrySession", "UpdateContainerInstancesState")
        ),
        Request("ecs:DiscoverPollEndpoint", "*"),
    ]


def of_the_agent() -> list[Request]:
    return [
        *writing("PrefectLogGroup", f"flow-run/prefect/{TASK}"),
        Request("ssm:GetParameters", arn("ssm", f"parameter{PARAMETER}")),
        Request("secretsmanager:GetSecretValue", made("Db", "AWS::SecretsManager::Secret")),
        decrypting("ssm"),
        *by_aws("execution", "ecr:", lambda _: made("Images", "AWS::ECR::Repository")),
    ]


def taking(*names: str) -> list[Request]:
    return [
        Request("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-{name}-role-{ACCOUNT}-{REGION}")
        for name in names
    ]


def of_deployments() -> list[Request]:
    code = f"{made('PrefectStorageBucket', 'AWS::S3::Bucket')}/code/flows/flights.py"
    return [
        *taking("lookup", "deploy", "file-publishing", "image-publishing"),
        Request("cloudformation:DescribeStacks", arn("cloudformation", f"stack/{SERVICE}/id")),
        Request("s3:PutObject", code),
        Request("s3:AbortMultipartUpload", code),
        *reading_the_credential(),
    ]


_REQUESTS: Mapping[str, Callable[[], Sequence[Request]]] = {
    "execution": of_the_agent,
    "worker": lambda: [*of_the_worker(), *by_aws("worker", "ssmmessages:", str)],
    "worker-host": of_the_host,
    "flow": of_flow_runs,
    "lazarus": of_lazarus,
    "work-pool-sync": lambda: [
        *writing("WorkPoolSync", "2026/01/01/[1]"),
        *network_interfaces("work-pool-sync"),
        *reading_the_credential(),
    ],
    "dask-execution": lambda: writing("DaskLogGroup", f"dask/dask-worker/{TASK}"),
    "dask-task": list,
    "deploy": of_deployments,
    "diff": lambda: taking("lookup"),
    "server-execution": lambda: [
        *writing("ServerLogGroup", f"server/server/{TASK}"),
        *(
            Request("secretsmanager:GetSecretValue", made(name, "AWS::SecretsManager::Secret"))
            for name in ("ServerAuthString", "ServerDatabaseSecret")
        ),
        decrypting("secretsmanager"),
        *by_aws("server-execution", "ecr:", lambda _: made("Images", "AWS::ECR::Repository")),
    ],
    "server-task": list,
    "instances": of_instances,
}


@functools.cache
def requests(kind: str) -> tuple[Request, ...]:
    """What a role of this kind is for, in the stack where it may the most."""
    return tuple(_REQUESTS[kind]())
