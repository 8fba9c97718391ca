"""The bundled sample through the whole service: every way in and out, many callers, other people's mischief."""

from __future__ import annotations

import asyncio
import json
from functools import cache, partial
from typing import Any

import aiohttp
import numpy as np
import parselmouth
import pytest
import soundfile
import soxr

from shared.config import ROOT
from tools.client.client import Call, CallConfig, CallError, call, read_source
from tools.quality.evaluate_shift import SENTENCES, words_kept

from ..support.room import when_there_is_room
from .conftest import KEY, SAMPLE, Serve

pytestmark = pytest.mark.serial  # one of them is, and they share what took long to start
MALE = ROOT / "tests" / "data" / "male_english.flac"
Wave = np.ndarray[Any, Any]
VOICES = ("carlo", "allison", "june")


async def convert(service: Serve, wave: Wave | None = None, **options: Any) -> Call:
    config = CallConfig(service.url, KEY, **{"real_time": False, **options})
    async with aiohttp.ClientSession() as http:
        return await call(http, config, read_source(SAMPLE, config.sample_rate) if wave is None else wave)


def median_f0(wave: Wave, rate: int) -> float:
    sound = parselmouth.Sound(wave.astype(np.float64) / 32768, rate)
    f0 = sound.to_pitch(0.01, 60, 500).selected_array["frequency"]
    return float(np.median(f0[f0 > 0]))


@cache
def reference_f0(voice: str) -> float:
    wave, rate = soundfile.read(ROOT / "worker" / "assets" / "voices" / f"{voice}.flac", dtype="int16")
    return median_f0(wave, rate)


