"""What a call left, over HTTP: for its owner and administrators, in every form, and for nobody else."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
import opuslib
import pytest
import soundfile
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from gateway.auth.keys import add_key
from gateway.recording.ogg import PRE_SKIP
from gateway.recording.vault import Vault, decrypt_with_private
from tests.support.waiting import PATIENCE_S

from ..conftest import KEY, Service, hear
from ..test_sessions import noise, say


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, Any]:
    Vault(tmp_path / "recording-keys").make_key()
    return {
        "auth": {"api_keys": [KEY], "keys_file": tmp_path / "keys.json"},
        "recording": {"enabled": True, "dir": tmp_path / "outputs", "keys_dir": tmp_path / "recording-keys"},
    }


def make_key(service: Service, name: str, **options: Any) -> str:
    key = add_key(service.gateway.config.auth.keys_file, name, **options)
    service.gateway.door.refresh()
    return key


async def talk(service: Service, session_id: str, key: str = KEY, wave: np.ndarray[Any, Any] | None = None) -> None:
    """A call that is over, and written."""
    socket = await service.call(session_id=session_id, api_key=key)
    await say(socket, noise(700) if wave is None else wave)
    await socket.send_json({"type": "end"})
    await hear(socket)
    await service.until(lambda: not service.gateway.calls and service.gateway.recorder.backlog.bytes == 0)
    index = service.gateway.recorder.index
    await service.until(lambda: (entry := index.find(session_id, None, None)) is None or entry.outcome is not None)


async def get(
    service: Service, session_id: str, key: str = KEY, headers: Any = None, **query: str
) -> tuple[int, bytes]:
    url = f"{service.url}/tools/session/{quote(session_id, safe='')}"
    headers = {"Authorization": f"Bearer {key}", **(headers or {})}
    async with service.http.get(url, params=query, headers=headers) as response:
        assert response.headers["Content-Type"].startswith("application/json") or response.status == 200
        return response.status, await response.read()


async def test_the_owner_has_a_call_in_every_form(service: Service) -> None:
    await service.worker()
    wave = noise(730)
    session_id = "../naïve id/1?"
    await talk(service, session_id, wave=wave)
    status, body = await get(service, session_id)
    assert status == 200
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert set(archive.namelist()) == {"session.json", "input.flac", "output.flac", "timeline.jsonl", "chunks.jsonl"}
    about = json.loads(archive.read("session.json"))
    assert (about["session_id"], about["principal"], about["outcome"]) == (session_id, "config-1", "complete")
    assert KEY not in body.decode("latin-1")
    assert about["summary"]["total_processed_ms"] == 730
    status, body = await get(service, session_id, part="input", format="wav")
    heard, rate = soundfile.read(io.BytesIO(body), dtype="int16")
    assert rate == 16_000
    lead = len(heard) - len(wave)
    assert lead >= 0
    start = next(at for at in range(lead + 1) if np.array_equal(heard[at : at + len(wave)], wave))
    assert start == 80 * 16  # the block's prefill
    status, body = await get(service, session_id, part="stats", format="base64")
    files = json.loads(body)["files"]
    assert set(files) == {"session.json", "chunks.jsonl"}
    assert len(base64.b64decode(files["chunks.jsonl"]).splitlines()) == 9
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert (await get(service, session_id, date=today, part="timeline"))[0] == 200


async def test_only_owner_and_administrators_have_it_and_others_learn_nothing(service: Service) -> None:
    await service.worker()
    alice, bob = make_key(service, "alice"), make_key(service, "bob")
    root = make_key(service, "root", scopes=["admin"])
    await talk(service, "hers", alice)
    assert (await get(service, "hers", alice))[0] == 200
    assert (await get(service, "hers", root))[0] == 200
    unknown = await get(service, "nobody's", bob)
    assert unknown[0] == 404
    for other in ("hers", "x" * 300, "../hers", "%00", "' OR 1=1 --"):
        assert await get(service, other, bob) == unknown
    assert (await get(service, "hers", "wrong-key"))[0] == 401
    url = f"{service.url}/tools/session/hers"
    async with service.http.get(url) as response:
        assert response.status == 401
    async with service.http.delete(url, params={"api_key": bob}) as response:
        assert response.status == 404


async def test_what_is_removed_is_gone(service: Service) -> None:
    await service.worker()
    await talk(service, "private")
    entry = service.gateway.recorder.index.find("private", None, None)
    assert entry is not None
    async with service.http.delete(f"{service.url}/tools/session/private", params={"api_key": KEY}) as response:
        assert response.status == 204
    assert (await get(service, "private"))[0] == 404
    assert not (service.gateway.recorder.index.root / entry.folder).exists()


async def test_an_answer_for_a_key_of_the_caller_s(service: Service) -> None:
    await service.worker()
    await talk(service, "a")
    private = X25519PrivateKey.generate()
    header = {"X-Encrypt-To": base64.b64encode(private.public_key().public_bytes_raw()).decode()}
    status, body = await get(service, "a", headers=header)
    assert status == 200
    archive = zipfile.ZipFile(io.BytesIO(decrypt_with_private(private.private_bytes_raw(), body)))
    assert "input.flac" in archive.namelist()


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ({"part": "everything"}, {}, "part"),
        ({"format": "mp3"}, {}, "format"),
        ({"format": "wav"}, {}, "format"),
        ({"date": "yesterday"}, {}, "date"),
        ({"date": "2026-13-01"}, {}, "date"),
        ({}, {"X-Encrypt-To": "no base64"}, "X-Encrypt-To"),
        ({}, {"X-Encrypt-To": "AAAA"}, "X-Encrypt-To"),
        ({}, {"X-Encrypt-To": "A" * 43 + "="}, "X-Encrypt-To"),  # zero: a point of low order
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(
    service: Service, query: dict[str, str], headers: dict[str, str], field: str
) -> None:
    await service.worker()
    await talk(service, "a")
    status, body = await get(service, "a", headers=headers, **query)
    assert status == 400
    assert json.loads(body)["details"]["fields"] == [field]
    assert field in json.loads(body)["message"]


async def test_what_is_damaged_is_not_said_to_be_unknown(service: Service) -> None:
    """To its owner; to anybody else it is."""
    await service.worker()
    await talk(service, "a")
    root = service.gateway.recorder.index.root
    damaged = next(root.rglob("timeline.jsonl.enc"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    status, body = await get(service, "a", part="timeline")
    assert (status, json.loads(body)["error_code"]) == (503, "INTERNAL_ERROR")
    assert (await get(service, "a", part="output", format="wav"))[0] == 200
    assert (await get(service, "a", make_key(service, "other"), part="timeline"))[0] == 404


async def test_recording_follows_the_principal_before_the_configuration(service: Service) -> None:
    await service.worker()
    await talk(service, "not", make_key(service, "shy", record=False))
    assert service.gateway.recorder.index.find("not", None, None) is None


async def test_a_caller_who_vanishes_leaves_a_recording_too(service: Service) -> None:
    await service.worker()
    socket = await service.call(session_id="gone")
    await say(socket, noise(500))
    await socket.receive(timeout=PATIENCE_S)
    await socket.close()
    index = service.gateway.recorder.index
    await service.until(lambda: (entry := index.find("gone", None, None)) is not None and entry.outcome == "gone")


async def test_the_report_is_json_and_a_page_where_a_browser_asks(service: Service) -> None:
    await service.worker()
    await talk(service, "a")
    await talk(service, "b")
    url = f"{service.url}/tools/performance-report"
    async with service.http.get(url) as response:
        content = await response.json()
    assert content["sessions"] == 2
    assert content["outcomes"] == {"complete": 2}
    assert content["chunk_latency_stats"]["p99_ms"] >= content["chunk_latency_stats"]["median_ms"] > 0
    assert content["real_time_factor"]["median"] < 1
    async with service.http.get(url, params={"to": "2020-01-01"}) as response:
        assert response.status == 400
    async with service.http.get(url, params={"from": "2020-01-01", "to": "2020-01-02T00:00:00+01:00"}) as response:
        assert (await response.json())["sessions"] == 0
    async with service.http.get(url, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}) as response:
        assert response.content_type == "text/html"
        assert "<svg" in await response.text()
    async with service.http.get(url, params={"from": "soon"}) as response:
        assert (await response.json())["details"]["fields"] == ["from"]


@pytest.mark.parametrize("settings", [{"published": ["vc.example:443"]}])
async def test_beyond_loopback_the_report_is_for_administrators(service: Service) -> None:
    url = f"{service.url}/tools/performance-report"
    for key, status in ((None, 401), (KEY, 403), (make_key(service, "root", scopes=["admin"]), 200)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with service.http.get(url, headers=headers) as response:
            assert response.status == status


async def test_opus_is_kept_as_it_was_sent_and_heard(service: Service) -> None:
    """Packets are not encoded anew: those of the file are those of the call, lost ones keep their time."""
    await service.worker()
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    sent = [encoder.encode(frame.tobytes(), 320) for frame in noise(1000).reshape(-1, 320)]
    for session_id, encoding_out in (("both", "OPUS"), ("one", "PCM")):
        socket = await service.call(session_id=session_id, encoding="OPUS", encoding_out=encoding_out)
        for packet in sent:
            await socket.send_bytes(packet)
        await socket.send_json({"type": "lost", "count": 5})
        await socket.send_json({"type": "end"})
        heard = [message.data async for message in socket if message.type == aiohttp.WSMsgType.BINARY]
        await settled(service, session_id)
        status, body = await get(service, session_id)
        archive = zipfile.ZipFile(io.BytesIO(body))
        kept = archive.read("input.opus")
        assert all(packet in kept for packet in sent)
        assert len(soundfile.read(io.BytesIO(kept))[0]) == 52_800 - PRE_SKIP
        if encoding_out == "OPUS":
            out = archive.read("output.opus")
            assert all(packet in out for packet in heard)
            assert "output.flac" not in archive.namelist()
        else:
            assert "output.flac" in archive.namelist()
        status, wav = await get(service, session_id, part="input", format="wav")
        assert (status, soundfile.info(io.BytesIO(wav)).samplerate) == (200, 48_000)


async def settled(service: Service, session_id: str) -> None:
    """Until the call is over, and written."""
    index = service.gateway.recorder.index
    await service.until(lambda: (entry := index.find(session_id, None, None)) is not None and bool(entry.outcome))


async def test_where_the_time_of_a_call_went(service: Service) -> None:
    await service.worker()
    await talk(service, "a")
    status, body = await get(service, "a", part="analysis")
    said = json.loads(body)
    assert (status, said["session_id"], said["outcome"], said["chunks"]) == (200, "a", "complete", 8)
    assert set(said["shares"]) == {"queue", "echo", "rest"}
    assert said["caller"]["sound_ms"] == 700


async def test_the_same_over_a_websocket(service: Service) -> None:
    await service.worker()
    await talk(service, "a")
    alice = make_key(service, "alice")
    private = X25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    async with service.http.ws_connect(service.url + "/tools/session") as socket:

        async def ask(**question: Any) -> Any:
            await socket.send_json({"type": "get", "session_id": "a", "api_key": KEY, **question})
            return await socket.receive_json(timeout=PATIENCE_S)

        said = await ask(part="stats", format="base64")
        assert set(said["content"]["files"]) == {"session.json", "chunks.jsonl"}
        assert (await ask(part="analysis"))["content"]["chunks"] == 8
        said = await ask()
        body = b""
        while len(body) < said["bytes"]:
            body += await socket.receive_bytes(timeout=PATIENCE_S)
        assert set(zipfile.ZipFile(io.BytesIO(body)).namelist()) >= {"input.flac", "session.json"}
        said = await ask(part="output", format="wav", encrypt_to=public)
        sealed = await socket.receive_bytes(timeout=PATIENCE_S)
        assert decrypt_with_private(private.private_bytes_raw(), sealed).startswith(b"RIFF")
        for question, field in (
            ({"part": "everything"}, "part"),
            ({"type": "put"}, "type"),
            ({"date": 7}, "date"),
            ({"encrypt_to": "AAAA"}, "encrypt_to"),
        ):
            said = await ask(**question)
            assert (said["type"], said["details"]["fields"]) == ("error", [field])
        assert await ask(api_key=alice) == await ask(session_id="nobody's") == await ask(session_id="x" * 300)
        assert (await ask(type="delete"))["type"] == "deleted"
        assert (await ask())["error_code"] == "INVALID_CONFIG"
        assert (await ask(api_key="a-wrong-key"))["error_code"] == "AUTH_FAILED"
        assert (await socket.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1008
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await service.http.ws_connect(service.url + "/tools/session", headers={"Authorization": "Bearer wrong"})
    assert refused.value.status == 401


async def test_a_question_has_a_size(service: Service) -> None:
    """Longer, it is not read."""
    async with service.http.ws_connect(service.url + "/tools/session") as socket:
        await socket.send_str('{"session_id": "' + "x" * 20_000)
        assert (await socket.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.CLOSE
