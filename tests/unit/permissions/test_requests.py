"""What each role is allowed and what it is denied, asked as AWS asks IAM.

The embedded AWS enforces IAM too, but it does not give every condition key that AWS gives. Here they all count.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import pytest
from recorded_worker import TASK, recorded
from role_requests import CLUSTER, arn, cluster, made, network_interfaces, requests

from tools.permissions.catalogue import KINDS
from tools.permissions.evaluation import Request, WrongQuestionError, allowed
from tools.permissions.example import HOSTED, PARAMETER, SERVICE, example
from tools.permissions.policies import ACCOUNT, REGION, Statement
from tools.permissions.reference import WRITING, action_names, filled_arn, find_action

FUNCTIONS = ["lazarus", "work-pool-sync"]
OTHER_CLUSTER = arn("ecs", "cluster/other")
OTHER_TASK = arn("ecs", f"task/other/{TASK}")
OTHER_ROLE = f"arn:aws:iam::{ACCOUNT}:role/Admin"
OTHER_KEY = arn("kms", "key/other")
OTHER_PARAMETER = arn("ssm", "parameter/prefect/other")
OTHER_LOG = arn("logs", "log-group:other:log-stream:1")
OTHER_QUEUE = arn("sqs", "other")
SERVICE_OF = "iam:PassedToService"
RESOURCE = "resource"


def bootstrap_role(name: str, *, account: str = ACCOUNT, region: str = REGION, qualifier: str = "hnb659fds") -> str:
    return f"arn:aws:iam::{account}:role/cdk-{qualifier}-{name}-role-{account}-{region}"


#: What is changed of an allowed request, so that it is not allowed any more; None takes a condition key away.
Change = Mapping[str, str | None]

STARTING_TASKS: list[tuple[str, Change]] = [
    ("ecs:RunTask", {CLUSTER: OTHER_CLUSTER}),
    ("ecs:RunTask", {CLUSTER: None}),
    ("ecs:RunTask", {RESOURCE: arn("ecs", "task-definition/other:1")}),
    ("ecs:StopTask", {CLUSTER: OTHER_CLUSTER}),
    ("ecs:StopTask", {CLUSTER: None}),
    ("ecs:StopTask", {RESOURCE: OTHER_TASK}),
    ("ecs:TagResource", {"ecs:CreateAction": None}),
    ("ecs:TagResource", {"ecs:CreateAction": "CreateService"}),
    ("ecs:TagResource", {RESOURCE: OTHER_TASK}),
    ("ecs:TagResource", {RESOURCE: arn("ecs", "service/other/web")}),
    ("iam:PassRole", {RESOURCE: OTHER_ROLE}),
    ("iam:PassRole", {SERVICE_OF: "lambda.amazonaws.com"}),
    ("iam:PassRole", {SERVICE_OF: "ec2.amazonaws.com"}),
    ("iam:PassRole", {SERVICE_OF: None}),
]
WORKER: list[tuple[str, Change]] = [
    *STARTING_TASKS,
    ("ecs:RunTask", {RESOURCE: arn("ecs", f"task-definition/{SERVICE}-etl-of-another-pool:1")}),
    ("ecs:RunTask", {RESOURCE: arn("ecs", f"task-definition/{SERVICE}-Dask-worker:1")}),
    ("ecs:RegisterTaskDefinition", {RESOURCE: arn("ecs", "task-definition/other:1")}),
    ("sqs:GetQueueUrl", {RESOURCE: OTHER_QUEUE}),
]
CREDENTIAL: list[tuple[str, Change]] = [
    ("ssm:GetParameter", {RESOURCE: OTHER_PARAMETER}),
    ("ssm:GetParameter", {RESOURCE: arn("ssm", f"parameter{PARAMETER}-old")}),
    ("kms:Decrypt", {RESOURCE: OTHER_KEY}),
]
OWN_LOG: list[tuple[str, Change]] = [
    ("logs:CreateLogStream", {RESOURCE: OTHER_LOG}),
    ("logs:PutLogEvents", {RESOURCE: OTHER_LOG}),
]
DENIED: Mapping[str, list[tuple[str, Change]]] = {
    "execution": [
        *OWN_LOG,
        ("ssm:GetParameters", {RESOURCE: OTHER_PARAMETER}),
        ("secretsmanager:GetSecretValue", {RESOURCE: arn("secretsmanager", "secret:other-AbCdEf")}),
        ("kms:Decrypt", {RESOURCE: OTHER_KEY}),
        ("ecr:BatchGetImage", {RESOURCE: arn("ecr", "repository/other")}),
        ("ecr:GetDownloadUrlForLayer", {RESOURCE: arn("ecr", "repository/other")}),
    ],
    "worker": WORKER,
    "worker-host": [
        *WORKER,
        *CREDENTIAL,
        *OWN_LOG,
        ("s3:GetObject", {RESOURCE: f"arn:aws:s3:::cdk-hnb659fds-assets-{ACCOUNT}-{REGION}/other.zip"}),
        (
            "autoscaling:CompleteLifecycleAction",
            {RESOURCE: arn("autoscaling", "autoScalingGroup:1:autoScalingGroupName/other")},
        ),
        ("cloudformation:SignalResource", {RESOURCE: arn("cloudformation", "stack/Other/id")}),
    ],
    "flow": [
        *STARTING_TASKS,
        ("ecs:RunTask", {RESOURCE: arn("ecs", f"task-definition/{SERVICE}-etl:1")}),
        ("ecs:RunTask", {"aws:RequestTag/dask-access": "of-another"}),
        ("ecs:RunTask", {"aws:RequestTag/dask-access": None}),
        ("ecs:StopTask", {"aws:ResourceTag/dask-access": "of-another"}),
        ("ecs:StopTask", {"aws:ResourceTag/dask-access": None}),
        ("ecs:DescribeTasks", {"aws:ResourceTag/dask-access": None}),
        ("ecs:DescribeTasks", {CLUSTER: OTHER_CLUSTER}),
        ("ecs:DescribeClusters", {RESOURCE: OTHER_CLUSTER}),
        ("s3:ListBucket", {RESOURCE: "arn:aws:s3:::other"}),
        ("s3:GetObject", {RESOURCE: "arn:aws:s3:::other/code/flows/flights.py"}),
        ("s3:PutObject", {RESOURCE: "arn:aws:s3:::other/results/1"}),
        ("elasticfilesystem:ClientMount", {"elasticfilesystem:AccessPointArn": None}),
        (
            "elasticfilesystem:ClientMount",
            {"elasticfilesystem:AccessPointArn": arn("elasticfilesystem", "access-point/other")},
        ),
        ("elasticfilesystem:ClientWrite", {RESOURCE: arn("elasticfilesystem", "file-system/other")}),
    ],
    "lazarus": [
        *CREDENTIAL,
        *OWN_LOG,
        ("ecs:ListTasks", {CLUSTER: OTHER_CLUSTER}),
        ("ecs:ListTasks", {CLUSTER: None}),
        ("ecs:DescribeTasks", {CLUSTER: OTHER_CLUSTER}),
        ("ecs:DescribeTasks", {RESOURCE: OTHER_TASK}),
        ("ecs:StopTask", {CLUSTER: OTHER_CLUSTER}),
        ("ecs:StopTask", {RESOURCE: OTHER_TASK}),
        ("logs:GetLogEvents", {RESOURCE: OTHER_LOG}),
        ("sqs:ReceiveMessage", {RESOURCE: OTHER_QUEUE}),
        ("sqs:DeleteMessage", {RESOURCE: OTHER_QUEUE}),
        ("sqs:SendMessage", {RESOURCE: OTHER_QUEUE}),
    ],
    "work-pool-sync": [*CREDENTIAL, *OWN_LOG],
    "dask-execution": OWN_LOG,
    "dask-task": [],
    "deploy": [
        *CREDENTIAL,
        ("sts:AssumeRole", {RESOURCE: OTHER_ROLE}),
        ("sts:AssumeRole", {RESOURCE: bootstrap_role("cfn-exec")}),
        ("sts:AssumeRole", {RESOURCE: bootstrap_role("deploy", region="eu-west-1")}),
        ("sts:AssumeRole", {RESOURCE: bootstrap_role("deploy", account="999999999999")}),
        ("sts:AssumeRole", {RESOURCE: bootstrap_role("deploy", qualifier="other")}),
        ("cloudformation:DescribeStacks", {RESOURCE: arn("cloudformation", "stack/Other/id")}),
        ("cloudformation:DescribeStacks", {RESOURCE: arn("cloudformation", f"stack/{SERVICE}-other/id")}),
        ("s3:PutObject", {RESOURCE: "arn:aws:s3:::other/code/flows/flights.py"}),
        *(
            ("s3:PutObject", {RESOURCE: f"{made('PrefectStorageBucket', 'AWS::S3::Bucket')}/{key}"})
            for key in ("results/1", "data/1.csv", "code")
        ),
    ],
    "diff": [
        ("sts:AssumeRole", {RESOURCE: OTHER_ROLE}),
        *(
            ("sts:AssumeRole", {RESOURCE: bootstrap_role(name)})
            for name in ("deploy", "cfn-exec", "file-publishing", "image-publishing")
        ),
    ],
    "server-execution": [
        *OWN_LOG,
        ("secretsmanager:GetSecretValue", {RESOURCE: arn("secretsmanager", "secret:other-AbCdEf")}),
        ("kms:Decrypt", {RESOURCE: OTHER_KEY}),
    ],
    "server-task": [],
    "instances": [
        ("ecs:RegisterContainerInstance", {RESOURCE: OTHER_CLUSTER}),
        ("ecs:SubmitTaskStateChange", {RESOURCE: OTHER_CLUSTER}),
        ("ecs:Poll", {CLUSTER: OTHER_CLUSTER}),
        ("ecs:Poll", {RESOURCE: arn("ecs", "container-instance/other/1")}),
        ("ecs:UpdateContainerInstancesState", {CLUSTER: OTHER_CLUSTER}),
    ],
}
DENIED_CASES = [(kind, action, change) for kind, cases in DENIED.items() for action, change in cases]


def statements(kind: str) -> Sequence[Statement]:
    return example().role(kind).statements


def changed(kind: str, action: str, change: Change) -> Request:
    """An allowed request with something changed."""
    request = next(request for request in requests(kind) if request.action == action)
    context = {**request.context, **{key: value for key, value in change.items() if key != RESOURCE}}
    return Request(
        action,
        change.get(RESOURCE) or request.resource,
        {key: value for key, value in context.items() if value is not None},
    )


@functools.cache
def decided() -> tuple[dict[tuple[str, Request], bool], list[bool]]:
    """Every request of every role, and every case of ``DENIED``: asked at once, as each question starts Node.js."""
    useful = [(kind, request) for kind in KINDS for request in requests(kind)]
    others = [(kind, changed(kind, action, change)) for kind, action, change in DENIED_CASES]
    answers = allowed([(statements(kind), request) for kind, request in [*useful, *others]])
    return dict(zip(useful, answers, strict=False)), answers[len(useful) :]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_role_is_for_is_allowed(kind: str) -> None:
    answers = decided()[0]
    assert [request for request in requests(kind) if not answers[kind, request]] == []


@pytest.mark.parametrize("index", range(len(DENIED_CASES)), ids=[f"{kind}-{a}-{c}" for kind, a, c in DENIED_CASES])
def test_what_is_others_is_denied(index: int) -> None:
    assert not decided()[1][index]


@pytest.mark.parametrize("kind", KINDS)
def test_each_action_of_a_role_is_asked_for(kind: str) -> None:
    assert {request.action for request in requests(kind)} == example().role(kind).actions


@pytest.mark.parametrize("kind", KINDS)
def test_each_resource_of_each_statement_is_needed(kind: str) -> None:
    """Alone, every resource that a statement names still allows something that the role is for."""
    alone = [
        dataclasses.replace(statement, resources=(resource,))
        for statement in statements(kind)
        if statement.effect == "Allow"
        for resource in statement.resources
    ]
    pairs = [(one, request) for one in alone for request in requests(kind) if request.action in one.actions]
    answers = allowed([([one], request) for one, request in pairs]) if pairs else []
    used = [one for (one, _), answer in zip(pairs, answers, strict=True) if answer]
    assert [one.document() for one in alone if one not in used] == []


def test_the_worker_makes_the_calls_that_are_in_its_source_and_no_others() -> None:
    calls = {(call.service, call.operation) for call in recorded(example())}
    assert calls == {
        ("sqs", "GetQueueUrl"),
        ("ecs", "DescribeTaskDefinition"),
        ("ecs", "RegisterTaskDefinition"),
        ("ecs", "RunTask"),
        ("ecs", "StopTask"),
    }
    named = {f"{call.service}:{call.method.replace('_', '')}" for call in KINDS["worker"].made()}
    assert named == {f"{service}:{operation.lower()}" for service, operation in calls}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_code_of_a_function_may_not_touch_network_interfaces(kind: str) -> None:
    """Lambda may, with the same role: its calls do not carry the function's ARN."""
    by_lambda = network_interfaces(kind)
    by_code = [
        dataclasses.replace(request, context={"lambda:SourceFunctionArn": arn("lambda", "function:Lazarus")})
        for request in by_lambda
    ]
    assert set(allowed([(statements(kind), request) for request in by_lambda])) == {True}
    assert set(allowed([(statements(kind), request) for request in by_code])) == {False}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_of_a_public_api_has_nothing_to_do_with_networks(kind: str) -> None:
    assert not any(action.startswith("ec2:") for action in example().role(kind, HOSTED).actions)


