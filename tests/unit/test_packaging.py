"""The library as others install it: the package and nothing else, and the wheel works by itself."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "constructs" / "cdk_prefect_ecs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
SOURCES = {
    f"cdk_prefect_ecs/{path.relative_to(PACKAGE).as_posix()}"
    for path in PACKAGE.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}

USE_THE_WHEEL = """
import sys
from pathlib import Path

import aws_cdk as cdk
import cdk_prefect_ecs
from cdk_prefect_ecs import PrefectApi, PrefectExecutionLayer

venv, out, repository = map(Path, sys.argv[1:])
strangers = [entry for entry in sys.path if Path(entry).resolve().is_relative_to(repository)]
assert not strangers, strangers
app = cdk.App(outdir=str(out), analytics_reporting=False)
stack = cdk.Stack(app, "Test")
PrefectExecutionLayer(
    stack, "Prefect", work_pool_name="etl", api=PrefectApi.self_hosted("https://prefect.example.com/api")
)
app.synth()
loaded = [m.__file__ for name, m in sys.modules.items() if name.startswith("cdk_prefect_ecs") and m.__file__]
assert all(Path(file).is_relative_to(venv) for file in loaded), loaded
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, built by the backend itself: nothing is downloaded."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"cdk_prefect_ecs-{VERSION}-py3-none-any.whl"


def test_wheel_and_sdist_are_named_after_the_version(built: Path, wheel: Path) -> None:
    assert {path.name for path in built.iterdir()} == {wheel.name, f"cdk_prefect_ecs-{VERSION}.tar.gz"}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"cdk_prefect_ecs-{VERSION}.dist-info"
    assert {name for name in names if not name.startswith(info)} == SOURCES
    assert {name for name in names if name.startswith(info)} == {
        f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")
    }


def test_wheel_holds_what_is_easily_forgotten(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "cdk_prefect_ecs/py.typed" in names
    assert "cdk_prefect_ecs/functions/work_pool_sync.py" in names
    assert {
        f"cdk_prefect_ecs/host/{name}" for name in ("install.sh", "prefect-worker.service", "requirements.txt")
    } <= {*names}


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"cdk_prefect_ecs-{VERSION}.dist-info/METADATA").decode()
    metadata = Parser().parsestr(text)
    assert (metadata["Name"], metadata["Version"]) == ("cdk-prefect-ecs", VERSION)
    assert metadata["Requires-Python"] == ">=3.11"
    needed = [value for value in metadata.get_all("Requires-Dist", []) if "extra ==" not in value]
    assert sorted(value.split(">=")[0].split("<")[0] for value in needed) == ["aws-cdk-lib", "constructs"]


def test_sdist_holds_the_package_and_what_belongs_to_it(built: Path) -> None:
    root = f"cdk_prefect_ecs-{VERSION}"
    with tarfile.open(built / f"{root}.tar.gz") as archive:
        names = {member.name.removeprefix(f"{root}/") for member in archive.getmembers() if member.isfile()}
    assert {f"constructs/{source}" for source in SOURCES} <= names
    others = {name for name in names if not name.startswith("constructs/cdk_prefect_ecs/")}
    # hatchling adds .gitignore: the build of a wheel from the sdist leaves out the same files.
    assert others <= {"PKG-INFO", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore"}


def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """With what the lock names, which is in uv's cache since set-up; tests/consumer has the ranges, and deploys."""
    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    uv, python = Path(sys.executable).parent / "uv", venv / "bin" / "python"
    lock = ROOT / "requirements.txt"
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, venv],
        [uv, "pip", "install", "--quiet", "--python", python, "--constraint", lock, wheel],
        [python, "-c", USE_THE_WHEEL, venv, tmp_path / "out", ROOT],
    ):
        done = subprocess.run(
            command,
            cwd=elsewhere,
            env=variables | {"CDK_VALIDATION": "false"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    handlers = list((tmp_path / "out").glob("asset.*/functions/work_pool_sync.py"))
    assert len(handlers) == 1
