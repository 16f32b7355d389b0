"""An app with every role that the constructs make, in every shape that changes what a role may do."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import IConstruct

from cdk_prefect_ecs import (
    DaskAccess,
    DeployRole,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    FlowVolume,
    JobTrust,
    PrefectApi,
    PrefectServer,
    WorkerHost,
)
from cdk_prefect_ecs import PrefectExecutionLayer as Layer
from cdk_prefect_ecs.work_pool import WorkPoolSync
from tools.permissions.policies import ACCOUNT, REGION, Role, Templates

ROOT: Final = Path(__file__).resolve().parents[2]
PARAMETER: Final = "/prefect/auth-string"
#: The stacks: in the second the worker is a host only, and the credential is in Secrets Manager.
SERVICE, HOSTED = "Service", "Hosted"


@dataclass(frozen=True)
class Example:
    """The templates of the app, and which roles of theirs are of which kind."""

    templates: Templates
    roles: dict[str, tuple[Role, ...]]
    environment: dict[str, str]
    """What flow runs of the first stack learn about Dask from their environment."""

    def role(self, kind: str, stack: str = SERVICE) -> Role:
        """The role of a kind in one of the stacks."""
        return next(role for role in self.roles[kind] if role.stack == stack)


@cache
def example() -> Example:
    """Synthesise the app, once."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    with tempfile.TemporaryDirectory(prefix="permissions-") as out:
        app = cdk.App(context=context, analytics_reporting=False, builtin_cloud_formation_validation=False, outdir=out)
        dask, made = _service_stack(app)
        hosted = _hosted_stack(app)
        environment = {name: cdk.Stack.of(dask).resolve(value) for name, value in dask.environment.items()}
        paths = {kind: [_place(scope) for scope in scopes] for kind, scopes in _merged(made, hosted).items()}
        app.synth()
        templates = Templates.read(Path(out))
    roles = {
        kind: tuple(templates.role(stack, logical_id) for stack, logical_id in places) for kind, places in paths.items()
    }
    return Example(templates, roles, {name: templates.resolve(SERVICE, value) for name, value in environment.items()})


def _stack(app: cdk.App, name: str) -> cdk.Stack:
    return cdk.Stack(app, name, env=cdk.Environment(account=ACCOUNT, region=REGION))


def _service_stack(app: cdk.App) -> tuple[DaskAccess, dict[str, list[IConstruct]]]:
    """A private API whose credential is a parameter with a key of its own, an image in ECR, volumes, extra secrets, a
    shell into the worker and a host beside it, Dask, machines of every kind, a server with a key of its own, and
    deployments from CI."""
    stack = _stack(app, SERVICE)
    network = FlowNetwork(stack, "Network", mode="nat", max_azs=2)
    key = kms.Key(stack, "Key")
    api = PrefectApi.self_hosted(
        "https://prefect.internal/api",
        auth_string=PrefectApi.ssm_secure_string(PARAMETER, encryption_key=key),
        vpc=network.vpc,
    )
    cluster = FlowCluster(stack, "Cluster", vpc=network.vpc)
    dask = DaskAccess(stack, "Dask", cluster=cluster, network=network)
    image = FlowImage.from_ecr_repository(ecr.Repository(stack, "Images"), "1.0")
    server = PrefectServer(stack, "Server", network=network, cluster=cluster, image=image, encryption_key=key)
    files = efs.FileSystem(stack, "Files", vpc=network.vpc, encrypted=True)
    layer = Layer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=api,
        network=network,
        cluster=cluster,
        image=image,
        flow_environment=dask.environment,
        flow_secrets={
            "DB_PASSWORD": ecs.Secret.from_secrets_manager(secretsmanager.Secret(stack, "Db", encryption_key=key)),
        },
        flow_volumes=[FlowVolume(files.add_access_point("Data"), "/data")],
        flow_tags={"CostCenter": "42"},
        enable_execute_command=True,
    )
    host = WorkerHost(stack, "Host", work_pool=layer.work_pool, api=api, network=network, log_group=layer.log_group)
    dask.grant_run_clusters(layer.flow_role)
    instances = cluster.add_auto_scaling_capacity(
        "Instances", network=network, instance_types=[ec2.InstanceType("m7g.large")]
    )
    cluster.add_managed_instances_capacity("Managed", network=network)
    cluster.add_external_capacity("Own")
    deploy = DeployRole(stack, "Deploy", trust=JobTrust.github("acme/etl", environment="prod"), publishes_images=True)
    layer.grant_deploy_flows(deploy)
    diff = DeployRole(
        stack,
        "Diff",
        trust=JobTrust.github("acme/etl", pull_requests=True),
        provider=deploy.provider,
        read_only=True,
    )
    assert layer.lazarus is not None
    made: dict[str, list[IConstruct]] = {
        "execution": [layer.execution_role],
        "worker": [layer.worker_role],
        "worker-host": [host.role],
        "flow": [layer.flow_role],
        "lazarus": [layer.lazarus.role],
        "work-pool-sync": [_sync_role(stack)],
        "dask-execution": [dask.execution_role],
        "dask-task": [dask.task_role],
        "deploy": [deploy.role],
        "diff": [diff.role],
        "server-execution": [server.execution_role],
        "server-task": [server.task_role],
        "instances": [instances.role],
    }
    return dask, made


def _hosted_stack(app: cdk.App) -> dict[str, list[IConstruct]]:
    """The worker is a host, and the credential a secret with a key of its own."""
    stack = _stack(app, HOSTED)
    secret = secretsmanager.Secret(stack, "ApiKey", encryption_key=kms.Key(stack, "Key"))
    layer = Layer(
        stack,
        "Prefect",
        work_pool_name="etl",
        api=PrefectApi.self_hosted(
            "https://prefect.example.com/api", auth_string=PrefectApi.secrets_manager(secret, field="auth")
        ),
        worker_instance_type=ec2.InstanceType("t4g.micro"),
    )
    deploy = DeployRole(stack, "Deploy", trust=JobTrust.github("acme/etl", branch="main"))
    layer.grant_deploy_flows(deploy)
    assert layer.lazarus is not None
    return {
        "deploy": [deploy.role],
        "worker-host": [layer.worker_role],
        "execution": [layer.execution_role],
        "flow": [layer.flow_role],
        "lazarus": [layer.lazarus.role],
        "work-pool-sync": [_sync_role(stack)],
    }


def _sync_role(stack: cdk.Stack) -> iam.IRole:
    (sync,) = (child for child in stack.node.children if isinstance(child, WorkPoolSync))
    role = sync.function.role
    assert role is not None
    return role


def _place(scope: IConstruct) -> tuple[str, str]:
    stack = cdk.Stack.of(scope)
    element = scope.node.default_child
    assert isinstance(element, cdk.CfnElement)
    return stack.stack_name, str(stack.resolve(element.logical_id))


def _merged(*made: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {kind: [scope for one in made for scope in one.get(kind, [])] for one in made for kind in one}
