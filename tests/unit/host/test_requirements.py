"""What a host installs is what the release was tested with, to the byte."""

import re
from pathlib import Path

import cdk_prefect_ecs
from cdk_prefect_ecs.image import PREFECT_AWS_VERSION, PREFECT_VERSION

ROOT = Path(__file__).parents[3]
LOCK = Path(cdk_prefect_ecs.__file__).parent / "host" / "requirements.txt"


def pins(lock: Path) -> dict[str, str]:
    """Version of each package in a lock, markers left out."""
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock.read_text(), re.MULTILINE))


def test_it_is_the_prefect_of_this_release() -> None:
    assert pins(LOCK)["prefect"] == PREFECT_VERSION
    assert pins(LOCK)["prefect-aws"] == PREFECT_AWS_VERSION


def test_every_version_is_the_one_that_tests_run_with() -> None:
    tested = pins(ROOT / "requirements.txt")
    assert {name: version for name, version in pins(LOCK).items() if tested.get(name) != version} == {}


def test_every_package_has_hashes() -> None:
    requirements = LOCK.read_text().replace("\\\n", " ").splitlines()
    assert len(requirements) > 50
    assert [line for line in requirements if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_nothing_but_the_worker_is_installed() -> None:
    assert not {"pandas", "matplotlib", "aws-cdk-lib", "ministack"} & set(pins(LOCK))
