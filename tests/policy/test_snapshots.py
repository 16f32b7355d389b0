"""Every template of every environment, to be seen in review. A change that was meant: `pytest tests/policy
--snapshot-update`, and read the difference."""

import json
import re
from typing import Any

import pytest
from policy_helpers import EVERY_STACK, synthesised
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

ASSET_HASH = re.compile(r"[0-9a-f]{64}")


def normalised(template: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one version of the code to the next, and what the CDK adds to every template."""
    kept = {key: template[key] for key in ("Description", "Resources", "Outputs")}
    return dict(json.loads(ASSET_HASH.sub("ASSET", json.dumps(kept))))


@pytest.mark.parametrize(("name", "stack"), EVERY_STACK)
def test_template(name: str, stack: str, snapshot: SnapshotAssertion) -> None:
    assert normalised(synthesised(name).template(stack)) == snapshot(extension_class=JSONSnapshotExtension)
