"""Voices over HTTP and in sessions: added, listed, heard, used, removed; and by whom not."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import soundfile

from gateway.auth.keys import add_key
from gateway.voices.clip import read_clip

from ..conftest import Service, hear

RECORDING = (Path(__file__).parents[3] / "worker" / "assets" / "voices" / "june.flac").read_bytes()


@pytest.fixture
def sections(tmp_path: Path, keys: dict[str, str]) -> dict[str, Any]:
    return {
        "auth": {"api_keys": [], "keys_file": tmp_path / "keys.json"},
        "voices": {"dir": tmp_path / "uploads", "per_principal": 3, "max_upload_mb": 0.3},
        "gateway": {"port": 0, "default_model": "echo", "allowed_origins": ["https://app.example"]},
    }


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "keys.json"
    scopes = {"anna": ["call", "voices"], "bert": ["call", "voices"], "carl": ["call"], "boss": ["admin"]}
    return {name: add_key(file, name, scopes=tuple(those)) for name, those in scopes.items()}


async def ask(service: Service, method: str, path: str, key: str | None = None, **options: Any) -> tuple[int, Any, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= options.pop("headers", {})
    async with service.http.request(method, service.url + path, headers=headers, **options) as response:
        body = await response.read()
        is_json = response.content_type == "application/json"
        return response.status, await response.json() if is_json else body, response.headers


async def add(service: Service, key: str, name: str = "mine", data: Any = RECORDING, **query: str) -> int:
    status, _, _ = await ask(service, "POST", "/voices", key, data=data, params={"name": name, **query})
    return status


async def names(service: Service, key: str | None) -> list[str]:
    _, content, _ = await ask(service, "GET", "/voices", key)
    return [voice["name"] for voice in content["voices"]]


async def test_a_voice_can_be_used_in_the_next_session(service: Service, keys: dict[str, str]) -> None:
    worker = await service.worker()
    form = aiohttp.FormData({"name": "aunt.2", "description": "on the phone"})
    form.add_field("audio", RECORDING, filename="../../etc/passwd")
    status, content, headers = await ask(service, "POST", "/voices", keys["anna"], data=form)
    assert (status, headers["Location"]) == (201, "/voices/aunt.2")
    assert content["description"] == "on the phone"
    assert content["mine"]
    socket = await service.call(api_key=keys["anna"], voice="aunt.2")
    opened = worker.opens[-1]
    assert opened.voice == read_clip(RECORDING).id
    assert soundfile.info(io.BytesIO(opened.reference)).duration == pytest.approx(content["seconds"], abs=0.01)
    await socket.close()
    status, sound, _ = await ask(service, "GET", content["sample"], keys["anna"])
    assert (status, sound) == (200, opened.reference)


async def test_a_session_that_moves_takes_its_voice_along(service: Service, keys: dict[str, str]) -> None:
    first = await service.worker(worker_id="a")
    await add(service, keys["anna"])
    socket = await service.call(api_key=keys["anna"], voice="mine")
    poor = await service.worker(worker_id="b", reference_ms=0)
    second = await service.worker(worker_id="c")
    await first.die()
    await service.until(lambda: bool(second.opens))
    assert second.opens[0].reference == first.opens[0].reference
    assert not poor.opens
    await socket.close()


async def test_everybody_sees_their_own_and_what_is_shared(service: Service, keys: dict[str, str]) -> None:
    await service.worker()
    assert await add(service, keys["anna"]) == 201
    assert await add(service, keys["bert"], "berts") == 201
    assert await add(service, keys["boss"], "ours", shared="true") == 201
    assert await names(service, None) == ["one", "two", "ours"]
    assert await names(service, keys["anna"]) == ["one", "two", "mine", "ours"]
    assert await names(service, keys["boss"]) == ["one", "two", "mine", "berts", "ours"]
    for path in ("/voices/mine/sample", "/voices/mine/sample?owner=anna", "/voices/nobodys/sample"):
        status, content, _ = await ask(service, "GET", path, keys["bert"])
        assert (status, content["message"].replace("nobodys", "mine")) == (404, "there is no voice 'mine' of yours")
    assert (await ask(service, "GET", "/voices/mine/sample?owner=anna", keys["boss"]))[0] == 200
    assert (await ask(service, "GET", "/voices/ours/sample"))[0] == 200
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", "api_key": keys["bert"], "voice": "mine"})
    _, control, code = await hear(socket)
    assert (control[0]["details"], code) == ({"fields": ["voice"]}, 1008)


async def test_who_may_add_and_remove(service: Service, keys: dict[str, str]) -> None:
    await service.worker()
    assert await add(service, "") == 401
    assert await add(service, "a-wrong-key") == 401
    assert await add(service, keys["carl"]) == 403
    assert await add(service, keys["anna"], shared="1") == 403
    assert await add(service, keys["anna"]) == 201
    assert await add(service, keys["boss"], "ours", shared="1") == 201
    for key, path, expected in (
        (keys["carl"], "/voices/mine", 403),
        (keys["bert"], "/voices/mine", 404),
        (keys["bert"], "/voices/ours", 404),
        (keys["anna"], "/voices/one", 404),  # a worker's own
        (keys["anna"], "/voices/mine", 204),
        (keys["anna"], "/voices/mine", 404),
        (keys["boss"], "/voices/ours", 204),
    ):
        assert (await ask(service, "DELETE", path, key))[0] == expected
    assert await names(service, keys["boss"]) == ["one", "two"]


async def test_every_refusal_says_what_is_wrong(service: Service, keys: dict[str, str]) -> None:
    await service.worker()
    key = keys["anna"]
    assert await add(service, key) == 201
    cases: list[tuple[dict[str, str], bytes, int, dict[str, Any]]] = [
        ({"name": ""}, RECORDING, 400, {"fields": ["name"]}),
        ({"name": "../x"}, RECORDING, 400, {"fields": ["name"]}),
        ({"name": "one"}, RECORDING, 409, {"fields": ["name"]}),
        ({"name": "mine"}, RECORDING, 409, {"fields": ["name"]}),
        ({"name": "a"}, b"", 400, {"fields": ["audio"], "reason": "unreadable"}),
        ({"name": "a"}, RECORDING[:1000], 400, {"fields": ["audio"], "reason": "unreadable"}),
        ({"name": "a"}, bytes(300_001), 413, {"fields": ["audio"], "reason": "too_large"}),
    ]
    for query, data, expected, details in cases:
        status, content, _ = await ask(service, "POST", "/voices", key, data=data, params=query)
        assert (status, content["details"]) == (expected, details), query
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    status, content, _ = await ask(service, "POST", "/voices", key, data=b"nonsense", headers=broken)
    assert status == 400
    for name in ("b", "c"):
        assert await add(service, key, name) == 201
    status, content, _ = await ask(service, "POST", "/voices", key, data=RECORDING, params={"name": "d"})
    assert (status, content["details"]) == (507, {"reason": "full"})
    for outcome, count in (("kept", 3), ("INVALID_CONFIG", 5), ("unreadable", 2), ("too_large", 1), ("full", 1)):
        assert service.counter("fastvc_voices_uploaded_total", outcome=outcome) == count, outcome


async def test_who_hangs_up_in_the_middle_of_a_recording_is_no_fault_of_the_disk(
    service: Service, keys: dict[str, str], log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    head = f"POST /voices?name=x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {keys['anna']}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", service.gateway.port)
    writer.write(head.encode() + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 100")  # it is read from now on
    writer.write(b"RIFF")
    writer.close()
    await service.until(lambda: service.counter("fastvc_voices_uploaded_total", outcome="gone") == 1)
    assert [line for line in log if line.startswith("ERROR")] == []
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR" or record.exc_info] == []


async def test_a_disk_that_is_gone_takes_no_call_with_it(
    service: Service, keys: dict[str, str], tmp_path: Path
) -> None:
    await service.worker()
    await add(service, keys["anna"])
    for path in (tmp_path / "uploads").glob("*.flac"):
        path.unlink()
    assert (await ask(service, "GET", "/voices/mine/sample", keys["anna"]))[0] == 503
    socket = await service.call(api_key=keys["anna"])
    await socket.close()


async def test_a_session_may_bring_a_voice_for_itself(service: Service, keys: dict[str, str]) -> None:
    worker = await service.worker()
    text = base64.b64encode(RECORDING).decode()
    for given in (text, f"data:audio/flac;base64,{text}"):
        socket = await service.call(api_key=keys["carl"], voice_audio=given)
        assert worker.opens[-1].reference == read_clip(RECORDING).flac
        await socket.close()
    assert await names(service, keys["carl"]) == ["one", "two"]
    for wrong in (
        {"voice_audio": "not base64!"},
        {"voice_audio": 7},
        {"voice_audio": base64.b64encode(b"no sound").decode()},
        {"voice_audio": text, "voice": "one"},
    ):
        socket = await service.http.ws_connect(service.url + "/ws")
        await socket.send_json({"type": "config", "api_key": keys["carl"], **wrong})
        _, control, code = await hear(socket)
        assert (control[0]["error_code"], control[0]["details"], code) == (
            "INVALID_CONFIG",
            {"fields": ["voice_audio"]},
            1008,
        )


async def test_a_model_that_takes_no_voices_says_so(service: Service, keys: dict[str, str]) -> None:
    await service.worker(reference_ms=0)
    socket = await service.http.ws_connect(service.url + "/ws")
    audio = base64.b64encode(RECORDING).decode()
    await socket.send_json({"type": "config", "api_key": keys["carl"], "voice_audio": audio})
    _, control, _ = await hear(socket)
    assert control[0]["message"] == "voice: the model 'echo' takes no recordings of callers"
    _, content, _ = await ask(service, "GET", "/models")
    assert content["models"][0]["reference_ms"] == 0


async def test_pages_of_other_sites_may_read_answers_and_refusals(service: Service, keys: dict[str, str]) -> None:
    await service.worker()
    headers = {"Origin": "https://app.example"}
    for method, path, key in (("GET", "/voices", None), ("POST", "/voices", keys["carl"]), ("DELETE", "/voices/x", "")):
        _, _, answered = await ask(service, method, path, key, headers=headers)
        assert answered["Access-Control-Allow-Origin"] == "https://app.example"
    status, _, answered = await ask(service, "OPTIONS", "/voices/x", headers=headers)
    assert (status, answered["Access-Control-Allow-Methods"]) == (204, "GET, POST, DELETE")