def aligned(made: Call) -> Wave:
    return made.output()[made.lead_ms * made.config.sample_rate_out // 1000 :]


ENCODINGS = pytest.mark.parametrize("encoding", ["PCM", "OPUS"])
RATES = ((16_000, 16_000), (8000, 16_000), (16_000, 8000), (24_000, 22_050), (48_000, 16_000), (48_000, 48_000))


def check_call(made: Call) -> None:
    """All of it came, and nothing more; in the voice that was asked for."""
    assert made.close_code == 1000
    assert abs(made.missing_ms + made.lead_ms) <= 1
    assert made.complete is not None
    assert made.complete["concealed_chunks"] == 0
    assert median_f0(made.output(), made.config.sample_rate_out) == pytest.approx(reference_f0("carlo"), rel=0.1)


@ENCODINGS
async def test_length_voice_and_words(service: Serve, encoding: str) -> None:
    made = await convert(service, encoding=encoding)
    check_call(made)
    assert words_kept(aligned(made), SENTENCES) >= 0.85


@ENCODINGS
async def test_every_rate_brings_the_same_sound_at_the_same_time(service: Serve, encoding: str) -> None:
    """3 s at each, together; `test_length_voice_and_words` knows what the first of them says."""

    async def at(rate_in: int, rate_out: int) -> Call:
        wave = read_source(SAMPLE, rate_in)[: 3 * rate_in]
        one = partial(convert, service, wave, encoding=encoding, sample_rate=rate_in, sample_rate_out=rate_out)
        return await when_there_is_room(one)

    first, *others = await asyncio.gather(*(at(*rates) for rates in RATES))
    check_call(first)
    for made in others:
        check_call(made)
        assert furthest_db(aligned(first), 16_000, aligned(made), made.config.sample_rate_out) < 6


def furthest_db(wave: Wave, rate: int, other: Wave, other_rate: int) -> float:
    """How unlike they sound in the 200 ms where they differ most: a block that is lost, out of place, silent or noisy
    is 7 dB and more, another rate or codec 5 and less."""
    one, two = bands_db(wave, rate), bands_db(other, other_rate)
    frames = min(len(one), len(two)) // 8 * 8
    return float(np.abs(one[:frames] - two[:frames]).reshape(-1, 8 * one.shape[1]).mean(axis=1).max())


def bands_db(wave: Wave, rate: int) -> np.ndarray[Any, Any]:
    """Level ``[F, 16]`` of bands from 200 to 3500 Hz, which every rate has, in frames of 50 ms every 25 ms; what is
    45 dB below the loudest is as good as silent."""
    frames = np.lib.stride_tricks.sliding_window_view(soxr.resample(wave.astype(float), rate, 8000), 400)[::200]
    power = np.abs(np.fft.rfft(frames * np.hanning(400))) ** 2
    edges = np.round(np.geomspace(10, 175, 17)).astype(int)
    level_db = 10 * np.log10(np.add.reduceat(power, edges[:-1], axis=1) + 1)
    return np.maximum(level_db, level_db.max() - 45)


async def test_opus_both_ways(service: Serve) -> None:
    wave = read_source(SAMPLE, 48_000)[: 3 * 48_000]
    options = {"encoding": "OPUS", "encoding_out": "OPUS", "sample_rate": 48_000, "sample_rate_out": 24_000}
    made = await convert(service, wave, **options)
    check_call(made)


async def test_a_muted_caller_hears_the_end_of_the_last_word_and_goes_on(service: Serve) -> None:
    wave = read_source(SAMPLE, 16_000)
    spoken, later = wave[: 16_000 * 23 // 10], wave[16_000 * 3 : 16_000 * 5]
    heard = bytearray()
    async with aiohttp.ClientSession() as http, http.ws_connect(service.url) as socket:
        await socket.send_json({"type": "config", "api_key": KEY})
        ready = await socket.receive_json(timeout=10)
        lead = (ready["prefill_ms"] + ready["delay_ms"]) * 16
        await socket.send_bytes(spoken.tobytes())
        while len(heard) < 2 * (len(spoken) + lead):  # nothing more is sent until all of it is here
            heard += (await socket.receive(timeout=10)).data
        await socket.send_bytes(later.tobytes())
        await socket.send_json({"type": "end"})
        while (message := await socket.receive(timeout=10)).type == aiohttp.WSMsgType.BINARY:
            heard += message.data
        stats = message.json()["stats"]
    out = np.frombuffer(heard, "<i2")
    assert stats["concealed_chunks"] == 0
    assert 0 < stats["padded_ms"] <= ready["block_ms"] + ready["delay_ms"]
    assert len(out) == len(spoken) + len(later) + lead + round(stats["padded_ms"] * 16)
    assert median_f0(out, 16_000) == pytest.approx(reference_f0("carlo"), rel=0.1)


async def test_silence_stays_silence(service: Serve) -> None:
    made = await convert(service, np.zeros(32_000, np.int16))
    assert len(made.output()) >= 32_000
    assert not made.output().any()


async def test_eight_callers_get_each_their_own(service: Serve) -> None:
    voices = [VOICES[i % 3] for i in range(8)]
    sources = [read_source(path, 16_000)[: 16_000 * 6] for path in (SAMPLE, MALE)]
    waves = [sources[i % 2] for i in range(8)]
    alone = [await convert(service, wave, voice=voice) for wave, voice in zip(waves[:3], voices[:3], strict=True)]
    calls = [partial(convert, service, wave, voice=voice) for wave, voice in zip(waves, voices, strict=True)]
    together = await asyncio.gather(*map(when_there_is_room, calls))
    for made, voice in zip(together, voices, strict=True):
        assert made.complete is not None
        assert made.complete["concealed_chunks"] == 0
        assert median_f0(made.output(), 16_000) == pytest.approx(reference_f0(voice), rel=0.1)
    for one, many in zip([*alone, *together[:2]], [*together[:3], *together[6:]], strict=True):
        np.testing.assert_allclose(one.output() / 32768.0, many.output() / 32768.0, atol=1e-3)
    assert max(made.complete["average_batch_size"] for made in together if made.complete) > 1.0


async def misbehave(service: Serve) -> list[str | None]:
    """Every kind of bad caller, one after another; the error code each was given."""
    codes: list[str | None] = []
    messages: list[tuple[dict[str, Any], bytes | str]] = [
        ({}, b"RIFF\0\0\0\0WAVEfmt "),
        ({}, '{"type":"lost","count":-1}'),
        ({}, b"\0" * (10 << 20)),
        ({"encoding": "OPUS"}, b"\x1a\x45\xdf\xa3 of WebM"),
        ({"api_key": "wrong-key"}, b""),
        ({"voice": "nobody"}, b""),
        ({"sample_rate": 1}, b""),
    ]
    async with aiohttp.ClientSession() as http:
        for extra, message in messages:
            socket = await http.ws_connect(service.url)
            await socket.send_json({"type": "config", "api_key": KEY, **extra})
            answer = await socket.receive_json(timeout=10)
            if answer["type"] == "ready":
                for _ in range(1 if not extra else 20):
                    try:
                        await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
                    except ConnectionError:
                        break
                answer = json.loads((await socket.receive(timeout=10)).data)
            codes.append(answer.get("error_code"))
            await socket.close()
        vanished = await http.ws_connect(service.url)
        await vanished.send_json({"type": "config", "api_key": KEY, "session_id": "vanishes"})
        await vanished.receive_json(timeout=10)
        await vanished.send_bytes(b"\1\1" * 8000)
        assert vanished._response.connection is not None
        vanished._response.connection.transport.abort()
    return codes


async def test_mischief_is_answered_and_nobody_else_notices(service: Serve) -> None:
    wave = read_source(SAMPLE, 16_000)[: 16_000 * 4]
    before = await convert(service, wave)
    calling = asyncio.create_task(convert(service, wave, real_time=True))
    codes = await misbehave(service)
    assert codes == ["INVALID_AUDIO"] * 4 + ["AUTH_FAILED", "INVALID_CONFIG", "INVALID_CONFIG"]
    during = await calling
    np.testing.assert_allclose(before.output() / 32768.0, during.output() / 32768.0, atol=1e-3)
    service.until(lambda: service.get("/ready")[1]["sessions"] == 0)


async def test_refusals_are_one_sentence(service: Serve) -> None:
    with pytest.raises(CallError, match="AUTH_FAILED: api_key"):
        async with aiohttp.ClientSession() as http:
            await call(http, CallConfig(service.url, "not-the-key"), np.zeros(160, np.int16))


def test_voices_and_version(service: Serve) -> None:
    names = [voice["name"] for voice in service.get("/voices")[1]["voices"]]
    assert set(VOICES) <= set(names)
    assert len(names) == len(set(names)) == 5
    assert service.get("/version")[1]["name"] == "fast-vc-pool"


async def test_a_voice_that_was_added_is_heard_in_the_next_call(service: Serve) -> None:
    """Over HTTP, gateway, link and worker, without a restart: the answer has the pitch of what was sent."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(service.url.replace("ws", "http", 1).removesuffix("/ws"), headers=headers) as http:
        async with http.post("/voices", params={"name": "guest"}, data=MALE.read_bytes()) as response:
            assert response.status == 201, await response.text()
        made = await convert(service, voice="guest")
        wave, rate = soundfile.read(MALE, dtype="int16")
        assert median_f0(made.output(), 16_000) == pytest.approx(median_f0(wave, rate), rel=0.12)
        async with http.delete("/voices/guest") as response:
            assert response.status == 204
    with pytest.raises(CallError, match="no 'guest'"):
        await convert(service, voice="guest")
