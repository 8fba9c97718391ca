"""API keys: made once, kept as salted hashes, revoked, expired, and read again when the file changes."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.auth.keys import KeyFile, StaticKeys, add_key, read_keys, revoke_keys
from gateway.auth.principal import CredentialError, Limits
from shared.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "api-keys.json"


def test_a_key_lets_its_principal_in_with_scopes_and_limits(path: Path) -> None:
    key = add_key(path, "alice", ["call", "voices"], Limits(sessions=2), record=True)
    principal = KeyFile(path).verify(key)
    assert (principal.name, principal.scopes) == ("alice", {"call", "voices"})
    assert principal.limits == Limits(sessions=2)
    assert principal.record is True
    assert principal.may("voices")
    assert not principal.may("admin")


def test_the_file_holds_no_key_and_only_its_owner_reads_it(path: Path) -> None:
    key = add_key(path, "alice")
    secret = key.split("_", 2)[2]
    assert len(secret) >= 43  # 256 bits
    assert secret not in path.read_text()
    assert os.stat(path).st_mode & 0o077 == 0
    assert secret not in repr(read_keys(path))


def test_equal_secrets_would_have_different_hashes(path: Path) -> None:
    add_key(path, "alice")
    add_key(path, "bob")
    first, second = read_keys(path)
    assert first.salt != second.salt


def test_a_wrong_key_is_refused_whatever_is_wrong_with_it(path: Path) -> None:
    key = add_key(path, "alice")
    keys = KeyFile(path)
    prefix, identity, secret = key.split("_", 2)
    wrong = ["", "fvc", "fvc__", f"{prefix}_{identity}_", f"{prefix}_{identity}_{secret}x", f"{prefix}_0_{secret}"]
    wrong += [key[:-1], key.upper(), f"{prefix}_{identity}_{secret[::-1]}", "fvc_\ud800_\ud800", "x" * 10_000]
    for given in wrong:
        with pytest.raises(CredentialError, match="not a known key"):
            keys.verify(given)


def test_an_expired_key_says_so_to_who_has_it_only(path: Path) -> None:
    key = add_key(path, "alice", lifetime_s=-1)
    with pytest.raises(CredentialError, match="has expired"):
        KeyFile(path).verify(key)
    with pytest.raises(CredentialError, match="not a known key"):
        KeyFile(path).verify(key[:-2])


def test_a_revoked_key_and_a_new_one_are_seen_in_a_file_that_changes(path: Path) -> None:
    keys = KeyFile(path)  # not there yet
    key = add_key(path, "alice")
    with pytest.raises(CredentialError):
        keys.verify(key)
    assert keys.refresh()
    assert not keys.refresh()
    principal = keys.verify(key)
    assert principal.key_id is not None
    assert not keys.is_withdrawn(principal.key_id)
    revoke_keys(path, "alice")
    keys.refresh()
    with pytest.raises(CredentialError, match="not a known key"):
        keys.verify(key)
    assert keys.is_withdrawn(principal.key_id)
    with pytest.raises(ConfigError, match="alice"):
        revoke_keys(path, "alice")


def test_one_of_two_keys_is_revoked_by_its_id(path: Path) -> None:
    old, new = add_key(path, "alice"), add_key(path, "alice")
    revoke_keys(path, old.split("_")[1])
    keys = KeyFile(path)
    assert keys.verify(new).name == "alice"
    with pytest.raises(CredentialError):
        keys.verify(old)


BROKEN = ["", "{", "[]", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{"id": "x"}]}', '{"version": 1}']
BROKEN += ['{"version": 1, "keys": [{"id": 1, "name": "x", "salt": "", "hash": ""}]}', '{"version": 1, "keys": 5}']
BROKEN += [
    json.dumps({"version": 1, "keys": [{"id": "a", "name": "x", "salt": "", "hash": "", "limits": {"session": 1}}]})
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_stops_a_start_and_leaves_a_running_gateway_its_keys(path: Path, text: str) -> None:
    key = add_key(path, "alice")
    keys = KeyFile(path)
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        KeyFile(path)
    assert not keys.refresh()
    assert keys.verify(key).name == "alice"


@pytest.mark.parametrize("name", ["", " ", "../x", "a b", "x" * 65, "é"])
def test_names_that_cannot_be_are_refused(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        add_key(path, name)
    assert not path.exists()


def test_scopes_that_are_not_there_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scope root: there are admin, call, voices"):
        add_key(path, "alice", ["root"])


def test_programs_that_add_keys_at_the_same_time_lose_none(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: add_key(path, f"caller-{number}"), range(40)))
    keys = KeyFile(path)
    assert {keys.verify(key).name for key in made} == {f"caller-{number}" for number in range(40)}


def test_keys_of_the_configuration_are_called_by_their_place() -> None:
    keys = StaticKeys(["the-right-key", "another-key"], ["call"])
    assert keys.verify("another-key").name == "config-2"
    for wrong in ("", "the-right-ke", "the-right-key ", "the-right-keyx", "\ud800"):
        with pytest.raises(CredentialError, match="not a known key"):
            keys.verify(wrong)
