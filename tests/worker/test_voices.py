"""Reference recordings are listed in a fixed order, loaded as 16 kHz mono, and refused by name if of no use."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from worker.voices import Voice, VoiceError, list_voices, load_voice, speech_begins, usable

BUNDLED = Path(__file__).resolve().parents[2] / "worker/assets/voices"


def write_noise(path: Path, seconds: float, rate: int = 16_000, channels: int = 1, level: float = 0.1) -> Voice:
    noise = np.random.default_rng(1).standard_normal((int(seconds * rate), channels)) * level
    soundfile.write(path, noise, rate)
    return Voice(path.stem, path.stem, path)


def test_the_bundled_voices_are_described_attributed_and_begin_with_the_default() -> None:
    voices = list_voices(BUNDLED)
    assert [voice.name for voice in voices] == ["carlo", "allison", "june", "ivrvoice", "awb"]
    assert all(voice.description and voice.language for voice in voices)
    assert all(re.search("CC-BY(-SA)? 3.0|free to use", voice.attribution) for voice in voices)


@pytest.mark.parametrize("voice", list_voices(BUNDLED), ids=lambda voice: voice.name)
def test_a_bundled_voice_is_a_few_seconds_of_speech_at_a_sane_level(voice: Voice) -> None:
    wave = load_voice(voice)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert 5 <= len(wave) / 16_000 <= 8
    assert np.abs(wave).max() < 0.95
    assert -26 < 20 * np.log10(wave.std()) < -20


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"), [(".wav", 44_100, 2), (".flac", 8_000, 1), (".ogg", 48_000, 2)]
)
def test_any_rate_channel_count_and_format_become_16_khz_mono(
    tmp_path: Path, suffix: str, rate: int, channels: int
) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    soundfile.write(tmp_path / f"tone{suffix}", np.stack([tone] * channels, axis=1), rate)
    wave = load_voice(list_voices(tmp_path)[0])
    assert abs(len(wave) - 32_000) <= 1
    spectrum = np.abs(np.fft.rfft(wave[8_000:24_000]))
    assert spectrum.argmax() == 440
    assert np.abs(wave[8_000:24_000]).max() == pytest.approx(0.5, abs=0.03)


def test_a_long_prompt_is_cut(tmp_path: Path) -> None:
    voice = write_noise(tmp_path / "long.wav", 5.0)
    assert len(load_voice(voice, max_prompt_s=2.0)) == 32_000


def test_recordings_without_a_description_follow_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_noise(tmp_path / f"{name}.wav", 1.5)
    (tmp_path / "voices.yaml").write_text("c: {description: the third}\n")
    assert [(voice.name, voice.description) for voice in list_voices(tmp_path)] == [
        ("c", "the third"),
        ("a", "a"),
        ("b", "b"),
    ]


@pytest.mark.parametrize(
    ("seconds", "level", "reason"), [(0.5, 0.1, "0.50 s is too short"), (2.0, 0.0, "silent"), (2.0, 1e-4, "silent")]
)
def test_a_reference_of_no_use_is_refused_by_name(tmp_path: Path, seconds: float, level: float, reason: str) -> None:
    voice = write_noise(tmp_path / "poor.wav", seconds, level=level)
    with pytest.raises(VoiceError, match=f"voice 'poor': .*{reason}"):
        load_voice(voice)


def test_an_unreadable_reference_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.flac").write_bytes(b"not a recording")
    with pytest.raises(VoiceError, match=r"voice 'broken': cannot read broken\.flac"):
        load_voice(list_voices(tmp_path)[0])
    with pytest.raises(VoiceError, match="voice 'gone': cannot read"):
        load_voice(Voice("gone", "", tmp_path / "gone.wav"))


def test_a_reference_with_values_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    wave = np.full(32_000, 0.1, dtype=np.float32)
    wave[100] = np.nan
    soundfile.write(tmp_path / "holes.wav", wave, 16_000, subtype="FLOAT")
    with pytest.raises(VoiceError, match=r"voice 'holes': .*not finite"):
        load_voice(list_voices(tmp_path)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("here: {colour: blue}", "unknown key 'colour'"),
        ("- here", "must map"),
        ("here: [", "not valid YAML"),
    ],
)
def test_a_malformed_description_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    write_noise(tmp_path / "here.wav", 1.5)
    (tmp_path / "voices.yaml").write_text(text)
    with pytest.raises(VoiceError, match=reason):
        list_voices(tmp_path)


def test_what_cannot_be_offered_is_left_out_with_a_warning(tmp_path: Path, log: list[str]) -> None:
    for name in ("good.wav", "twin.wav", "twin.flac", "с.wav", "-x.wav"):
        write_noise(tmp_path / name, 1.5)
    (tmp_path / "voices.yaml").write_text("ghost: {description: nobody}\ngood: {description: one}\n")
    assert [voice.path.name for voice in list_voices(tmp_path)] == ["good.wav", "twin.flac"]
    assert len(log) == 4
    for words in ("'с.wav'", "'-x.wav'", "twin.wav is left out", "'ghost' of voices.yaml has no recording"):
        assert sum(words in line for line in log) == 1


def test_notes_of_other_systems_are_no_voices(tmp_path: Path, log: list[str]) -> None:
    write_noise(tmp_path / "june.wav", 1.5)
    (tmp_path / "._june.flac").write_bytes(b"note")
    assert [voice.name for voice in list_voices(tmp_path)] == ["june"]
    assert log == []


def test_an_unusable_voice_is_left_out_with_a_warning(tmp_path: Path, log: list[str]) -> None:
    write_noise(tmp_path / "good.wav", 1.5)
    write_noise(tmp_path / "quiet.wav", 1.5, level=0.0)
    (tmp_path / "broken.wav").write_bytes(b"not a recording")
    voices = list_voices(tmp_path)
    assert [voice.name for voice, _ in usable(voices, 3.0)] == ["good"]
    assert len(log) == 2
    assert "voice 'broken': cannot read broken.wav" in log[0]
    assert "voice 'quiet': the recording is silent; the voice is left out" in log[1]


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_prompt_begins_where_speech_begins(tmp_path: Path, rate: int) -> None:
    """After four seconds of a quiet room, with a click in it."""
    speech, _ = soundfile.read(BUNDLED / "june.flac")
    wave = np.random.default_rng(0).normal(0, 1e-4, (4 * 16_000))
    wave[32_000:32_100] = 0.5
    soundfile.write(tmp_path / "late.wav", soxr.resample(np.concatenate([wave, speech]), 16_000, rate), rate)
    late = load_voice(Voice("late", "", tmp_path / "late.wav"), max_prompt_s=3.0)
    prompt = load_voice(Voice("june", "", BUNDLED / "june.flac"), max_prompt_s=3.0)
    assert len(late) == len(prompt) == 48_000
    lag = int(np.argmax(np.correlate(late[8000:24_000], prompt[:24_000], "full"))) - (24_000 - 1)
    assert abs(lag + 8000) < 1600
    assert np.abs(late[:1600]).max() < 0.05


def test_the_bundled_voices_begin_at_once() -> None:
    for voice in list_voices(BUNDLED):
        wave, rate = soundfile.read(voice.path, dtype="float32")
        assert speech_begins(wave, rate) <= rate // 50


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="no recordings"):
        list_voices(tmp_path)
