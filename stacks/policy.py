"""The policy checks, and what we accept of their findings. docs/findings.md lists it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks, NIST80053R5Checks
from constructs import IConstruct

from cdk_prefect_ecs import DaskAccess, LayerPool, WorkerHost
from cdk_prefect_ecs.work_pool import WorkPoolSync
from stacks.accepting import accept
from stacks.config import BUILT_IMAGES
from stacks.delivery import DeliveryStack
from stacks.policy_nist import acknowledge_nist
from stacks.policy_server import acknowledge_server
from stacks.stage import PrefectStage


def check_policies(app: cdk.App) -> None:
    """Have cdk-nag look at the app when it is synthesised: a finding that nobody has acknowledged fails it."""
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app), NIST80053R5Checks(app))


def acknowledge(stage: PrefectStage) -> None:
    """Acknowledge the findings that are as they should be."""
    acknowledge_nist(stage)
    foundation, layer = stage.foundation, stage.execution.layer
    if foundation.storage.access_log_bucket is None:
        _acknowledge(
            foundation.storage.bucket,
            "S1",
            "Access logs are off outside production (EnvironmentConfig.access_logs). The bucket is private, TLS only "
            "and versioned.",
        )
    if foundation.network.mode is not None and not stage.config.flow_logs:
        _acknowledge(
            foundation.network.vpc,
            "VPC7",
            "Flow logs are billed by the gigabyte and are off outside production (EnvironmentConfig.flow_logs). The "
            "security groups let nothing in.",
        )

    if stage.config.image in BUILT_IMAGES:
        for made in (layer, stage.execution.dask, stage.execution.server):
            if made is None:
                continue
            _acknowledge(
                made.execution_role.node.find_child("DefaultPolicy"),
                "IAM5[Resource::*]",
                "ecr:GetAuthorizationToken supports no resource; pulling is granted for the one repository.",
            )
    cluster = _logical_id(stage.execution.cluster.cluster)
    ecs_arn = _arn(stage, "ecs")
    first = LayerPool(layer.work_pool, layer.worker, layer.worker_role)
    for pool in (first, *layer.pools.values()):
        _acknowledge_pool(stage, pool)
    _acknowledge_storage(stage, layer.flow_role)
    if stage.execution.dask is not None:
        _acknowledge_dask(stage, stage.execution.dask, layer.flow_role)
    if layer.lazarus is not None:
        lazarus_policy = layer.lazarus.role.node.find_child("DefaultPolicy")
        _acknowledge(
            lazarus_policy,
            "IAM5[Resource::*]",
            "ecs:ListTasks supports no resource but container instances; the condition ecs:cluster limits it. Nor do "
            "the six actions with which Lambda manages network interfaces, which are there only for a private API.",
        )
        _acknowledge(
            lazarus_policy,
            f"IAM5[Resource::{ecs_arn}:task/<{cluster}>/*]",
            "Task ids are made by ECS; the cluster is named, and the condition ecs:cluster holds too.",
        )
    if stage.execution.server is not None:
        acknowledge_server(
            stage.execution.server,
            keeps_data=stage.config.keep_data,
            has_key=stage.config.encryption_key is not None,
        )
    if stage.delivery is not None:
        _acknowledge_delivery(stage, stage.delivery)
    for child in stage.execution.node.children:
        if isinstance(child, WorkPoolSync) and child.function.is_bound_to_vpc:
            _acknowledge(
                child.node.find_child("Role").node.find_child("DefaultPolicy"),
                "IAM5[Resource::*]",
                "The six actions with which Lambda manages network interfaces in a VPC support no resource.",
            )


def _acknowledge_delivery(stage: PrefectStage, delivery: DeliveryStack) -> None:
    stacks = (stage.foundation, stage.execution)
    _acknowledge_all(
        delivery.deploy.role.node.find_child("DefaultPolicy"),
        {
            f"IAM5[Resource::{_bucket_arn(stage)}/code/*]": "Flow code is uploaded under the names of its files, below "
            "this one prefix.",
            **{
                f"IAM5[Resource::{_arn(stage, 'cloudformation')}:stack/{stack.stack_name}/*]": "CloudFormation makes "
                "an id that is part of the ARN of a stack; the stack is named, and only its description can be read."
                for stack in stacks
            },
        },
    )


def _acknowledge_pool(stage: PrefectStage, pool: LayerPool) -> None:
    ecs_arn, cluster = _arn(stage, "ecs"), _logical_id(stage.execution.cluster.cluster)
    worker_policy = pool.worker_role.node.find_child("DefaultPolicy")
    _acknowledge_all(
        worker_policy,
        {
            "IAM5[Resource::*]": "ecs:DescribeTaskDefinition supports no resource, nor do the five actions of Session "
            "Manager."
            if isinstance(pool.worker, WorkerHost)
            else "ecs:DescribeTaskDefinition supports no resource, nor do the four ssmmessages actions of ECS Exec, "
            "which are there only where EnvironmentConfig.execute_command is on.",
            f"IAM5[Resource::{ecs_arn}:task-definition/{pool.work_pool.family}:*]": "Every revision of the one family "
            "that this pool's flow runs use: the worker registers them.",
            f"IAM5[Resource::{ecs_arn}:task/<{cluster}>/*]": "Task ids are made by ECS; the cluster is named, and the "
            "condition ecs:cluster or ecs:CreateAction holds too.",
        },
    )
    if isinstance(pool.worker, WorkerHost):
        _acknowledge_host(stage, pool.worker, worker_policy)
    else:
        _acknowledge(
            pool.worker.task_definition,
            "ECS2",
            "The variables are the address of the API and settings; the credential is injected from SSM.",
        )


def _acknowledge_host(stage: PrefectStage, host: WorkerHost, policy: IConstruct) -> None:
    _acknowledge(
        host.group,
        "AS3",
        "A worker that does not come online fails the deployment; a topic for one change of host a week would tell "
        "nobody anything. Who wants one adds it to WorkerHost.group.",
    )
    _acknowledge(
        policy,
        f"IAM5[Resource::{_arn(stage, 'autoscaling')}:autoScalingGroup:*:autoScalingGroupName/{host.group_name}]",
        "EC2 Auto Scaling makes an id that is part of the ARN of a group; the group is named.",
    )


def _acknowledge_storage(stage: PrefectStage, role: IConstruct) -> None:
    for prefix, why in (
        ("", "Flow runs read all of their own bucket."),
        ("results/", "Flow runs write task results under keys that Prefect makes."),
        ("data/", "Flow runs write their own data here."),
    ):
        _acknowledge(
            role.node.find_child("DefaultPolicy"),
            f"IAM5[Resource::{_bucket_arn(stage)}/{prefix}*]",
            why,
        )


def _acknowledge_dask(stage: PrefectStage, dask: DaskAccess, flow_role: IConstruct) -> None:
    _acknowledge_storage(stage, dask.task_role)
    policy = flow_role.node.find_child("DefaultPolicy")
    _acknowledge(
        policy,
        "IAM5[Resource::*]",
        "ecs:ListAccountSettings and ec2:DescribeNetworkInterfaces support no resource; both only read.",
    )
    for definition in (dask.scheduler_task_definition, dask.worker_task_definition):
        _acknowledge(
            policy,
            f"IAM5[Resource::{_arn(stage, 'ecs')}:task-definition/{definition.family}:*]",
            "Every revision of this one family, which flow runs cannot register: a cluster survives a deployment.",
        )
    _acknowledge(
        policy,
        f"IAM5[Resource::{_arn(stage, 'ecs')}:task/<{_logical_id(stage.execution.cluster.cluster)}>/*]",
        "Task ids are made by ECS; the cluster is named, and only tasks with the tag of this access are meant.",
    )


def _acknowledge(scope: IConstruct, rule: str, reason: str) -> None:
    _acknowledge_all(scope, {rule: reason})


def _acknowledge_all(scope: IConstruct, reasons: Mapping[str, str]) -> None:
    """Each call of the CDK's takes its time, and there is one for every pool."""
    accept(scope, {f"AwsSolutions-{rule}": reason for rule, reason in reasons.items()})


def _arn(stage: PrefectStage, service: str) -> str:
    """What the ARNs of a service begin with."""
    return f"arn:{stage.execution.partition}:{service}:{stage.execution.region}:{_account(stage)}"


def _account(stage: PrefectStage) -> str:
    """The account as cdk-nag prints it: it shows a pseudo parameter in angle brackets."""
    return stage.config.account or "<AWS::AccountId>"


def _logical_id(construct: IConstruct) -> str:
    element = construct.node.default_child
    assert isinstance(element, cdk.CfnElement)
    return str(cdk.Stack.of(construct).resolve(element.logical_id))


def _bucket_arn(stage: PrefectStage) -> str:
    """The bucket's ARN as cdk-nag prints a reference to another stack."""
    bucket = _logical_id(stage.foundation.storage.bucket)
    return json.dumps(
        {
            "Fn::GetStackOutput": {
                "StackName": stage.foundation.stack_name,
                "Region": stage.config.region,
                "OutputName": f"PublishOutputFnGetAtt{bucket}ArnD5536396",
            }
        },
        separators=(",", ":"),
    )
