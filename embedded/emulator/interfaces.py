"""The network interface of a task, and its address.

On Fargate every task has an interface of its own, so every Dask scheduler can listen on port 8786. Here tasks share
this machine: each gets an address of its own among those of the loopback interface, and programs that would listen on
every interface, also those that lead out of this machine, are told to listen on that address alone.
"""

import ipaddress
import random
import re
import socket
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from embedded.emulator.inner import Json, ec2

#: Linux answers on all of 127.0.0.0/8; this part of it is unlikely to be used by anything else.
_ADDRESSES = ipaddress.ip_network("127.64.0.0/10")
#: Of TEST-NET-3, where nobody is: who connects to a task's public address fails, as behind a security group.
_PUBLIC_ADDRESSES = ipaddress.ip_network("203.0.113.0/24")

#: Programs that listen on every interface, and how they are told otherwise.
_LISTENERS: Final[Mapping[tuple[str, ...], tuple[str, ...]]] = {
    ("dask", "scheduler"): ("--host", "{address}", "--dashboard-address", "{address}:8787"),
    ("dask", "worker"): ("--host", "{address}", "--dashboard-address", "{address}:0"),
}

#: Variables by which a program is told where to listen: the same for those.
_LISTENING_VARIABLES: Final = ("PREFECT_SERVER_API_HOST",)

_eni_fields_xml = ec2._eni_fields_xml


def install() -> None:
    ec2._eni_fields_xml = eni_fields_xml


def eni_fields_xml(eni: Json, tag: str = "item") -> str:
    """MiniStack does not tell an interface's public address."""
    xml: str = _eni_fields_xml(eni, tag)
    if not (public := (eni.get("Association") or {}).get("PublicIp")):
        return xml
    association = f"<association><publicIp>{public}</publicIp><ipOwnerId>amazon</ipOwnerId></association>"
    return xml.removesuffix(f"</{tag}>") + f"{association}</{tag}>"


def attach(configuration: Json) -> Json:
    """Make an interface for a task in ``awsvpc`` mode; returns the attachment as DescribeTasks shows it.

    :param configuration: ``awsvpcConfiguration`` of the request.
    """
    subnet = (configuration.get("subnets") or [""])[0]
    groups = {f"SecurityGroupId.{n}": group for n, group in enumerate(configuration.get("securityGroups") or [], 1)}
    _, _, body = ec2._create_network_interface({"SubnetId": subnet, **groups})
    found = re.search(r"<networkInterfaceId>([^<]+)<", body if isinstance(body, str) else body.decode())
    assert found is not None
    interface = ec2._network_interfaces[found.group(1)]
    attachment = str(uuid.uuid4())
    interface.update(Status="in-use", Description=attachment, PrivateIpAddress=free_address())
    if configuration.get("assignPublicIp") == "ENABLED":
        interface["Association"] = {"PublicIp": str(random.choice(list(_PUBLIC_ADDRESSES.hosts())))}  # noqa: S311
    details = {
        "subnetId": subnet,
        "networkInterfaceId": interface["NetworkInterfaceId"],
        "macAddress": interface["MacAddress"],
        "privateIPv4Address": interface["PrivateIpAddress"],
    }
    return {
        "id": attachment,
        "type": "ElasticNetworkInterface",
        "status": "ATTACHED",
        "details": [{"name": name, "value": value} for name, value in details.items() if value],
    }


def detach(record: Json) -> None:
    """The task has stopped: its interfaces are gone."""
    for attachment in record["attachments"]:
        attachment["status"] = "DELETED"
        ec2._delete_network_interface({"NetworkInterfaceId": _detail(attachment, "networkInterfaceId")})


def address_of(record: Json) -> str | None:
    """A task's private address; None where it has no interface."""
    return next((_detail(attachment, "privateIPv4Address") for attachment in record["attachments"]), None)


def listening_on(command: Sequence[str], address: str | None) -> list[str]:
    """The command of a container, listening on this address alone if it is a program that would listen everywhere."""
    options = _LISTENERS.get(tuple(command[:2]), ())
    if address is None or "--host" in command:
        return list(command)
    return [*command, *(option.format(address=address) for option in options)]


def bound_to(environment: Mapping[str, str], address: str | None) -> dict[str, str]:
    """The environment of a container, with this address alone where it says every interface."""
    return {
        name: address if address and name in _LISTENING_VARIABLES and value == "0.0.0.0" else value  # noqa: S104
        for name, value in environment.items()
    }


def free_address() -> str:
    """An address that no other task has; 127.0.0.1 where the system answers on no other, as macOS does."""
    candidate = str(_ADDRESSES[random.randrange(1, _ADDRESSES.num_addresses - 1)])  # noqa: S311
    with socket.socket() as probe:
        try:
            probe.bind((candidate, 0))
        except OSError:
            return "127.0.0.1"
    return candidate


def _detail(attachment: Json, name: str) -> str:
    return next(str(detail["value"]) for detail in attachment["details"] if detail["name"] == name)
