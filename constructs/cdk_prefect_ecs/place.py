"""Where in the tree a construct is made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import aws_cdk as cdk
from constructs import Construct

from cdk_prefect_ecs.arguments import checked, is_token

P = ParamSpec("P")


def checked_construct(init: Callable[P, None]) -> Callable[P, None]:
    """Check the arguments of a construct's ``__init__``, and that it can be where it is to be: before anything is made.

    :raises TypeError: As :func:`~cdk_prefect_ecs.arguments.checked`.
    :raises ValueError: The scope is in no stack; the id is empty, a token, or taken.
    """

    @functools.wraps(init)
    def place(*args: P.args, **kwargs: P.kwargs) -> None:
        scope = args[1] if len(args) > 1 else kwargs["scope"]
        construct_id = args[2] if len(args) > 2 else kwargs["construct_id"]
        assert isinstance(scope, Construct)
        assert isinstance(construct_id, str)
        public = (cls.__name__ for cls in type(args[0]).__mro__ if not cls.__name__.startswith("_"))
        check_place(scope, construct_id, next(public))
        init(*args, **kwargs)

    return checked(place)


def check_place(scope: Construct, construct_id: str, what: str) -> None:
    """Check that a construct can be made here.

    :param what: Its name, for the message.
    :raises ValueError: As :func:`checked_construct`.
    """
    if not construct_id.strip():
        raise ValueError(f"{what}: construct_id must not be empty; got {construct_id!r}")
    if is_token(construct_id):
        raise ValueError(f"{what}: construct_id must be known at synth, as logical ids are made from it; got a token")
    if not any(isinstance(parent, cdk.Stack) for parent in scope.node.scopes):
        where = repr(scope.node.path) if scope.node.path else "the app"
        raise ValueError(f"{what}: scope must be a stack, or be in one; got {where}")
    if scope.node.try_find_child(construct_id) is not None:
        raise ValueError(
            f"{what}: {scope.node.path or 'the stack'} has a child {construct_id!r} already; "
            "give one of the two another construct_id"
        )
