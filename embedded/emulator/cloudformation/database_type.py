"""AWS::RDS::DBInstance with a PostgreSQL behind it; MiniStack's is a record with an address where nobody is.

Without the wheel that brings PostgreSQL, and for other engines, it stays a record.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedded.emulator import interfaces, postgres
from embedded.emulator.cloudformation.handlers import Created
from embedded.emulator.inner import Json, provisioners, rds
from embedded.emulator.processes import Reaper

CA_FILE = "rds-ca.pem"
"""In the directory of the embedded AWS: the certificate that a client of its databases trusts, as RDS's bundle."""


class DatabaseType:
    """Starts a server with each instance, and stops it with it."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        """
        :param directory: That of the embedded AWS.
        """
        self._directory, self._reaper = directory, reaper
        self._servers: dict[str, postgres.Postgres] = {}

    def install(self) -> None:
        handlers = provisioners._RESOURCE_HANDLERS["AWS::RDS::DBInstance"]
        handlers.update(create=self._created(handlers["create"]), delete=self._deleted(handlers["delete"]))

    def shut_down(self) -> None:
        """Also those of instances that were retained."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()

    def _created(self, create: Callable[..., Any]) -> Callable[..., Created]:
        def created(*args: Any, **kwargs: Any) -> Created:
            name, attributes = create(*args, **kwargs)
            instance = rds._instances[name]
            if instance["Engine"] != "postgres" or not postgres.is_installed():
                return name, attributes
            server = self._start(name, instance)
            instance["Endpoint"].update(Address=server.address, Port=server.port)
            endpoint = {"Endpoint.Address": server.address, "Endpoint.Port": str(server.port)}
            return name, {**attributes, **endpoint}

        return created

    def _start(self, name: str, instance: Json) -> postgres.Postgres:
        address = interfaces.free_address()
        login = postgres.Login(instance["MasterUsername"], instance["_MasterUserPassword"], instance["DBName"])
        certificate = rds._pg_server_material([name], [address])
        (self._directory / CA_FILE).write_text(rds.pg_ca_cert_pem())
        data = self._directory / "emulator" / "databases" / name
        self._servers[name] = postgres.Postgres(data, address, login, certificate, self._reaper)
        return self._servers[name]

    def _deleted(self, delete: Callable[..., Any]) -> Callable[[str, Json], None]:
        def deleted(name: str, properties: Json) -> None:
            delete(name, properties)
            if server := self._servers.pop(name, None):
                server.stop()

        return deleted
