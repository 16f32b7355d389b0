"""The same code gives the same templates, whatever the process: or every deployment would change something."""

from pathlib import Path

import pytest
from policy_helpers import Synthesised, run_app, synthesised


def written(done: Synthesised) -> dict[str, bytes]:
    """Templates and asset manifests, by their path in the assembly."""
    files = [*done.out.rglob("*.template.json"), *done.out.rglob("*.assets.json")]
    return {path.relative_to(done.out).as_posix(): path.read_bytes() for path in files}


# One that loses its data and one that keeps it and its flow logs: between them all that the stacks can make.
@pytest.mark.parametrize("name", ["dev", "prod"])
def test_templates_and_asset_manifests_are_the_same_byte_for_byte(name: str, tmp_path: Path) -> None:
    first = written(synthesised(name))
    second = written(run_app(name, hash_seed="2", cwd=tmp_path))
    assert len(first) == 4
    assert first.keys() == second.keys()
    assert [path for path in first if first[path] != second[path]] == []


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_nothing_of_the_machine_is_in_a_template(name: str) -> None:
    for path, content in written(synthesised(name)).items():
        if path.endswith(".template.json"):
            assert str(Path(__file__).parents[2]).encode() not in content
