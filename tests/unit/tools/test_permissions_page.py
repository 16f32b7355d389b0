"""docs/permissions.md is what the templates and the code say today."""

import re

from tools.permissions.catalogue import KINDS
from tools.permissions.example import example
from tools.permissions.page import PAGE, render


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "docs/permissions.md is out of date: run `make permissions`"


def test_every_kind_of_role_has_a_section_with_a_row_for_each_action() -> None:
    sections = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    for name, kind in KINDS.items():
        for action in {action for role in example().roles[name] for action in role.actions}:
            assert f"`{action}`" in sections[kind.title], f"{kind.title}: {action}"


def test_every_row_says_why() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(("| `", "| never"))]
    assert len(rows) > 50
    for row in rows:
        assert re.fullmatch(r"\| [^|]+ \| [^|]+ \| [^|]* \| [^|]{5,} \|", row), row


def test_nothing_of_this_account_is_in_it() -> None:
    assert not re.search(r"\d{12}|[0-9a-f]{32}", PAGE.read_text())
