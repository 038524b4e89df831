"""What it may cost to check a document against a JSON Schema, told before it is checked.

A schema is a graph: a node applies others in place (`allOf`, `$ref`, ...) and to the children of what it is applied to
(`properties`, `items`, ...). Which nodes are applied to a value, each how often at most, follows from what is applied
to its parent, and from its name. These states are found once and kept, as those of an automaton are. A recursion that
only follows the document stays at 1 a level; one that branches doubles with every level, and soon costs too much.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from proxy.types import JSON

UNCHECKED = 10**12
"""A weight that no document can pay."""

_MOST_NODES = 2_000
_MOST_PATTERNS = 64
_MOST_LEVELS = 64
_MOST_STEPS = 20_000
_STATE = 4
"""What a step of one state of an automaton weighs."""
_CHARACTERS = 4
"""So many characters count as one value."""
_OTHER = "\x00"
"""Stands for every name that the schema does not tell from others."""

_IN_PLACE = frozenset({"not", "if", "then", "else", "allOf", "anyOf", "oneOf"})
_MAPS = frozenset({"dependentSchemas", "dependencies"})
_OBJECTS = frozenset({"additionalProperties", "propertyNames"})
_ARRAYS = frozenset({"items", "prefixItems", "additionalItems", "contains"})
_COMPARED = frozenset({"enum", "const", "required", "dependentRequired", "dependencies"})
# these look at what other keywords have looked at, however often, or lead out of the schema
_REFUSED = frozenset({"unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"})
_REPEATS = re.compile(r"\{(\d+)(?:,(\d*))?\}")


@dataclass(slots=True, eq=False)
class _Node:
    """One schema: what it weighs itself, and which others it applies to what."""

    weight: int
    here: list[int] = field(default_factory=list)
    named: dict[str, list[int]] = field(default_factory=dict)
    members: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _State:
    """What is applied to one value: each node how often, and what that weighs together."""

    applied: Mapping[int, int]
    weight: int


class Weights:
    """What checks against one schema cost. ValueError for a schema whose cost cannot be told."""

    def __init__(self, schema: JSON) -> None:
        self._nodes, root = _Reading(schema).read()
        self._rank = {node: rank for rank, node in enumerate(_in_place_order(self._nodes))}
        self._names = frozenset(name for node in self._nodes for name in node.named)
        self._steps = 0
        self._states: dict[frozenset[tuple[int, int]], _State] = {}
        self._next: dict[tuple[int, str | None], _State] = {}
        self._first = self._state(Counter({root: 1}))

    def of(self, value: object, most: int) -> int:
        """At most how many steps a check of `value` takes; where they are over `most`, some number over it."""
        walk = _Walk(self, most)
        walk.size(value, self._first, 0)
        return walk.total

    def below(self, state: _State, name: str | None) -> _State:
        """What is applied to the member `name` of a value, or to its items (None)."""
        if name is not None and name not in self._names:
            name = _OTHER
        # states are kept, so their ids are theirs for good
        key = id(state), name
        found = self._next.get(key)
        if found is None:
            applied: Counter[int] = Counter()
            for number, times in state.applied.items():
                node = self._nodes[number]
                reached = node.items if name is None else [*node.members, *node.named.get(name, ())]
                for other in reached:
                    applied[other] += times
            self._steps += len(state.applied)
            found = self._next[key] = self._state(applied)
        return found

    def _state(self, applied: Counter[int]) -> _State:
        """The state of some nodes and all that they apply in place."""
        waiting = [(self._rank[node], node) for node in applied]
        heapify(waiting)
        while waiting:
            _, node = heappop(waiting)
            for other in self._nodes[node].here:
                if other not in applied:
                    heappush(waiting, (self._rank[other], other))
                applied[other] += applied[node]
            self._steps += 1 + len(self._nodes[node].here)
        if self._steps > _MOST_STEPS:
            return _State({}, UNCHECKED)
        weight = sum(self._nodes[node].weight * times for node, times in applied.items())
        return self._states.setdefault(frozenset(applied.items()), _State(applied, weight))


class _Walk:
    """One document's way through the states of its schema; `total` is what it costs."""

    def __init__(self, weights: Weights, most: int) -> None:
        self.total = 0
        self._weights = weights
        self._most = most

    def size(self, value: object, state: _State, depth: int) -> int:
        """How much stands in a value: it and its keys count 1 each, and texts by their length too."""
        size = 1
        if depth == _MOST_LEVELS:
            self.total += UNCHECKED
        elif isinstance(value, str):
            size += len(value) // _CHARACTERS
        elif isinstance(value, dict):
            for name, part in value.items():
                below, key = self._weights.below(state, name), 1 + len(name) // _CHARACTERS
                self.total += below.weight * key
                size += key + self.size(part, below, depth + 1)
                if self.total > self._most:
                    return size
        elif isinstance(value, list) and value:
            below = self._weights.below(state, None)
            for part in value:
                size += self.size(part, below, depth + 1)
                if self.total > self._most:
                    return size
        # with all that is in it: `enum` and `uniqueItems` look at that
        self.total += size * (1 + state.weight)
        return size


