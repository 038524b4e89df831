"""What rows of the ledger are wanted, as SQL says it."""

from collections.abc import Mapping


class Conditions:
    """Conditions that all hold; a subclass says each as SQL with one `?`, and its value (None: no condition)."""

    __slots__ = ()

    @property
    def said(self) -> Mapping[str, object]:
        """Each condition's value."""
        return {}

    @property
    def condition(self) -> str:
        """All of them, for WHERE."""
        return " AND ".join(condition for condition, value in self.said.items() if value is not None) or "1 = 1"

    @property
    def values(self) -> tuple[object, ...]:
        """What the `?` of `condition` stand for."""
        return tuple(value for value in self.said.values() if value is not None)
