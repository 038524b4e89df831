"""A value that a JSON schema allows: what a model would fill a tool's arguments with."""

import re
from dataclasses import dataclass, replace
from typing import Any

JSON = dict[str, Any]

_DEEPEST = 12
_FORMATS = {
    "date": ("2026-01-02", "2026-01-03"),
    "date-time": ("2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"),
    "time": ("03:04:05", "03:04:06"),
    "email": ("a@example.com", "b@example.com"),
    "uri": ("https://example.com/a", "https://example.com/b"),
    "uuid": ("6f1c1a52-0000-4000-8000-000000000001", "6f1c1a52-0000-4000-8000-000000000002"),
}


@dataclass(frozen=True, slots=True)
class Filler:
    """Fills schemas. Numbers and words in other scripts are taken from `question`; `odd` gives another value."""

    root: JSON
    question: str = ""
    odd: bool = False

    def fill(self, schema: Any, depth: int = 0) -> Any:
        """The simplest value of `schema`: every property, one item an array, the first of several forms."""
        if not isinstance(schema, dict) or depth > _DEEPEST:
            return "42"
        if "$ref" in schema:
            return self.fill(self._resolved(schema["$ref"]), depth + 1)
        for choice in ("const", "enum"):
            if choice in schema:
                values = schema[choice] if choice == "enum" else [schema[choice]]
                return values[1] if self.odd and len(values) > 1 else values[0]
        for forms in ("anyOf", "oneOf"):
            if schema.get(forms):
                return self.fill(schema[forms][0], depth + 1)
        if schema.get("allOf"):
            return self.fill({k: v for part in schema["allOf"] for k, v in self._whole(part).items()}, depth + 1)
        return self._of_type(schema, depth)

    def _of_type(self, schema: JSON, depth: int) -> Any:
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object":
            return {name: self.fill(part, depth + 1) for name, part in (schema.get("properties") or {}).items()}
        if kind == "array":
            count = max(1, schema.get("minItems") or 0)
            return [self.fill(schema.get("items") or {}, depth + 1) for _ in range(count)]
        if kind in {"integer", "number"}:
            return self._number(schema)
        return {"boolean": not self.odd, "null": None}[kind] if kind in {"boolean", "null"} else self._text(schema)

    def _number(self, schema: JSON) -> int | float:
        found = re.search(r"\d+", self.question)
        value = (int(found[0]) if found else 42) + self.odd
        low = schema.get("minimum", schema.get("exclusiveMinimum", value - 1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", value + 1) - 1)
        bounded: int | float = max(low, min(high, value))
        return bounded

    def _text(self, schema: JSON) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]][self.odd]
        foreign = re.search(r"[^\x00-\u024f\u2000-\u2fff]+", self.question)
        text = foreign[0] if foreign else "42"
        return (text + "!" if self.odd else text).ljust(schema.get("minLength") or 0, ".")

    def _whole(self, part: JSON) -> JSON:
        return self._resolved(part["$ref"]) if "$ref" in part else part

    def _resolved(self, reference: str) -> JSON:
        found: Any = self.root
        for step in reference.removeprefix("#").strip("/").split("/"):
            found = found[step] if step else found
        return dict(found)


def filled(schema: JSON, question: str = "", *, odd: bool = False) -> Any:
    """A value of `schema`, which is its own root."""
    return replace(Filler(schema), question=question, odd=odd).fill(schema)