def test_only_the_secret_that_is_configured_can_be_read() -> None:
    """Where the credential is a parameter no secret can be read, and the other way round."""
    for kind in ("lazarus", "work-pool-sync", "worker-host"):
        with_parameter = example().role(kind).actions
        with_secret = example().role(kind, HOSTED).actions
        assert ("ssm:GetParameter" in with_parameter, "secretsmanager:GetSecretValue" in with_parameter) == (
            True,
            False,
        )
        assert ("ssm:GetParameter" in with_secret, "secretsmanager:GetSecretValue" in with_secret) == (False, True)


#: Services whose actions could do harm. Everything that these could change is asked about.
SERVICES = [
    *("autoscaling", "cloudformation", "ec2", "ecr", "ecs", "elasticfilesystem", "events", "iam", "kms", "lambda"),
    *("logs", "s3", "secretsmanager", "sns", "sqs", "ssm", "ssmmessages", "sts"),
]
#: Of these the two sources of the reference do not agree what they are taken on.
UNCLEAR = {
    "lambda:DeleteProvisionedConcurrencyConfig",
    "lambda:PutProvisionedConcurrencyConfig",
    "s3:CreateAccessGrant",
    "s3:CreateAccessGrantsLocation",
}
#: What roles may change on any resource, as AWS supports none there: connections of Session Manager's agent.
ON_ANYTHING = {
    "worker": {"ssmmessages"},
    "worker-host": {"ssmmessages", "ssm:UpdateInstanceInformation"},
    "instances": {"ecs:DiscoverPollEndpoint"},
}


