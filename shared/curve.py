"""Keys of the link: CURVE certificates, who may join, and the refusal to go without beyond loopback."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
from loguru import logger
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from shared.addresses import is_loopback
from shared.errors import ConfigError, of_key
from shared.settings import LinkConfig

PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"


class LinkError(ConfigError):
    """The link cannot be set up as configured."""


@dataclass(frozen=True, slots=True)
class Keys:
    """CURVE keys of one side; `server` is the gateway's public key, known to workers."""

    public: bytes
    secret: bytes
    server: bytes | None = None


def load_keys(config: LinkConfig, *, need_server: bool) -> Keys | None:
    """The keys that `config` names, or None for a plain link. Raises `LinkError` naming the file."""
    if config.secret_key_file is None:
        return None
    with of_key("link.secret_key_file"):
        public, secret = _read_certificate(config.secret_key_file)
    if secret is None:
        raise LinkError(f"link.secret_key_file: {config.secret_key_file} holds no secret key")
    if stat.S_IMODE(config.secret_key_file.stat().st_mode) & (stat.S_IWGRP | stat.S_IRWXO):
        logger.warning("link.secret_key_file: others can read {}: chmod 600 it", config.secret_key_file)
    if not need_server:
        return Keys(public, secret)
    if config.server_key_file is None:
        raise LinkError("link.server_key_file: a worker needs the gateway's public key beside its own secret key")
    with of_key("link.server_key_file"):
        return Keys(public, secret, read_public(config.server_key_file))


def derive_secret(config: LinkConfig, purpose: str) -> bytes | None:
    """32 bytes for `purpose`, the same wherever this side's secret key lies, from which nobody learns that key.

    None for a plain link. Raises `LinkError`.
    """
    if config.secret_key_file is None:
        return None
    _, secret = _read_certificate(config.secret_key_file)
    if secret is None:
        raise LinkError(f"link.secret_key_file: {config.secret_key_file} holds no secret key")
    return hmac.new(secret, purpose.encode(), hashlib.sha256).digest()


def read_public(path: Path) -> bytes:
    """A certificate's public key, in Z85 text. Raises `LinkError`."""
    return _read_certificate(path)[0]


def _read_certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError, IndexError) as error:  # the last where a line has no "="
        raise LinkError(f"{path}: no CURVE certificate: {error}") from None


def check_plain(host: str, config: LinkConfig) -> None:
    """Refuse an unencrypted link beyond loopback unless the configuration allows it."""
    if config.secret_key_file is None and not config.allow_plain and not is_loopback(host):
        raise LinkError(
            f"link: {host} is not loopback and no CURVE keys are named: set link.secret_key_file, "
            "or link.allow_plain: true on a network you trust"
        )


def fingerprint(public: bytes) -> str:
    """Of a public key in Z85 text, short enough for people to compare."""
    digest = hashlib.sha256(public).hexdigest()[:24]
    return ":".join(digest[at : at + 4] for at in range(0, len(digest), 4))


class AllowList(ThreadAuthenticator):
    """Answers libzmq's question who may join (ZAP, RFC 27) from a folder of public certificates, in its own thread."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, on_refused: Callable[[str, str], None]
    ) -> None:
        """`on_refused` is told, in the list's thread, a fingerprint and where it came from."""
        super().__init__(context)
        self._folder, self._on_refused = folder, on_refused
        self._seen: frozenset[tuple[str, int, int]] | None = None
        self._keys: frozenset[bytes] = frozenset()
        self._address = ""
        self.reload()

    def allows(self, public: bytes) -> bool:
        """A key in Z85 text."""
        return public in self._keys

    def reload(self) -> None:
        """Read the folder again if it has changed; blocks, and may be called from any thread. A file that is no
        certificate is named in the log, and lets nobody in."""
        try:
            paths = sorted(self._folder.glob(f"*{PUBLIC_SUFFIX}"))
            seen = frozenset((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
        except OSError as error:  # it is being changed
            logger.warning("link.allowed_workers_dir: {}: {}", self._folder, error)
            return
        if seen == self._seen:
            return
        keys = set()
        for path in paths:
            try:
                keys.add(_read_certificate(path)[0])
            except LinkError as error:
                logger.error("link.allowed_workers_dir: {}", error)
        if self._seen is not None:
            logger.info("link.allowed_workers_dir: {} workers may join now", len(keys))
        self._seen, self._keys = seen, frozenset(keys)

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        self._address = msg[3].decode(errors="replace").removeprefix("::ffff:") if len(msg) > 3 else "?"
        await super().handle_zap_message(msg)

    async def _authenticate_curve(self, domain: str, client_key: bytes) -> tuple[bool, bytes]:
        public = z85.encode(client_key)
        if public in self._keys:
            return True, b"OK"
        self._on_refused(fingerprint(public), self._address)
        return False, b"Unknown key"


def authenticator(
    context: zmq.Context[zmq.Socket[bytes]],
    config: LinkConfig,
    on_refused: Callable[[str, str], None] = lambda fingerprint, address: None,
) -> AllowList | None:
    """The allow-list of workers, started; None for a plain link. The caller stops it."""
    if config.secret_key_file is None:
        return None
    guard = AllowList(context, check_allowed(config), on_refused)
    guard.start()
    return guard


def check_allowed(config: LinkConfig) -> Path:
    """The folder of the certificates that may join. Raises `LinkError` where a gateway with keys has none."""
    if config.allowed_workers_dir is None:
        raise LinkError("link.allowed_workers_dir: with CURVE keys, name the folder of the workers' public keys")
    if not config.allowed_workers_dir.is_dir():
        raise LinkError(f"link.allowed_workers_dir: {config.allowed_workers_dir} is not a folder")
    return config.allowed_workers_dir


def make_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A new certificate ``NAME.key`` and its secret ``NAME.key_secret``, readable by their owner alone.

    Raises `FileExistsError` rather than replace a key that something may use, and `OSError`.
    """
    public, secret = folder / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{SECRET_SUFFIX}"
    for path in (public, secret):
        if path.exists():
            raise FileExistsError(f"{path} is there already")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = os.umask(0o077)  # never readable by others, not even for a moment
    try:
        zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(before)
    return public, secret
