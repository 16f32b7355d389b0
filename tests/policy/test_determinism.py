"""The same code gives the same assembly, on whatever machine: or every deployment would change something."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from policy_helpers import CONTEXT, ROOT, Synthesised, run, run_app, synthesised

#: What a synthesis reads.
INPUTS = (".dockerignore", "app.py", "cdk.json", "constructs", "docker", "flows", "pyproject.toml", "stacks")

LAYER = """
import json
import os

import aws_cdk as cdk

import cdk_prefect_ecs
from cdk_prefect_ecs import PrefectApi, PrefectExecutionLayer

assert cdk_prefect_ecs.__file__.startswith(os.environ["CHECKOUT"] + os.sep), cdk_prefect_ecs.__file__
app = cdk.App()
PrefectExecutionLayer(
    cdk.Stack(app, "Test"), "Prefect", work_pool_name="etl", api=PrefectApi.self_hosted("https://example.com/api")
)
app.synth()
"""


def assembly(done: Synthesised) -> dict[str, bytes]:
    """Everything that a synthesis wrote, assets included, by its path. Nothing is left out: cdk.json turns the CDK's
    stack traces off, which say where jsii has put itself for the moment, and nothing of the app in Python."""
    assert done.returncode == 0, done.stderr
    return {path.relative_to(done.out).as_posix(): path.read_bytes() for path in done.out.rglob("*") if path.is_file()}


def different(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> list[str]:
    return sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in another folder, as somebody with umask 077 has it, and with other times."""
    copy = tmp_path_factory.mktemp("else where") / "a copy"
    copy.mkdir()
    for name in INPUTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, copy / name)
    for path in copy.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return copy


@pytest.fixture
def somebody_else(elsewhere: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of another user on another machine."""
    variables = {name: str(tmp_path / name.lower()) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for folder in variables.values():
        Path(folder).mkdir()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "aws", "jsii", "package-cache")
    return variables | {
        # What jsii has unpacked already is the same for everybody, and takes ten seconds.
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": os.environ.get("JSII_RUNTIME_PACKAGE_CACHE_ROOT", str(cache)),
        "PYTHONPATH": str(elsewhere / "constructs"),  # before the checkout that is installed
        "USER": "somebody-else",
        "LOGNAME": "somebody-else",
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "C",
        "TZ": "Pacific/Kiritimati",
    }


# One that loses its data and one that keeps it and its flow logs: between them all that the stacks can make.
@pytest.mark.parametrize("name", ["dev", "prod"])
def test_the_app_is_the_same_byte_for_byte(
    name: str, elsewhere: Path, somebody_else: dict[str, str], tmp_path: Path
) -> None:
    first = assembly(synthesised(name))
    done = run_app(name, hash_seed="4242", cwd=tmp_path, root=elsewhere, variables=somebody_else, umask=0o077)
    assert {"manifest.json", "tree.json", "validation-report.json"} <= first.keys()
    assert len([path for path in first if path.endswith((".template.json", ".assets.json"))]) == 4
    assert len({Path(path).parts[0] for path in first if path.startswith("asset.")}) >= 2
    assert different(first, assembly(done)) == []
    assert_functions_are_readable(done.out)


def test_the_layer_alone_is_the_same_byte_for_byte(
    elsewhere: Path, somebody_else: dict[str, str], tmp_path: Path
) -> None:
    def layer_of(checkout: Path, cwd: Path, umask: int, variables: Mapping[str, str]) -> Synthesised:
        # Other tests are about the CDK's validation.
        more = {"CHECKOUT": str(checkout), "CDK_VALIDATION": "false"}
        return run(["-c", LAYER], context=CONTEXT, cwd=cwd, variables={**variables, **more}, umask=umask)

    first = layer_of(ROOT, ROOT, 0o022, {"PYTHONHASHSEED": "1"})
    second = layer_of(elsewhere, tmp_path, 0o077, somebody_else | {"PYTHONHASHSEED": "4242"})
    assert len([path for path in assembly(first) if path.endswith("functions/lazarus.py")]) == 1
    assert different(assembly(first), assembly(second)) == []
    assert_functions_are_readable(second.out)


def assert_functions_are_readable(out: Path) -> None:
    """By Lambda, which runs them as a user of its own: the CLI packs files with the permissions that they have here."""
    code = list(out.glob("asset.*/functions/*.py"))
    assert code
    assert {path.stat().st_mode & 0o777 for path in code} == {0o644}


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_nothing_of_the_machine_is_in_the_assembly(name: str) -> None:
    for path, content in assembly(synthesised(name)).items():
        assert str(ROOT).encode() not in content, path


def test_a_difference_would_be_seen() -> None:
    first = {"same": b"1", "changed": b"1", "gone": b"1"}
    assert different(first, {"same": b"1", "changed": b"2", "new": b"1"}) == ["changed", "gone", "new"]
