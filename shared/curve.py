"""Keys of the link: CURVE certificates, who may join, and the refusal to go without beyond loopback."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from shared.addresses import is_loopback
from shared.errors import ConfigError
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
    public, secret = _read_certificate(config.secret_key_file)
    if secret is None:
        raise LinkError(f"link.secret_key_file: {config.secret_key_file} holds no secret key")
    if not need_server:
        return Keys(public, secret)
    if config.server_key_file is None:
        raise LinkError("link.server_key_file: a worker needs the gateway's public key beside its own secret key")
    return Keys(public, secret, _read_certificate(config.server_key_file)[0])


def _read_certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise LinkError(f"{path}: no CURVE certificate: {error}") from None


def check_plain(host: str, config: LinkConfig) -> None:
    """Refuse an unencrypted link beyond loopback unless the configuration allows it."""
    if config.secret_key_file is None and not config.allow_plain and not is_loopback(host):
        raise LinkError(
            f"link: {host} is not loopback and no CURVE keys are named: set link.secret_key_file, "
            "or link.allow_plain: true on a network you trust"
        )


def authenticator(context: zmq.Context[zmq.Socket[bytes]], config: LinkConfig) -> ThreadAuthenticator | None:
    """The allow-list of workers, started; None for a plain link. The caller stops it."""
    if config.secret_key_file is None:
        return None
    folder = check_allowed(config)
    guard = ThreadAuthenticator(context)
    guard.start()
    guard.configure_curve(domain="*", location=str(folder))
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
