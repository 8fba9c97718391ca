"""What a recording must be to become a voice."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gateway.voices.clip import ClipError, read_clip

VOICES = Path(__file__).parents[3] / "worker" / "assets" / "voices"
DATA = Path(__file__).parents[2] / "data"
RATE = 16_000


def speech(name: str = "june") -> np.ndarray[Any, Any]:
    wave, rate = soundfile.read(VOICES / f"{name}.flac", dtype="float32")
    assert rate == RATE
    return wave  # type: ignore[no-any-return]


def encoded(wave: np.ndarray[Any, Any], form: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, subtype, format=form)
    return file.getvalue()


@pytest.mark.parametrize("name", ["allison", "awb", "carlo", "ivrvoice", "june"])
def test_every_bundled_voice_would_be_taken(name: str) -> None:
    clip = read_clip((VOICES / f"{name}.flac").read_bytes())
    assert clip.seconds == pytest.approx(len(speech(name)) / RATE)
    assert clip.rate == RATE


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("WAV", "FLOAT"),
        ("WAV", "PCM_24"),
        ("FLAC", None),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
        ("AIFF", None),
        ("W64", None),
    ],
)
def test_any_format_of_libsndfile_becomes_the_same_flac(form: str, subtype: str | None) -> None:
    clip = read_clip(encoded(speech(), form, subtype))
    heard, rate = soundfile.read(io.BytesIO(clip.flac), dtype="float32")
    assert heard.ndim == 1
    length = min(len(heard) * RATE // rate, len(speech()))
    assert length > 0.95 * len(speech())
    info = soundfile.info(io.BytesIO(clip.flac))
    assert (info.format, info.subtype) == ("FLAC", "PCM_16")


def test_an_mp3_without_a_length_in_its_head_is_read_to_its_end() -> None:
    assert read_clip((DATA / "vbr_no_header.mp3").read_bytes()).seconds > 13


def test_a_high_rate_and_many_channels_are_reduced() -> None:
    slow = np.repeat(speech()[: 2 * RATE], 6)
    clip = read_clip(encoded(np.stack([slow] * 3, axis=1), rate=96_000))
    assert (clip.rate, soundfile.info(io.BytesIO(clip.flac)).channels) == (48_000, 1)
    assert clip.seconds == pytest.approx(2)


def test_what_goes_beyond_full_scale_is_made_quieter_and_not_clipped() -> None:
    clip = read_clip(encoded(50 * speech(), "WAV", "FLOAT"))
    heard, _ = soundfile.read(io.BytesIO(clip.flac), dtype="float32")
    np.testing.assert_allclose(heard, speech() / np.abs(speech()).max(), atol=1e-4)


def test_the_same_sound_has_the_same_id() -> None:
    flac = read_clip(encoded(speech(), "FLAC"))
    assert flac.id == read_clip(encoded(speech(), "WAV")).id
    assert flac.id != read_clip(encoded(0.9 * speech())).id


TIME = np.arange(5 * RATE) / RATE
NOISE = np.random.default_rng(1).standard_normal(5 * RATE).astype(np.float32)
USELESS: dict[str, tuple[str, bytes]] = {
    "nothing": ("unreadable", b""),
    "text": ("unreadable", b"hello, this is no sound"),
    "a browser's WebM": ("unreadable", (DATA / "mediarecorder.webm").read_bytes()),
    "half a head": ("unreadable", encoded(speech())[:30]),
    "not a number": ("unreadable", encoded(np.full(2 * RATE, np.nan), subtype="FLOAT")),
    "nine channels": ("unreadable", encoded(np.zeros((2 * RATE, 9)))),
    "half a second": ("too_short", encoded(speech()[: RATE // 2])),
    "half a minute and more": ("too_long", encoded(np.tile(speech(), 5))),
    "silence": ("silent", encoded(np.zeros(5 * RATE))),
    "far away": ("too_quiet", encoded(0.02 * speech())),
    "too loud": ("clipped", encoded(np.clip(20 * speech(), -1, 1))),
    "a tone": ("no_speech", encoded(0.3 * np.sin(2 * np.pi * 220 * TIME))),
    "noise": ("no_speech", encoded(0.1 * NOISE)),
    "bursts of noise": ("no_speech", encoded(0.1 * NOISE * (np.sin(2 * np.pi * 3 * TIME) > 0))),
    "a man and a woman": ("several_talkers", encoded(np.concatenate([speech("carlo"), speech("june")]))),
}


@pytest.mark.parametrize("what", USELESS)
def test_what_cannot_be_a_voice_is_refused_with_the_reason(what: str) -> None:
    reason, data = USELESS[what]
    with pytest.raises(ClipError) as refused:
        read_clip(data)
    assert refused.value.reason == reason
