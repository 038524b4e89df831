"""Where a fault of the program itself ends, so that it harms nobody else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def contained(log: Any, event: str, **told: object) -> Iterator[None]:  # noqa: ANN401 - structlog's loggers have no type
    """Let no exception out of the block: it is logged as `event`, with its traceback and what is `told`.

    For what runs in a task group beside others (a batch, a vote in the background, a look at a budget), whose fault
    would else end them and the server. A cancellation goes through.
    """
    try:
        yield
    except Exception:
        log.exception(event, **told)
