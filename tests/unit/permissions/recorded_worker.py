"""What the pinned prefect-aws worker really calls, with the work pool of the example: recorded, nothing leaves here."""

import asyncio
import contextlib
import copy
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiobotocore.client import AioBaseClient
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect_aws.observers import ecs as observer
from prefect_aws.workers import ecs_worker
from prefect_aws.workers.ecs_worker import ECSJobConfiguration, ECSWorker

from cdk_prefect_ecs.functions.typed_properties import decode
from tools.permissions.example import SERVICE, Example
from tools.permissions.policies import ACCOUNT, REGION

RUN = FlowRun(
    id=uuid.UUID(int=1), name="brave-otter", flow_id=uuid.UUID(int=2), deployment_id=uuid.UUID(int=3), labels={}
)
CREDENTIALS = {
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
TASK = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Call:
    """A call of AWS.

    :param definition: The task definition that it is about, as AWS knows it.
    """

    service: str
    operation: str
    arguments: Mapping[str, Any]
    definition: Mapping[str, Any] | None = None


@dataclass
class FakeAws:
    """Answers the worker as ECS and SQS would, and writes down what it was asked."""

    calls: list[Call] = field(default_factory=list)
    definition: dict[str, Any] | None = None

    def answer(self, service: str, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if operation == "RegisterTaskDefinition":
            arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{arguments['family']}:1"
            self.definition = {**copy.deepcopy(dict(arguments)), "taskDefinitionArn": arn, "status": "ACTIVE"}
        self.calls.append(Call(service, operation, arguments, self.definition if operation == "RunTask" else None))
        if operation in ("RegisterTaskDefinition", "DescribeTaskDefinition") and self.definition:
            return {"taskDefinition": copy.deepcopy(self.definition)}
        if operation == "RunTask":
            cluster = arguments["cluster"]
            arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{cluster.rpartition('/')[2]}/{TASK}"
            return {"failures": [], "tasks": [{"taskArn": arn, "clusterArn": cluster}]}
        if operation == "StopTask":
            return {"task": {}}
        missing = "AWS.SimpleQueueService.NonExistentQueue" if service == "sqs" else "ClientException"
        raise ClientError({"Error": {"Code": missing, "Message": "there is none"}}, operation)

    @contextlib.contextmanager
    def serve(self, environment: Mapping[str, str]) -> Iterator[None]:
        """Answer every client of boto3 and aiobotocore, in an environment."""

        def call(client: Any, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
            return self.answer(client.meta.service_model.service_name, operation, arguments)

        async def call_later(client: Any, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
            return call(client, operation, arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BaseClient, "_make_api_call", call)
            patch.setattr(AioBaseClient, "_make_api_call", call_later)
            patch.setattr(ecs_worker, "_TASK_DEFINITION_CACHE", {})
            for name, value in {**CREDENTIALS, **environment}.items():
                patch.setenv(name, value)
            yield


def work_pool(app: Example) -> dict[str, Any]:
    """The properties of the work pool's custom resource."""
    (found,) = (
        resource["Properties"]
        for resource in app.templates.resources(SERVICE).values()
        if resource["Type"] == "Custom::PrefectWorkPool"
    )
    return dict(found)


def worker_environment(app: Example) -> dict[str, str]:
    """The environment of the worker's container."""
    (container,) = (
        container
        for resource in app.templates.resources(SERVICE).values()
        if resource["Type"] == "AWS::ECS::TaskDefinition"
        for container in resource["Properties"]["ContainerDefinitions"]
        if container["Name"] == "worker"
    )
    return {variable["Name"]: variable["Value"] for variable in container["Environment"]}


def recorded(app: Example) -> list[Call]:
    """The calls of a worker that looks for the observer's queue, runs a flow run, runs another of the same deployment
    and cancels it."""
    template: dict[str, Any] = decode(work_pool(app)["BaseJobTemplate"])
    observing = {name: value for name, value in worker_environment(app).items() if "_OBSERVER_" in name}
    aws = FakeAws()

    async def work() -> None:
        configuration = await ECSJobConfiguration.from_template_and_values(
            base_job_template=template, values={}, client=object()
        )
        configuration.prepare_for_flow_run(RUN)
        worker = ECSWorker("etl")
        await observer.EcsObserver().run()
        await worker.run(RUN, configuration)
        result = await worker.run(RUN, configuration)
        await worker.kill_infrastructure(result.identifier, configuration)

    settings = {PREFECT_API_URL: "https://prefect.example.com/api", PREFECT_LOGGING_TO_API_ENABLED: False}
    with aws.serve(observing), temporary_settings(settings):
        asyncio.run(work())
    return aws.calls
