"""A Dask cluster on Fargate, for a flow that outgrows one task.

Which cluster, roles, subnets and task definitions to use is in the flow run's environment, as settings of Dask
(`DASK_CLOUDPROVIDER__ECS__…`). This hands on what dask-cloudprovider takes as arguments only, and mends three things:

- The scheduler is reached at its private address, also where tasks need a public one to pull their image.
  dask-cloudprovider would take the public one, which no security group should let in.
- Its tasks run `dask scheduler` and `dask worker`. dask-cloudprovider would run `dask-scheduler` and `dask-worker`,
  which newer releases of Dask do not have.
- A worker that was lost, as on Spot, is replaced. Otherwise a cluster shrinks until nothing is left to compute with.
"""

import asyncio
import logging
import os
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from dask_cloudprovider.aws import FargateCluster
from dask_cloudprovider.aws.ecs import Scheduler, Worker
from distributed.core import Status

logger = logging.getLogger("prefect.dask_cluster")

SECONDS_BETWEEN_ATTEMPTS = 5


class PrivateScheduler(Scheduler):  # type: ignore[misc]
    external_address = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._overrides["command"][:1] = ["dask", "scheduler"]


class CurrentWorker(Worker):  # type: ignore[misc]
    def __init__(self, scheduler: str, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self._overrides["command"][:1] = ["dask", "worker"]


#: Where FargateCluster names the classes of its tasks.
SPECS = {"scheduler_spec": PrivateScheduler, "new_spec": CurrentWorker}


class DaskCluster(FargateCluster):  # type: ignore[misc]
    """A scheduler and workers, there until the `with` block ends.

    Args:
        workers: How many workers to start. Each runs a thread per vCPU; their size belongs to the environment.
        options: Anything else that `FargateCluster` takes.
    """

    def __init__(self, workers: int, **options: Any) -> None:
        environment = {**setting("environment")}
        if packages := os.environ.get("EXTRA_PIP_PACKAGES"):
            environment["EXTRA_PIP_PACKAGES"] = packages  # what this run's image installed when it started
        super().__init__(
            n_workers=workers,
            scheduler_task_definition_arn=setting("scheduler_task_definition_arn"),
            worker_task_definition_arn=setting("worker_task_definition_arn"),
            fargate_use_private_ip=setting("fargate_use_private_ip"),
            environment=environment,
            **options,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SPECS and value is not None:
            value = {**value, "cls": SPECS[name]}
        super().__setattr__(name, value)

    def _update_worker_status(self, op: str, msg: Any) -> None:
        super()._update_worker_status(op, msg)
        if op == "remove":
            # By then the cluster has given a worker up that did not come back.
            patience = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            asyncio.get_running_loop().call_later(
                patience + 0.5, lambda: self._futures.add(asyncio.ensure_future(self._replace_lost_workers()))
            )

    async def _replace_lost_workers(self) -> None:
        while self.status is Status.running and (lost := set(self.worker_spec) - set(self.workers)):
            logger.warning("replacing %d lost workers", len(lost))
            try:
                await self._correct_state()
            except Exception as error:
                logger.warning("no replacement yet: %s", error)
                for name in [name for name in lost if name in self.workers]:
                    if self.workers[name].status is not Status.running:
                        await self.workers.pop(name).close()
                await asyncio.sleep(SECONDS_BETWEEN_ATTEMPTS)


def setting(name: str) -> Any:
    value = dask.config.get(f"cloudprovider.ecs.{name}", None)
    if value is None:
        raise RuntimeError(
            f"DASK_CLOUDPROVIDER__ECS__{name.upper()} is not set, so this run cannot open a Dask cluster; use a work "
            "pool whose flow runs may"
        )
    return value
