"""Names that Prefect and AWS accept. Pure rules: imports no CDK."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from cdk_prefect_ecs.arguments import checked, is_token

#: Characters that Prefect refuses in names. Source: prefect.types.names, `raise_on_name_with_banned_characters`.
_BANNED_IN_PREFECT_NAMES: Final = "/%&><"
_MAX_FAMILY_LENGTH: Final = 255
_HASH_LENGTH: Final = 8
#: Source: RFC 1035, section 2.3.4.
_MAX_LABEL_LENGTH: Final = 63
#: Prefect tags each task with the name of its pool, and a tag's value has no more characters. Source: Tag, Amazon ECS
#: API Reference.
_MAX_NAME_LENGTH: Final = 256


@checked
def check_work_pool_name(name: str) -> None:
    """Check a work pool's name against Prefect's rules.

    :raises ValueError: As :func:`check_prefect_name`, or beginning with "prefect", which Prefect keeps for itself; a
        CDK token.
    """
    if is_token(name):
        raise ValueError(
            "work_pool_name must be known at synth, as names of task definitions and blocks are made from it; "
            "got a token"
        )
    check_prefect_name("work_pool_name", name)
    if name.lower().startswith("prefect"):
        raise ValueError(f"work_pool_name {name!r} begins with 'prefect', which Prefect reserves; choose another name")


@checked
def check_prefect_name(what: str, name: str) -> None:
    """Check a name against the rules that Prefect has for all names.

    :param what: What it is the name of, for the message.
    :raises ValueError: Empty, with spaces around it, with a character that Prefect refuses or that cannot be printed,
        only dots, or too long.
    """
    # To Prefect, quotes around nothing are nothing. Source: prefect.types.names, `non_emptyish`.
    if not name.strip("' \""):
        raise ValueError(f"{what} must not be empty; got {name!r}")
    if name != name.strip():
        raise ValueError(f"{what} must not begin or end with a space; got {name!r}")
    if banned := sorted({character for character in name if character in _BANNED_IN_PREFECT_NAMES}):
        raise ValueError(
            f"{what} {name!r} contains {' '.join(banned)}; Prefect refuses any of {' '.join(_BANNED_IN_PREFECT_NAMES)}"
        )
    if not name.isprintable():
        raise ValueError(f"{what} {name!r} contains what cannot be printed, such as a line break or tab; leave it out")
    if not name.strip("."):
        raise ValueError(f"{what} {name!r} means a folder in the address of Prefect's API; choose another name")
    if len(name) > _MAX_NAME_LENGTH:
        raise ValueError(f"{what} must have at most {_MAX_NAME_LENGTH} characters; got {len(name)}")


def task_definition_family(*names: str) -> str:
    """A valid task definition family: letters, digits, ``-`` and ``_``, at most 255.

    It is the same whenever the names are, and another for other names. The names are joined by a hyphen; where the
    second one has a hyphen, by an underscore, which no name of a stack has: stack ``Prod`` with pool ``etl-x`` is not
    stack ``Prod-etl`` with pool ``x``.
    """
    separator = "_" if any("-" in name for name in names[1:2]) else "-"
    return _slug(separator.join(names), names, r"[^A-Za-z0-9_-]+", _MAX_FAMILY_LENGTH)


def block_name(work_pool_name: str) -> str:
    """A valid Prefect block document name (lower-case letters, digits, ``-``) for a work pool's results."""
    return _slug(f"{work_pool_name}-results", (work_pool_name,), r"[^a-z0-9-]+", 100)


def private_host_name(*names: str) -> str:
    """A valid name in a private hosted zone for a Prefect server, made from the names of its stack and itself.

    The zone, all but the first label, is another one for other names: a VPC takes each zone once.
    """
    return f"prefect.{_slug('-'.join(names).lower(), names, r'[^a-z0-9-]+', _MAX_LABEL_LENGTH)}.internal"


def _slug(raw: str, names: tuple[str, ...], unwanted: str, maximum: int) -> str:
    slug = re.sub(unwanted, "-", raw).strip("-")
    if slug == raw and len(slug) <= maximum:
        return slug
    # Something was replaced or cut: a hash keeps "etl a" and "etl_a" apart.
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:_HASH_LENGTH]
    return f"{slug[: maximum - _HASH_LENGTH - 1].rstrip('-')}-{digest}".lstrip("-")
