"""The three roles: of the ECS agent, of the worker and of flow runs. Each has only what is named here."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_prefect_ecs.api import PrefectApi
from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.image import FlowImage
from cdk_prefect_ecs.place import checked_construct
from cdk_prefect_ecs.storage import FlowStorage


def ecs_tasks(scope: Construct) -> iam.IPrincipal:
    """ECS tasks of this account. The conditions keep other accounts from using ECS as a confused deputy; source:
    "Task IAM role", Amazon ECS Developer Guide."""
    stack = cdk.Stack.of(scope)
    return iam.ServicePrincipal(
        "ecs-tasks.amazonaws.com",
        conditions={
            "StringEquals": {"aws:SourceAccount": stack.account},
            "ArnLike": {"aws:SourceArn": stack.format_arn(service="ecs", resource="*")},
        },
    )


class ExecutionRole(iam.Role):
    """Define the role with which the ECS agent starts tasks: pull the image, write the log, read one secret.

    :param log_group: Log group of the tasks.
    :param api: The Prefect API whose secret is injected into the tasks.
    :param image: Image of the tasks; pulling is granted when it is in a private ECR repository, and reading its
        credentials when it is in another private registry.
    """

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        log_group: logs.ILogGroup,
        api: PrefectApi,
        image: FlowImage | None = None,
    ) -> None:
        super().__init__(
            scope,
            construct_id,
            assumed_by=ecs_tasks(scope),
            description="ECS agent: starts Prefect worker and flow-run tasks",
        )
        grant_start_tasks(self, self, log_group=log_group, api=api, image=image)


class FlowRole(iam.Role):
    """Define the role of flow runs. It may use the flow storage; grant it what your flows need besides:
    ``bucket.grant_read(layer.flow_role)``.

    :param storage: The bucket of flow code, results and data. See
        :meth:`~cdk_prefect_ecs.FlowStorage.grant_flow_access`.
    """

    @checked_construct
    def __init__(self, scope: Construct, construct_id: str, *, storage: FlowStorage) -> None:
        super().__init__(scope, construct_id, assumed_by=ecs_tasks(scope), description="Prefect flow runs")
        storage.grant_flow_access(self)


class WorkerRole(iam.Role):
    """Define the role of the worker: start and stop flow-run tasks in one cluster, with two roles.

    Creates no permission by itself; :meth:`~cdk_prefect_ecs.WorkPool.grant_run` gives it the task definitions of one
    pool, called by the worker.
    """

    @checked_construct
    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id, assumed_by=ecs_tasks(scope), description="Prefect ECS worker")


def granted_actions(grants: Iterable[iam.Grant]) -> set[str]:
    """The actions that grants of the CDK's are about, be they in the policy of the principal or of the resource."""
    return {
        action
        for grant in grants
        for statement in (*grant.principal_statements, *grant.resource_statements)
        for action in statement.actions
    }


def grant_actions(
    grantee: iam.IGrantable,
    actions: list[str],
    resources: list[str],
    conditions: Mapping[str, Mapping[str, str]] | None = None,
) -> iam.Grant:
    """One statement of a role's policy."""
    return iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=resources, conditions=conditions)


def grant_start_tasks(
    execution_role: iam.IGrantable,
    scope: Construct,
    *,
    log_group: logs.ILogGroup,
    api: PrefectApi | None,
    image: FlowImage | None,
) -> None:
    """Grant the ECS agent what it needs to start tasks: write the log, inject the credential, pull the image."""
    log_group.grant_write(execution_role)
    if api is not None:
        api.grant_inject_secret(scope, execution_role)
    if image is not None:
        image.grant_pull(execution_role)


def grant_run_flows(
    worker_role: iam.IGrantable,
    scope: Construct,
    *,
    cluster: FlowCluster,
    family: str,
    task_roles: list[iam.IRole],
    observer_queue_name: str,
) -> iam.Grant:
    """Grant exactly the calls that prefect-aws makes to run flow runs of one task definition family.

    :param worker_role: The worker's role.
    :param family: Family of the flow runs' task definitions.
    :param task_roles: The roles that the worker may hand to a task.
    :param observer_queue_name: Name that prefect-aws's observer looks for. It does not exist; without the permission to
        find that out, the observer writes a traceback and is restarted again and again.
    """
    stack = cdk.Stack.of(scope)
    task_definitions = stack.format_arn(service="ecs", resource="task-definition", resource_name=f"{family}:*")
    tasks = stack.format_arn(service="ecs", resource="task", resource_name=f"{cluster.cluster_name}/*")
    in_cluster = {"ArnEquals": {"ecs:cluster": cluster.cluster_arn}}

    allow = functools.partial(grant_actions, worker_role)
    grants = [
        allow(["ecs:RunTask"], [task_definitions], in_cluster),
        allow(["ecs:StopTask"], [tasks], in_cluster),
        allow(["ecs:TagResource"], [tasks], {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
        allow(["ecs:RegisterTaskDefinition"], [task_definitions]),
        allow(["ecs:DescribeTaskDefinition"], ["*"]),  # supports no resource. Source: Service Authorization Reference
        allow(
            ["iam:PassRole"],
            [role.role_arn for role in task_roles],
            {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        ),
        allow(["sqs:GetQueueUrl"], [stack.format_arn(service="sqs", resource=observer_queue_name)]),
    ]
    return functools.reduce(iam.Grant.combine, grants)
