"""The secrets of keys. One is shown once, when it is made; kept is a digest, worth nothing without the ledger's pepper.

A secret has 256 random bits, so a keyed hash (HMAC-SHA256, RFC 2104) is enough: there is nothing to guess. Looking a
digest up tells nothing about the secret by the time that it takes.
"""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence

from proxy.errors import RequestInvalid
from proxy.ledger.database import Database, Row
from proxy.ledger.tenants import Tenants

PREFIX = "sk-tally-"
_SECRET_BYTES = 32
_NAME_BYTES = 6
_PEPPERS = ("pepper", "pepper_before")
_READ_PEPPERS = "SELECT name, value FROM meta WHERE name IN (?, ?)"
_FORMER = "former_key:"
"""Before the digest of a secret that was replaced: a note says until when it is good, and of which key it is."""


class Secrets(Tenants):
    """The keys' table by digests. `token` returns so many random bytes; `pepper` overrides the ledger's own."""

    def __init__(
        self,
        connection: Database,
        clock: Callable[[], float],
        token: Callable[[int], bytes],
        pepper: bytes | None = None,
    ) -> None:
        super().__init__(connection, clock)
        self._token = token
        self._given = pepper

    def new_name(self, prefix: str) -> str:
        """A name that nothing has, such as for a tenant that was given none."""
        return prefix + self._token(_NAME_BYTES).hex()

    def rotate_pepper(self, known: Iterable[str] = ()) -> None:
        """Take a new pepper. A key is kept under it from its next use on; until then the pepper before it stays good.

        So is a secret that was replaced, in its grace. What is not used until the next rotation is worthless after it,
        but for the keys `known`, such as the configuration file's, which are kept under the new one at once. Raises
        RequestInvalid where the pepper is given from outside.
        """
        if self._given is not None:
            raise RequestInvalid("the pepper of this ledger is given from outside: change it there")
        with self.transaction():
            self._set_meta("pepper_before", self._kept_pepper())
            self._set_meta("pepper", self._token(_SECRET_BYTES))
            for secret in known:
                self._renew_secret(secret)

    def former_until(self, key_id: str) -> float | None:
        """Until when the last of a key's secrets that were replaced is good; None where none of them is."""
        ends = [until for _, until, owner in self._formers() if owner == key_id]
        return max((until for until in ends if self.now() < until), default=None)

    def _new_secret(self) -> str:
        return PREFIX + urlsafe_b64encode(self._token(_SECRET_BYTES)).rstrip(b"=").decode()

    def _retire_secret(self, key_id: str, moment: float) -> None:
        """Let a key's secret be good until `moment`, and those that it replaced no longer than that."""
        for name, until, owner in self._formers():
            ends = min(until, moment) if owner == key_id else until
            if ends <= self.now():
                self._db.execute("DELETE FROM meta WHERE name = ?", (name,))
            elif ends < until:
                self._note(name, ends, owner)
        row = self.row("SELECT digest FROM keys WHERE id = ?", key_id)
        if row is not None and moment > self.now():
            self._note(_former_name(bytes(row["digest"])), moment, key_id)

    def _formers(self) -> list[tuple[str, float, str]]:
        """The notes of secrets that were replaced: the name of each, until when it is good, and of which key it is."""
        notes = self.rows("SELECT name, value FROM meta WHERE name LIKE ?", f"{_FORMER}%").fetchall()
        return [(note["name"], *_noted(note)) for note in notes]

    def _note(self, name: str, until: float, key_id: str) -> None:
        self._set_meta(name, f"{until!r} {key_id}".encode())

    def _find_secret(self, secret: str) -> Row | None:
        """The row of a key that one asks with, also with a secret that was replaced and is still good."""
        return self._renew_secret(secret) or self._former(self._digests(secret), renew=True)

    def _seek_secret(self, secret: str) -> Row | None:
        """The same, and nothing changes."""
        digests = self._digests(secret)
        return self._kept(digests) or self._former(digests)

    def _renew_secret(self, secret: str) -> Row | None:
        """The row of a key by its newest secret, which is from now on kept under the newest pepper."""
        digests = self._digests(secret)
        found = self._kept(digests)
        if found is not None and bytes(found["digest"]) != digests[0]:
            told = (digests[0], found["id"], found["digest"])
            with self.transaction():
                # another process may have given it a new secret meanwhile
                self._db.execute("UPDATE keys SET digest = ? WHERE id = ? AND digest = ?", told)
        return found

    def _kept(self, digests: Sequence[bytes]) -> Row | None:
        found = (self.row("SELECT * FROM keys WHERE digest = ?", digest) for digest in digests)
        return next((row for row in found if row is not None), None)

    def _former(self, digests: Sequence[bytes], *, renew: bool = False) -> Row | None:
        """The row of a key by the digests of a secret that was replaced and is still good.

        `renew`: it is from now on noted under the newest pepper.
        """
        for digest in digests:
            note = self.row("SELECT value FROM meta WHERE name = ?", _former_name(digest))
            until, key_id = (0.0, "") if note is None else _noted(note)
            if self.now() < until:
                if renew and digest != digests[0]:
                    self._renew_note(_former_name(digest), _former_name(digests[0]))
                return self.row("SELECT * FROM keys WHERE id = ?", key_id)
        return None

    def _renew_note(self, name: str, newest: str) -> None:
        with self.transaction():
            # another process may have ended it meanwhile, or told it a nearer end
            note = self.row("DELETE FROM meta WHERE name = ? RETURNING value", name)
            if note is not None:
                self._set_meta(newest, bytes(note["value"]))

    def _digest(self, key: str) -> bytes:
        return _digested(key, self._given or self._kept_pepper())

    def _digests(self, key: str) -> list[bytes]:
        """The key under the pepper in use and, after a rotation, under the one before it."""
        return [_digested(key, pepper) for pepper in self._peppers()]

    def _peppers(self) -> list[bytes]:
        """Read anew each time: another process may have taken a new one. None are there before the first key."""
        if self._given is not None:
            return [self._given]
        kept = {row["name"]: bytes(row["value"]) for row in self.rows(_READ_PEPPERS, *_PEPPERS)}
        return [kept[name] for name in _PEPPERS if name in kept]

    def _kept_pepper(self) -> bytes:
        with self.transaction():
            self._db.execute(
                "INSERT INTO meta (name, value) VALUES ('pepper', ?) ON CONFLICT (name) DO NOTHING",
                (self._token(_SECRET_BYTES),),
            )
            row = self.row("SELECT value FROM meta WHERE name = 'pepper'")
        return bytes(row["value"]) if row is not None else b""


def _digested(key: str, pepper: bytes) -> bytes:
    return hmac.digest(pepper, key.encode("utf-8", "surrogatepass"), "sha256")


def _former_name(digest: bytes) -> str:
    return _FORMER + digest.hex()


def _noted(note: Row) -> tuple[float, str]:
    """Until when a secret that was replaced is good, and of which key it is."""
    until, _, key_id = bytes(note["value"]).decode().partition(" ")
    return float(until), key_id
