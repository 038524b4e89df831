"""The admin API's work on teams, which are tenants; `team_id` is a tenant's name."""

from typing import cast

from proxy.ledger.admin.asking import Nothing, TeamChange, TeamNamed, TeamNew, TeamsGone
from proxy.ledger.admin.keys import tell_all
from proxy.ledger.admin.telling import told_team
from proxy.ledger.books import Books
from proxy.ledger.counters import tenant_scope
from proxy.ledger.listing import KeysWanted, key_rows, tenant_standings
from proxy.ledger.tenants import TenantChanges, refuse_own
from proxy.types import JSON, Tenant


def new(books: Books, asked: TeamNew) -> JSON:
    """Add a tenant. Raises RequestInvalid where the name is or was taken, or is tally's own."""
    refuse_own(asked.team_id, "team_id")
    name = asked.team_id or books.new_name("team_")
    books.add_tenant(Tenant(name=name, **asked.told()))
    return tell(books, name)


def info(books: Books, asked: TeamNamed) -> JSON:
    """What a team may do and has spent, and its keys. Raises NotFound."""
    found = tell(books, asked.team_id)
    keys = tell_all(books, key_rows(books, KeysWanted(asked.team_id)))
    return {"team_id": asked.team_id, "team_info": found, "keys": keys, "team_memberships": []}


def list_teams(books: Books, _: Nothing) -> list[JSON]:
    """All teams, by name."""
    return [told_team(tenant, standing) for tenant, standing in tenant_standings(books)]


def update(books: Books, asked: TeamChange) -> JSON:
    """Change what is said of a team. Raises NotFound and RequestInvalid."""
    books.update_tenant(asked.team_id, **cast(TenantChanges, asked.told()))
    return {"team_id": asked.team_id, "data": tell(books, asked.team_id)}


def block(books: Books, asked: TeamNamed) -> JSON:
    """Let a team spend nothing more. Raises NotFound and RequestInvalid."""
    books.block(asked.team_id)
    return tell(books, asked.team_id)


def unblock(books: Books, asked: TeamNamed) -> JSON:
    """Let a team spend again. Raises NotFound and RequestInvalid."""
    books.unblock(asked.team_id)
    return tell(books, asked.team_id)


def delete(books: Books, asked: TeamsGone) -> JSON:
    """End teams and their keys for ever; their rows stay. All or none. Raises NotFound and RequestInvalid."""
    gone = list(dict.fromkeys(asked.team_ids))
    with books.transaction():
        for name in gone:
            books.delete_tenant(name)
    return {"deleted_teams": gone}


def tell(books: Books, name: str) -> JSON:
    """What is told of a team. Raises NotFound."""
    return told_team(books.tenant(name), books.glance(tenant_scope(name)))
