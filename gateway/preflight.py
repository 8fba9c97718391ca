"""What a gateway reads before it listens, read ahead of time."""

from __future__ import annotations

from gateway.auth.door import Door
from gateway.auth.requests import address_middleware
from gateway.tls import Certificates
from shared.settings import Config


def check_files(config: Config) -> None:
    """Raises the `ConfigError` with which a gateway would end; keeps nothing."""
    gateway = config.gateway
    Door(config.auth, is_private=gateway.is_private)
    if gateway.tls_certificate is not None and gateway.tls_key is not None:
        Certificates(gateway.tls_certificate, gateway.tls_key)
    address_middleware(gateway.trusted_proxies)
