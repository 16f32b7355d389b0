"""Custom resource properties that keep their types.

CloudFormation hands every scalar of a custom resource to its function as a string, and the CDK drops nulls,
empty lists and empty objects before that. A base job template means something else afterwards: ``"cpu":
1024`` is not ``"cpu": "1024"``, and a variable without its ``"default": null`` is a required one. So the
construct encodes the tree and the function decodes it. Plain strings stay as they are: the template remains
readable in ``cdk diff``, and the CDK can still resolve the tokens in them.
"""

import json
from collections.abc import Mapping
from typing import Any

PREFIX = "json:"

# The CDK passes an unresolved number as a float near -1.89e289 and looks for that float when it synthesises.
_LARGEST_NUMBER_TOKEN = -1e288


def encode(value: Any) -> Any:
    """Return the same tree with every leaf that is no plain string as ``json:<compact JSON>``.

    :param value: Mappings with string keys, lists, strings, numbers, booleans and None.
    :raises ValueError: for anything that JSON cannot say, and for an unresolved number token, which would be
        encoded as the number that stands for it: pass ``Token.as_string`` or the value itself.
    """
    if isinstance(value, str):
        return PREFIX + _dumps(value) if value.startswith(PREFIX) else value
    if isinstance(value, Mapping) and value:
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"keys of custom resource properties are strings; got {key!r}")
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and value:
        return [encode(item) for item in value]
    if isinstance(value, float) and value < _LARGEST_NUMBER_TOKEN:
        raise ValueError(f"cannot encode {value!r}: it is an unresolved number token or out of range")
    if value is None or isinstance(value, (bool, int, float, Mapping, list, tuple)):
        return PREFIX + _dumps(value)
    raise ValueError(f"cannot encode a {type(value).__name__}; allowed: str, int, float, bool, None, list, dict")


def decode(tree: Any) -> Any:
    """Restore what :func:`encode` was given. Numbers and booleans that arrive as such are left as they are.

    :raises ValueError: when a string begins with ``json:`` and what follows is not JSON.
    """
    if isinstance(tree, str):
        if not tree.startswith(PREFIX):
            return tree
        try:
            return json.loads(tree[len(PREFIX) :])
        except ValueError:
            raise ValueError(f"not JSON after {PREFIX!r}: {tree[:80]!r}") from None
    if isinstance(tree, Mapping):
        return {key: decode(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [decode(item) for item in tree]
    return tree


def _dumps(value: Any) -> str:
    # Mappings and tuples only arrive here empty.
    plain = {} if isinstance(value, Mapping) else [] if isinstance(value, (list, tuple)) else value
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
