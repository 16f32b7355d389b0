"""Private names of Cloud Map: who is registered, and how Python programs find them."""

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from embedded.emulator import interfaces, private_names
from embedded.emulator.inner import ecs, servicediscovery
from embedded.emulator.private_names import PrivateNames
from embedded.emulator.tasks import TaskRun

CLUSTER = "arn:aws:ecs:us-east-1:000000000000:cluster/names"
NAME = "prefect.acme.internal"


def lookup(hosts: Path, expression: str) -> str:
    """What a Python program that was started here says."""
    program = f"import socket; print({expression})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=private_names.environment(hosts),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", [f"'{NAME}'", f"b'{NAME}'", f"'{NAME.upper()}.'"])
def test_programs_find_a_name(tmp_path: Path, name: str) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.64.1.1 other.internal\n127.64.2.3 {NAME}\n")
    assert lookup(hosts, f"socket.getaddrinfo({name}, 4200)[0][4]") == "('127.64.2.3', 4200)"


@pytest.mark.parametrize("text", ["", "127.64.1.1 other.internal\n", None])
def test_everything_else_is_looked_up_as_ever(tmp_path: Path, text: str | None) -> None:
    hosts = tmp_path / "hosts"
    if text is not None:
        hosts.write_text(text)
    assert lookup(hosts, "socket.getaddrinfo('127.0.0.1', 80)[0][4]") == "('127.0.0.1', 80)"
    assert lookup(hosts, "socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE) != []") == "True"


def run(status: str, health: str, *, checked: bool = True, stopping: bool = False) -> TaskRun:
    container = {"name": "server", **({"healthCheck": {"command": ["CMD", "true"]}} if checked else {})}
    attachment = {"details": [{"name": "privateIPv4Address", "value": "127.64.2.3"}]}
    record = {
        "clusterArn": CLUSTER,
        "group": "service:server",
        "lastStatus": status,
        "healthStatus": health,
        "attachments": [attachment],
    }
    made: Any = SimpleNamespace(
        arn=f"{CLUSTER}/task/1",
        id="1",
        record=record,
        definition={"containerDefinitions": [container]},
        stopping=stopping,
    )
    return cast(TaskRun, made)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrivateNames:
    registry = "arn:aws:servicediscovery:us-east-1:000000000000:service/srv-1"
    services = {"names/server": {"serviceRegistries": [{"registryArn": registry}]}}
    monkeypatch.setattr(ecs, "_services", services)
    monkeypatch.setattr(servicediscovery, "_services", {"srv-1": {"Name": "Prefect", "NamespaceId": "ns-1"}})
    monkeypatch.setattr(servicediscovery, "_namespaces", {"ns-1": {"Name": "acme.internal"}})
    return PrivateNames(tmp_path / "hosts")


def test_a_task_is_registered_while_it_is_healthy(names: PrivateNames, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    names.task_changed(run("PENDING", "UNKNOWN"))
    names.task_changed(run("RUNNING", "UNKNOWN"))
    assert not hosts.exists()
    names.task_changed(run("RUNNING", "HEALTHY"))
    assert hosts.read_text() == f"127.64.2.3 {NAME}\n"
    names.task_changed(run("RUNNING", "UNHEALTHY"))
    assert hosts.read_text() == ""
    names.task_changed(run("RUNNING", "HEALTHY"))
    names.task_changed(run("RUNNING", "HEALTHY", stopping=True))
    assert hosts.read_text() == ""


def test_a_task_without_a_health_check_is_registered_when_it_runs(names: PrivateNames, tmp_path: Path) -> None:
    names.task_changed(run("RUNNING", "UNKNOWN", checked=False))
    assert (tmp_path / "hosts").read_text() == f"127.64.2.3 {NAME}\n"


def test_a_server_listens_on_the_address_of_its_task_alone() -> None:
    everywhere = {"PREFECT_SERVER_API_HOST": "0.0.0.0", "OTHER": "0.0.0.0"}  # noqa: S104
    assert interfaces.bound_to(everywhere, "127.64.2.3") == {**everywhere, "PREFECT_SERVER_API_HOST": "127.64.2.3"}
    assert interfaces.bound_to(everywhere, None) == everywhere
    chosen = {"PREFECT_SERVER_API_HOST": socket.gethostbyname("localhost")}
    assert interfaces.bound_to(chosen, "127.64.2.3") == chosen
