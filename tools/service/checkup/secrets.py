"""Keys and certificates: there, readable by who needs them and nobody else, and not about to end."""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from shared.config import check_auth
from shared.curve import PUBLIC_SUFFIX, check_allowed, check_plain, load_keys, read_public
from shared.errors import ConfigError
from shared.settings import Config
from tools.service.checkup.finding import Finding, fault, ok, warning
from tools.service.parts import is_installed

_SOON_DAYS = 14


def check_secrets(config: Config) -> Iterator[Finding]:
    """Callers' keys, the link's, TLS, and files that others could read."""
    yield _check_callers(config)
    yield _check_link(config)
    yield from _check_tls(config)
    yield from _check_readers(config)


def _check_callers(config: Config) -> Finding:
    try:
        check_auth(config)
    except ConfigError as error:
        return fault("auth", str(error), "fast-vc keys api NAME")
    if is_installed("gateway"):
        from gateway.auth.door import Door

        try:
            Door(config.auth, is_private=config.gateway.is_private)
        except ConfigError as error:
            return fault("auth", str(error), "mend the file, or put it aside and make keys anew: fast-vc keys api NAME")
    auth = config.auth
    if auth.is_open:
        return warning("auth", "everybody may come in", "auth.mode: keys, unless something in front decides")
    if config.gateway.is_private:
        return ok("auth", "only this machine reaches the gateway")
    made = [text for text, there in ((f"keys in {auth.keys_file}", auth.keys_file.is_file()),) if there]
    made += [f"{len(auth.api_keys)} in auth.api_keys"] if auth.api_keys else []
    made += ["tokens"] if auth.takes_tokens else []
    return ok("auth", ", ".join(made))


def _check_link(config: Config) -> Finding:
    link = config.link
    try:
        check_plain(link.host, link)
        keys = load_keys(link, need_server=False)
        if keys is None:
            plain = "plain, on loopback" if not link.allow_plain else "plain, as link.allow_plain says"
            return ok("link keys", plain)
        if link.server_key_file is not None:
            load_keys(link, need_server=True)
            return ok("link keys", f"a worker's: {link.secret_key_file}")
        allowed, damaged = _may_join(check_allowed(link))
    except ConfigError as error:
        return fault("link keys", str(error), "fast-vc keys link NAME makes them (docs/deployment.md, Two hosts)")
    if damaged:
        return warning("link keys", "; ".join(damaged), "copy the worker's NAME.key there again, or remove it")
    if not allowed:
        advice = f"put each worker's NAME.key into {link.allowed_workers_dir}"
        return warning("link keys", "no worker may join", advice)
    return ok("link keys", f"a gateway's; {len(allowed)} workers may join: {', '.join(allowed[:8])}")


def _may_join(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the workers whose certificates are in a folder, and what is wrong with the others."""
    allowed, damaged = [], []
    for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}")):
        try:
            read_public(path)
            allowed.append(path.stem)
        except ConfigError as error:
            damaged.append(str(error))
    return allowed, damaged


def _check_tls(config: Config) -> Iterator[Finding]:
    certificate = config.gateway.tls_certificate
    if certificate is None or find_spec("cryptography") is None:
        return
    from cryptography import x509

    try:
        read = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    except (OSError, ValueError) as error:
        yield fault("TLS", f"{certificate}: {error}", "PEM files in gateway.tls_certificate and gateway.tls_key")
        return
    if is_installed("gateway") and config.gateway.tls_key is not None:
        from gateway.tls import Certificates

        try:
            Certificates(certificate, config.gateway.tls_key)
        except ConfigError as error:
            yield fault("TLS", str(error), "the certificate and the key that was made with it, as PEM files")
            return
    left = read.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    if left.days < _SOON_DAYS:
        said = f"{certificate} ends {read.not_valid_after_utc:%F}"
        yield (fault if left.total_seconds() < 0 else warning)("TLS", said, "renew it; the gateway reads it again")
    else:
        yield ok("TLS", f"{certificate} is good until {read.not_valid_after_utc:%F}")


def _check_readers(config: Config) -> Iterator[Finding]:
    """Secrets that somebody else on this machine could read, or that we cannot."""
    auth, link = config.auth, config.link
    secrets = (auth.keys_file, auth.jwt_secret_file, link.secret_key_file, config.gateway.tls_key, Path(".env"))
    for path in secrets:
        if path is None or not path.is_file():
            continue
        if not os.access(path, os.R_OK):
            yield fault(str(path), f"cannot be read by uid {os.getuid()}", f"chown {os.getuid()} {path}")
        elif path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield warning(str(path), "others on this machine may read it", f"chmod 600 {path}")
