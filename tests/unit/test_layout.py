"""The rules of the layout that no linter knows: what imports what, and that public names are documented."""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

import cdk_prefect_ecs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "constructs" / "cdk_prefect_ecs"
OURS = ("app.py", "conftest.py", "bench", "constructs", "docker", "embedded", "flows", "stacks", "tests", "tools")
CDK = {"aws_cdk", "constructs", "jsii", "cdk_nag"}
PURE = [
    *("arguments", "capacity", "fargate", "instance_types", "job_trust", "names", "queues", "settings", "job_template"),
    *("network_modes", "network_prices", "network_reach", "runbook", "dashboard"),
]


def modules(path: Path) -> Iterator[str]:
    """The absolute names that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def python_files() -> list[Path]:
    paths = [ROOT / name for name in OURS]
    return [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path]) if file.exists()]


def top_level(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in modules(path)}


def test_nothing_shadows_packages_from_pypi() -> None:
    assert not (ROOT / "constructs" / "__init__.py").exists()
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_the_library_is_imported_by_its_own_name_only() -> None:
    wrong = [
        str(file.relative_to(ROOT))
        for file in python_files()
        if any(f"{name}.".startswith("constructs.cdk_prefect_ecs.") for name in modules(file))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_no_cdk(name: str) -> None:
    assert not top_level(PACKAGE / f"{name}.py") & CDK


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_only_pure_modules_of_the_library(name: str) -> None:
    used = {full.split(".")[1] for full in modules(PACKAGE / f"{name}.py") if full.startswith("cdk_prefect_ecs.")}
    assert used <= {*PURE, "functions"}  # which use the standard library only


@pytest.mark.parametrize("name", ["config", "environments"])
def test_configuration_imports_no_cdk(name: str) -> None:
    path = ROOT / "stacks" / f"{name}.py"
    assert not top_level(path) & CDK
    used = {full.split(".")[1] for full in modules(path) if full.startswith("cdk_prefect_ecs.")}
    assert used <= set(PURE)


def test_the_library_knows_neither_the_app_nor_prefect() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert not top_level(file) & {"stacks", "flows", "embedded", "prefect", "prefect_aws", "cdk_nag"}, file


def test_the_cdk_code_never_imports_flows() -> None:
    for file in [ROOT / "app.py", *(ROOT / "stacks").rglob("*.py")]:
        assert "flows" not in top_level(file), file


def test_functions_use_the_standard_library_and_boto3() -> None:
    allowed = sys.stdlib_module_names | {"boto3", "botocore"}
    for file in (PACKAGE / "functions").glob("*.py"):
        assert top_level(file) <= allowed, file


def test_a_host_uses_the_standard_library_boto3_and_what_is_in_its_asset() -> None:
    allowed = sys.stdlib_module_names | {"boto3", "botocore"}
    ours = {
        "cdk_prefect_ecs.container",
        "cdk_prefect_ecs.host",
        "cdk_prefect_ecs.functions.credential",
        "cdk_prefect_ecs.functions.prefect_api",
    }
    for file in (PACKAGE / "host").glob("*.py"):
        for name in modules(file):
            assert name.partition(".")[0] in allowed or any(f"{name}.".startswith(f"{own}.") for own in ours), file


def test_conftest_imports_no_cdk() -> None:
    assert not top_level(ROOT / "conftest.py") & (CDK | {"cdk_prefect_ecs", "stacks"})


def test_all_is_sorted_and_complete() -> None:
    assert cdk_prefect_ecs.__all__ == sorted(cdk_prefect_ecs.__all__)
    public = {
        name
        for name, value in vars(cdk_prefect_ecs).items()
        if inspect.isclass(value) and value.__module__.startswith("cdk_prefect_ecs")
    }
    assert public == set(cdk_prefect_ecs.__all__)


def public_members(name: str) -> Iterator[tuple[str, object]]:
    cls = getattr(cdk_prefect_ecs, name)
    yield name, cls
    for attribute, value in vars(cls).items():
        if not attribute.startswith("_"):
            value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if inspect.isfunction(value) or isinstance(value, property):
                yield f"{name}.{attribute}", value


@pytest.mark.parametrize("name", cdk_prefect_ecs.__all__)
def test_public_names_are_documented(name: str) -> None:
    for member, value in public_members(name):
        documentation = inspect.getdoc(value)
        assert documentation, member
        assert documentation.split("\n\n")[0].rstrip().endswith((".", "::", ":")), member


CONSTRUCTS = [name for name in cdk_prefect_ecs.__all__ if issubclass(getattr(cdk_prefect_ecs, name), Construct)]


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_every_parameter_of_a_construct_is_documented(name: str) -> None:
    cls = getattr(cdk_prefect_ecs, name)
    parameters = set(inspect.signature(cls.__init__).parameters) - {"self", "scope", "construct_id"}
    documentation = inspect.getdoc(cls) or ""
    assert [parameter for parameter in parameters if f":param {parameter}:" not in documentation] == []


@pytest.mark.parametrize("name", cdk_prefect_ecs.__all__)
def test_grants_and_imports_are_as_in_the_cdk(name: str) -> None:
    cls = getattr(cdk_prefect_ecs, name)
    for member, value in public_members(name):
        _, _, attribute = member.partition(".")
        if not inspect.isfunction(value):
            continue
        returned = get_type_hints(value).get("return")
        if attribute == "grant" or attribute.startswith("grant_"):
            assert returned is iam.Grant, member
        if attribute.startswith("from_"):
            assert returned is cls, member
            assert isinstance(vars(cls)[attribute], staticmethod), member


@pytest.mark.parametrize(
    ("attribute", "interface", "names"),
    [
        (
            "connections",
            ec2.IConnectable,
            {
                *("DaskAccess", "FlowNetwork", "PrefectExecutionLayer", "PrefectServer"),
                *("ServerDatabase", "WorkerHost", "WorkerService"),
            },
        ),
        (
            "grant_principal",
            iam.IGrantable,
            {
                "DaskAccess",
                "DeployRole",
                "Lazarus",
                "PrefectExecutionLayer",
                "RequiredPolicy",
                "WorkerHost",
                "WorkerService",
            },
        ),
    ],
)
def test_what_may_connect_or_be_granted_is_taken_for_it_by_the_cdk(
    attribute: str, interface: Any, names: set[str]
) -> None:
    ours = {name: getattr(cdk_prefect_ecs, name) for name in CONSTRUCTS}
    assert {name for name, cls in ours.items() if attribute in vars(cls)} == names
    for name in names:
        implemented = [each for declared in ours[name].__jsii_ifaces__ for each in declared.__mro__]
        assert interface in implemented, f"{name}: @jsii.implements({interface.__name__}) is missing"


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_constructs_take_keywords_only(name: str) -> None:
    _, *signature = inspect.signature(getattr(cdk_prefect_ecs, name).__init__).parameters.values()
    assert [parameter.name for parameter in signature[:2]] == ["scope", "construct_id"]
    assert {parameter.kind for parameter in signature[2:]} <= {inspect.Parameter.KEYWORD_ONLY}


def test_a_package_that_would_shadow_stops_the_tests(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "__init__.py").touch()
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    spec = importlib.util.spec_from_file_location("copied_conftest", tmp_path / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    with pytest.raises(pytest.UsageError, match=r"docker/__init__\.py must not exist: .*docker, which Prefect"):
        copied.pytest_configure()
