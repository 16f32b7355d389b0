"""How long synthesis takes: our environments beside an empty CDK app, in one run.

    make bench

Each is a fresh process, as the CDK CLI starts one; they take turns, so that a busy moment of the machine hits all.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5

EMPTY = """
import aws_cdk as cdk
app = cdk.App()
cdk.CfnResource(cdk.Stack(app, "Empty"), "Topic", type="AWS::SNS::Topic")  # a template must not be empty
app.synth()
"""
UNCHECKED = """
import aws_cdk as cdk
from stacks.environments import environment
from stacks.stage import PrefectStage
app = cdk.App()
config = environment(app.node.get_context("env"))
PrefectStage(app, f"Prefect{config.name.capitalize()}", config=config)
app.synth()
"""
CONTESTANTS = {
    "an empty Python CDK app": [sys.executable, "-c", EMPTY],
    "environment dev without policy checks": [sys.executable, "-c", UNCHECKED],
    "environment dev with policy checks": [sys.executable, "app.py"],
}


def main() -> None:
    """Measure and print."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for attempt in range(ROUNDS + 1):
        for name, command in CONTESTANTS.items():
            with tempfile.TemporaryDirectory() as out:
                env = {**os.environ, "CDK_OUTDIR": out, "CDK_CONTEXT_JSON": json.dumps({**context, "env": "dev"})}
                began = time.perf_counter()
                subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
                if attempt:  # the first round only warms caches
                    seconds[name].append(time.perf_counter() - began)

    table = Table(title=f"Seconds to synthesize, median of {ROUNDS}", title_justify="left")
    for column in ("", "Seconds", "Ratio"):
        table.add_column(column, justify="left" if not column else "right")
    base = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median = statistics.median(values)
        table.add_row(name, f"{median:.2f}", f"{median / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
