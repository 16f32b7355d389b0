"""docs/findings.md says what is accepted, and is written from what the environments are synthesised to."""

from pathlib import Path

from policy_helpers import synthesised

from stacks.environments import ENVIRONMENTS
from tools.list_findings import DOCUMENT, Accepted, read, render


def accepted() -> list[Accepted]:
    return [one for name in ENVIRONMENTS for one in read(synthesised(name).out, name)]


def test_the_committed_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == render(accepted()), "docs/findings.md is out of date: run `make findings`"


def test_everything_accepted_is_in_it() -> None:
    text = DOCUMENT.read_text()
    found = accepted()
    assert len(found) > 100
    for one in found:
        assert one.reason in text
        assert f"- `{one.resource}`" in text


def test_a_new_finding_changes_the_document() -> None:
    found = accepted()
    new = Accepted("AwsSolutions", "S1", "It holds nothing.", "Execution/Careless", "dev")
    assert render([*found, new]) != render(found)
    assert "- `Execution/Careless` (dev)\n" in render([*found, new])


def test_the_order_of_what_is_found_does_not_matter() -> None:
    found = accepted()
    assert render(reversed(found)) == render(found)


def test_nothing_of_the_machine_is_in_it() -> None:
    assert str(Path.home()) not in DOCUMENT.read_text()
