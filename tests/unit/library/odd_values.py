"""What people pass by mistake, and what a clear answer to it is."""

import traceback
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import cdk_prefect_ecs

PACKAGE = Path(cdk_prefect_ecs.__file__).parent

#: What fuzzers and people come up with: wrong types, borders, tokens, Unicode, injections.
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 20, 59, 60, 255, 256, 512, 1000, 1024, 2048, 4096, 16384, 2**31 - 1, 2**31),
    *(2**53, -(2**63), 10**30),
    *(0.0, 0.5, 1.5, 1024.0, -0.1, 1e300, float("nan"), float("inf"), float("-inf")),
    -1.8881545897087626e289,  # a number token of the CDK
    *("", " ", "x", " x", "x ", "1024", "-1", "None", "etl", "default", "latest", "FARGATE", "FARGATE_SPOT", "ARM64"),
    *("nat", "public", "X86_64", "t4g.micro", "m7i.large", "g5.xlarge", "foo", "/", "//", "/tmp", "/data/", "/a:b"),  # noqa: S108
    *("/a/../b", "..", ".", "a/b", "a\nb", "a\tb", "a\x00b", "\ud800", "\u202e", "é", "数据", "🐟", "x" * 300),
    *("${Token[TOKEN.42]}", "#{Token[TOKEN.43]}", "{{ name }}", "%s", "; rm -rf /", "<script>", "prefect-x", "aws:x"),
    *("http://h:99999/api", "http://[::1/api", "http://u:p@h/api", "https://h/api?x=1", "https://h/api", "h/api"),
    *("flows:1", "flows:latest", "Flows:1", "a b:1", "flows@sha256:" + "0" * 64, "flows:1@sha256:0"),
    *([], [None], ["x"], ["x", "x"], [[]], (), ("x",), (1, 2), ("1", "2"), {}, {"A": "1"}, {"A": 1}, {1: "A"}),
    *({"A=B": "1"}, {"PREFECT_API_KEY": "k"}, {"A": "x" * 9000}, {"A": "\ud800"}, {"a" * 200: "v"}, {"aws:x": "v"}),
    *("x" * 9000, {"": ""}, {"k": "v" * 300}, {"k": "🐟"}, {"A B": "1"}, {f"k{number}": "v" for number in range(60)}),
    *({"x"}, frozenset(), b"x", bytearray(b"x"), object(), object, len, range(3), 3 + 4j, Exception("x"), ...),
]  # fmt: skip


def odd() -> st.SearchStrategy[Any]:
    """Anything at all."""
    simple = st.one_of(
        st.sampled_from(ODD),
        st.integers(),
        st.floats(),
        st.text(max_size=40),
        st.booleans(),
        st.none(),
    )
    return st.one_of(
        st.sampled_from(ODD),
        simple,
        st.lists(simple, max_size=3),
        st.dictionaries(st.text(max_size=10), simple, max_size=3),
    )


def changes(valid: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One to three of the arguments replaced by something odd."""
    names = st.lists(st.sampled_from(sorted(valid)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: odd() for name in chosen}))


def assert_clear(error: Exception) -> None:
    """The error was raised by us, on purpose, and says in one sentence what was wrong.

    What Python or jsii raise inside our code was not meant for whoever made the mistake.
    """
    shown = "".join(traceback.format_exception(error))
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert Path(last.filename).is_relative_to(PACKAGE), shown
    assert (last.line or "").strip().startswith("raise "), shown
    assert isinstance(error, ValueError | TypeError), shown
    assert error.__cause__ is None or error.__suppress_context__, shown
    message = str(error)
    assert 15 <= len(message) <= 12_000, message
    assert "Traceback" not in message, message
    assert "jsii" not in message, message
