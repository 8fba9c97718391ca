"""The index of recordings: SQLite beside them, so that a call is found by the id its client chose.

Folders are ``YYYY/MM/DD/HHMMSS-RANDOM`` (UTC): no part of a path comes from a client. Several gateways may share a
folder, also of other hosts: there each has to say from time to time that it lives. Calls of any thread; each opens the
file anew, which is cheap beside what a call writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

INDEX = "index.sqlite"
_BUSY_S = 5.0
GONE_AFTER_S = 300.0  # without a word: a gateway of another host

_HOST = socket.gethostname()

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    folder TEXT PRIMARY KEY, session_id TEXT NOT NULL, principal TEXT NOT NULL, started REAL NOT NULL, ended REAL,
    outcome TEXT, bytes INTEGER NOT NULL DEFAULT 0, writer TEXT NOT NULL, figures TEXT
);
CREATE TABLE IF NOT EXISTS writers (writer TEXT PRIMARY KEY, seen REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_id ON calls (session_id, started);
CREATE INDEX IF NOT EXISTS by_time ON calls (started);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded call. Times are seconds since 1970, UTC."""

    folder: str  # below the index's folder
    session_id: str
    principal: str
    started: float
    ended: float | None = None
    outcome: str | None = None  # None: it is on
    bytes: int = 0
    figures: dict[str, Any] | None = None


class Index:
    """Of one folder. Every method may raise `OSError` or `sqlite3.Error`: the disk may be full, or gone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._writer = f"{_HOST}-{os.getpid()}-{_process_start(os.getpid())}"

    def begin(self, session_id: str, principal: str, started: float) -> Entry:
        """A new folder, and its line."""
        day = time.strftime("%Y/%m/%d/%H%M%S", time.gmtime(started))
        folder = f"{day}-{secrets.token_hex(8)}"
        (self.root / folder).mkdir(parents=True, mode=0o700)
        with self._open() as db:
            self._say_alive(db)
            db.execute(
                "INSERT INTO calls (folder, session_id, principal, started, writer) VALUES (?, ?, ?, ?, ?)",
                (folder, session_id, principal, started, self._writer),
            )
        return Entry(folder, session_id, principal, started)

    def end(self, folder: str, outcome: str, figures: dict[str, Any]) -> None:
        size = _size(self.root / folder)
        with self._open() as db:
            db.execute(
                "UPDATE calls SET ended = ?, outcome = ?, bytes = ?, figures = ? WHERE folder = ?",
                (time.time(), outcome, size, json.dumps(figures), folder),
            )

    def find(self, session_id: str, principal: str | None, date: str | None) -> Entry | None:
        """The latest call of that id, of `principal` (None: of anybody), begun on `date` (YYYY-MM-DD, UTC)."""
        query, values = "SELECT * FROM calls WHERE session_id = ?", [session_id]
        if principal is not None:
            query, values = f"{query} AND principal = ?", [*values, principal]
        if date is not None:
            query, values = f"{query} AND strftime('%Y-%m-%d', started, 'unixepoch') = ?", [*values, date]
        entries = self._entries(f"{query} ORDER BY started DESC LIMIT 1", values)
        return entries[0] if entries else None

    def of_others(self, start: float, end: float, limit: int) -> list[Entry]:
        """Calls of other processes, and of earlier ones, that are over and began in that time; the latest first."""
        return self._entries(
            "SELECT * FROM calls WHERE started >= ? AND started < ? AND outcome IS NOT NULL AND writer != ? "
            "ORDER BY started DESC LIMIT ?",
            [start, end, self._writer, limit],
        )

    def remove(self, entry: Entry) -> None:
        """The recording's files, then its line."""
        shutil.rmtree(self.root / entry.folder, ignore_errors=True)
        if (self.root / entry.folder).exists():
            raise OSError(f"{entry.folder} cannot be removed")
        with contextlib.suppress(OSError):
            (self.root / entry.folder).parent.rmdir()  # of a day without recordings
        with self._open() as db:
            db.execute("DELETE FROM calls WHERE folder = ?", (entry.folder,))

    def keep(self, days: float, max_bytes: float) -> list[Entry]:
        """Remove what is older than `days`, then the oldest until the rest fits. Calls that are on stay."""
        over = self._entries("SELECT * FROM calls WHERE outcome IS NOT NULL ORDER BY started DESC", [])
        oldest, total, removed = time.time() - days * 86_400, 0, []
        for entry in over:
            total += entry.bytes
            if entry.started < oldest or total > max_bytes:
                self.remove(entry)
                removed.append(entry)
        return removed

    def close_interrupted(self) -> list[Entry]:
        """Calls whose gateway is gone without having ended them: they end as `interrupted`. This one lives."""
        if not (self.root / INDEX).is_file():
            return []
        with self._open() as db:
            self._say_alive(db)
            rows = db.execute(
                "SELECT DISTINCT calls.writer, seen FROM calls LEFT JOIN writers ON writers.writer = calls.writer "
                "WHERE outcome IS NULL"
            )
            gone = [row["writer"] for row in rows if not _lives(row["writer"], row["seen"] or 0.0)]
            db.execute("DELETE FROM writers WHERE seen < ?", (time.time() - 10 * GONE_AFTER_S,))
        closed = []
        for writer in gone:
            for entry in self._entries("SELECT * FROM calls WHERE outcome IS NULL AND writer = ?", [writer]):
                self.end(entry.folder, "interrupted", {})
                closed.append(entry)
        return closed

    def _say_alive(self, db: sqlite3.Connection) -> None:
        db.execute("INSERT OR REPLACE INTO writers (writer, seen) VALUES (?, ?)", (self._writer, time.time()))

    def _entries(self, query: str, values: list[Any]) -> list[Entry]:
        if not (self.root / INDEX).is_file():
            return []
        with self._open() as db:
            return [_entry(row) for row in db.execute(query, values)]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.root.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.root / INDEX, timeout=_BUSY_S)
        try:
            db.row_factory = sqlite3.Row
            with contextlib.suppress(sqlite3.OperationalError):  # one of another mode is in use: it stays so
                db.execute("PRAGMA journal_mode = DELETE")  # a write-ahead log is for one host alone
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            with db:
                yield db
        finally:
            db.close()


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(
        row["folder"],
        row["session_id"],
        row["principal"],
        row["started"],
        row["ended"],
        row["outcome"],
        row["bytes"],
        None if row["figures"] is None else json.loads(row["figures"]),
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _lives(writer: str, seen: float) -> bool:
    """Whether a gateway does: of this host by its process, of another by when it said so last."""
    host, pid, start = writer.rsplit("-", 2) if writer.count("-") > 1 else (_HOST, *writer.split("-"))
    if host != _HOST:
        return time.time() - seen < GONE_AFTER_S
    return str(_process_start(int(pid))) == start


def _process_start(pid: int) -> float | None:
    """Tells a process from another that has its number; None where there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, ValueError):
        return None
