"""Checks the layout before anything is collected, and takes the clock out of the property tests. Imports no CDK."""

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
    settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
    settings.load_profile("untimed")