class _Reading:
    """Reads a schema into nodes, each dictionary of it once."""

    def __init__(self, schema: JSON) -> None:
        self._schema = schema
        self._nodes: list[_Node] = []
        self._numbers: dict[int, int] = {}
        self._open: list[JSON] = []
        self._patterns = 0

    def read(self) -> tuple[list[_Node], int]:
        """The nodes, and which is the root."""
        root = self._number(self._schema)
        while self._open:
            schema = self._open.pop()
            self._fill(self._nodes[self._numbers[id(schema)]], schema)
        return self._nodes, root

    def _number(self, schema: JSON) -> int:
        number = self._numbers.get(id(schema))
        if number is None:
            if len(self._nodes) == _MOST_NODES:
                raise ValueError("the schema is too large")
            number = self._numbers[id(schema)] = len(self._nodes)
            self._nodes.append(_Node(1 + len(schema)))
            self._open.append(schema)
        return number

    def _all(self, part: object) -> list[int]:
        """The numbers of a subschema or a list of them; `true` and `false` weigh nothing."""
        parts = part if isinstance(part, list) else [part]
        return [self._number(each) for each in parts if isinstance(each, dict)]

    def _fill(self, node: _Node, schema: JSON) -> None:
        for key, part in schema.items():
            if key in _REFUSED or (key in {"$id", "id"} and isinstance(part, str) and schema is not self._schema):
                raise ValueError(f"the cost of {key} cannot be told")
            if key in _COMPARED:
                node.weight += 4 * _size(part)
            if key == "pattern" and isinstance(part, str):
                node.weight += self._pattern(part)
            elif key == "$ref":
                node.here += self._all(_resolved(self._schema, part))
            elif key in _IN_PLACE:
                node.here += self._all(part)
            elif key in _OBJECTS:
                node.members += self._all(part)
            elif key in _ARRAYS:
                node.items += self._all(part)
            elif isinstance(part, dict):
                self._map(node, key, part)

    def _map(self, node: _Node, key: str, parts: JSON) -> None:
        """A keyword that has subschemas by name."""
        if key in _MAPS:
            node.here += self._all(list(parts.values()))
        elif key == "properties":
            node.named = {name: self._all(part) for name, part in parts.items()}
        elif key == "patternProperties":
            node.weight += sum(self._pattern(name) for name in parts)
            node.members += self._all(list(parts.values()))

    def _pattern(self, text: str) -> int:
        """What a pattern weighs: automata take a step a state and character, and repetition makes states."""
        self._patterns += 1
        if self._patterns > _MOST_PATTERNS:
            raise ValueError("the schema has too many patterns")
        weight = 8 + len(text)
        numbers = [int(match[2] or match[1]) for match in _REPEATS.finditer(text)]
        if "){" not in text:
            return _STATE * (weight + sum(numbers))
        for number in numbers:
            weight *= max(number, 1)
        return min(_STATE * weight, UNCHECKED)


def _resolved(schema: JSON, pointer: object) -> object:
    """What a local reference points to. ValueError for one that leads elsewhere or nowhere."""
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        raise ValueError("only references within the schema are followed")
    found: object = schema
    for part in pointer.split("/")[1:]:
        if isinstance(found, dict) and found is not schema and isinstance(found.get("$id"), str):
            raise ValueError("a reference leads through another schema")
        name = part.replace("~1", "/").replace("~0", "~")
        if "%" in name:
            raise ValueError("escaped references are not followed")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise ValueError("a reference leads nowhere")
    return found


def _in_place_order(nodes: list[_Node]) -> list[int]:
    """All nodes, each before those that it applies in place. ValueError where one would apply itself for ever."""
    waiting = Counter(other for node in nodes for other in node.here)
    order = [number for number in range(len(nodes)) if not waiting[number]]
    for number in order:
        for other in nodes[number].here:
            waiting[other] -= 1
            if not waiting[other]:
                order.append(other)
    if len(order) < len(nodes):
        raise ValueError("the schema refers to itself in place")
    return order


def _size(value: object) -> int:
    """How much stands in a part of a schema, at most of a few thousand values."""
    level, size = [value], 0
    while level and size <= _MOST_STEPS:
        below: list[object] = []
        for each in level:
            if isinstance(each, dict):
                below += [*each.values(), *each]
            elif isinstance(each, list):
                below += each
            size += 1 + (len(each) // _CHARACTERS if isinstance(each, str) else 0)
        level = below
    return size
