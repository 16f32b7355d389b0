"""The emulator extends MiniStack through private names; an upgrade must fail with a list of what moved."""

import re
from pathlib import Path

from embedded.emulator import contract

EMULATOR = Path(contract.__file__).parent


def test_the_installed_ministack_keeps_every_promise() -> None:
    assert contract.broken() == []


def test_a_missing_name_a_changed_signature_and_another_version_are_reported(monkeypatch) -> None:
    monkeypatch.setattr(contract, "VERSION", "0.0.1")
    monkeypatch.setattr(
        contract,
        "PROMISES",
        {"services.ecs._gone": None, "services.ecs._stop_task": ("data", "colour"), "services.ecs._sanitize": ()},
    )
    version, *rest = contract.broken()
    assert version.endswith("not 0.0.1")
    assert rest == [
        "services.ecs._gone is gone",
        "services.ecs._stop_task has no parameter colour",
        "services.ecs._sanitize now also needs obj",
    ]


def test_every_private_name_in_the_code_is_promised() -> None:
    """Whoever touches another private name must write it down."""
    modules = {path.split(".")[-2] for path in contract.PROMISES} - {"cloudwatch_logs"} | {"logs"}
    used = set()
    for file in EMULATOR.rglob("*.py"):
        if file.name not in ("contract.py", "inner.py"):
            used |= set(re.findall(rf"\b({'|'.join(modules)})\.(_\w+)", file.read_text()))
    assert used, "the search finds nothing any more"
    promised = {tuple(path.split(".")[-2:]) for path in contract.PROMISES}
    spelled = {("cloudwatch_logs" if module == "logs" else module, name) for module, name in used}
    assert spelled - promised == set()
