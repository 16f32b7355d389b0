"""The app as it is synthesised for a deployment: app.py in a process of its own, with every check on."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aws_cdk as cdk

from stacks.config import EnvironmentConfig
from stacks.environments import ENVIRONMENTS
from stacks.policy import check_policies
from stacks.stage import PrefectStage

ROOT = Path(__file__).parents[2]
CONTEXT: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]
STACKS = ("Foundation", "Execution")
#: The packs of cdk-nag: names of the plug-ins, and how their rules begin.
PACKS = ("AwsSolutions", "NIST.800.53.R5")
EVERY_STACK = [(name, stack) for name in ENVIRONMENTS for stack in STACKS]

_OUT = tempfile.TemporaryDirectory(prefix="policy-tests-")


@dataclass(frozen=True)
class Synthesised:
    """What one run of app.py wrote."""

    out: Path
    returncode: int
    stderr: str

    def template_path(self, stack: str) -> Path:
        found = list(self.out.glob(f"assembly-*/*{stack}*.template.json"))
        assert len(found) == 1, f"{len(found)} templates of {stack} in {self.out}; the app said: {self.stderr}"
        return found[0]

    def template(self, stack: str) -> dict[str, Any]:
        return dict(json.loads(self.template_path(stack).read_text()))

    def findings(self) -> list[tuple[str, str]]:
        """Path and rule of whatever a pack found and nobody acknowledged."""
        return findings(self.out)


def new_assembly() -> Path:
    """A folder for an assembly, that is gone when the tests are done."""
    return Path(tempfile.mkdtemp(dir=_OUT.name))


def run_app(
    name: str,
    *,
    hash_seed: str,
    cwd: Path,
    root: Path = ROOT,
    variables: Mapping[str, str] | None = None,
    umask: int = -1,
) -> Synthesised:
    """Run app.py for one environment, as the CDK CLI does.

    :param root: The checkout that it is of.
    :param variables: More of its environment.
    """
    return run(
        [str(root / "app.py")],
        context=CONTEXT | {"env": name},
        cwd=cwd,
        variables={"PYTHONHASHSEED": hash_seed, **(variables or {})},
        umask=umask,
    )


def run(
    arguments: Sequence[str],
    *,
    context: Mapping[str, Any],
    cwd: Path,
    variables: Mapping[str, str],
    umask: int = -1,
) -> Synthesised:
    """Run Python as the CDK CLI does, with nothing of this process's own CDK or Prefect."""
    out = new_assembly()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CDK_", "PREFECT_"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=inherited | {"CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(out)} | dict(variables),
        cwd=cwd,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    return Synthesised(out, done.returncode, done.stderr)


@functools.cache
def synthesised(name: str) -> Synthesised:
    """app.py's output for an environment, made once for all tests."""
    return run_app(name, hash_seed="1", cwd=ROOT)


def findings(out: Path) -> list[tuple[str, str]]:
    """Path and rule of the findings of cdk-nag's packs in an assembly's validation report."""
    report = json.loads((out / "validation-report.json").read_text())
    return [
        (construct["constructPath"], violation["ruleName"])
        for plugin in report["pluginReports"]
        if plugin["pluginName"] in PACKS
        for violation in plugin["violations"]
        for construct in violation["violatingConstructs"]
    ]


def checked_app(out: Path, config: EnvironmentConfig) -> tuple[cdk.App, PrefectStage]:
    """An app with the checks on and nothing acknowledged."""
    app = cdk.App(context=CONTEXT, analytics_reporting=False, outdir=str(out))
    stage = PrefectStage(app, f"Prefect{config.name.capitalize()}", config=config)
    check_policies(app)
    return app, stage


def acknowledgements(stage: PrefectStage) -> dict[tuple[str, str], str]:
    """Path and rule of everything of the packs that is acknowledged in the stage, with the reason."""
    return {
        (construct.node.path, rule.removeprefix("Annotation::")): reason
        for construct in stage.node.find_all()
        for entry in construct.node.metadata
        if entry.type == "aws:cdk:acknowledged-rules"
        for rule, reason in entry.data.items()
        if rule.removeprefix("Annotation::").startswith(PACKS)  # the CDK acknowledges findings of its own
    }
