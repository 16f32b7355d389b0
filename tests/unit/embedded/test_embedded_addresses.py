import ipaddress
import socket
import sys

import pytest

from embedded.emulator import interfaces

SCHEDULER = ["dask", "scheduler", "--idle-timeout", "5 minutes"]
REQUEST = {"subnets": ["subnet-1"], "securityGroups": ["sg-1", "sg-2"], "assignPublicIp": "ENABLED"}


def details(attachment: dict) -> dict[str, str]:
    return {detail["name"]: detail["value"] for detail in attachment["details"]}


def test_programs_that_listen_everywhere_are_told_where_to() -> None:
    assert interfaces.listening_on(SCHEDULER, "127.64.0.9") == [
        *SCHEDULER,
        *("--host", "127.64.0.9"),
        *("--dashboard-address", "127.64.0.9:8787"),
    ]
    worker = interfaces.listening_on(["dask", "worker", "tcp://127.64.0.9:8786"], "127.64.0.10")
    assert worker[3:] == ["--host", "127.64.0.10", "--dashboard-address", "127.64.0.10:0"]


@pytest.mark.parametrize(
    ("command", "address"),
    [
        (["prefect", "worker", "start"], "127.64.0.9"),
        (SCHEDULER, None),
        ([*SCHEDULER, "--host", "127.0.0.1"], "127.64.0.9"),
        ([], "127.64.0.9"),
    ],
)
def test_every_other_command_stays(command: list[str], address: str | None) -> None:
    assert interfaces.listening_on(command, address) == command


def answers_on_one_address_only() -> bool:
    """As macOS does."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.64.0.1", 0))
        except OSError:
            return True
    return False


def test_addresses_are_of_this_machine_and_differ_where_it_has_more_than_one() -> None:
    assert not (sys.platform == "linux" and answers_on_one_address_only()), "this machine's loopback is not 127.0.0.0/8"
    addresses = {interfaces.free_address() for _ in range(20)}
    assert len(addresses) == (1 if answers_on_one_address_only() else 20)
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses)
    for address in addresses:
        with socket.socket() as task:
            task.bind((address, 0))


def test_where_the_system_has_one_address_tasks_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "_ADDRESSES", ipaddress.ip_network("203.0.113.0/24"))
    assert interfaces.free_address() == "127.0.0.1"


def test_an_interface_has_what_its_task_asked_for_and_goes_with_it() -> None:
    attachment = interfaces.attach(REQUEST)
    found = details(attachment)
    record = {"attachments": [attachment]}
    assert (attachment["type"], attachment["status"]) == ("ElasticNetworkInterface", "ATTACHED")
    assert found["subnetId"] == "subnet-1"
    assert interfaces.address_of(record) == found["privateIPv4Address"]
    interface = interfaces.ec2._network_interfaces[found["networkInterfaceId"]]
    assert [group["GroupId"] for group in interface["Groups"]] == ["sg-1", "sg-2"]
    assert ipaddress.ip_address(interface["Association"]["PublicIp"]) in ipaddress.ip_network("203.0.113.0/24")
    xml = interfaces.eni_fields_xml(interface)
    assert f"<publicIp>{interface['Association']['PublicIp']}</publicIp>" in xml
    assert xml.endswith("</item>")

    interfaces.detach(record)
    assert attachment["status"] == "DELETED"
    assert found["networkInterfaceId"] not in interfaces.ec2._network_interfaces


def test_without_a_public_address_there_is_no_association() -> None:
    attachment = interfaces.attach({**REQUEST, "assignPublicIp": "DISABLED"})
    interface = interfaces.ec2._network_interfaces[details(attachment)["networkInterfaceId"]]
    assert "association" not in interfaces.eni_fields_xml(interface)
    interfaces.detach({"attachments": [attachment]})
    assert interfaces.address_of({"attachments": []}) is None
