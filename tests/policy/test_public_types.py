"""The public names as pyright shows them in an editor: every type is known, and every use is clean in strict mode."""

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policy_helpers import ROOT

import cdk_prefect_ecs

CLI = ROOT / "node_modules" / "pyright" / "index.js"
LIBRARY_TESTS = ROOT / "tests" / "unit" / "library"
#: What pyright must complain about, or it would complain about nothing.
UNTYPED = "def untyped(value):\n    return value\n\n\nseen = untyped(1)\n"


def pyright(*arguments: str) -> dict[str, Any]:
    """What pyright reports. Its package holds all it needs: nothing is downloaded."""
    command = ["node", str(CLI), "--pythonpath", sys.executable, "--outputjson", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{"), f"pyright failed (is node_modules set up? make does it): {done.stderr}"
    return dict(json.loads(done.stdout))


def test_every_name_has_a_known_type_and_a_docstring() -> None:
    # Of the modules that are not exported too: an editor goes there. Types of the CDK are its own affair here.
    found = pyright("--verifytypes", "cdk_prefect_ecs", "--ignoreexternal")["typeCompleteness"]
    assert [
        f"{symbol['name']}: {diagnostic['message']}"
        for symbol in found["symbols"]
        if symbol["isExported"] and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"])
        for diagnostic in symbol["diagnostics"]
    ] == []
    assert found["pyTypedPath"] == str(Path(cdk_prefect_ecs.__file__).with_name("py.typed"))
    counts = found["exportedSymbolCounts"]
    assert (counts["withUnknownType"], counts["withAmbiguousType"]) == (0, 0)
    assert counts["withKnownType"] > 800
    assert (found["missingClassDocStringCount"], found["missingFunctionDocStringCount"]) == (0, 0)


def members(cls: type) -> Iterator[str]:
    """Methods, properties, attributes and constants of a class that this library defines."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("cdk_prefect_ecs")]
    for base in ours:
        declared = {**vars(base), **inspect.get_annotations(base)}
        yield from (name for name in declared if not name.startswith("_"))


def every_use() -> str:
    """A module that reads every public name, and everything public of each."""
    lines = ["import cdk_prefect_ecs as library", ""]
    for name in cdk_prefect_ecs.__all__:
        lines += ["", f"def use_{name}(one: library.{name}) -> list[object]:"]
        read = [f"one.{member}" for member in dict.fromkeys(members(getattr(cdk_prefect_ecs, name)))]
        lines += [f"    read{number} = {each}" for number, each in enumerate(read)]
        lines += [f"    return [{', '.join(f'read{number}' for number in range(len(read)))}]"]
    return "\n".join([*lines, ""])


def test_every_public_name_is_clean_in_strict_mode(tmp_path: Path) -> None:
    (tmp_path / "every_use.py").write_text(every_use())
    (tmp_path / "untyped.py").write_text(UNTYPED)
    for name in ("whole_library.py", "library_helpers.py"):  # an app that calls it
        shutil.copy(LIBRARY_TESTS / name, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "include": ["every_use.py", "untyped.py", "whole_library.py"]})
    )
    report = pyright("--project", str(tmp_path))
    assert report["summary"]["filesAnalyzed"] == 3
    found = [(Path(each["file"]).name, each["message"], each["range"]) for each in report["generalDiagnostics"]]
    assert [each for each in found if each[0] != "untyped.py"] == []
    assert any("unknown" in message for _, message, _ in found)
