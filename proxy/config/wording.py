"""What is wrong with a value, in the words of JSON and YAML, not in Python's."""

from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, str] = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "mapping_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "missing": "is missing",
}


def wording(error: Mapping[str, Any]) -> str:
    """The reason in one of pydantic's errors."""
    return _TYPES.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
