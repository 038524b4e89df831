"""Values are compared and hashed as frozen dataclasses are."""

from dataclasses import dataclass, fields, replace

from proxy.values import value


@value(frozen=True, slots=True)
class Place:
    x: int
    y: int = 0


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    y: int = 0


def test_equal_values_are_equal_and_have_one_hash() -> None:
    assert Place(1, 2) == Place(1, y=2)
    assert Place(1, 2) != Place(2, 1)
    assert len({Place(1, 2), Place(1, 2), Place(2, 1)}) == 2
    assert hash(Place(1, 2)) == hash(Frozen(1, 2))


def test_a_value_is_copied_with_changes_and_has_its_fields_alone() -> None:
    assert replace(Place(1, 2), y=3) == Place(1, 3)
    assert [field.name for field in fields(Place)] == ["x", "y"]
    assert not hasattr(Place(1), "__dict__")
