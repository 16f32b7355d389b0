"""docs/permissions.md: each role, what it may do, and the code that needs it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tools.permissions.catalogue import KINDS, OTHERS, Kind
from tools.permissions.example import ROOT, example
from tools.permissions.operations import actions
from tools.permissions.policies import ACCOUNT, Role, Statement
from tools.permissions.source_calls import SourceCall

PAGE: Final = ROOT / "docs" / "permissions.md"

_HEAD: Final = """\
# Permissions

What each role may do, where, and why. This page is written by `make permissions`, from the templates of an app that has
everything turned on and from the source of whoever has the role. Tests compare the two: a role may do what its code
calls and what AWS does with it, nothing is missing and nothing is too much. They ask for what is allowed and for much
that is not ([`tests/unit/permissions`](../tests/unit/permissions)), and hold every statement against the Service
Authorization Reference of AWS. Your roles have less: a row is there only where what it is for is turned on.

Names stand for what the constructs make: `cluster/Cluster` is the cluster's ARN, `Service` the name of the stack and
`etl` that of the pool. A role that ECS tasks take can be taken by tasks of your account only.
"""
_OTHERS_HEAD: Final = """\
## Other roles

Made by the CDK or after AWS's own instructions:

| role | taken by | policy of AWS | may |
| --- | --- | --- | --- |
"""
#: What the CDK appends to names to make them unique, and hashes of assets.
_UNIQUE: Final = re.compile(r"(?<=[A-Za-z])[0-9A-F]{8}(?=[A-Z]|\b)")
_ASSET: Final = re.compile(r"[0-9a-f]{64}")


def render() -> str:
    """The page as it should be."""
    app = example()
    parts = [_HEAD, *(_section(kind, app.roles[name]) for name, kind in KINDS.items())]
    known = {(role.stack, role.logical_id) for roles in app.roles.values() for role in roles}
    others = {_readable(role.logical_id): role for role in app.templates.roles()}
    rows = [_other(role) for role in others.values() if (role.stack, role.logical_id) not in known]
    return "\n".join([*parts, _OTHERS_HEAD + "\n".join(rows) + "\n"])


def why_other(role: Role) -> str:
    """Why a role is there that is not of our making.

    :raises KeyError: ``OTHERS`` does not say.
    """
    return next(why for prefix, why in OTHERS.items() if role.logical_id.startswith(prefix))


def _section(kind: Kind, roles: tuple[Role, ...]) -> str:
    taken_by = ", ".join(f"`{service}`" for service in roles[0].trusted)
    lines = [f"## {kind.title}", "", _filled(f"{kind.who} Taken by {taken_by}."), ""]
    if rows := _rows(kind, roles):
        lines += ["| may | on | if | for |", "| --- | --- | --- | --- |", *rows, ""]
    if kind.not_made:
        lines += ["In its code, and not made:", "", *_not_made(kind), ""]
    return "\n".join(lines)


def _rows(kind: Kind, roles: Iterable[Role]) -> list[str]:
    """A row for the actions that have resources, conditions and reason in common. Of a role that is in several stacks,
    one stack after the other adds the actions that are not there yet."""
    reasons = _reasons(kind)
    shown: set[tuple[str, str]] = set()
    grouped: dict[tuple[str, str, str], set[str]] = {}
    for role in roles:
        fresh = [
            (statement, action)
            for statement in role.statements
            for action in statement.actions
            if (statement.effect, action) not in shown
        ]
        for statement, action in fresh:
            where = "<br>".join(f"`{_short(resource)}`" for resource in sorted(statement.resources))
            denied = statement.effect == "Deny"
            why = "The function's code has no use for it." if denied else reasons.get(action, "")
            told = f"never `{action}`" if denied else f"`{action}`"
            grouped.setdefault((where, "<br>".join(_conditions(statement)), why), set()).add(told)
            shown.add((statement.effect, action))
    rows = [("<br>".join(sorted(told)), *key) for key, told in grouped.items()]
    return [f"| {' | '.join(row)} |" for row in sorted(rows, key=lambda row: (row[0].startswith("never"), row))]


def _reasons(kind: Kind) -> dict[str, str]:
    """Why an action is allowed: which code calls it, or what AWS does with it."""
    reasons = dict(kind.by_aws)
    callers: dict[str, set[str]] = {}
    for call in kind.made():
        for action in actions(call.service, call.method):
            callers.setdefault(action, set()).add(_caller(call))
    return {**reasons, **{action: "<br>".join(sorted(found)) for action, found in callers.items()}}


def _caller(call: SourceCall) -> str:
    return f"`{call.module}`" + (f" `{call.function}`" if call.function else "")


def _not_made(kind: Kind) -> Iterator[str]:
    named = kind.named()
    for reason in kind.not_made:
        methods = sorted({f"`{call.service}:{call.method}`" for call in named if reason.covers(call)})
        yield _filled(f"- {', '.join(methods)}: {reason.why}", indent="  ")


def _filled(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, 125, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _other(role: Role) -> str:
    policies = "<br>".join(f"`{arn.partition(':policy/')[2]}`" for arn in role.managed_policies)
    may = "<br>".join(f"`{action}`" for action in sorted(role.actions))
    taken_by = ", ".join(f"`{service}`" for service in role.trusted)
    return f"| {why_other(role)} | {taken_by} | {policies} | {may} |"


def _conditions(statement: Statement) -> Iterator[str]:
    for operator, keys in sorted(statement.conditions.items()):
        for key, value in sorted(keys.items()):
            values: list[Any] = value if isinstance(value, list) else [value]
            told = " or ".join(f"`{_short(str(one))}`" for one in values)
            yield f"`{key}` {_OPERATORS.get(operator, operator)} {told}"


_OPERATORS: Final = {"StringEquals": "is", "ArnEquals": "is", "ArnLike": "is like"}


def _short(text: str) -> str:
    """An ARN without what is the same everywhere; anything else as it is."""
    parts = text.split(":", 5)
    resource = parts[5] if text.startswith("arn:") and len(parts) > 5 else text
    return _readable(resource)


def _readable(text: str) -> str:
    return _UNIQUE.sub("", _ASSET.sub("HASH", text)).replace(ACCOUNT, "ACCOUNT")
