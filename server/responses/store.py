"""Responses that outlive their request, and the process: SQLite, bounded by count, bytes and age.

Each row has the request's own input items and the response; the conversation before it is found by going back over
`previous_response_id`. Whoever asks sees their own rows alone. What has not been used for longest goes first, and of
those who share a full store the one with most in it loses.

A row of a background response that is not over has a lease, which its process renews; where it has run out, the process
is gone and the response has failed. So several processes may share the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..database import MEMORY, Database, NotFound
from .items import Kept
from .resource import ACTIVE, Resource, lost

log = logging.getLogger("yardmaster.http")

OFF = "off"
LEASE = 30.0  # seconds

_VERSION = 1
_BUSY_SECONDS = 10
_ROW_BYTES = 512  # what a row takes beside its texts
_ITEM_BYTES = 160
_SCHEMA = """
CREATE TABLE responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, previous TEXT, status TEXT NOT NULL, created REAL NOT NULL,
    used REAL NOT NULL, lease REAL, size INTEGER NOT NULL, input TEXT NOT NULL, resource TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX responses_of ON responses (owner, used, size);
CREATE INDEX responses_by_age ON responses (created);
CREATE TABLE items (
    owner TEXT NOT NULL, id TEXT NOT NULL, response TEXT NOT NULL, PRIMARY KEY (owner, id)
) WITHOUT ROWID;
CREATE INDEX items_of ON items (response);
"""
_CHAIN = """
WITH RECURSIVE chain (id, previous, depth) AS (
    SELECT id, previous, 0 FROM responses WHERE owner = :owner AND id = :id
    UNION ALL
    SELECT responses.id, responses.previous, depth + 1 FROM chain
    JOIN responses ON responses.id = chain.previous AND responses.owner = :owner WHERE depth < :most
)
"""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """`path`: a file, or MEMORY. Raises ValueError, naming the flag, for a bound that cannot work."""

    path: str = MEMORY
    max_responses: int = 10_000
    max_bytes: int = 1 << 30  # of texts
    keep: float = 30 * 24 * 3600.0  # seconds, OpenAI's
    max_chain: int = 1000  # responses of one conversation
    max_chain_bytes: int = 32 << 20
    max_chain_items: int = 1 << 15  # and their parts, together

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("--response-store must be a file, or `off`")
        for name in ("max_responses", "max_bytes", "keep", "max_chain", "max_chain_bytes", "max_chain_items"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} of the response store must be above 0, got {getattr(self, name)}")


class NotUsable(RuntimeError):
    """The response is there and cannot be gone on from. `code` is for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ResponseStore:
    """Opens or makes the file. Its methods belong in one thread: call them through `run`.

    Raises ValueError, naming --response-store, for a file that cannot be used.
    """

    def __init__(self, config: StoreConfig, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self.clock = clock
        try:
            if config.path != MEMORY:
                Path(config.path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = Database(
                config.path, _SCHEMA, _VERSION, patience=_BUSY_SECONDS, thread="response-store",
                # A crash of the machine may cost the last answers; what was deleted is gone.
                pragmas=["synchronous = NORMAL", "secure_delete = ON"],
            )  # fmt: skip
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"--response-store {config.path}: {error}") from None
        self.run = self._db.run
        self.close = self._db.close

    def add(self, owner: str, resource: Resource, given: Sequence[Kept]) -> None:
        """Keep a response with its input items. One that is not over is leased."""
        now = self.clock()
        texts = json.dumps(given), json.dumps(resource)
        with self._db.transaction():
            self._make_room(now)
            self._db.execute(
                "INSERT INTO responses VALUES"
                " (:id, :owner, :previous, :status, :now, :now, :lease, :size, :input, :resource)",
                {
                    "id": resource["id"], "owner": owner, "previous": resource["previous_response_id"],
                    "status": resource["status"], "now": now,
                    "lease": now + LEASE if resource["status"] in ACTIVE else None,
                    "size": _size(texts, len(given) + len(resource["output"])), "input": texts[0], "resource": texts[1],
                },
            )  # fmt: skip
            self._index(owner, resource["id"], [*given, *resource["output"]])

    def finish(self, owner: str, resource: Resource) -> bool:
        """How a background response ended; False where it was deleted or cancelled meanwhile."""
        text = json.dumps(resource)
        size = len(text) + _ITEM_BYTES * len(resource["output"])
        with self._db.transaction():
            changed = self._db.execute(
                f"UPDATE responses SET status = ?, resource = ?, lease = NULL, size = size + ? "
                f"WHERE id = ? AND owner = ? AND status IN {ACTIVE}",
                (resource["status"], text, size, resource["id"], owner),
            ).rowcount
            if changed:
                self._index(owner, resource["id"], resource["output"])
        return changed == 1

    def get(self, owner: str, identity: str) -> Resource:
        """Raises NotFound."""
        return self._resource(self._row(owner, identity))

    def given(self, owner: str, identity: str) -> list[Kept]:
        """The input items of one response. Raises NotFound."""
        items: list[Kept] = json.loads(self._row(owner, identity)["input"])
        return items

    def delete(self, owner: str, identity: str) -> None:
        """Conversations that go back over it cannot be gone on with. Raises NotFound."""
        with self._db.transaction():
            self._row(owner, identity)
            self._drop([identity])

    def cancel(self, owner: str, identity: str) -> Resource:
        """Raises NotFound. What is over stays as it is."""
        with self._db.transaction():
            resource = self._resource(self._row(owner, identity))
            if resource["status"] in ACTIVE:
                resource["status"] = "cancelled"
                self._db.execute(
                    "UPDATE responses SET status = 'cancelled', resource = ?, lease = NULL WHERE id = ?",
                    (json.dumps(resource), identity),
                )
        return resource

    def chain(self, owner: str, identity: str) -> list[Kept]:
        """All items up to and with this response's, the oldest first. Raises NotFound, NotUsable.

        Having been used, they are kept longer.
        """
        most = self.config.max_chain
        bound = {"owner": owner, "id": identity, "most": most}
        rows = self._db.execute(
            f"{_CHAIN} SELECT chain.id, chain.previous, size FROM chain JOIN responses USING (id) ORDER BY depth", bound
        ).fetchall()
        if not rows:
            raise NotFound(identity)
        if len(rows) > most or sum(row["size"] for row in rows) > self.config.max_chain_bytes:
            raise NotUsable("conversation_too_long", "the conversation behind it is too long; send its items as input")
        if rows[-1]["previous"] is not None:
            message = "a response before it was deleted or is no longer kept; send the items as input"
            raise NotUsable("previous_response_not_found", message)
        now = self.clock()
        self._db.execute(f"{_CHAIN} UPDATE responses SET used = {now!r} WHERE id IN (SELECT id FROM chain)", bound)
        items: list[Kept] = []
        count = 0
        for row in reversed(rows):
            full = self._row(owner, row["id"])
            resource = self._resource(full)
            if resource["status"] in ACTIVE:
                raise NotUsable("response_not_ready", f"it is {resource['status']}; wait until it is over")
            more: list[Kept] = [*json.loads(full["input"]), *resource["output"]]
            count += sum(1 + _parts(item) for item in more)
            if count > self.config.max_chain_items:
                message = f"the conversation behind it has over {self.config.max_chain_items} items and parts"
                raise NotUsable("conversation_too_long", f"{message}; begin another with what still matters of it")
            items += more
        return items

    def items(self, owner: str, identities: Collection[str]) -> dict[str, Kept]:
        """Those of the items that are kept, by id. Raises NotUsable where that would be too much to read."""
        found: dict[str, Kept] = {}
        size = 0
        for identity in dict.fromkeys(identities):
            if identity in found:
                continue
            row = self._db.execute(
                "SELECT response FROM items WHERE owner = ? AND id = ?", (owner, identity)
            ).fetchone()
            if row is None:
                continue
            with contextlib.suppress(NotFound):
                full = self._row(owner, row["response"])
                size += full["size"]
                if size > self.config.max_chain_bytes:
                    raise NotUsable("conversation_too_long", "the items referred to are of too many responses")
                kept = [*json.loads(full["input"]), *json.loads(full["resource"])["output"]]
                found |= {item["id"]: item for item in kept if item["id"] in identities}
        return found

    def renew(self, identities: Collection[str]) -> set[str]:
        """Go on holding these; which of them still are to be worked on."""
        held = set()
        with self._db.transaction():
            for identity in identities:
                changed = self._db.execute(
                    f"UPDATE responses SET lease = ? WHERE id = ? AND status IN {ACTIVE}",
                    (self.clock() + LEASE, identity),
                )
                if changed.rowcount:
                    held.add(identity)
        return held

    def _row(self, owner: str, identity: str) -> sqlite3.Row:
        row: sqlite3.Row | None = self._db.execute(
            "SELECT * FROM responses WHERE id = ? AND owner = ? AND created > ?",
            (identity, owner, self.clock() - self.config.keep),
        ).fetchone()
        if row is None:
            raise NotFound(identity)
        return row

    def _resource(self, row: sqlite3.Row) -> Resource:
        resource: Resource = json.loads(row["resource"])
        return lost(resource) if row["lease"] is not None and row["lease"] < self.clock() else resource

    def _index(self, owner: str, response: str, items: Sequence[Kept]) -> None:
        rows = [(owner, item["id"], response) for item in items]
        self._db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", rows)

    def _make_room(self, now: float) -> None:
        """For one more: what is too old goes; then, a twentieth at a time, what its owner has not used for longest."""
        self._drop([row["id"] for row in self._db.execute(
            "SELECT id FROM responses WHERE created <= ?", (now - self.config.keep,)
        )])  # fmt: skip
        while True:
            owners = self._db.execute(
                "SELECT owner, count(*) AS count, sum(size) AS size FROM responses GROUP BY owner"
            ).fetchall()
            count, size = sum(row["count"] for row in owners), sum(row["size"] for row in owners)
            over_count, over_size = count >= self.config.max_responses, size >= self.config.max_bytes
            if not (over_count or over_size):
                return
            loser = max(owners, key=lambda row: row["size"] if over_size else row["count"])
            oldest = self._db.execute(
                "SELECT id FROM responses WHERE owner = ? ORDER BY used LIMIT ?",
                (loser["owner"], -(-int(loser["count"]) // 20)),
            )
            self._drop([row["id"] for row in oldest])

    def _drop(self, identities: Sequence[str]) -> None:
        self._db.executemany("DELETE FROM items WHERE response = ?", [(each,) for each in identities])
        self._db.executemany("DELETE FROM responses WHERE id = ?", [(each,) for each in identities])


def _parts(item: Kept) -> int:
    said = item.get("content", item.get("output"))
    return len(said) if isinstance(said, list) else 0


def _size(texts: Sequence[str], items: int) -> int:
    return sum(map(len, texts)) + _ITEM_BYTES * items + _ROW_BYTES


def store_path(given: str | None) -> str:
    """What --response-store comes to. Without it: a file in the user's state folder, or memory where there is none.

    Raises ValueError, naming the flag, for a file that cannot be used.
    """
    if given is not None:
        if given == OFF:
            return OFF
        try:
            path = str(Path(given).expanduser()) if given.strip() else given
        except RuntimeError:
            raise ValueError(f"--response-store {given}: that home folder is not known; write the whole path") from None
        ResponseStore(StoreConfig(path)).close()
        return path
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = str(Path(base) / "yardmaster" / "responses.sqlite")
        ResponseStore(StoreConfig(path)).close()
    except (ValueError, RuntimeError) as error:  # the latter where nobody has a home
        log.warning("what /v1/responses keeps will be lost at the end: %s", error)
        return MEMORY
    return path
