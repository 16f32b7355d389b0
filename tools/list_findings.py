"""`make findings`: list in docs/findings.md what the policy checks find in the environments, and why it is accepted.

The list is read from what app.py writes when it is synthesised, so it cannot say anything else than the code does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacks.environments import ENVIRONMENTS

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "findings.md"

_PACKS: Final = {"AwsSolutions": "AwsSolutions", "NIST.800.53.R5": "NIST 800-53 r5"}
_FINDING: Final = re.compile(r"(?P<pack>AwsSolutions|NIST\.800\.53\.R5)-(?P<rule>\w+)(?:\[(?P<detail>.*)\])?")
_SYNC: Final = re.compile(r"WorkPoolSync[0-9A-F]{8}")

_INTRODUCTION: Final = """\
# Accepted findings

`make synth`, `make diff` and `make deploy` have [cdk-nag](https://github.com/cdklabs/cdk-nag) look at every resource,
by its packs AwsSolutions and NIST 800-53 r5. A finding that is not accepted fails them. These are accepted, each at its
own resource, by `stacks/policy.py` and `stacks/policy_nist.py`. What the rules are about is in cdk-nag's
[RULES.md](https://github.com/cdklabs/cdk-nag/blob/main/RULES.md). What we skip of cfn-lint and checkov is in
`tests/policy/`, with the reasons.

`make findings` writes this file, from what the environments {environments} are synthesised to; a test
fails when it is not up to date.
"""


@dataclass(frozen=True, order=True)
class Accepted:
    """One finding that is accepted in one environment."""

    pack: str
    rule: str
    reason: str
    resource: str
    environment: str


def read(out: Path, environment: str) -> list[Accepted]:
    """What is accepted in the assembly of an environment."""
    found = []
    for file in sorted(out.glob("assembly-*/*.metadata.json")):
        metadata: Mapping[str, Iterable[Mapping[str, object]]] = json.loads(file.read_text())
        for path, entries in metadata.items():
            for entry in entries:
                data = entry["data"]
                if entry["type"] != "aws:cdk:acknowledged-rules" or not isinstance(data, dict):
                    continue
                for rule, reason in data.items():
                    match = _FINDING.fullmatch(rule.removeprefix("Annotation::"))
                    if match:  # the CDK acknowledges findings of its own validation
                        found.append(Accepted(match["pack"], match["rule"], reason, _resource(path), environment))
    return found


def _resource(path: str) -> str:
    """The resource without the name of the environment, and of the function without the hash of its API."""
    inside = path.strip("/").split("/", 1)[1].removesuffix("/Resource")
    return _SYNC.sub("WorkPoolSync", inside)


def render(accepted: Iterable[Accepted]) -> str:
    """The document."""
    grouped: dict[str, dict[str, dict[str, dict[str, set[str]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    )
    for one in accepted:
        grouped[one.pack][one.rule][one.reason][one.resource].add(one.environment)
    lines = [_INTRODUCTION.format(environments=", ".join(ENVIRONMENTS))]
    for pack, title in _PACKS.items():
        lines += [f"## {title}", ""]
        for rule, reasons in sorted(grouped[pack].items()):
            lines += [f"### {rule}", ""]
            for reason, resources in sorted(reasons.items(), key=lambda item: (sorted(item[1]), item[0])):
                lines += [f"{reason}", ""]
                lines += [f"- `{name}`{_where(environments)}" for name, environments in sorted(resources.items())]
                lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _where(environments: set[str]) -> str:
    if environments == set(ENVIRONMENTS):
        return ""
    return f" ({', '.join(name for name in ENVIRONMENTS if name in environments)})"


def synthesise(environment: str, out: Path) -> None:
    """Run app.py for an environment, as the CDK CLI does."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"] | {"env": environment}
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("CDK_", "PREFECT_"))}
    variables |= {"CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(out)}
    command = [sys.executable, str(ROOT / "app.py")]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"list_findings: app.py failed for the environment {environment}:\n{done.stderr}")


def main() -> None:
    """Write the document."""
    accepted = []
    for environment in ENVIRONMENTS:
        with tempfile.TemporaryDirectory() as out:
            synthesise(environment, Path(out))
            accepted += read(Path(out), environment)
    DOCUMENT.write_text(render(accepted))
    print(f"{DOCUMENT.relative_to(ROOT)}: {len(accepted)} accepted findings")


if __name__ == "__main__":
    main()
