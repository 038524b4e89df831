"""`tally key`: the bearer keys of tenants."""

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.cli.books import clear_errors, config_option, moment, open_books, read_books
from proxy.ledger.store import wall_clock
from proxy.types import Key


@click.group()
def key() -> None:
    """Keys: what a client sends to be known as a tenant."""


@key.command()
@click.argument("tenant")
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    default=None,
    metavar="DATE",
    help="The day, or the moment, from which the key is worthless (UTC).",
)
@config_option
@clear_errors
def create(tenant: str, expires: datetime | None, config_path: Path | None) -> None:
    """Make a key for TENANT and print it, this one time."""
    with open_books(config_path) as books:
        made = books.create_key(tenant, None if expires is None else expires.replace(tzinfo=UTC).timestamp())
    click.echo(made)
    click.echo("Keep it now: it is not stored and cannot be shown again.", err=True)


@key.command("list")
@click.option("--tenant", default=None, help="Only the keys of this tenant.")
@config_option
@clear_errors
def list_keys(tenant: str | None, config_path: Path | None) -> None:
    """List keys by their public ids."""
    with read_books(config_path) as books:
        found = books.keys(tenant)
    table = Table("key", "tenant", "ends in", "created, UTC", "expires, UTC", "state")
    for one in found:
        table.add_row(
            one.id,
            escape(one.tenant),
            escape(one.hint),
            moment(one.created_at),
            moment(one.expires_at),
            _state(one),
        )
    Console().print(table)


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@config_option
@clear_errors
def revoke(key_id: str, config_path: Path | None) -> None:
    """Make a key worthless; KEY_ID is what `tally key list` shows."""
    with open_books(config_path) as books:
        books.revoke_key(key_id)
    click.echo(f"key {key_id} revoked")


def _state(one: Key) -> str:
    if one.revoked_at is not None:
        return "revoked"
    return "good" if one.valid(wall_clock()) else "expired"
