"""The emulator's process: MiniStack with what this project adds. Started by ``embedded.aws``; settings by environment.

It listens on 127.0.0.1 only. It ends on SIGTERM and SIGINT and, when EMBEDDED_LIFELINE is set, when its standard input
closes, which is what happens when the process that started it dies.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.emulator import contract
from embedded.emulator.reaper import MARK

if TYPE_CHECKING:
    from embedded.emulator.processes import Reaper
    from embedded.emulator.runtime import Runtime


def prepare_environment() -> None:
    """MiniStack reads these when it is imported."""
    os.environ.update(
        BIND_HOST="127.0.0.1",
        IOT_MTLS_ENABLED="0",  # else a broker on 8883
        SFTP_ENABLED="0",
        LAMBDA_EXECUTOR="local",
        # A daemon that happens to run on this machine is none of our business.
        DOCKER_HOST="unix:///nonexistent/docker.sock",
        EDGE_PORT=os.environ["GATEWAY_PORT"],
    )


def main() -> int:
    prepare_environment()
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if broken := contract.broken():
        print("MiniStack is not the one this emulator was written for:", *broken, sep="\n  ", file=sys.stderr)
        return 1
    directory, mark = Path(os.environ["EMBEDDED_DIRECTORY"]), os.environ[MARK]

    from embedded.emulator import authorization, cloudformation, ecs_api, interfaces, mends, private_names, web_identity
    from embedded.emulator.cloudformation.database_type import DatabaseType
    from embedded.emulator.control import Control
    from embedded.emulator.engine import Engine
    from embedded.emulator.inner import app
    from embedded.emulator.metrics import Metrics
    from embedded.emulator.processes import Reaper
    from embedded.emulator.recording import recorded
    from embedded.emulator.services import ServiceScheduler

    hosts = directory / "emulator" / "hosts"
    resolver = private_names.environment(hosts)
    os.environ.update(resolver)  # Lambda functions inherit it
    endpoint = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
    ours = [directory / "tasks", directory / "emulator"]
    if os.environ.get("EMBEDDED_EPHEMERAL"):
        ours.append(directory)
    reaper = Reaper(mark, ours)
    (directory / "reaper.pid").write_text(str(reaper.pid))  # who stops us waits for it as well
    engine = Engine(directory / "tasks", endpoint, runtime_for(os.environ["EMBEDDED_RUNTIME"], mark, reaper, resolver))
    scheduler = ServiceScheduler(engine)
    issuers = web_identity.Issuers()
    engine.on_change(private_names.PrivateNames(hosts).task_changed)
    databases = DatabaseType(directory, reaper)
    if app.AUTH:
        authorization.install()
    mends.install()
    interfaces.install()
    ecs_api.install(engine, scheduler)
    cloudformation.install(scheduler)
    databases.install()
    metrics = Metrics(engine)
    metrics.install()
    web_identity.install(issuers)
    application = Control(engine, metrics, issuers, mark).wrap(app.app)
    if file := os.environ.get("EMBEDDED_REQUESTS"):
        application = recorded(application, Path(file))
    asyncio.run(serve(application))
    engine.shut_down()
    databases.shut_down()
    shutil.rmtree(directory / "emulator", ignore_errors=True)
    # The reaper does the rest when this process is gone: Lambda workers, children that slipped away. Not by way of
    # sys.exit, which would wait for threads that wait for them.
    logging.shutdown()
    os._exit(0)


def runtime_for(name: str, mark: str, reaper: "Reaper", resolver: Mapping[str, str]) -> "Runtime":
    """What ``EMBEDDED_RUNTIME`` names; ``embedded.runtime`` has checked it.

    :param resolver: Variables by which processes find private names.
    """
    if name == "podman":
        from embedded.emulator.podman import PodmanRuntime

        return PodmanRuntime(mark, reaper)
    from embedded.emulator.processes import ProcessRuntime

    return ProcessRuntime(reaper, resolver)


async def serve(application: object) -> None:
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if os.environ.get("EMBEDDED_LIFELINE"):
        threading.Thread(target=_wait_for_parent, args=(loop, stop), daemon=True).start()
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['GATEWAY_PORT']}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 0.2  # clients of an AWS that is switched off lose their answers
    config.accesslog = None
    config.errorlog = "-"
    with contextlib.suppress(asyncio.CancelledError):
        await hypercorn_serve(application, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]


def _wait_for_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    sys.stdin.buffer.read()
    loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":
    sys.exit(main())
