"""Encryption at rest: AES-256-GCM in frames, so that a file can grow and a crash costs at most its last frame.

A file is ``FVR1``, one byte with the length of the key's id, the id, 16 bytes of salt, then frames: four bytes with
the length (big-endian), the ciphertext, the tag. Every file has a key of its own, HKDF-SHA256 of the master key and
the salt, so that the counter of the frames is a nonce that never comes twice. The head is authenticated with each
frame, and so is whether it is the last: a file that was cut off is told from one that was ended.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ConfigError

MAGIC = b"FVR1"
KEY_BYTES = 32
_SALT_BYTES = 16
_TAG_BYTES = 16
_LAST = 1 << 95  # of the 96 bits of a nonce
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TO_CALLER = "x25519:"


class VaultError(ValueError):
    """What cannot be decrypted. The text says why."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key of the operator's."""

    id: str
    secret: bytes = field(repr=False)


class Vault:
    """The master keys: files ID.key of a folder. The one whose id is last by the alphabet encrypts, all decrypt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self) -> MasterKey:
        """Read anew each time: a key that was added is used from the next recording on. Raises `ConfigError`."""
        ids = sorted(path.stem for path in self.folder.glob("*.key"))
        if not ids:
            raise ConfigError(f"{self.folder}: no key of recordings there: make one with `fast-vc keys recording`")
        return self.key(ids[-1])

    def key(self, key_id: str) -> MasterKey:
        """Raises `ConfigError`."""
        path = self.folder / f"{key_id}.key"
        if not _KEY_ID.fullmatch(key_id) or not path.is_file():
            raise ConfigError(f"{self.folder}: no key {key_id!r}")
        try:
            secret = base64.b64decode(path.read_text().strip(), validate=True)
        except (OSError, ValueError, binascii.Error):
            secret = b""
        if len(secret) != KEY_BYTES:
            raise ConfigError(f"{path}: must hold {KEY_BYTES} bytes in base64")
        return MasterKey(key_id, secret)

    def make_key(self) -> MasterKey:
        """A new master key, which is the newest from now on."""
        made = MasterKey(time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(3), os.urandom(KEY_BYTES))
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / f"{made.id}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(base64.b64encode(made.secret).decode() + "\n")
        return made


class Encryptor:
    """The frames of one file: `head`, then `frame`s, the last one with ``last=True``."""

    def __init__(self, key: MasterKey) -> None:
        salt = os.urandom(_SALT_BYTES)
        self.head = MAGIC + bytes([len(key.id)]) + key.id.encode() + salt
        self._cipher = AESGCM(_file_key(key.secret, salt))
        self._count = 0

    def frame(self, data: bytes, *, last: bool = False) -> bytes:
        nonce = (self._count | (_LAST if last else 0)).to_bytes(12, "big")
        self._count += 1
        sealed = self._cipher.encrypt(nonce, data, self.head)
        return len(sealed).to_bytes(4, "big") + sealed


def check_public(public: bytes) -> None:
    """Raises `VaultError` where nothing could be encrypted to `public`."""
    encrypt_to(public, b"")


def encrypt_to(public: bytes, data: bytes) -> bytes:
    """`data` for who has the private key of an X25519 `public` key (32 bytes). Raises `VaultError`."""
    own = X25519PrivateKey.generate()
    try:  # a point of low order, with which everybody would have the same secret, is refused too
        shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise VaultError("not an X25519 public key of 32 bytes") from None
    key_id = _TO_CALLER + base64.urlsafe_b64encode(own.public_key().public_bytes_raw()).decode().rstrip("=")
    encryptor = Encryptor(MasterKey(key_id, shared))
    return encryptor.head + encryptor.frame(data) + encryptor.frame(b"", last=True)


def key_id_of(data: bytes) -> str:
    """Whose key a file needs. Raises `VaultError`."""
    if len(data) < 5 or data[:4] != MAGIC or len(data) < 5 + data[4] + _SALT_BYTES:
        raise VaultError("not an encrypted recording")
    return data[5 : 5 + data[4]].decode("utf-8", "replace")


def decrypt_with_private(private: bytes, data: bytes) -> bytes:
    """What `encrypt_to` made for the public key of `private` (32 bytes). Raises `VaultError`."""
    key_id = key_id_of(data)
    if not key_id.startswith(_TO_CALLER):
        raise VaultError(f"encrypted with the key {key_id!r}, not for a caller")
    own = base64.urlsafe_b64decode(key_id.removeprefix(_TO_CALLER) + "=")
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(own))
    content, ended = decrypt(MasterKey(key_id, shared), data)
    if not ended:
        raise VaultError("its end is missing: it was not sent, or not kept, whole")
    return content


def decrypt(key: MasterKey, data: bytes) -> tuple[bytes, bool]:
    """The content, and whether the file was ended (a crash ends none). Raises `VaultError` for what was changed."""
    if key_id_of(data) != key.id:
        raise VaultError(f"encrypted with the key {key_id_of(data)!r}, not {key.id!r}")
    head_bytes = 5 + data[4] + _SALT_BYTES
    head = data[:head_bytes]
    cipher = AESGCM(_file_key(key.secret, head[-_SALT_BYTES:]))
    content = bytearray()
    for count, (sealed, at_end) in enumerate(_frames(data, head_bytes)):
        try:
            content += cipher.decrypt(count.to_bytes(12, "big"), sealed, head)
        except InvalidTag:
            if not at_end:
                raise VaultError("wrong key, or the file was changed") from None
            try:
                content += cipher.decrypt((count | _LAST).to_bytes(12, "big"), sealed, head)
            except InvalidTag:
                raise VaultError("wrong key, or the file was changed") from None
            return bytes(content), True
    return bytes(content), False


def _frames(data: bytes, at: int) -> Iterator[tuple[bytes, bool]]:
    """Whole frames, and whether one ends the file; a torn one at the end is left out."""
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or end < at + 4 + _TAG_BYTES:
            return
        yield data[at + 4 : end], end == len(data)
        at = end


def _file_key(secret: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, b"fast-vc recording").derive(secret)