def something(action: str) -> str:
    """The ARN of something of somebody else's that the action could be taken on."""
    known = find_action(action)
    for resource_type in sorted(known.resource_types, key=lambda name: not known.resource_types[name]):
        return filled_arn(known.service, resource_type, name="others", account=ACCOUNT, region=REGION)
    return "*"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_can_be_created_changed_or_deleted(kind: str) -> None:
    """Every action of these services that AWS does not count as reading, about a thousand, on what is others'."""
    source = {"lambda:SourceFunctionArn": arn("lambda", "function:f")} if kind in FUNCTIONS else {}
    asked = [
        Request(action, something(action), source)
        for service in SERVICES
        for action in action_names(service)
        if find_action(action).access_level in WRITING and action not in UNCLEAR
    ]
    assert len(asked) > 1000
    answers = allowed([(statements(kind), request) for request in asked])
    may = {request.action for request, answer in zip(asked, answers, strict=True) if answer}
    assert {action for action in may if not {action, action.partition(":")[0]} & ON_ANYTHING.get(kind, set())} == set()


def test_a_wrong_question_is_an_error() -> None:
    for request in (
        Request("ecs:Fly", "*"),
        Request("ecs:RunTask", "arn:aws:s3:::bucket"),
        Request("ecs:RunTask", arn("ecs", "task-definition/a:1"), {"ecs:CreateAction": "RunTask"}),
    ):
        with pytest.raises(WrongQuestionError):
            allowed([(statements("worker"), request)])


