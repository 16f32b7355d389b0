"""``python -m embedded up|down|status|logs|interrupt|run``: the embedded AWS by hand."""

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from embedded import cdk, launching, runtimes
from embedded import instance as instances
from embedded.aws import EmbeddedAws, Task
from embedded.errors import EmbeddedError
from embedded.instance import Instance

_POLL_SECONDS = 0.5


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options, launching.default_directory()))
    except EmbeddedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embedded",
        description="AWS and Prefect on this machine. State: .embedded/ here, or $EMBEDDED_DIR.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start both, in the background")
    up.add_argument("--foreground", action="store_true", help="stay until Ctrl-C, then clean up")
    up.set_defaults(run=_up)

    commands.add_parser("down", help="stop both").set_defaults(run=_down)
    commands.add_parser("status", help="show tasks and services").set_defaults(run=_status)

    logs = commands.add_parser("logs", help="print CloudWatch log lines")
    which = logs.add_mutually_exclusive_group()
    which.add_argument("task", nargs="?", metavar="TASK", help="ARN, id or its beginning")
    which.add_argument("--group", metavar="G", help="a whole log group")
    logs.add_argument("--follow", "-f", action="store_true", help="go on until Ctrl-C")
    logs.set_defaults(run=_logs)

    interrupt = commands.add_parser("interrupt", help="take a task's machine away, as Spot does")
    chosen = interrupt.add_mutually_exclusive_group(required=True)
    chosen.add_argument("task", nargs="?", metavar="TASK", help="ARN, id or its beginning")
    chosen.add_argument("--all-spot", action="store_true", help="every running task on FARGATE_SPOT")
    interrupt.add_argument("--kill", action="store_true", help="no notice: the machine is simply gone")
    interrupt.add_argument("--grace", type=float, metavar="S", help="seconds from notice to SIGKILL (at most 120)")
    interrupt.add_argument("--force", action="store_true", help="give notice to a task that is not on Spot, too")
    interrupt.set_defaults(run=_interrupt)

    run = commands.add_parser("run", help="run a command against them: run -- prefect work-pool ls")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    run.set_defaults(run=_run)
    return parser


# up, down, run


def _up(options: argparse.Namespace, directory: Path) -> int:
    if instances.is_up(directory):
        print("Already up.")
        _introduce(Instance.attach(directory), directory)
        return 0
    for what in instances.clean_up(directory):
        print(f"Cleaned up {what}.")
    print("Starting …", flush=True)
    stopped = threading.Event()
    if options.foreground:
        # Before the start: Ctrl-C while it starts must clean up as well.
        signal.signal(signal.SIGTERM, _raise_interrupt)
    running = Instance.start(directory, detached=not options.foreground)
    try:
        _introduce(running, directory)
        if options.foreground:
            print("\nCtrl-C ends it.", flush=True)
            while not stopped.wait(_POLL_SECONDS):
                if not instances.is_up(directory):
                    raise EmbeddedError(f"one of the two ended; see {running.aws.log} and {running.prefect.log}")
    except KeyboardInterrupt:
        print("\nStopping …", flush=True)
    finally:
        if options.foreground:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
            running.stop()
    return 0


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _introduce(running: Instance, directory: Path) -> None:
    here = Path.cwd() / ".embedded" == directory
    prefix = "" if here else f"EMBEDDED_DIR={directory} "
    print(
        f"""
AWS endpoint   {running.aws.endpoint}   (account {running.aws.account}, {running.aws.region}, IAM enforced)
Prefect UI     {running.prefect.ui_url}
Prefect API    {running.prefect.api_url}
               user:password is in the SSM SecureString {instances.AUTH_PARAMETER}

Next:
  {prefix}make bootstrap ENV=embedded
  {prefix}make deploy ENV=embedded
  {prefix}python -m embedded run -- prefect work-pool ls
  {prefix}python -m embedded status
  {prefix}python -m embedded interrupt TASK
  {prefix}python -m embedded down""",
        flush=True,
    )


