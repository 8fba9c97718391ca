"""Encryption at rest: growing files, crashes, changes, rotation, and files for a caller's own key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from gateway.recording import vault as vaults
from gateway.recording.vault import (
    Encryptor,
    MasterKey,
    Vault,
    VaultError,
    decrypt,
    decrypt_with_private,
    encrypt_to,
    key_id_of,
)
from shared.errors import ConfigError

KEY = MasterKey("one", bytes(range(32)))
PIECES = [b"first", b"", b"second" * 1000]


def sealed(key: MasterKey = KEY, *, end: bool = True) -> bytes:
    encryptor = Encryptor(key)
    data = encryptor.head + b"".join(encryptor.frame(piece) for piece in PIECES)
    return data + encryptor.frame(b"", last=True) if end else data


def test_what_was_sealed_is_opened_and_its_end_is_known() -> None:
    assert decrypt(KEY, sealed()) == (b"".join(PIECES), True)
    assert decrypt(KEY, sealed(end=False)) == (b"".join(PIECES), False)
    assert b"second" not in sealed()
    assert key_id_of(sealed()) == "one"


def test_a_torn_frame_costs_itself() -> None:
    assert decrypt(KEY, sealed(end=False)[:-1]) == (b"first", False)


def test_equal_sounds_look_different() -> None:
    assert sealed()[40:] != sealed()[40:]


@pytest.mark.parametrize("at", [5, 10, 30, 45, -30])
def test_a_changed_file_is_noticed(at: int) -> None:
    data = bytearray(sealed())
    data[at] ^= 1
    with pytest.raises(VaultError):
        decrypt(KEY, bytes(data))


def test_frames_cannot_change_places_and_an_end_cannot_be_moved() -> None:
    encryptor = Encryptor(KEY)
    one, two, end = encryptor.frame(b"one"), encryptor.frame(b"two"), encryptor.frame(b"", last=True)
    for wrong in (two + one + end, one + end, end, one + two + end + end):
        with pytest.raises(VaultError, match="wrong key, or the file was changed"):
            decrypt(KEY, encryptor.head + wrong)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(VaultError, match="'one', not 'two'"):
        decrypt(MasterKey("two", KEY.secret), sealed())
    with pytest.raises(VaultError, match="wrong key"):
        decrypt(MasterKey("one", bytes(32)), sealed())
    with pytest.raises(VaultError, match="not an encrypted recording"):
        decrypt(KEY, b"fLaC" + bytes(100))


def test_after_a_rotation_new_files_have_the_new_key_and_old_ones_are_still_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vaults.time, "strftime", lambda *_: "20260101-000000-")
    vault = Vault(tmp_path / "keys")
    with pytest.raises(ConfigError, match="fast-vc keys recording"):
        vault.newest()
    old = vault.make_key()
    data = sealed(vault.newest())
    monkeypatch.setattr(vaults.time, "strftime", lambda *_: "20260102-000000-")
    new = vault.make_key()
    assert vault.newest() == new != old
    assert decrypt(vault.key(key_id_of(data)), data)[1]
    assert {os.stat(path).st_mode & 0o077 for path in vault.folder.iterdir()} == {0}
    assert repr(new.secret) not in repr(new)


@pytest.mark.parametrize("text", ["", "short", "é", "A" * 43 + "=" + "A" * 44])
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.key").write_text(text)
    with pytest.raises(ConfigError, match=r"k\.key: must hold 32 bytes"):
        Vault(tmp_path).newest()
    with pytest.raises(ConfigError, match="no key"):
        Vault(tmp_path).key("../k")


def test_what_is_for_a_caller_only_the_caller_opens() -> None:
    private = X25519PrivateKey.generate()
    data = encrypt_to(private.public_key().public_bytes_raw(), b"a call")
    assert decrypt_with_private(private.private_bytes_raw(), data) == b"a call"
    with pytest.raises(VaultError):
        decrypt_with_private(X25519PrivateKey.generate().private_bytes_raw(), data)
    with pytest.raises(VaultError, match="not for a caller"):
        decrypt_with_private(private.private_bytes_raw(), sealed())
    for wrong in (b"", bytes(31), bytes(32)):
        with pytest.raises(VaultError, match="not an X25519 public key"):
            encrypt_to(wrong, b"a call")
