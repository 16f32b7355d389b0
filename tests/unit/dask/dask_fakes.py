"""Fargate for Dask, in this process: RunTask starts a real Dask scheduler or worker, and every call is written down."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask.config
from dask_cloudprovider.aws import FargateCluster
from distributed import Scheduler, Worker

from embedded.emulator.interfaces import free_address

PUBLIC_ADDRESS = "203.0.113.7"


@dataclass(frozen=True)
class Call:
    service: str
    operation: str
    arguments: Mapping[str, Any]


@dataclass
class FakeFargate:
    """What dask-cloudprovider calls of AWS when everything is handed to it; anything else is an AttributeError."""

    calls: list[Call] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[str, Scheduler | Worker] = field(default_factory=dict)
    shortages: int = 0
    """So many calls of RunTask find no capacity."""

    @contextlib.contextmanager
    def serve(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Take every call of the provider's, which is configured by these environment variables."""
        real = FargateCluster._client
        FargateCluster._client = lambda _cluster, name: self._client(name)
        try:
            settings = dask.config.collect_env(variables)["cloudprovider"]["ecs"]
            with (
                dask.config.set({f"cloudprovider.ecs.{name}": value for name, value in settings.items()}),
                dask.config.set({"distributed.deploy.lost-worker-timeout": 0.2}),
            ):
                yield
        finally:
            FargateCluster._client = real

    def made(self, operation: str) -> list[Call]:
        return [call for call in self.calls if call.operation == operation]

    def running(self) -> list[str]:
        return [arn for arn, task in self.tasks.items() if task["lastStatus"] == "RUNNING"]

    async def take_away(self, arn: str) -> None:
        """The machine of the task is gone."""
        self.tasks[arn]["lastStatus"] = "STOPPED"
        await self.processes[arn].close()

    @contextlib.asynccontextmanager
    async def _client(self, service: str) -> AsyncIterator["FakeClient"]:
        yield FakeClient(self, service)


@dataclass
class FakeClient:
    fargate: FakeFargate
    service: str

    def __getattr__(self, operation: str) -> Any:
        answer = getattr(self, f"_{self.service}_{operation}")

        async def call(**arguments: Any) -> Any:
            self.fargate.calls.append(Call(self.service, operation, arguments))
            return await answer(**arguments)

        return call

    async def _ecs_describe_clusters(self, clusters: list[str]) -> Any:
        return {"clusters": [{"clusterName": clusters[0].rsplit("/", 1)[-1]}]}

    async def _ecs_list_account_settings(self, **_: Any) -> Any:
        return {"settings": [{"value": "enabled"}]}

    async def _ecs_run_task(self, **arguments: Any) -> Any:
        if self.fargate.shortages and "worker" in arguments["taskDefinition"]:
            self.fargate.shortages -= 1
            raise RuntimeError("Capacity is unavailable at this time.")
        address = free_address()
        (override,) = arguments["overrides"]["containerOverrides"]
        dask, program, *options = override["command"]
        assert dask == "dask"
        if program == "scheduler":
            process: Any = Scheduler(host=address, port=8786, dashboard_address=f"{address}:0")
        else:
            process = Worker(options[0], name=int(options[options.index("--name") + 1]), host=address, nthreads=1)
        await process
        arn = f"{arguments['cluster'].replace(':cluster/', ':task/')}/{uuid.uuid4().hex}"
        self.fargate.processes[arn] = process
        self.fargate.tasks[arn] = {
            "taskArn": arn,
            "lastStatus": "RUNNING",
            "attachments": [
                {
                    "type": "ElasticNetworkInterface",
                    "details": [{"name": "networkInterfaceId", "value": f"eni-{address}"}],
                }
            ],
        }
        return {"tasks": [self.fargate.tasks[arn]]}

    async def _ecs_describe_tasks(self, tasks: list[str], **_: Any) -> Any:
        return {"tasks": [self.fargate.tasks[arn] for arn in tasks]}

    async def _ecs_stop_task(self, task: str, **_: Any) -> Any:
        await self.fargate.take_away(task)
        return {}

    async def _ec2_describe_network_interfaces(self, NetworkInterfaceIds: list[str]) -> Any:  # noqa: N803
        (interface,) = NetworkInterfaceIds
        private = {"PrivateIpAddress": interface.removeprefix("eni-")}
        return {
            "NetworkInterfaces": [
                {"PrivateIpAddresses": [private], "Association": {"PublicIp": PUBLIC_ADDRESS}},
            ]
        }
