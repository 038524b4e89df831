"""The admin API's work on keys."""

from collections.abc import Sequence
from typing import cast

from proxy.config.limits import seconds
from proxy.errors import NotFound, RequestInvalid
from proxy.ledger.admin.asking import KeyAsked, KeyChange, KeyNamed, KeyNew, KeyRenewed, KeysGone, KeysListed
from proxy.ledger.admin.telling import told_key
from proxy.ledger.books import Books
from proxy.ledger.counters import key_scope
from proxy.ledger.database import Row
from proxy.ledger.keys import NO_KEY, KeyChanges
from proxy.ledger.listing import KeysWanted, count_keys, key_rows, key_standings
from proxy.ledger.tenants import DEFAULT_TENANT, refuse_own
from proxy.types import JSON, Key, Limits, Tenant

_OF_KEY = ("alias", "expires_at", "metadata")


def generate(books: Books, asked: KeyNew) -> JSON:
    """Make a key. The secret, `key`, is in this answer and nowhere else. Raises NotFound and RequestInvalid."""
    told = asked.told(books.now())
    said = {name: told.pop(name) for name in _OF_KEY if name in told}
    made = books.create_key(_team(books, asked.team_id), limits=Limits(**told), **said)
    return {"key": made, **tell(books, books.key_id(made))}


def info(books: Books, asked: KeyAsked) -> JSON:
    """What a key may do and has spent, also of one that is worthless by now. Raises NotFound."""
    key_id = find(books, asked.key or "")
    return {"key": key_id, "info": tell(books, key_id)}


def list_keys(books: Books, asked: KeysListed) -> JSON:
    """A page of the keys that are not deleted, oldest first: their public ids, or all of each. Raises NotFound."""
    if asked.team_id is not None:
        books.tenant(asked.team_id)
    wanted = KeysWanted(asked.team_id, asked.key_alias, living_at=books.now())
    page = key_rows(books, wanted, asked.size, (asked.page - 1) * asked.size)
    number = count_keys(books, wanted)
    return {
        "keys": tell_all(books, page) if asked.return_full_object else [row["id"] for row in page],
        "total_count": number,
        "current_page": asked.page,
        "total_pages": -(-number // asked.size),
    }


def update(books: Books, asked: KeyChange) -> JSON:
    """Change what is said of a key. Raises NotFound and RequestInvalid."""
    key_id = _living(books, asked.key)
    # `blocked` is among them, which `update_key` writes as any other limit
    books.update_key(key_id, **cast(KeyChanges, asked.told(books.now())))
    return {"key": key_id, **tell(books, key_id)}


def block(books: Books, asked: KeyNamed) -> JSON:
    """Let a key spend nothing more. Raises NotFound and RequestInvalid."""
    return _blocked(books, asked.key, blocked=True)


def unblock(books: Books, asked: KeyNamed) -> JSON:
    """Let a key spend again. Raises NotFound and RequestInvalid."""
    return _blocked(books, asked.key, blocked=False)


def delete(books: Books, asked: KeysGone) -> JSON:
    """Make keys worthless for ever; their rows stay in the ledger. All or none.

    An alias stands for all keys that have it, which must be of one team. Raises NotFound and RequestInvalid.
    """
    found = [_living(books, key) for key in asked.keys]
    for alias in asked.key_aliases:
        found += _called(books, alias, asked.team_id)
    gone = list(dict.fromkeys(found))
    with books.transaction():
        for key_id in gone:
            books.revoke_key(key_id)
    return {"deleted_keys": gone}


def regenerate(books: Books, asked: KeyRenewed) -> JSON:
    """A new secret for a key, whose old one stays good for the grace. Raises NotFound and RequestInvalid."""
    grace = 0.0 if asked.grace_period is None else seconds(asked.grace_period)
    key_id = _living(books, asked.key or "")
    return {"key": books.rotate_key(key_id, grace), **tell(books, key_id)}


def find(books: Books, name: str) -> str:
    """The public id of a key that is named by it, or by its secret. Raises NotFound that does not repeat the name."""
    if books.row("SELECT 1 FROM keys WHERE id = ?", name) is not None:
        return name
    return books.key_id(name)


def tell(books: Books, key_id: str) -> JSON:
    """What is told of a key. Raises NotFound."""
    return told_key(books.key(key_id), books.glance(key_scope(key_id)))


def tell_all(books: Books, rows: Sequence[Row]) -> list[JSON]:
    """The same of the keys of these rows."""
    return [told_key(key, standing) for key, standing in key_standings(books, rows)]


def _blocked(books: Books, name: str, *, blocked: bool) -> JSON:
    key_id = _living(books, name)
    books.block_key(key_id, blocked=blocked)
    return tell(books, key_id)


def _living(books: Books, name: str) -> str:
    key_id = find(books, name)
    if not _lives(books, books.key(key_id)):
        raise NotFound("there is no such key", code=NO_KEY)
    return key_id


def _lives(books: Books, key: Key) -> bool:
    return key.revoked_at is None or books.now() < key.revoked_at


def _called(books: Books, alias: str, team: str | None) -> list[str]:
    rows = key_rows(books, KeysWanted(team, alias, living_at=books.now()))
    if not rows:
        raise NotFound(f"there is no key with the alias {alias!r}", code=NO_KEY)
    teams = sorted({row["tenant"] for row in rows})
    if len(teams) > 1:
        names = ", ".join(map(repr, teams))
        raise RequestInvalid(
            f"keys of several teams have the alias {alias!r}: {names}. Say which with team_id.", param="key_aliases"
        )
    return [row["id"] for row in rows]


def _team(books: Books, name: str | None) -> str:
    refuse_own(name, "team_id")
    if name is None and books.row("SELECT 1 FROM tenants WHERE name = ?", DEFAULT_TENANT) is None:
        books.add_tenant(Tenant(DEFAULT_TENANT))
    return name or DEFAULT_TENANT
