"""`tally key`: the bearer keys of tenants."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from rich.markup import escape
from rich.table import Table

from proxy.cli.books import clear_errors, config_option, moment, open_books, read_books
from proxy.cli.console import console
from proxy.cli.limits import budget_facts, changed, day, given, limit_facts, limit_options, option, warn_models
from proxy.cli.tables import show_table
from proxy.config import load_config
from proxy.config.limits import seconds
from proxy.ledger.keys import KeyChanges
from proxy.ledger.reports import Sheet, sheet_of
from proxy.ledger.store import wall_clock
from proxy.ledger.tenants import refuse_own
from proxy.types import Key, Limits

F = TypeVar("F", bound=Callable[..., Any])

_OF_KEY = ("alias", "expires_at")


def _expiry(text: str) -> float:
    """A day or a moment (UTC), or how long from now."""
    if text[:1].isdigit() and "-" not in text:
        return wall_clock() + seconds(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a date such as 2030-01-31 nor a time such as 30d") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


_OPTIONS: tuple[Callable[[F], F], ...] = (
    option("--alias", "alias", "TEXT", str, "What people call it."),
    option("--expires", "expires_at", "WHEN", _expiry, "A day, a moment (UTC), or how long it is good, as in 30d."),
)


def _options(command: F) -> F:
    for each in reversed(_OPTIONS):
        command = each(command)
    return limit_options(command)


@click.group()
def key() -> None:
    """Keys: what a client sends to be known as a tenant."""


@key.command()
@click.argument("tenant")
@_options
@config_option
@clear_errors
def create(tenant: str, config_path: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for each limit
    """Make a key for TENANT and print it, this one time. Its limits hold beside the tenant's."""
    told = given(options)
    warn_models(config_path, told)
    said = {name: told.pop(name) for name in _OF_KEY if name in told}
    refuse_own(tenant, "tenant")
    with open_books(config_path) as books:
        made = books.create_key(tenant, limits=Limits(**told), **said)
        key_id = books.key_id(made)
    _show_once(made, key_id)


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@_options
@config_option
@clear_errors
def update(key_id: str, config_path: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for each limit
    """Change limits of a key; `none` takes a limit away."""
    changes = changed(options)
    warn_models(config_path, changes)
    with open_books(config_path) as books:
        books.update_key(key_id, **cast(KeyChanges, changes))
    click.echo(f"key {key_id} updated")


@key.command("list")
@click.option("--tenant", default=None, help="Only the keys of this tenant.")
@config_option
@clear_errors
def list_keys(tenant: str | None, config_path: Path | None) -> None:
    """List keys by their public ids."""
    with read_books(config_path) as books:
        found = books.keys(tenant)
    columns = (">key", "tenant", "alias", ">ends in", ">created", ">expires", ">state")
    show_table(
        console(),
        columns,
        (
            (
                one.id,
                one.tenant,
                one.alias or "-",
                one.hint,
                day(one.created_at),
                day(one.expires_at),
                _state(one),
            )
            for one in found
        ),
    )


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@config_option
@clear_errors
def show(key_id: str, config_path: Path | None) -> None:
    """Show all of a key but the key itself."""
    with read_books(config_path) as books:
        found, former = sheet_of(books, key_id), books.former_until(key_id)
    table = Table(show_header=False)
    for label, value in _facts(found, former):
        table.add_row(label, escape(value))
    console().print(table)


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@config_option
@clear_errors
def revoke(key_id: str, config_path: Path | None) -> None:
    """Make a key worthless; KEY_ID is what `tally key list` shows."""
    with open_books(config_path) as books:
        books.revoke_key(key_id)
    click.echo(f"key {key_id} revoked")


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@option("--grace", "grace", "TIME", seconds, "How long the old secret stays good, as in 1h; none given: not at all.")
@config_option
@clear_errors
def rotate(key_id: str, grace: float | None, config_path: Path | None) -> None:
    """Print a new secret for a key, this one time; the key stays the same, with its limits and what it has spent."""
    with open_books(config_path) as books:
        made = books.rotate_key(key_id, grace or 0.0)
    _show_once(made, key_id)


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@config_option
@clear_errors
def block(key_id: str, config_path: Path | None) -> None:
    """Let a key spend nothing more."""
    with open_books(config_path) as books:
        books.block_key(key_id)
    click.echo(f"key {key_id} blocked")


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@config_option
@clear_errors
def unblock(key_id: str, config_path: Path | None) -> None:
    """Let a key spend again."""
    with open_books(config_path) as books:
        books.block_key(key_id, blocked=False)
    click.echo(f"key {key_id} unblocked")


@key.command("rotate-pepper")
@config_option
@clear_errors
def rotate_pepper(config_path: Path | None) -> None:
    """Keep keys under a new secret of the ledger from their next use on.

    A key that is not used before the next rotation is worthless after it, unless it is one of the configuration file.
    """
    tenants = load_config(config_path).tenants
    with open_books(config_path) as books:
        books.rotate_pepper(key.key for tenant in tenants for key in tenant.owned())
    click.echo("the ledger has a new pepper; the one before it is good until the next rotation")


def _show_once(made: str, key_id: str) -> None:
    click.echo(made)
    click.echo(f"Keep it now: it is not stored and cannot be shown again. Its id is {key_id}", err=True)


def _facts(sheet: Sheet[Key], former: float | None) -> list[tuple[str, str]]:
    one = sheet.limits
    return [
        ("key", one.id),
        ("tenant", one.tenant),
        ("alias", one.alias or "-"),
        ("ends in", one.hint or "-"),
        ("state", _state(one)),
        ("comes from", "the configuration file" if one.managed else "the command line or the admin API"),
        ("created, UTC", moment(one.created_at)),
        ("expires, UTC", moment(one.expires_at)),
        *([] if former is None else [("an old secret is good until, UTC", moment(former))]),
        *budget_facts(sheet),
        *limit_facts(one),
    ]


def _state(one: Key) -> str:
    now = wall_clock()
    if one.revoked_at is not None:
        return "revoked" if one.revoked_at <= now else f"good until {day(one.revoked_at)}"
    if one.blocked:
        return "blocked"
    return "good" if one.valid(now) else "expired"
