"""The service's state on disk: one SQLite file, in which what was acknowledged stays.

Ticks lie in it as blobs, one for each tick and `BLOCK` servers: a row of its own for each would
take minutes to load for 10,000 servers, and one blob for a whole tick would be written anew for
each server that reports on its own.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from data.reading.roles import nearest
from serve.directory import Given, Server
from serve.rows import Block, Rows, row_type
from tft.schema import FeatureSchema

FILE = "state.sqlite"
APPLICATION, VERSION = 0x466C5446, 1  # "FlTF" marks a file as ours
PAGE_BYTES = 8192
_TABLES = (
    "CREATE TABLE documents (name TEXT PRIMARY KEY, json TEXT NOT NULL)",
    "CREATE TABLE servers (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL,"
    " name TEXT NOT NULL UNIQUE, described TEXT NOT NULL)",
    # With a row id: without, SQLite would cut every blob of over a quarter page in two.
    "CREATE TABLE ticks (tick INTEGER NOT NULL, block INTEGER NOT NULL,"
    " checksum INTEGER NOT NULL, rows BLOB NOT NULL, UNIQUE (tick, block))",
)
_COLUMNS = "columns"  # the document that says what the rows hold


class Store:
    """A file that one process at a time has open; threads of it may share the store."""

    def __init__(self, folder: Path, schema: FeatureSchema) -> None:
        """Open the file in a folder, or begin one.

        Args:
            folder: made if it is not there.
            schema: names of the columns, and the step.

        Raises:
            ValueError: the file is damaged, another program's, another process's or of other
                columns.
            OSError: it cannot be read or written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._type = row_type(len(schema.metrics))
        self._lock = threading.RLock()
        with self._told():  # every use is under the lock, so any thread may be the one
            self._db = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False
            )
        try:
            self._open(schema)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Let another process open the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the database; at the end all that was done is on disk, or none of it.

        Raises:
            ValueError: the file is damaged.
            OSError: it cannot be read or written now, because the disk is full for instance.
        """
        with self._lock, self._told(), self._db:
            assert not self._db.in_transaction, "a transaction within a transaction"
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db

    def document(self, name: str) -> Any:
        """Return what `keep_document` kept under a name, None if nothing."""
        with self.transaction() as db:
            found = db.execute("SELECT json FROM documents WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def keep_document(self, name: str, plain: Any) -> None:
        """Keep what JSON can hold under a name, in place of what was there."""
        with self.transaction() as db:
            _put_document(db, name, plain)

    def servers(self) -> list[Server]:
        """Return every server."""
        with self.transaction() as db:
            found = db.execute("SELECT number, checksum, name, described FROM servers").fetchall()
        return [self._server(*each) for each in found]

    def newest_tick(self) -> int | None:
        """Return the newest tick there are rows of."""
        with self.transaction() as db:
            newest: int | None = db.execute("SELECT max(tick) FROM ticks").fetchone()[0]
        return newest

    def rows_since(self, tick: int, at_least: int) -> Iterator[Rows]:
        """Yield all rows from a tick on, those of a block in order, so many at a time or more."""
        with self.transaction() as db:
            found, size = [], 0
            select = "SELECT tick, block, checksum, rows FROM ticks WHERE tick >= ?"
            for each in db.execute(select, (tick,)):
                found.append(self._block(*each))
                size += len(found[-1])
                if size >= at_least * self._type.itemsize:
                    yield np.frombuffer(b"".join(found), self._type)
                    found, size = [], 0
            yield np.frombuffer(b"".join(found), self._type)

    def rows_of(self, blocks: Sequence[tuple[int, int]]) -> Rows:
        """Return the rows of pairs of tick and block."""
        found = []
        select = "SELECT tick, block, checksum, rows FROM ticks WHERE tick = ? AND block = ?"
        with self.transaction() as db:
            for pair in blocks:
                found += [self._block(*each) for each in db.execute(select, pair)]
        return np.frombuffer(b"".join(found), self._type)

    def write(
        self,
        servers: Iterable[Server] = (),
        blocks: Iterable[Block] = (),
        oldest: int | None = None,
        gone: Iterable[int] = (),
    ) -> None:
        """Write a change of the state; it is on disk when this returns.

        Args:
            servers: new or described anew.
            blocks: replacing those of the same tick and number.
            oldest: ticks before it are forgotten.
            gone: numbers of servers to forget; none of their rows may be left.
        """
        with self.transaction() as db:
            db.executemany("DELETE FROM servers WHERE number = ?", ((each,) for each in gone))
            db.executemany(
                "INSERT OR REPLACE INTO servers VALUES (?, ?, ?, ?)", map(_plain, servers)
            )
            if oldest is not None:
                db.execute("DELETE FROM ticks WHERE tick < ?", (oldest,))
            for tick, number, rows in blocks:
                blob = rows.tobytes()
                db.execute(
                    "INSERT INTO ticks VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
                    " SET checksum = excluded.checksum, rows = excluded.rows",
                    (tick, number, crc32(blob), blob),
                )

    def _open(self, schema: FeatureSchema) -> None:
        with self._lock, self._told():
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # a process's death ends it
            # Before anything is changed: the file may be another program's.
            marks = [self._pragma("application_id"), self._pragma("user_version")]
            empty = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not empty and marks[0] != APPLICATION:
                raise ValueError(
                    f"{self.path} is a database of another program; name another state directory"
                )
            if not empty and marks[1] != VERSION:
                raise ValueError(
                    f"{self.path} is of version {marks[1]}, this program reads {VERSION}; use the "
                    "version of the program that wrote it, or name another state directory"
                )
            self._refuse_damaged()
            self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
        columns = _columns(schema)
        with self.transaction() as db:
            if empty:
                for statement in _TABLES:
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {VERSION}")
                _put_document(db, _COLUMNS, columns)
        self._refuse_other_columns(self.document(_COLUMNS), columns)

    def _refuse_damaged(self) -> None:
        problems = self._db.execute("PRAGMA quick_check(1)").fetchall()
        if problems != [("ok",)]:
            raise ValueError(f"{self.path} is damaged: {problems[0][0]}; {_REMEDY}")

    def _refuse_other_columns(self, held: dict[str, Any], wanted: dict[str, Any]) -> None:
        remedy = "name another state directory, or serve a model of these columns"
        for role in ("metrics", "targets", "static"):
            for name in held[role]:
                if name not in wanted[role]:
                    raise ValueError(
                        f"{self.path} holds {name!r}, which is none of the model's {role}; "
                        f"{nearest(name, wanted[role])}; {remedy}"
                    )
            if held[role] != wanted[role]:
                raise ValueError(
                    f"{self.path} holds {role} {', '.join(held[role])}, the model needs "
                    f"{', '.join(wanted[role])}; {remedy}"
                )
        if held["step_seconds"] != wanted["step_seconds"]:
            raise ValueError(
                f"{self.path} holds ticks of {held['step_seconds']} s, the model's are of "
                f"{wanted['step_seconds']} s; {remedy}"
            )

    def _block(self, tick: int, block: int, checksum: int, rows: bytes) -> bytes:
        if not isinstance(rows, bytes) or crc32(rows) != checksum:
            raise self._damaged(f"the rows of tick {tick}, block {block}")
        return rows

    def _server(self, number: int, checksum: int, name: str, described: str) -> Server:
        if _server_checksum(number, name, described) != checksum:
            raise self._damaged(f"server {number}")
        plain = json.loads(described)
        profile = None if plain["profile"] is None else Given(*plain["profile"])
        static = {column: Given(*given) for column, given in plain["static"].items()}
        return Server(number, name, profile, static)

    def _damaged(self, what: str) -> ValueError:
        # SQLite keeps no checksum of its pages, so the rows have their own.
        return ValueError(f"{self.path} is damaged: wrong checksum of {what}; {_REMEDY}")

    def _pragma(self, name: str) -> int:
        value: int = self._db.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.ProgrammingError:  # a mistake in this program
            raise
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code == sqlite3.SQLITE_BUSY:
                raise ValueError(
                    f"{self.path} is in use by another process; end it, or name another state "
                    "directory"
                ) from error
            if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
                raise OSError(f"{self.path}: {error}; nothing was written") from error
            raise ValueError(f"{self.path} is damaged: {error}; {_REMEDY}") from error


_REMEDY = "restore it, or move it away to begin with an empty state"


def _columns(schema: FeatureSchema) -> dict[str, Any]:
    return {
        "metrics": list(schema.metric_names),
        "targets": list(schema.target_names),
        "static": list(schema.static_reals),
        "step_seconds": schema.step_seconds,
    }


def _put_document(db: sqlite3.Connection, name: str, plain: Any) -> None:
    text = json.dumps(plain, allow_nan=False)
    db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (name, text))


def _plain(server: Server) -> tuple[int, int, str, str]:
    plain = {"profile": server.profile, "static": server.static}
    described = json.dumps(plain, allow_nan=False)
    checksum = _server_checksum(server.number, server.name, described)
    return server.number, checksum, server.name, described


def _server_checksum(number: int, name: str, described: str) -> int:
    return crc32(f"{number} {name} {described}".encode())
