"""Arguments of a wrong type, said in a sentence before anything is made. Pure rules: imports no CDK.

Python checks no annotation. The CDK checks those of its own, deep inside a construct that is half built by then, in
words that name none of our parameters; interfaces such as ``ec2.IVpc`` it does not check at all.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from sys import float_info
from types import NoneType, UnionType
from typing import Any, Final, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

#: JavaScript, in which the CDK runs, counts no further without losing digits.
_MAX_WHOLE: Final = 2**53 - 1
#: How the CDK encodes a number that is known only at deploy: as one that nobody would write.
_NUMBER_TOKENS: Final = (-float_info.max, -1e280)
_MAX_SHOWN: Final = 60
# What no JSON document in UTF-8, or no API behind it, takes: NUL, and halves of characters.
_UNSENDABLE: Final = re.compile("[\x00\ud800-\udfff]")
_WORDS: Final[dict[object, str]] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    NoneType: "None",
}


@dataclass(frozen=True)
class _Mismatch:
    """A value that is not what it should be, and where in the argument it is."""

    where: str
    wanted: object
    value: object


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of each call against the annotations of the function.

    A bool is no number, a string is no list of strings, and numbers are finite. Interfaces of the CDK, and protocols,
    are met by whatever has their attributes.

    :raises TypeError: An argument is of another type; says which, what it was and what it should be. A value that may
        be a secret is not shown.
    """
    signature = inspect.signature(function)
    owner = function.__qualname__.removesuffix(".__init__")
    prefix = f"{owner}: " if owner != function.__name__ else ""  # of a rule, the caller knows better
    hints: dict[str, Any] = {}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not hints:
            hints.update(get_type_hints(function))
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # Python says it better: "Did you mean …?"
        for name, value in given.items():
            if name in hints:
                _check(f"{prefix}{name}", value, hints[name])
        return function(*args, **kwargs)

    return call


def checked_fields(cls: type[C]) -> type[C]:
    """Check what a dataclass is made with; see :func:`checked`."""
    cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]
    return cls


def is_token(value: str) -> bool:
    """Whether a string is, or holds, something that is known only at deploy."""
    return "${Token[" in value or "#{Token[" in value  # a string, or one of a list


def _check(name: str, value: object, expected: object) -> None:
    mismatch = _mismatch(value, expected, "")
    if mismatch is None:
        return
    raise TypeError(f"{name}{mismatch.where} must be {_wanted(mismatch.wanted)}; got {_got(mismatch)}")


def _mismatch(value: object, expected: object, where: str) -> _Mismatch | None:
    """The first thing in a value that is not as expected."""
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return None
    if origin in (Union, UnionType):
        found = [_mismatch(value, option, where) for option in arguments]
        if None in found:
            return None
        # What is wrong inside one of the possibilities says more than that none of them fits.
        inside = (mismatch for mismatch in found if mismatch is not None and mismatch.where != where)
        return next(inside, _Mismatch(where, expected, value))
    if origin is Literal:  # which values are allowed, the rules say
        return None if type(value) in {type(argument) for argument in arguments} else _Mismatch(where, str, value)
    if origin is Callable:  # what it takes and returns, Python does not know
        return None if callable(value) else _Mismatch(where, "a function", value)
    if origin is not None:
        return _mismatch_inside(value, origin, arguments, expected, where)
    return None if _is(value, expected) else _Mismatch(where, expected, value)


def _mismatch_inside(
    value: object, origin: Any, arguments: tuple[Any, ...], expected: object, where: str
) -> _Mismatch | None:
    if not isinstance(value, origin) or isinstance(value, str | bytes):
        return _Mismatch(where, expected, value)
    return next((found for found in _mismatches_inside(value, origin, arguments, where) if found), None)


def _mismatches_inside(value: Any, origin: Any, arguments: tuple[Any, ...], where: str) -> Iterator[_Mismatch | None]:
    if issubclass(origin, Mapping):
        for key, item in value.items():
            yield _mismatch(key, arguments[0], f"{where} key")
            yield _mismatch(item, arguments[1], f"{where}[{shown(key)}]")
    elif isinstance(value, tuple) and len(arguments) > 1 and arguments[1] is not ...:
        if len(value) != len(arguments):
            yield _Mismatch(where, f"{len(arguments)} values", value)
        for number, (item, argument) in enumerate(zip(value, arguments, strict=False)):
            yield _mismatch(item, argument, f"{where}[{number}]")
    else:
        for number, item in enumerate(value):
            yield _mismatch(item, arguments[0], f"{where}[{number}]")


def _is(value: object, expected: Any) -> bool:
    if expected is float:
        return not isinstance(value, bool) and isinstance(value, int | float) and _is_plain_number(value)
    if expected is int:
        return not isinstance(value, bool) and isinstance(value, int) and _is_plain_number(value)
    if expected is str:
        return isinstance(value, str) and not _UNSENDABLE.search(value)
    if getattr(expected, "_is_protocol", False):
        return all(_has(value, name) for name in _members(expected))
    return isinstance(value, expected)


def _is_plain_number(value: float) -> bool:
    return -_MAX_WHOLE <= value <= _MAX_WHOLE  # which not-a-number and the infinities are not


@functools.cache
def _members(protocol: type) -> frozenset[str]:
    """The attributes that make up a protocol, such as an interface of the CDK."""
    parts = [part for part in protocol.__mro__ if part.__dict__.get("_is_protocol", False)]
    return frozenset(name for part in parts for name in vars(part) if not name.startswith("_"))


def _has(value: object, name: str) -> bool:
    """Whether a value has an attribute; without reading it, which may be a call to the CDK.

    What the CDK returns for an interface may be a proxy that passes everything on to its delegates.
    """
    delegates = getattr(value, "__dict__", {}).get("_delegates", ())
    return any(hasattr(type(one), name) for one in (value, *delegates))


def _wanted(expected: Any) -> str:
    if isinstance(expected, str):
        return expected
    origin = get_origin(expected)
    if origin in (Union, UnionType):
        return " or ".join(_wanted(option) for option in get_args(expected))
    if origin is Literal:
        return _WORDS[str]
    if origin is not None:
        return "a mapping" if issubclass(origin, Mapping) else "a tuple" if origin is tuple else "a list"
    if expected in _WORDS:
        return _WORDS[expected]
    return _with_article(f"{expected.__name__}{_package(expected)}")


def _package(cls: type) -> str:
    return f" of {cls.__module__}" if cls.__module__.partition(".")[0] in ("aws_cdk", "constructs") else ""


def _got(mismatch: _Mismatch) -> str:
    value = mismatch.value
    least, most = _NUMBER_TOKENS
    if (isinstance(value, float) and least <= value <= most) or (isinstance(value, str) and is_token(value)):
        return "a token; it must be known at synth"
    if isinstance(value, str):
        if mismatch.wanted is str:
            return "one with NUL or half of a character in it"
        # Where a number is wanted, nobody passes a secret by mistake.
        numbers = {int, float, bool}
        options = set(get_args(mismatch.wanted)) or {mismatch.wanted}
        return f"the string {shown(value)}" if options & numbers else "a string"
    if value is None or isinstance(value, int | float):
        return shown(value)
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return _with_article(type(value).__name__)


def shown(value: object) -> str:
    """A value as a message shows it: cut where nobody would read on."""
    if isinstance(value, int) and abs(value) > _MAX_WHOLE:
        return "a number beyond 2**53"
    text = repr(value) if isinstance(value, str | int | float | None) else _with_article(type(value).__name__)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
