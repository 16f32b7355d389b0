"""How a public name goes (docs/compatibility.md): with a warning that helps, and not before its time."""

import inspect
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import deprecated

import cdk_prefect_ecs
from cdk_prefect_ecs.arguments import checked

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
MESSAGE = re.compile(r"deprecated since (\d+\.\d+\.\d+), gone in (\d+\.\d+\.\d+): use \S.+")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def deprecations(names: dict[str, object]) -> Iterator[tuple[str, str]]:
    """What of these names, and of their methods and properties, is deprecated, and the message."""
    for name, value in names.items():
        members = vars(value).items() if inspect.isclass(value) else ()
        for full, each in ((name, value), *((f"{name}.{attribute}", member) for attribute, member in members)):
            function = getattr(each, "__func__", getattr(each, "fget", each))
            if message := vars(function).get("__deprecated__") if hasattr(function, "__dict__") else None:
                yield full, message


def wrong(names: dict[str, object], version: str, changelog: str) -> list[str]:
    """What is wrong with the deprecations among these names."""
    found = []
    for name, message in deprecations(names):
        said = MESSAGE.fullmatch(message)
        if said is None:
            found.append(f"{name}: the message must be 'deprecated since X.Y.Z, gone in X.Y.Z: use …'; got {message!r}")
        elif numbers(said[2]) <= numbers(version):
            found.append(f"{name}: it should be gone in {said[2]}, and this is {version}; remove it")
        elif not any(
            f"`{name}`" in section for section in re.findall(r"^### Deprecated$(.*?)(?=^#|\Z)", changelog, re.M | re.S)
        ):
            found.append(f"{name}: CHANGELOG.md has nothing about `{name}` under Deprecated")
    return found


def test_what_is_deprecated_says_so_as_the_policy_wants() -> None:
    assert wrong({name: getattr(cdk_prefect_ecs, name) for name in cdk_prefect_ecs.__all__}, VERSION, CHANGELOG) == []


# Nothing may be deprecated at the moment, so the rule is tried on names that are made up.

GOOD = "deprecated since 0.2.0, gone in 0.4.0: use new()"


@deprecated(GOOD)
@checked
def old(count: int = 1) -> int:
    """Replaced by ``new``."""
    return count


class Thing:
    @deprecated("no longer a good idea")
    def method(self) -> None: ...

    @property
    @deprecated(GOOD)
    def attribute(self) -> int:
        return 1

    @staticmethod
    @deprecated(GOOD)
    def from_nothing() -> None: ...

    fine = 1


NAMES: dict[str, object] = {"old": old, "Thing": Thing}


def test_deprecations_are_found_wherever_they_are() -> None:
    assert [name for name, _ in deprecations(NAMES)] == ["old", "Thing.method", "Thing.attribute", "Thing.from_nothing"]


@pytest.mark.parametrize(
    ("version", "changelog", "said"),
    [
        ("0.3.9", "### Deprecated\n\n- `old`: use `new`.\n", None),
        ("0.4.0", "### Deprecated\n\n- `old`: use `new`.\n", "old: it should be gone in 0.4.0, and this is 0.4.0"),
        ("0.10.0", "### Deprecated\n\n- `old`: use `new`.\n", "this is 0.10.0; remove it"),
        (
            "0.3.9",
            "### Added\n\n- `old`\n\n### Deprecated\n\n- `older`\n\n## 0.1.0\n\n- `old`\n",
            "nothing about `old`",
        ),
    ],
)
def test_a_deprecation_has_its_time_and_its_line_in_the_changelog(
    version: str, changelog: str, said: str | None
) -> None:
    found = wrong({"old": old}, version, changelog)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_a_message_that_does_not_help_is_refused() -> None:
    assert "got 'no longer a good idea'" in wrong({"Thing": Thing}, "0.3.0", "### Deprecated\n- `Thing.attribute`")[0]


def test_the_warning_is_at_the_callers_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert old(count=2) == 2
    (warning,) = caught
    assert (warning.category, str(warning.message)) == (DeprecationWarning, GOOD)
    assert warning.filename == __file__
