"""Names that Prefect and AWS accept. Pure rules: imports no CDK."""

from __future__ import annotations

import hashlib
import re
from typing import Final

#: Characters that Prefect refuses in names. Source: prefect.types.names, `raise_on_name_with_banned_characters`.
_BANNED_IN_PREFECT_NAMES: Final = "/%&><"
_MAX_FAMILY_LENGTH: Final = 255
_HASH_LENGTH: Final = 8


def check_work_pool_name(name: str) -> None:
    """Check a work pool's name against Prefect's rules.

    :raises ValueError: Empty, with a character that Prefect refuses, or beginning with "prefect", which Prefect keeps
        for itself; a CDK token.
    """
    if not name or not name.strip():
        raise ValueError(f"work_pool_name must not be empty; got {name!r}")
    if name != name.strip():
        raise ValueError(f"work_pool_name must not begin or end with a space; got {name!r}")
    if "${Token[" in name:
        raise ValueError(
            "work_pool_name must be known at synth, as names of task definitions and blocks are made from it; "
            "got a token"
        )
    if banned := banned_characters(name):
        raise ValueError(
            f"work_pool_name {name!r} contains {' '.join(banned)}; "
            f"Prefect refuses any of {' '.join(_BANNED_IN_PREFECT_NAMES)}"
        )
    if name.lower().startswith("prefect"):
        raise ValueError(f"work_pool_name {name!r} begins with 'prefect', which Prefect reserves; choose another name")


def banned_characters(name: str) -> list[str]:
    """The characters of a name that Prefect refuses."""
    return sorted({character for character in name if character in _BANNED_IN_PREFECT_NAMES})


def task_definition_family(*names: str) -> str:
    """A valid task definition family: letters, digits, ``-`` and ``_``, at most 255.

    It is the same whenever the names are, and another for other names. A hyphen in the second one could as well be the
    first one's: stack ``Prod`` with pool ``etl-x``, stack ``Prod-etl`` with pool ``x``. There a hash of the names is
    added.
    """
    return _slug(names, r"[^A-Za-z0-9_-]+", _MAX_FAMILY_LENGTH, ambiguous=any("-" in name for name in names[1:2]))


def block_name(work_pool_name: str) -> str:
    """A valid Prefect block document name (lower-case letters, digits, ``-``) for a work pool's results."""
    return _slug((f"{work_pool_name}-results",), r"[^a-z0-9-]+", 100)


def _slug(names: tuple[str, ...], unwanted: str, maximum: int, *, ambiguous: bool = False) -> str:
    raw = "-".join(names)
    slug = re.sub(unwanted, "-", raw).strip("-")
    if slug == raw and len(slug) <= maximum and not ambiguous:
        return slug
    # Something was replaced or cut: a hash keeps "etl a" and "etl_a" apart.
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:_HASH_LENGTH]
    return f"{slug[: maximum - _HASH_LENGTH - 1].rstrip('-')}-{digest}".lstrip("-")
