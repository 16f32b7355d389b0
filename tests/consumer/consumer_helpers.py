"""The wheel in an environment of its own, as somebody else's app has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
DEPENDENCIES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
CONTEXT: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]


def minimum(dependencies: Sequence[str] = DEPENDENCIES) -> list[str]:
    """The oldest versions that the library's ranges allow: ``name>=1.2,<2`` becomes ``name==1.2``."""
    return [requirement.partition(",")[0].replace(">=", "==") for requirement in dependencies]


def build_wheel(directory: Path) -> Path:
    """Build the wheel, by the backend itself."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Consumer:
    """An environment with the wheel, and a directory that has nothing to do with this repository."""

    directory: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "venv" / "bin" / "python"

    @classmethod
    def install(cls, directory: Path, wheel: Path, requirements: Sequence[str]) -> Consumer:
        """Make an empty environment and install the wheel and these requirements into it; nothing else is asked for."""
        made = cls(directory)
        uv = Path(sys.executable).parent / "uv"
        for command in (
            ["venv", "--python", sys.executable, str(directory / "venv")],
            ["pip", "install", "--python", str(made.python), str(wheel), *requirements],
        ):
            done = subprocess.run([str(uv), "--quiet", *command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        return made

    def environment(self) -> dict[str, str]:
        """Variables for its processes: whatever leads Python to this repository is out."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CDK_", "PREFECT_"))
        }
        return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}  # for node

    def run(self, code: str) -> str:
        """What a piece of Python prints there."""
        done = subprocess.run(
            [str(self.python), "-c", code],
            cwd=self.directory,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def app(self, name: str) -> Path:
        """One of the apps, copied to where it has no neighbours."""
        copied = self.directory / name / "app.py"
        copied.parent.mkdir(exist_ok=True)
        copied.write_text((APPS / f"{name}.py").read_text())
        return copied

    def synth(self, name: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The template that an app makes."""
        app = self.app(name)
        out = app.parent / "cdk.out"
        environment = self.environment() | {"CDK_OUTDIR": str(out), "CDK_CONTEXT_JSON": json.dumps(CONTEXT)}
        done = subprocess.run(
            [str(self.python), str(app)],
            cwd=app.parent,
            env=environment | dict(variables or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (template,) = out.glob("*.template.json")
        return dict(json.loads(template.read_text()))
