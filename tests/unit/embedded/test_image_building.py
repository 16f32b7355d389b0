"""What a build is given: the base, and how this machine reaches its registries."""

import http.server
import re
import socket
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.errors import EmbeddedError
from embedded.images import base, machine, podman, tools
from stacks.execution import WRITABLE_PATHS

ROOT = Path(__file__).parents[3]
FLOW = ROOT / "docker" / "flow"


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_DIR", str(tmp_path / "images"))


# The Dockerfile and what belongs to it


def test_the_volumes_of_the_image_are_those_that_tasks_get() -> None:
    assert f"VOLUME {list(WRITABLE_PATHS)}".replace("'", '"') in (FLOW / "Dockerfile").read_text()


def test_uv_is_that_of_the_app() -> None:
    pinned = re.findall(r"^uv==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert re.findall(r"^uv==\S+", (FLOW / "installer.txt").read_text(), re.MULTILINE) == pinned


def test_packages_have_the_versions_of_the_app() -> None:
    def versions(path: Path) -> set[str]:
        return set(re.findall(r"^[A-Za-z0-9._-]+(?:\[.*\])?==[^\s;\\]+", path.read_text(), re.MULTILINE))

    ours = versions(FLOW / "requirements.txt")
    assert len(ours) > 100
    assert ours <= versions(ROOT / "requirements.txt")


def test_whatever_is_copied_gets_through_the_ignore_file() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.+) \S+$", (FLOW / "Dockerfile").read_text(), re.MULTILINE)
    assert {source for line in copied for source in line.split()} | {"docker/flow/Dockerfile"} == allowed


# The base


class Registry(http.server.BaseHTTPRequestHandler):
    status = 401

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/v2/" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_registry_that_asks_for_credentials_is_reached(registry: str) -> None:
    assert base.reaches_registry(registry)
    assert not base.reaches_registry(f"{registry}/elsewhere"), "something that is no registry"


def test_no_registry_is_reached() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not base.reaches_registry(f"http://127.0.0.1:{unused.getsockname()[1]}")


def chosen(monkeypatch: pytest.MonkeyPatch, *, there: set[str], reached: bool) -> tuple[str, bool]:
    """The base that is chosen, and whether it was made."""
    made = []
    monkeypatch.setattr(base, "_is_there", lambda image: image in there)
    monkeypatch.setattr(base, "reaches_registry", lambda url: reached)
    monkeypatch.setattr(base, "make_local_base", lambda: made.append(True))
    return base.base_image(), bool(made)


def test_the_choice_of_a_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASE_IMAGE", raising=False)
    pinned = base.pinned_base()
    assert re.fullmatch(r"docker\.io/library/python:3\.12\.\d+-slim-bookworm", pinned)
    assert chosen(monkeypatch, there=set(), reached=True) == (pinned, False)
    assert chosen(monkeypatch, there={pinned}, reached=False) == (pinned, False)
    assert chosen(monkeypatch, there={base.LOCAL_BASE}, reached=False) == (base.LOCAL_BASE, False)
    assert chosen(monkeypatch, there=set(), reached=False) == (base.LOCAL_BASE, True)
    monkeypatch.setenv("BASE_IMAGE", "registry.example.com/python:3.13")
    assert chosen(monkeypatch, there=set(), reached=False) == ("registry.example.com/python:3.13", False)


# The machine's registries


def test_indexes_of_pip_serve_uv_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example.com/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://more.example.com/simple file:///srv/wheels")
    monkeypatch.setenv("PIP_CONSTRAINT", "/etc/constraints.txt")
    settings = machine.pip_settings()
    conf = machine.pip_conf(settings)
    assert "index-url = https://pypi.example.com/simple\n" in conf
    assert "extra-index-url = https://more.example.com/simple\n" in conf, "a path means nothing in the build"
    assert "constraint" not in conf
    assert tomllib.loads(machine.uv_toml(settings)) == {
        "index": [
            {"url": "https://more.example.com/simple"},
            {"url": "https://pypi.example.com/simple", "default": True},
        ]
    }


def test_uvs_own_index_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example.com/simple")
    assert tomllib.loads(machine.uv_toml({"index-url": "https://pypi.example.com/simple"})) == {
        "index": [{"url": "https://uv.example.com/simple", "default": True}]
    }


def test_nothing_is_said_where_it_is_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_CONFIG_FILE", "/nowhere")
    assert (machine.pip_conf({}), machine.uv_toml({})) == ("", "")


def test_a_build_gets_the_machines_authorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.crt"))
    assert f"--secret=id=ca.crt,src={tmp_path / 'own.crt'}" in machine.build_secrets()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.crt"))
    assert not [option for option in machine.build_secrets() if "ca.crt" in option]


# The tools


def test_says_what_to_install_where_it_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    programs = {"no-such-podman": "podman", "no-such-crun": "crun", "sh": "dash"}
    with pytest.raises(
        EmbeddedError, match=r"images need podman and crun, which .*: sudo apt-get install .* podman crun$"
    ):
        tools.ensure(programs)


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("something was run"))
    tools.ensure({"sh": "dash"})


def test_podmans_configuration_is_our_own(tmp_path: Path) -> None:
    variables = podman.environment()
    own = tmp_path / "images"
    for variable in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"):
        assert Path(variables[variable]).parent == own
        tomllib.loads(Path(variables[variable]).read_text())
    storage = tomllib.loads((own / "storage.conf").read_text())["storage"]
    assert storage["graphroot"] == str(own / "storage")
    engine = tomllib.loads((own / "containers.conf").read_text())["engine"]
    assert engine["volume_path"] == str(own / "volumes")
