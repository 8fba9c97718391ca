"""API keys: salted hashes in a file, and the keys that the configuration names.

A key is ``fvc_ID_SECRET``. The id finds its line; the secret has 256 bits from the system's generator, so that one
round of salted SHA-256 is as good as a slow hash, which would only help somebody who wants to keep the gateway busy.
Only hashes are kept: a key is shown once, when it is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from loguru import logger

from gateway.auth.principal import CALL, SCOPES, CredentialError, Limits, Principal, read_scopes
from gateway.stamps import stamp
from shared.errors import ConfigError

_PREFIX = "fvc"
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NOBODY = "0" * 64  # compared with when there is no such id: the answer takes as long


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One line of the file. Times are seconds since 1970, UTC."""

    id: str
    name: str
    salt: str = field(repr=False)
    hash: str = field(repr=False)
    scopes: tuple[str, ...] = (CALL,)
    limits: Limits = field(default_factory=Limits)
    created: float = 0.0
    expires: float | None = None
    revoked: float | None = None
    record: bool | None = None

    @property
    def principal(self) -> Principal:
        return Principal(self.name, frozenset(self.scopes), self.limits, self.expires, self.record, self.id)

    def state(self, now: float) -> str:
        """`revoked`, `expired` or `valid`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


class KeyFile:
    """The keys of one file, read again when it changes. Without a file there are no keys."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` where the file is there and cannot be read."""
        self.path = path
        self._stamp = stamp(path)
        self._records = {record.id: record for record in read_keys(path)}

    def __len__(self) -> int:
        return len(self._records)

    def refresh(self) -> bool:
        """Look whether the file has changed; what cannot be read leaves the keys as they were. True if it was read."""
        now = stamp(self.path)
        if now == self._stamp:
            return False
        self._stamp = now
        try:
            self._records = {record.id: record for record in read_keys(self.path)}
        except ConfigError as error:
            logger.error("{}; the keys stay as they were", error)
            return False
        logger.info("{} keys of {}", len(self._records), self.path)
        return True

    def verify(self, key: str) -> Principal:
        """Who has `key`. Raises `CredentialError`, which does not say what was wrong with it."""
        _, _, rest = key.partition("_")
        identity, _, secret = rest.partition("_")
        record = self._records.get(identity)
        salt, expected = (record.salt, record.hash) if record is not None else ("", _NOBODY)
        matches = hmac.compare_digest(_hash(salt, secret), expected)
        if record is None or not matches or record.revoked is not None:
            raise CredentialError("api_key: not a known key")
        if record.state(time.time()) == "expired":
            raise CredentialError("api_key: this key has expired")
        return record.principal

    def is_withdrawn(self, key_id: str) -> bool:
        """Whether a key that let somebody in would no longer: it was revoked, or is gone."""
        record = self._records.get(key_id)
        return record is None or record.revoked is not None


class StaticKeys:
    """The keys that the configuration names. Their principals are called by their place: config-1, config-2, ..."""

    def __init__(self, keys: Sequence[str], scopes: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._scopes = frozenset(scopes)

    def __len__(self) -> int:
        return len(self._digests)

    def verify(self, key: str) -> Principal:
        """Who has `key`: every key is compared, in constant time. Raises `CredentialError`."""
        given = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if True not in matches:
            raise CredentialError("api_key: not a known key")
        return Principal(f"config-{matches.index(True) + 1}", self._scopes)


def looks_like_key(credential: str) -> bool:
    """Whether it has the form of a key of the file."""
    return credential.startswith(f"{_PREFIX}_") and credential.count("_") >= 2


def read_keys(path: Path) -> list[KeyRecord]:
    """The file's lines; none without a file. Raises `ConfigError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']} is not {_VERSION}")
        return [_record(entry) for entry in content["keys"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not a file of keys: {error}") from None


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[str] = (CALL,),
    limits: Limits | None = None,
    lifetime_s: float | None = None,
    record: bool | None = None,
) -> str:
    """Make a key, keep its hash in `path`, and return the key: there is no other way to learn it.

    Raises `ConfigError` for a name or a scope that cannot be.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r}: 1 to 64 letters, digits and . _ @ -")
    if unknown := set(scopes) - SCOPES:
        raise ConfigError(f"scope {', '.join(sorted(unknown))}: there are {', '.join(sorted(SCOPES))}")
    identity, secret, salt, now = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_hex(16), time.time()
    expires = None if lifetime_s is None else now + lifetime_s
    made = KeyRecord(
        identity, name, salt, _hash(salt, secret), tuple(sorted(scopes)), limits or Limits(), now, expires, None, record
    )
    with _rewriting(path) as records:
        records.append(made)
    return f"{_PREFIX}_{identity}_{secret}"


def revoke_keys(path: Path, name_or_id: str) -> list[KeyRecord]:
    """Revoke the key of that id, or all valid ones of that name. Returns them; raises `ConfigError` for none."""
    now, revoked = time.time(), []
    with _rewriting(path) as records:
        for place, record in enumerate(records):
            if name_or_id in (record.id, record.name) and record.revoked is None:
                records[place] = replace(record, revoked=now)
                revoked.append(records[place])
        if not revoked:
            raise ConfigError(f"{path}: no key {name_or_id!r} that is not revoked already")
    return revoked


def _record(entry: dict[str, Any]) -> KeyRecord:
    for name in ("id", "name", "salt", "hash"):
        if not isinstance(entry[name], str):
            raise ValueError(f"{name} must be a text")
    scopes = tuple(sorted(read_scopes(entry.get("scopes"))))
    return KeyRecord(**{**entry, "scopes": scopes, "limits": Limits.read(entry.get("limits"))})


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode("utf-8", "surrogatepass")).hexdigest()


@contextlib.contextmanager
def _rewriting(path: Path) -> Iterator[list[KeyRecord]]:
    """The file's lines, to be changed; written back whole, readable by its owner alone, by one program at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = read_keys(path)
        yield records
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        content = {"version": _VERSION, "keys": [asdict(record) for record in records]}
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