def _down(_options: argparse.Namespace, directory: Path) -> int:
    stopped = instances.clean_up(directory)
    print("\n".join(f"Stopped {what}." for what in stopped) or f"Nothing runs in {directory}.")
    return 0


def _run(options: argparse.Namespace, directory: Path) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise EmbeddedError("no command given; for example: python -m embedded run -- prefect work-pool ls")
    running = Instance.attach(directory)
    environment = running.environment()
    if command[0] == "cdk":  # pinned, with a home of its own
        environment |= {**cdk.cdk_environment(running.aws), **running.prefect.environment()}
        environment["PATH"] = os.pathsep.join([str(cdk.CLI.parent), environment["PATH"]])
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise EmbeddedError(f"command not found: {command[0]!r}; looked in PATH and in the virtual environment")
    os.execve(program, command, environment)  # noqa: S606


# status


def _status(_options: argparse.Namespace, directory: Path) -> int:
    running = Instance.attach(directory)
    console = Console()
    about = Table(title="Instance", show_header=False)
    about.add_row("AWS", running.aws.endpoint)
    about.add_row("Prefect", running.prefect.ui_url)
    about.add_row("Directory", str(directory))
    about.add_row("Tasks are", "containers (podman)" if running.aws.runtime == runtimes.PODMAN else "processes")
    about.add_row("Logs", f"{running.aws.log.name}, {running.prefect.log.name}")
    console.print(about)
    console.print(_services_table(running.aws))
    console.print(_tasks_table(running.aws.tasks()))
    return 0


def _services_table(aws: EmbeddedAws) -> Table:
    table = Table("Service", "Cluster", "Running", "Desired", "Deployment", title="Services")
    ecs = aws.client("ecs")
    for cluster in ecs.list_clusters()["clusterArns"]:
        names = ecs.list_services(cluster=cluster)["serviceArns"]
        for service in ecs.describe_services(cluster=cluster, services=names)["services"] if names else []:
            rollout = next((d.get("rolloutState", "") for d in service["deployments"] if d["status"] == "PRIMARY"), "")
            table.add_row(
                service["serviceName"],
                cluster.rsplit("/", 1)[-1],
                str(service["runningCount"]),
                str(service["desiredCount"]),
                rollout,
            )
    return table


def _tasks_table(tasks: list[Task], newest: int = 25) -> Table:
    table = Table("Task", "Group", "Status", "On", "Flow run", "Age", "Why", title="Tasks")
    for task in tasks[-newest:]:
        codes = ", ".join(str(code) for code in task.exit_codes.values() if code is not None)
        why = " ".join(filter(None, [task.stop_code, f"({codes})" if codes else "", task.stopped_reason]))
        health = "" if task.health_status == "UNKNOWN" else f" {task.health_status.lower()}"
        age = datetime.now(UTC) - task.created_at
        table.add_row(
            task.id[:8],
            task.group,
            task.last_status + health,
            task.capacity_provider,
            (task.flow_run_id or "")[:8],
            f"{age.total_seconds():.0f} s",
            why,
        )
    if len(tasks) > newest:
        table.caption = f"the newest {newest} of {len(tasks)}"
    return table


# interrupt


def _interrupt(options: argparse.Namespace, directory: Path) -> int:
    aws = EmbeddedAws.attach(directory)
    if options.grace is not None and options.kill:
        raise EmbeddedError("--grace and --kill exclude each other: a machine that is gone gives no grace")
    if options.all_spot:
        running = [task for task in aws.tasks() if task.last_status == "RUNNING" and task.desired_status == "RUNNING"]
        tasks = [task for task in running if task.capacity_provider == "FARGATE_SPOT"]
        if not tasks:
            raise EmbeddedError(f"no task runs on FARGATE_SPOT.{_running(aws)}")
    else:
        tasks = [find_task(options.task, aws.tasks(), only_live=True)]
    for task in tasks:
        aws.interrupt(task.arn, notice=not options.kill, grace_seconds=options.grace, force=options.force)
        print(f"{'Killed' if options.kill else 'Gave notice to'} {task.id} ({task.group}, {task.capacity_provider}).")
    return 0


