from collections.abc import Callable, Iterator

import pytest
from function_fakes import Answer, FakePrefect, FakeSsm, HttpServer, Request

from cdk_prefect_ecs.functions import credential, custom_resource, prefect_api, work_pool_sync


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures that are waited out in production are not in tests."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(work_pool_sync, "_WORK_SECONDS", 1.0)
    monkeypatch.setattr(work_pool_sync, "_DELETE_SECONDS", 1.0)
    monkeypatch.setattr(work_pool_sync, "_UNDO_SECONDS", 1.0)
    monkeypatch.setattr(work_pool_sync, "_ACCESS_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(work_pool_sync, "_BLOCK_TYPE_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(prefect_api, "_FIRST_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(custom_resource, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(custom_resource, "_TIMEOUT_SECONDS", 1.0)


@pytest.fixture
def http_server() -> Iterator[Callable[[Callable[[Request], Answer]], HttpServer]]:
    servers: list[HttpServer] = []

    def start(respond: Callable[[Request], Answer]) -> HttpServer:
        servers.append(HttpServer(respond))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def prefect() -> Iterator[FakePrefect]:
    fake = FakePrefect()
    yield fake
    fake.server.close()


@pytest.fixture
def ssm(monkeypatch: pytest.MonkeyPatch) -> FakeSsm:
    client = FakeSsm()
    monkeypatch.setattr(credential, "aws_client", lambda service, region: client)
    return client
