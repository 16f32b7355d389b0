"""app.py as the CDK CLI runs it: a process, with cdk.json's context in its environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stack_helpers import CONTEXT, ROOT


def run_app(out: Path, *, env: str | None, **variables: str) -> subprocess.CompletedProcess[str]:
    context = CONTEXT | ({"env": env} if env is not None else {})
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CDK_", "PREFECT_"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        env=environment | {"CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(out)} | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("env", "variables", "words"),
    [
        (None, {}, "no environment given; say -c env=NAME with one of dev, staging, prod, embedded"),
        ("nope", {}, "unknown environment 'nope'; use one of dev, staging, prod, embedded"),
        ("embedded", {"PREFECT_API_URL": "nonsense"}, "must be http:// or https:// with a host"),
    ],
)
def test_a_wrong_environment_is_explained_in_a_sentence(
    tmp_path: Path, env: str | None, variables: dict[str, str], words: str
) -> None:
    done = run_app(tmp_path / "out", env=env, **variables)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_only_the_asked_environment_is_synthesised(tmp_path: Path) -> None:
    done = run_app(tmp_path, env="embedded", PREFECT_API_URL="http://127.0.0.1:4299/api")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("assembly-*")] == ["assembly-PrefectEmbedded"]
    template = next(tmp_path.glob("assembly-*/*Execution*.template.json")).read_text()
    assert "http://127.0.0.1:4299/api" in template


def test_an_address_in_the_environment_changes_nothing_elsewhere(tmp_path: Path) -> None:
    done = run_app(tmp_path, env="dev", PREFECT_API_URL="http://127.0.0.1:4299/api")
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*.json") if "4299" in path.read_text()]
    assert "placeholder workspace" in done.stderr


def test_where_tasks_are_containers_the_image_is_built(tmp_path: Path) -> None:
    done = run_app(tmp_path, env="embedded", EMBEDDED_RUNTIME="podman")
    assert done.returncode == 0, done.stderr
    (assets,) = tmp_path.glob("assembly-*/*Execution*.assets.json")
    (image,) = json.loads(assets.read_text())["dockerImages"].values()
    assert image["source"]["dockerFile"] == "docker/flow/Dockerfile"


@pytest.mark.parametrize(("env", "runtime"), [("embedded", "process"), ("dev", "podman")])
def test_elsewhere_it_is_not(env: str, runtime: str, tmp_path: Path) -> None:
    done = run_app(tmp_path, env=env, EMBEDDED_RUNTIME=runtime)
    assert done.returncode == 0, done.stderr
    assert not any(json.loads(file.read_text())["dockerImages"] for file in tmp_path.rglob("*.assets.json"))