def find_task(reference: str, tasks: list[Task], *, only_live: bool) -> Task:
    """The task with this ARN, id or unique beginning of an id."""
    candidates = [task for task in tasks if not only_live or task.last_status != "STOPPED"]
    found = [task for task in candidates if task.arn == reference or task.id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = "".join(f"\n  {task.id}  {task.group}" for task in found)
        raise EmbeddedError(f"{reference!r} is the beginning of {len(found)} tasks; give more of it:{ids}")
    raise EmbeddedError(f"no {'live ' if only_live else ''}task {reference!r}.{_listed(candidates)}")


def _running(aws: EmbeddedAws) -> str:
    return _listed([task for task in aws.tasks() if task.last_status != "STOPPED"])


def _listed(tasks: list[Task]) -> str:
    if not tasks:
        return " There is none at all."
    return " There are:" + "".join(
        f"\n  {task.id}  {task.last_status}  {task.group}  {task.capacity_provider}" for task in tasks[-25:]
    )


# logs


def _logs(options: argparse.Namespace, directory: Path) -> int:
    aws = EmbeddedAws.attach(directory)
    if options.task is not None:
        task = find_task(options.task, aws.tasks(), only_live=False)
        sources = list(_streams_of(aws, task))
        if not sources:
            raise EmbeddedError(f"task {task.id} has no container that logs to CloudWatch (awslogs)")
    elif options.group is not None:
        known = [group["logGroupName"] for group in aws.client("logs").describe_log_groups()["logGroups"]]
        if options.group not in known:
            listed = "".join(f"\n  {name}" for name in known) or " none"
            raise EmbeddedError(f"no log group {options.group!r}. There are:{listed}")
        sources = [(options.group, None)]
    else:
        groups = aws.client("logs").describe_log_groups()["logGroups"]
        sources = [(group["logGroupName"], None) for group in groups]
    seen: set[str] = set()
    while True:
        for event in _new_events(aws, sources, seen):
            moment = datetime.fromtimestamp(event["timestamp"] / 1000, UTC).astimezone()
            print(f"{moment:%H:%M:%S} {_short(event['logStreamName'])}  {event['message']}", flush=options.follow)
        if not options.follow:
            return 0
        time.sleep(_POLL_SECONDS)


def _streams_of(aws: EmbeddedAws, task: Task) -> Iterator[tuple[str, str | None]]:
    ecs = aws.client("ecs")
    described = ecs.describe_tasks(cluster=task.cluster, tasks=[task.arn])["tasks"][0]
    definition = ecs.describe_task_definition(taskDefinition=described["taskDefinitionArn"])["taskDefinition"]
    for container in definition["containerDefinitions"]:
        options = container.get("logConfiguration", {}).get("options", {})
        if "awslogs-group" in options and "awslogs-stream-prefix" in options:
            yield options["awslogs-group"], f"{options['awslogs-stream-prefix']}/{container['name']}/{task.id}"


def _new_events(aws: EmbeddedAws, sources: list[tuple[str, str | None]], seen: set[str]) -> list[dict[str, Any]]:
    logs = aws.client("logs")
    events: list[dict[str, Any]] = []
    for group, stream in sources:
        request: dict[str, Any] = {"logGroupName": group}
        if stream is not None:
            request["logStreamNames"] = [stream]
        try:
            for page in logs.get_paginator("filter_log_events").paginate(**request):
                events += [event for event in page["events"] if event["eventId"] not in seen]
        except logs.exceptions.ResourceNotFoundException:
            continue  # the stream comes with the container
    seen.update(event["eventId"] for event in events)
    return sorted(events, key=lambda event: event["timestamp"])


def _short(stream: str) -> str:
    """``prefix/container/0123…`` with only the beginning of the task's id."""
    head, _, task_id = stream.rpartition("/")
    return f"{head}/{task_id[:8]}" if head else stream
