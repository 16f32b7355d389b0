"""Whether the parts of a statement exist and go together, by the Service Authorization Reference."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from tools.permissions.policies import Statement
from tools.permissions.reference import Action, UnknownActionError, action_names, find_action


def misfits(statement: Statement) -> list[str]:
    """What is wrong with a statement: an action that does not exist, a resource or a condition key that it does not
    take, a resource that no action of the statement takes. Empty when nothing is."""
    return list(_misfits(statement))


def open_actions(statement: Statement) -> set[str]:
    """The actions that a role's statement allows on everything though AWS would let it name resources."""
    if statement.kind != "identity" or statement.effect != "Allow" or "*" not in statement.resources:
        return set()
    return {action.name for name in statement.actions for action in matching(name) if action.resource_types}


def matching(name: str) -> list[Action]:
    """The actions that a name of a statement means; ``*`` and ``?`` stand for others."""
    if not set(name) & {"*", "?"}:
        try:
            return [find_action(name)]
        except UnknownActionError:
            return []
    return [find_action(known) for known in action_names(name.partition(":")[0]) if fnmatch.fnmatchcase(known, name)]


def _misfits(statement: Statement) -> Iterator[str]:
    by_name = {name: matching(name) for name in statement.actions}
    for name, actions in by_name.items():
        if not actions:
            yield f"there is no action {name}"
            continue
        # Of a pattern it is enough that one action takes it.
        if statement.resources and not any(a.accepts(resource) for a in actions for resource in statement.resources):
            yield f"{name} is taken on none of {', '.join(statement.resources)}"
        for key in sorted(statement.condition_keys):
            if not any(action.knows(key) for action in actions):
                yield f"{name} does not come with {key}"
    actions = [action for found in by_name.values() for action in found]
    for resource in statement.resources:
        if actions and not any(action.accepts(resource) for action in actions):
            yield f"no action of the statement is taken on {resource}"
