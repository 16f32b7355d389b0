"""How long synthesis takes: ours beside an empty CDK app and one of the size of prefect-aws's, in one run.

    make bench BENCH=synth

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
RESULTS = ROOT / "bench" / "results" / "synth.json"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
POOLS = (1, 2, 4, 8)
ENVIRONMENTS = (1, 2, 3)

EMPTY = """
import aws_cdk as cdk
app = cdk.App()
cdk.CfnResource(cdk.Stack(app, "Empty"), "Topic", type="AWS::SNS::Topic")  # a template must not be empty
app.synth()
"""
EMPTY_APP, STAND_IN = "empty Python CDK app", "stand-in for prefect-aws, two stacks"

#: What an environment may cost, beside an empty app, and what each further pool may.
GOAL_RATIO, GOAL_POOL_SECONDS = 2.0, 0.1


def main() -> None:
    """Measure, print, and fail if a goal is missed."""
    commands = contestants()
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for attempt in range(ROUNDS + 1):
        for name, command in commands.items():
            took = measure(command)
            if attempt:  # the first round only warms caches
                seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    per_pool = {
        checks: (medians[ours(POOLS[-1], 1, checks)] - medians[ours(1, 1, checks)]) / (POOLS[-1] - 1)
        for checks in (False, True)
    }
    report(seconds, medians, per_pool)
    missed = []
    if (ratio := medians[ours(1, 1, True)] / medians[EMPTY_APP]) > GOAL_RATIO:
        missed.append(f"one environment with policy checks takes {ratio:.2f} times the empty app, not {GOAL_RATIO:g}")
    if (most := max(per_pool.values())) >= GOAL_POOL_SECONDS:
        missed.append(f"a further pool takes {most:.2f} s, not less than {GOAL_POOL_SECONDS:g} s")
    if missed:
        sys.exit("missed: " + "; ".join(missed))


def ours(pools: int, environments: int, checks: bool) -> str:
    """The name of one of ours."""
    sizes = (f"{environments} environment{'s' * (environments > 1)}", f"{pools} pool{'s' * (pools > 1)}")
    return f"{', '.join(sizes)}, {'with' if checks else 'without'} policy checks"


def contestants() -> dict[str, list[str]]:
    """Commands by name."""
    commands = {
        EMPTY_APP: [sys.executable, "-c", EMPTY],
        STAND_IN: [sys.executable, "-m", "bench.stand_in"],
    }
    for checks in (False, True):
        for pools, environments in [(pools, 1) for pools in POOLS] + [(1, count) for count in ENVIRONMENTS[1:]]:
            command = [sys.executable, "-m", "bench.synth_app", str(pools), str(environments)]
            commands[ours(pools, environments, checks)] = [*command, "checks"] if checks else command
    return commands


def measure(command: list[str]) -> float:
    """Seconds that one synthesis takes."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    # Python keeps the bytecode of what it imports, unless told not to: of the app's own modules as of the CDK's.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as out:
        env = {**inherited, "CDK_OUTDIR": out, "CDK_CONTEXT_JSON": json.dumps(context)}
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
        return time.perf_counter() - began


def report(seconds: dict[str, list[float]], medians: dict[str, float], per_pool: dict[bool, float]) -> None:
    """Print the medians and what they are beside the empty app; keep every single figure."""
    table = Table(title=f"Seconds to synthesize, median of {ROUNDS}", title_justify="left")
    for column in ("", "Seconds", "Ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, median in medians.items():
        table.add_row(name, f"{median:.2f}", f"{median / medians[EMPTY_APP]:.2f}")
    console = Console()
    console.print(table)
    for checks, further in per_pool.items():
        console.print(f"Each further pool {'with' if checks else 'without'} policy checks: {further:.3f} s")
    RESULTS.write_text(
        json.dumps({name: [round(value, 3) for value in values] for name, values in seconds.items()}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
