"""What the admin API can do, each by its name: JSON in, JSON out, so that it can be asked of another process, too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from proxy.ledger.admin import keys, spend, teams
from proxy.ledger.admin.asking import (
    KeyAsked,
    KeyChange,
    KeyNamed,
    KeyNew,
    KeyRenewed,
    KeysGone,
    KeysListed,
    Nothing,
    SpendAsked,
    TeamChange,
    TeamNamed,
    TeamNew,
    TeamsGone,
)
from proxy.ledger.books import Books
from proxy.types import JSON


@dataclass(frozen=True, slots=True)
class Operation:
    """One path. `asked` is what may be said, `told` the schema of the answer.

    `own` is the field that names the key where a key may ask of itself.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    asked: type[BaseModel]
    work: Callable[[Books, Any], Any]
    told: str
    own: str | None = None

    @property
    def reads(self) -> bool:
        """Whether it changes nothing, so that books will do which are open to be read alone."""
        return self.method == "GET"


OPERATIONS: Mapping[str, Operation] = {
    operation.path: operation
    for operation in (
        Operation("POST", "/key/generate", "Make a key", KeyNew, keys.generate, "NewKey"),
        Operation("GET", "/key/info", "One key", KeyAsked, keys.info, "KeyInfo", own="key"),
        Operation("GET", "/key/list", "Keys, a page at a time", KeysListed, keys.list_keys, "KeyPage"),
        Operation("POST", "/key/update", "Change a key", KeyChange, keys.update, "ManagedKey"),
        Operation("POST", "/key/delete", "Make keys worthless", KeysGone, keys.delete, "DeletedKeys"),
        Operation("POST", "/key/block", "Let a key spend nothing more", KeyNamed, keys.block, "ManagedKey"),
        Operation("POST", "/key/unblock", "Let a key spend again", KeyNamed, keys.unblock, "ManagedKey"),
        Operation("POST", "/key/{key}/regenerate", "A new secret for a key", KeyRenewed, keys.regenerate, "NewKey"),
        Operation("POST", "/team/new", "Add a team", TeamNew, teams.new, "Team"),
        Operation("GET", "/team/info", "One team and its keys", TeamNamed, teams.info, "TeamInfo"),
        Operation("GET", "/team/list", "All teams", Nothing, teams.list_teams, "TeamList"),
        Operation("POST", "/team/update", "Change a team", TeamChange, teams.update, "ChangedTeam"),
        Operation("POST", "/team/delete", "End teams and their keys", TeamsGone, teams.delete, "DeletedTeams"),
        Operation("POST", "/team/block", "Let a team spend nothing more", TeamNamed, teams.block, "Team"),
        Operation("POST", "/team/unblock", "Let a team spend again", TeamNamed, teams.unblock, "Team"),
        Operation("GET", "/spend/logs", "What was spent", SpendAsked, spend.logs, "Spends", own="api_key"),
        Operation("GET", "/global/spend", "What was ever spent", Nothing, spend.total, "TotalSpend"),
    )
}
"""All of them, by their paths. Teams are tenants."""


def administer(books: Books, path: str, asked: JSON) -> Any:  # noqa: ANN401 - the answer's JSON
    """Do what a path is for, in one transaction. `asked` is what the path's model has taken for good.

    Raises NotFound, RequestInvalid.
    """
    operation = OPERATIONS[path]
    with books.reading() if operation.reads else books.transaction():
        return operation.work(books, operation.asked.model_validate(asked))
