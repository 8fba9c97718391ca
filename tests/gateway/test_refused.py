"""What is refused over HTTP, from outside: described answers, counted, and nothing of it quoted in the log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.refused import request_log

from .conftest import KEY, Service

SECRET = "a-secret-that-somebody-sent"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, Any]:
    return {"auth": {"api_keys": [KEY], "api_keys_scopes": ["call", "voices"]}, "voices": {"dir": tmp_path / "voices"}}


async def raw(service: Service, request: str) -> bytes:
    """What is answered to bytes that no client of HTTP would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.gateway.port)
    writer.write(request.encode("latin-1"))
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        f"GET /ws?api_key={SECRET} HTTQ/1.1\r\nHost: a\r\n\r\n",
        f"GET /ws?api_key={SECRET}{'a' * 9000} HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET http://[::1?api_key={SECRET} HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRET}\x01\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRET}{'a' * 9000}\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_request_are_counted_and_never_quoted(
    service: Service, log: list[str], caplog: pytest.LogCaptureFixture, request_: str
) -> None:
    answer = await raw(service, request_)
    assert answer.split()[1] == b"400"
    await service.until(lambda: refused(service, 400) == 1)
    written = "\n".join([*log, caplog.text])
    assert "127.0.0.1" in written
    assert SECRET not in written
    assert "Traceback" not in written


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /nothing HTTP/1.1\r\n", 404),
        ("GET /tools/session/ HTTP/1.1\r\n", 404),
        ("GET /web/nothing HTTP/1.1\r\n", 404),
        ("POST /ws HTTP/1.1\r\nContent-Length: 0\r\n", 405),
        ("GET /ws HTTP/1.1\r\n", 400),
        ("GET /tools/session?api_key=" + KEY + " HTTP/1.1\r\n", 400),
        ("GET /ws HTTP/1.1\r\nSec-WebSocket-Key: abc\r\n" + UPGRADE, 400),
    ],
)
async def test_every_refusal_is_an_error_in_json_and_counted(service: Service, request_: str, status: int) -> None:
    await service.worker()
    head, _, body = (await raw(service, request_ + "Host: a\r\nConnection: close\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert b"application/json" in head
    assert body.startswith(b'{"error_code": "INVALID_CONFIG", "message": "')
    assert refused(service, status) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_what_its_encoding_says(service: Service, log: list[str], encoding: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Encoding": encoding}
    url = service.url + "/voices?name=june"
    async with service.http.post(url, data=b"no gzip", headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error_code"] == "INVALID_CONFIG"
    assert refused(service, 400) == 1
    assert "Traceback" not in "\n".join(log)


async def test_a_body_that_comes_after_its_head_is_refused_alike(service: Service, log: list[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.gateway.port)
    head = f"POST /voices?name=june HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Encoding: gzip\r\n"
    writer.write(f"{head}Content-Length: 7\r\n\r\n".encode())
    await asyncio.sleep(0.1)
    writer.write(b"no gzip")
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()
    await service.until(lambda: refused(service, 400) == 1)
    await asyncio.sleep(0.1)  # what is left of the body is looked at after the answer
    assert "Traceback" not in "\n".join(log)


def test_what_is_left_of_such_a_body_after_the_answer_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp may read on once the refusal is out, and meets the same again."""
    counted: list[int] = []
    request_log(lambda status, code: counted.append(status)).error(
        "Unhandled exception", exc_info=web.RequestPayloadError("Can not decode content-encoding: gzip")
    )
    (record,) = caplog.records
    assert (record.levelname, record.exc_info, record.getMessage()) == (
        "WARNING",
        None,
        "Unhandled exception: RequestPayloadError",
    )
    assert counted == []


async def test_questions_for_recordings_that_are_refused_are_counted(service: Service) -> None:
    socket = await service.http.ws_connect(service.url + "/tools/session")
    for question in ({"type": "?"}, {"type": "get", "session_id": "x", "api_key": KEY}, {"type": "get"}):
        await socket.send_json(question)
        assert (await socket.receive_json(timeout=20))["type"] == "error"
    assert [refused(service, status) for status in (400, 404)] == [1, 1]
    assert refused(service, 401, "AUTH_FAILED") == 1


def refused(service: Service, status: int, code: str = "INVALID_CONFIG") -> float:
    return service.counter("fastvc_requests_refused_total", status=str(status), error_code=code)
