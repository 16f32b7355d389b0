"""What prefect.yaml and prefect-baked.yaml deploy."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow_attempts import FLOWS
from packaging.requirements import Requirement
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate
from prefect.utilities.templating import apply_values, find_placeholders

ROOT = FLOWS.parent
FILES = ("prefect.yaml", "prefect-baked.yaml")


def read(file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FLOWS / file).read_text())
    return loaded


def names(file: str) -> list[str]:
    return [deployment["name"] for deployment in read(file)["deployments"]]


def resolved(file: str, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Flow[..., Any]]:
    """A deployment as Prefect's CLI sees it, and its flow as a run loads it."""
    monkeypatch.setenv("FLOW_BUCKET", "some-bucket")
    monkeypatch.setenv("FLOW_WORK_POOL", "some-pool")
    monkeypatch.chdir(FLOWS)
    (deployment,) = (found for found in read(file)["deployments"] if found["name"] == name)
    found: dict[str, Any] = apply_values(deployment, os.environ, remove_notset=False)
    return found, load_flow_from_entrypoint(found["entrypoint"])


EVERY = [(file, name) for file in FILES for name in names(file)]


def test_every_flow_is_deployed_once() -> None:
    entrypoints = [deployment["entrypoint"] for deployment in read("prefect.yaml")["deployments"]]
    assert sorted(entrypoints) == [
        "airports.py:compare_airports",
        "bootstrap.py:rank_carriers",
        "files.py:weather_files",
        "flights.py:flights_etl",
        "training.py:train_digits",
    ]
    assert len({name for _, name in EVERY}) == len(EVERY)


@pytest.mark.parametrize("file", FILES)
def test_prefect_accepts_the_file(file: str) -> None:
    for deployment in PrefectYamlModel.model_validate(read(file)).deployments:
        assert deployment.description
        assert deployment.tags
        assert deployment.enforce_parameter_schema
        assert all(schedule.active is False for schedule in deployment.schedules or [])


@pytest.mark.parametrize(("file", "name"), EVERY)
def test_its_parameters_are_the_flows_and_its_pool_is_the_environments(
    file: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, flow = resolved(file, name, monkeypatch)
    parameters = flow.validate_parameters(deployment["parameters"])
    assert parameters["output"].startswith("s3://some-bucket/data/"), "flow runs may write there"
    assert deployment["work_pool"]["name"] == "some-pool"
    schema = parameter_schema(flow)
    validate(deployment["parameters"], schema.model_dump(), raise_on_error=True)
    with pytest.raises(ValidationError):
        validate({"output": "s3://bucket"}, schema.model_dump(), raise_on_error=True)
    assert [found for found, about in schema.properties.items() if not about.get("description")] == []


def test_sizes_queues_and_spot_policies_are_said_per_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = {name: resolved("prefect.yaml", name, monkeypatch)[0]["work_pool"] for name in names("prefect.yaml")}
    chosen = {
        name: (
            pool.get("work_queue_name"),
            pool["job_variables"].get("cpu"),
            pool["job_variables"].get("memory"),
            [item["capacityProvider"] for item in pool["job_variables"].get("capacity_provider_strategy", [])],
        )
        for name, pool in pools.items()
    }
    assert chosen == {
        "flights": (None, None, None, []),
        "weather": ("files", 1024, 2048, []),
        "digits": ("training", 1024, 2048, ["FARGATE_SPOT"]),
        "airports": (None, None, None, ["FARGATE"]),
        "bootstrap": (None, None, None, ["FARGATE"]),
    }


def lock() -> dict[str, str]:
    """The versions in the image's lock, by name."""
    lines = (ROOT / "docker" / "flow" / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line.removesuffix("\\")) for line in lines if line[:1].isalnum()]
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def test_the_official_image_installs_what_an_image_of_our_own_has() -> None:
    config = read("prefect.yaml")
    plain, with_dask = (config["definitions"][name] for name in ("packages", "packages_with_dask"))
    for found in config["deployments"]:
        assert found["work_pool"]["job_variables"]["env"] == (with_dask if "dask" in found["tags"] else plain)
    installed = {Requirement(text) for text in with_dask["EXTRA_PIP_PACKAGES"].split()}
    without_dask = {Requirement(text) for text in plain["EXTRA_PIP_PACKAGES"].split()}
    assert without_dask < installed
    assert {found.name for found in installed - without_dask} == {"dask", "distributed", "dask-cloudprovider"}
    locked = lock()
    assert {found.name: str(found.specifier) for found in installed} == {
        found.name: locked[found.name] for found in installed
    }

    wanted = (ROOT / "docker" / "flow" / "requirements.in").read_text().partition("# What the example flows need")[2]
    lines = [line.partition("#")[0].strip() for line in wanted.splitlines()]
    assert {found.name for found in installed} == {Requirement(line).name for line in lines if line}


@pytest.mark.parametrize("file", FILES)
def test_two_environment_variables_are_all_it_needs(file: str) -> None:
    found = {placeholder.name for placeholder in find_placeholders(read(file))}
    assert {name for name in found if name.startswith("$")} == {"$FLOW_BUCKET", "$FLOW_WORK_POOL"}
    assert {name for name in found if not name.startswith("$")} <= {"push-code.bucket", "push-code.folder"}


def test_pulled_code_is_at_the_same_place_in_every_attempt() -> None:
    first, second = read("prefect.yaml")["pull"]
    assert first == {"prefect.deployments.steps.set_working_directory": {"directory": "."}}
    assert list(second) == ["prefect_aws.deployments.steps.pull_from_s3"]


def test_baked_code_is_neither_uploaded_nor_downloaded() -> None:
    config = read("prefect-baked.yaml")
    assert config["push"] == []
    assert config["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "/opt/flows"}}]


def test_flows_know_nothing_of_this_project() -> None:
    for file in FLOWS.glob("*.py"):
        text = file.read_text()
        assert not [word for word in ("cdk_prefect_ecs", "embedded", "stacks", "Lazarus") if word in text], file


def test_what_is_uploaded_are_the_flows_and_nothing_else() -> None:
    ignored = (FLOWS / ".prefectignore").read_text().split("\n")
    assert "prefect*.yaml" in ignored
    assert {path.suffix for path in Path(FLOWS).iterdir() if path.is_file()} <= {".py", ".yaml", ""}
