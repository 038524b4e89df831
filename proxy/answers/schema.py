"""Whether a document fits the JSON Schema that a request asks for, at a bounded cost."""

from functools import cached_property
from typing import TYPE_CHECKING

from proxy.answers.weights import Weights
from proxy.types import JSON

if TYPE_CHECKING:
    from jsonschema_rs import Validator

MOST_STEPS = 2_000_000
"""A check that may take more steps than this is not made; the shallow one is. The worst take some 20 ns a step."""

_PATTERN_BYTES = 1 << 16
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


class Schema:
    """A JSON Schema of a request, compiled on first use; its `$schema` says which draft, else it is 2020-12.

    Nothing outside the schema is read: a reference that leads out of it is never followed. `format` is not checked.
    Where the schema cannot be compiled (an unknown reference, a pattern with lookaround), where what a check would cost
    cannot be told (`unevaluatedProperties`, `$dynamicRef`, nested `$id`), or may be too much for the document at hand,
    the shallow check stands in: the type of the whole, the required keys, and the types of the properties.
    """

    def __init__(self, schema: JSON) -> None:
        self._schema = schema

    def fits(self, value: object) -> bool:
        """Whether `value`, plain JSON with numbers as orjson reads them, fits. Never raises."""
        if not self.checks(value) or self._compiled is None:
            return _fits_shallow(value, self._schema)
        try:
            return self._compiled[0].is_valid(value)
        except ValueError:
            # deeper than the validator goes, or text that is no Unicode
            return False

    def checks(self, value: object) -> bool:
        """Whether a document is checked in full."""
        return self._compiled is not None and self._compiled[1].of(value, MOST_STEPS) <= MOST_STEPS

    @cached_property
    def _compiled(self) -> "tuple[Validator, Weights] | None":
        import jsonschema_rs

        try:
            weights = Weights(self._schema)
            validator = jsonschema_rs.validator_for(
                self._schema,
                offline=True,
                validate_formats=False,
                # the other engine backtracks; this one takes time linear in the text
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES),
            )
        except (ValueError, jsonschema_rs.ReferencingError):
            return None
        return validator, weights


def _fits_shallow(value: object, schema: JSON) -> bool:
    if not _has_type(value, schema.get("type")):
        return False
    if not isinstance(value, dict):
        return True
    required, properties = schema.get("required"), schema.get("properties")
    if isinstance(required, list) and not all(key in value for key in required if isinstance(key, str)):
        return False
    if not isinstance(properties, dict):
        return True
    described = {key: part for key, part in properties.items() if isinstance(part, dict)}
    return all(_has_type(value[key], part.get("type")) for key, part in described.items() if key in value)


def _has_type(value: object, names: object) -> bool:
    """Whether `value` is of the JSON type or one of the types named; unknown names are not judged."""
    wanted = names if isinstance(names, list) else [names]
    known = [name for name in wanted if isinstance(name, str) and name in _TYPES]
    if not known:
        return True
    if isinstance(value, bool):
        return "boolean" in known
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return any(isinstance(value, _TYPES[name]) for name in known)
