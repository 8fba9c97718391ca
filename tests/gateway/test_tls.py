"""TLS: wss with a certificate that is read again when it is renewed."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.tls import Certificates, make_self_signed
from shared.addresses import answers, base_url
from shared.errors import ConfigError
from tests.support.waiting import PATIENCE_S

from .conftest import KEY, Service, hear


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    certificate, key = make_self_signed(tmp_path / "tls", ["localhost", "127.0.0.1", "::1"])
    return {"tls_certificate": certificate, "tls_key": key}


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


async def call(service: Service, trust: ssl.SSLContext) -> None:
    url = f"wss://127.0.0.1:{service.gateway.port}/ws"
    async with aiohttp.ClientSession() as http, http.ws_connect(url, ssl=trust) as socket:
        await socket.send_json({"type": "config", "api_key": KEY})
        assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "ready"
        await socket.send_json({"type": "end"})
        assert (await hear(socket))[2] == 1000


async def test_a_call_over_tls_and_a_renewed_certificate(service: Service, tmp_path: Path) -> None:
    await service.worker()
    old = trusting(tmp_path / "tls" / "tls.crt")
    await call(service, old)
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await call(service, ssl.create_default_context())
    new_certificate, new_key = make_self_signed(tmp_path / "new", ["127.0.0.1"])
    for new, used in ((new_certificate, "tls.crt"), (new_key, "tls.key")):
        new.rename(tmp_path / "tls" / used)
    new = trusting(tmp_path / "tls" / "tls.crt")
    async with asyncio.timeout(10):
        while True:  # until the gateway's own watch has seen it
            try:
                await call(service, new)
                break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.1)
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await call(service, old)


async def test_the_command_finds_a_gateway_with_tls(service: Service) -> None:
    config = service.gateway.config
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update={"port": service.gateway.port})})
    assert base_url(config).startswith("https://")
    assert await asyncio.to_thread(answers, base_url(config) + "/health", 5.0)


def test_a_pair_that_cannot_be_used_changes_nothing_or_stops_the_start(tmp_path: Path) -> None:
    certificate, key = make_self_signed(tmp_path / "a", ["localhost"])
    pair = Certificates(certificate, key)
    other, other_key = make_self_signed(tmp_path / "b", ["localhost"])
    assert not pair.refresh()
    certificate.write_bytes(other.read_bytes())  # half of a renewal
    assert not pair.refresh()
    key.write_bytes(other_key.read_bytes())
    assert pair.refresh()
    for wrong in ((tmp_path / "missing", key), (key, certificate), (certificate, tmp_path / "a")):
        with pytest.raises(ConfigError, match=r"gateway\.tls_certificate"):
            Certificates(*wrong)


def test_one_file_alone_is_no_configuration() -> None:
    from shared.config import load

    with pytest.raises(ConfigError, match="tls_certificate and tls_key belong together"):
        load(environ={"FASTVC_GATEWAY__TLS_KEY": "tls.key"})
