"""What the commands on tenants, keys and the ledger share: the ledger named by the configuration, and clear errors."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from proxy.config import load_config
from proxy.errors import TallyError
from proxy.ledger import opening
from proxy.ledger.books import Books
from proxy.ledger.database import StoreLost
from proxy.ledger.store import wall_clock
from proxy.windows import parse_duration

P = ParamSpec("P")
R = TypeVar("R")

_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 30 * 86_400}

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="The configuration that names the ledger (database_url).",
)


class Refused(click.ClickException):
    """An error that the operator can act on: one clear line on standard error, exit status 2."""

    exit_code = 2


def clear_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Show errors of tally and of the database as `Refused`."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TallyError as error:
            raise Refused(error.message) from error
        except (sqlite3.Error, StoreLost) as error:
            raise Refused(f"the ledger cannot be used just now: {error}") from error

    return wrapped


@contextmanager
def open_books(config_path: Path | None) -> Iterator[Books]:
    """The books to write to; the file is made where it is missing. Raises ConfigError."""
    with closing(opening.open_books(_url(config_path), clock=wall_clock)) as books:
        yield books


@contextmanager
def read_books(config_path: Path | None) -> Iterator[Books]:
    """The books to read alone; a missing file is an error. Raises ConfigError."""
    with closing(opening.read_books(_url(config_path), clock=wall_clock)) as books:
        yield books


def moment(seconds: float | None) -> str:
    """A time as the tables show it, in UTC; a dash for None, and for times that no calendar has."""
    return "-" if seconds is None or seconds > _LATEST else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def when(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """A date or moment (UTC), or how long ago (`7d`, `24h`), as seconds since 1970."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return wall_clock() - _seconds(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _seconds(text: str) -> int:
    try:
        count, unit = parse_duration(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a date (2026-11-22) nor a duration (7d, 24h)") from None
    return count * _SECONDS[unit]


def _url(config_path: Path | None) -> str:
    return load_config(config_path).general_settings.database_url
