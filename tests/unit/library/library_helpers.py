"""What the tests of the constructs share."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Template
from constructs import Construct

from cdk_prefect_ecs import (
    ExecutionRole,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    FlowRole,
    FlowStorage,
    PrefectApi,
    WorkerRole,
    WorkerService,
    WorkPool,
)

CDK_JSON = Path(__file__).parents[3] / "cdk.json"
CONTEXT = json.loads(CDK_JSON.read_text())["context"]
ACCOUNT_ID = "01234567-89ab-cdef-0123-456789abcdef"
WORKSPACE_ID = "fedcba98-7654-3210-fedc-ba9876543210"
CLOUD_URL = f"https://api.prefect.cloud/api/accounts/{ACCOUNT_ID}/workspaces/{WORKSPACE_ID}"
API_KEY_PARAMETER = "/prefect/api-key"
API_KEY_ARN = "arn:<AWS::Partition>:ssm:<AWS::Region>:<AWS::AccountId>:parameter/prefect/api-key"

_OUT = tempfile.TemporaryDirectory(prefix="library-tests-")
_HASH = re.compile(r"[0-9A-F]{8}$")


def new_app() -> cdk.App:
    """An app with the feature flags of cdk.json, which `cdk.App()` does not read by itself."""
    return cdk.App(
        context=CONTEXT,
        analytics_reporting=False,
        builtin_cloud_formation_validation=False,  # tests/policy is about that
        outdir=tempfile.mkdtemp(dir=_OUT.name),
    )


def new_stack(stack_id: str = "Test", **kwargs: Any) -> cdk.Stack:
    return cdk.Stack(new_app(), stack_id, **kwargs)


def cloud_api(parameter: str = API_KEY_PARAMETER) -> PrefectApi:
    return PrefectApi.cloud(
        account_id=ACCOUNT_ID, workspace_id=WORKSPACE_ID, api_key=PrefectApi.ssm_secure_string(parameter)
    )


def imported_vpc(scope: Construct, *, private: bool = True, construct_id: str = "Imported") -> ec2.IVpc:
    zones = ["us-east-1a", "us-east-1b"]
    private_subnets = {"private_subnet_ids": ["subnet-private-1", "subnet-private-2"]} if private else {}
    return ec2.Vpc.from_vpc_attributes(
        scope,
        construct_id,
        vpc_id="vpc-1",
        availability_zones=zones,
        public_subnet_ids=["subnet-public-1", "subnet-public-2"],
        **private_subnets,  # type: ignore[arg-type]
    )


@dataclass
class Parts:
    """What a work pool and a worker are put together from."""

    stack: cdk.Stack
    api: PrefectApi
    network: FlowNetwork
    cluster: FlowCluster
    storage: FlowStorage
    log_group: logs.ILogGroup
    execution_role: ExecutionRole
    worker_role: WorkerRole
    flow_role: FlowRole

    def pool(self, construct_id: str = "Pool", **kwargs: Any) -> WorkPool:
        given: dict[str, Any] = {
            "work_pool_name": "etl",
            "api": self.api,
            "cluster": self.cluster,
            "network": self.network,
            "storage": self.storage,
            "log_group": self.log_group,
            "execution_role": self.execution_role,
            "flow_role": self.flow_role,
        }
        return WorkPool(self.stack, construct_id, **(given | kwargs))

    def worker(self, work_pool: WorkPool, construct_id: str = "Worker", **kwargs: Any) -> WorkerService:
        given: dict[str, Any] = {
            "work_pool": work_pool,
            "api": self.api,
            "cluster": self.cluster,
            "network": self.network,
            "log_group": self.log_group,
            "execution_role": self.execution_role,
            "worker_role": self.worker_role,
        }
        return WorkerService(self.stack, construct_id, **(given | kwargs))


def make_parts(
    stack: cdk.Stack | None = None,
    *,
    api: PrefectApi | None = None,
    spot: bool = True,
    image: FlowImage | None = None,
    vpc: ec2.IVpc | None = None,
    cluster: FlowCluster | None = None,
) -> Parts:
    stack = stack or new_stack()
    api = api or cloud_api()
    network = FlowNetwork(stack, "Network", vpc=vpc or imported_vpc(stack))
    storage = FlowStorage(stack, "Storage")
    log_group = logs.LogGroup(stack, "Logs", retention=logs.RetentionDays.ONE_WEEK)
    return Parts(
        stack=stack,
        api=api,
        network=network,
        cluster=cluster or FlowCluster(stack, "Cluster", vpc=network.vpc, spot=spot),
        storage=storage,
        log_group=log_group,
        execution_role=ExecutionRole(stack, "ExecutionRole", log_group=log_group, api=api, image=image),
        worker_role=WorkerRole(stack, "WorkerRole"),
        flow_role=FlowRole(stack, "FlowRole", storage=storage),
    )


def plain(value: Any) -> Any:
    """A piece of a template to read: ``{"Ref": "Bucket1A2B3C4D"}`` is ``<Bucket>``, joins are joined."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"Ref"}:
        return f"<{_HASH.sub('', value['Ref'])}>"
    if set(value) == {"Fn::GetAtt"}:
        logical_id, attribute = value["Fn::GetAtt"]
        return f"<{_HASH.sub('', logical_id)}.{attribute}>"
    if set(value) == {"Fn::Join"}:
        separator, items = value["Fn::Join"]
        return separator.join(str(plain(item)) for item in items)
    return {key: plain(item) for key, item in value.items()}


