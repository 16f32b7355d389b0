"""Checks the layout before anything is collected, and keeps clock and chance out of property tests. Imports no CDK."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent


def pytest_configure() -> None:
    """Refuse two files that would shadow packages from PyPI, with errors far from the cause."""
    for folder, shadowed in (("constructs", "constructs, which the AWS CDK"), ("docker", "docker, which Prefect")):
        if (ROOT / folder / "__init__.py").exists():
            raise pytest.UsageError(
                f"{folder}/__init__.py must not exist: it makes the folder a package that shadows PyPI's {shadowed} "
                "imports; delete it"
            )
    # How long an example takes is the machine's affair, and the same code has the same result. RANDOM_EXAMPLES=1 looks
    # further, at other examples each time.
    settings.register_profile("steady", deadline=None, derandomize=not os.environ.get("RANDOM_EXAMPLES"))
    settings.load_profile("steady")
