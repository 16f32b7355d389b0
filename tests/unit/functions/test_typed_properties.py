import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_prefect_ecs.functions.typed_properties import decode, encode

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e200)
    | st.text()
    | st.text().map("json:".__add__)
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


def as_cloudformation(value: Any) -> Any:
    """What the CDK and CloudFormation make of properties on the way to the function."""
    if isinstance(value, dict):
        items = {key: as_cloudformation(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item not in (None, [], {})}
    if isinstance(value, list):
        return [item for item in map(as_cloudformation, value) if item not in (None, [], {})]
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def same(left: Any, right: Any) -> bool:
    """Equality that tells 1, 1.0 and True apart."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@given(TREES)
def test_round_trip_through_cloudformation(tree: Any) -> None:
    encoded = encode(tree)

    assert same(decode(encoded), tree)
    if encoded == as_cloudformation(encoded):
        assert same(decode(as_cloudformation(encoded)), tree)
    else:
        pytest.fail("CloudFormation would change it")


def test_plain_strings_stay_readable() -> None:
    tree = {"image": "prefecthq/prefect", "cpu": 1024, "limits": [], "none": None, "on": True}

    assert encode(tree) == {
        "image": "prefecthq/prefect",
        "cpu": "json:1024",
        "limits": "json:[]",
        "none": "json:null",
        "on": "json:true",
    }


def test_string_tokens_pass() -> None:
    token = "${Token[TOKEN.42]}"

    assert encode({"cluster": token, "list": [f"arn:{token}"]}) == {"cluster": token, "list": [f"arn:{token}"]}


def test_strings_that_look_encoded_survive() -> None:
    assert encode("json:1") == 'json:"json:1"'
    assert decode(encode("json:1")) == "json:1"


def test_raw_scalars_are_tolerated() -> None:
    assert decode({"a": 1, "b": [True, None]}) == {"a": 1, "b": [True, None]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1: "a"}, "keys of custom resource properties are strings; got 1"),
        (object(), "cannot encode a object"),
        (float("nan"), "not JSON compliant"),
        (-1.8881545897087626e289, "unresolved number token"),
    ],
)
def test_what_cannot_be_encoded(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(value)


def test_what_cannot_be_decoded() -> None:
    with pytest.raises(ValueError, match="not JSON after 'json:'"):
        decode({"a": "json:{"})