def test_the_evaluation_knows_what_the_embedded_aws_does_not() -> None:
    """It is asked with every condition key: a statement whose key is missing does not count."""
    policy = [
        Statement("", "identity", "Allow", ("ecs:StopTask",), ("*",), {"ArnEquals": {"ecs:cluster": cluster()}}),
        Statement("", "identity", "Deny", ("ecs:StopTask",), (OTHER_TASK,), {}),
    ]
    mine = arn("ecs", f"task/{cluster().rpartition('/')[2]}/{TASK}")
    questions = [
        Request("ecs:StopTask", mine, {CLUSTER: cluster()}),
        Request("ecs:StopTask", mine),
        Request("ecs:StopTask", OTHER_TASK, {CLUSTER: cluster()}),
    ]
    assert allowed([(policy, question) for question in questions]) == [True, False, False]
    assert made("Cluster", "AWS::ECS::Cluster") == cluster()


def test_the_key_of_a_flow_secret_lets_the_agent_in_through_secrets_manager_only() -> None:
    """The CDK says so in the policy of the key, and not in that of the role."""
    (key,) = (r for name, r in example().templates.resources(SERVICE).items() if name.startswith("Key"))
    policy = example().templates.resolve(SERVICE, key["Properties"]["KeyPolicy"])
    agent = example().role("execution").arn
    assert [
        (statement["Action"], statement["Condition"])
        for statement in policy["Statement"]
        if agent in statement["Principal"].get("AWS", ())  # alone, or with the agent of the server
    ] == [("kms:Decrypt", {"StringEquals": {"kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com"}})]
