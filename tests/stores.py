"""Books on each of the stores, for what must hold on both."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count

import pytest

from proxy.ledger.books import Books
from proxy.ledger.postgres import PostgresBooks


@contextmanager
def books_on(request: pytest.FixtureRequest, clock: Callable[[], float]) -> Iterator[Books]:
    """Empty books on the store that the fixture's parameter names; ids and secrets are numbers, counted from one."""
    numbers = count(1)

    def token(size: int) -> bytes:
        return next(numbers).to_bytes(size, "big")

    if request.param == "sqlite":
        with closing(Books.open(None, clock=clock, token=token)) as books:
            yield books
        return
    url: str = request.getfixturevalue("postgres")()
    with closing(PostgresBooks.open_url(url, clock=clock, token=token)) as shared:
        shared.take_part()
        yield shared