def allow(
    actions: str | list[str], resources: str | list[str], conditions: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A statement as :func:`statements` returns it."""
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": sorted([actions] if isinstance(actions, str) else actions),
        "Resource": sorted([resources] if isinstance(resources, str) else resources),
    }
    return statement | {"Condition": conditions} if conditions else statement


def through(service: str) -> dict[str, Any]:
    """The condition under which a key may be used: when this service calls KMS."""
    return {"StringEquals": {"kms:ViaService": f"{service}.<AWS::Region>.amazonaws.com"}}


VPC_ACTIONS = [
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
]
#: What a function in a VPC has besides: its network interfaces are Lambda's to manage, not its code's.
IN_VPC = [
    allow(VPC_ACTIONS, "*"),
    {
        **allow(
            VPC_ACTIONS,
            "*",
            {
                "ArnLike": {
                    "lambda:SourceFunctionArn": "arn:<AWS::Partition>:lambda:<AWS::Region>:<AWS::AccountId>:function:*"
                }
            },
        ),
        "Effect": "Deny",
    },
]


def canonical(statement: Mapping[str, Any]) -> dict[str, Any]:
    readable = dict(plain(statement))
    for key in ("Action", "Resource"):
        if key in readable:
            value = readable[key]
            readable[key] = sorted(value) if isinstance(value, list) else [value]
    return readable


def in_order(policy: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(policy, key=lambda statement: json.dumps(statement, sort_keys=True))


def statements(template: Template, role: str, managed_policy: str | None = None) -> list[dict[str, Any]]:
    """Every statement that a role has, wherever it is written; `role` is its logical id without the hash. It has no
    managed policy besides the one that is named."""
    resources = template.to_json()["Resources"]
    found: list[dict[str, Any]] = []
    for logical_id, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::Role" and _HASH.sub("", logical_id) == role:
            managed = [plain(arn).rpartition("/")[2] for arn in properties.get("ManagedPolicyArns", [])]
            assert managed == ([managed_policy] if managed_policy else []), f"{role} has managed policies"
            for policy in properties.get("Policies", []):
                found += [canonical(statement) for statement in policy["PolicyDocument"]["Statement"]]
        elif resource["Type"] == "AWS::IAM::Policy" and f"<{role}>" in plain(properties["Roles"]):
            found += [canonical(statement) for statement in properties["PolicyDocument"]["Statement"]]
    return in_order(found)


def only(template: Template, resource_type: str) -> dict[str, Any]:
    """The properties of the one resource of this type."""
    found = template.find_resources(resource_type)
    assert len(found) == 1, f"{len(found)} of {resource_type}"
    return dict(next(iter(found.values()))["Properties"])


def resource(template: Template, logical_id: str) -> dict[str, Any]:
    """A resource by its logical id without the hash."""
    found = [value for key, value in template.to_json()["Resources"].items() if _HASH.sub("", key) == logical_id]
    assert len(found) == 1, f"{len(found)} of {logical_id}"
    return dict(found[0])


def assert_no_ingress(template: Template) -> None:
    """No security group of the template lets anything in."""
    for group in template.find_resources("AWS::EC2::SecurityGroup").values():
        assert "SecurityGroupIngress" not in group["Properties"]
    template.resource_count_is("AWS::EC2::SecurityGroupIngress", 0)


def assert_refused(stack: cdk.Stack, make: Callable[[], object], *words: str) -> None:
    """`make` raises an error whose message holds these words, and leaves nothing half built in the stack."""
    before = [child.node.path for child in stack.node.find_all()]
    with pytest.raises((ValueError, TypeError)) as error:
        make()
    for word in words:
        assert word in str(error.value)
    assert [child.node.path for child in stack.node.find_all()] == before
