"""Values that nothing changes, for what is made at every call: as cheap to make as what may be changed."""

from typing import TYPE_CHECKING

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from collections.abc import Callable
    from dataclasses import dataclass

    def value(*, frozen: bool, **settings: bool) -> Callable[[type], type]:
        """`dataclass(frozen=True)` for the type checker, which is what sees to it that no field is set.

        When it runs it is a plain dataclass with the same equality and hash: a frozen one takes ten times as long to
        make, for it sets every field by way of `object.__setattr__`.
        """
        return dataclass(unsafe_hash=frozen, **settings)
