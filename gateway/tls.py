"""TLS of the gateway's port: certificates that are read again when they are renewed, and a pair for development."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from loguru import logger

from gateway.stamps import stamp
from shared.errors import ConfigError

_VALID_DAYS = 365


class Certificates:
    """One context whose certificate follows two files. Connections that are open keep the one they began with."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `ConfigError` where the pair cannot be used."""
        self._files = certificate, key
        self._stamps = self._look()
        self.context = _load(_context(), *self._files)

    def refresh(self) -> bool:
        """Read the files if they changed; a pair that cannot be used changes nothing. True if it was read."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            _load(_context(), *self._files)  # a half-written pair must not reach the one in use
            _load(self.context, *self._files)
        except ConfigError as error:
            logger.error("{}; the certificate stays as it was", error)
            return False
        logger.info("a new certificate of {}", self._files[0])
        return True

    def _look(self) -> list[object]:
        return [stamp(path) for path in self._files]


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> ssl.SSLContext:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else str(error)
        raise ConfigError(f"gateway.tls_certificate, tls_key: {certificate}, {key}: {reason}") from None
    return context


def _no_password() -> str:
    """Instead of asking on the terminal."""
    raise ConfigError("gateway.tls_key: it has a password, which nobody is there to type")


def make_self_signed(folder: Path, hosts: Sequence[str]) -> tuple[Path, Path]:
    """A certificate for `hosts` (names and addresses) and its key, as ``tls.crt`` and ``tls.key`` in `folder`.

    Nobody trusts it until told to. Raises `ConfigError` where one is there already.
    """
    certificate_file, key_file = folder / "tls.crt", folder / "tls.key"
    if certificate_file.exists() or key_file.exists():
        raise ConfigError(f"{folder}: there is a certificate already")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0][:64])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate_file, key_file


def _general_name(host: str) -> x509.GeneralName:

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
