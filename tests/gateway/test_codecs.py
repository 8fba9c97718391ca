"""Codecs and streaming resampling: exact lengths, no clicks at borders, clear refusals."""

from __future__ import annotations

import numpy as np
import opuslib
import pytest
import soxr

from gateway.codecs import CodecError, OpusDecoder, OpusEncoder, PcmDecoder, PcmEncoder, packet_ms
from shared.audio import RESAMPLER_LAG_MS, StreamResampler, to_pcm


def tone(rate: int, seconds: float, hertz: float = 1000.0, level: float = 20_000) -> np.ndarray:
    return np.round(level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.int16)


def in_chunks(resampler: StreamResampler, wave: np.ndarray, seed: int = 0) -> np.ndarray:
    sizes = np.random.default_rng(seed)
    parts, at = [], 0
    while at < len(wave):
        size = int(sizes.integers(1, resampler.rate_in // 20))
        parts.append(resampler.push(wave[at : at + size]))
        at += size
    return np.concatenate([*parts, resampler.flush()])


@pytest.mark.parametrize(
    ("rate_in", "rate_out"),
    [
        (8000, 16_000),
        (11_025, 16_000),
        (22_050, 16_000),
        (44_100, 16_000),
        (48_000, 16_000),
        (16_000, 8000),
        (16_000, 22_050),
        (16_000, 48_000),
        (22_050, 48_000),
    ],
)
def test_a_sine_in_ragged_chunks_equals_one_shot_resampling(rate_in: int, rate_out: int) -> None:
    wave = tone(rate_in, 1.5)
    streamed = in_chunks(StreamResampler(rate_in, rate_out), wave)
    assert len(streamed) == round(len(wave) * rate_out / rate_in)
    whole = soxr.resample(wave.astype(np.float64), rate_in, rate_out, quality="VHQ")[: len(streamed)]
    inner = slice(rate_out // 50, len(whole) - rate_out // 50)
    error = streamed[inner] - whole[inner]
    assert 10 * np.log10(np.mean(whole[inner] ** 2) / np.mean(error**2)) > 80  # dB; a click of one sample costs 30


def test_chunk_sizes_do_not_change_a_sample() -> None:
    wave = tone(48_000, 0.5)
    np.testing.assert_allclose(
        in_chunks(StreamResampler(48_000, 16_000), wave, 1), in_chunks(StreamResampler(48_000, 16_000), wave, 2), atol=1
    )


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 48_000])
def test_resampler_lag_is_what_the_layout_allows_for(rate: int) -> None:
    resampler = StreamResampler(rate, 16_000)
    given = sum(len(resampler.push(tone(rate, 0.02))) for _ in range(10))
    held_ms = 200 - given / 16
    assert 0 <= held_ms <= RESAMPLER_LAG_MS


def test_loud_samples_clip_and_do_not_wrap() -> None:
    assert to_pcm(np.array([40_000.0, -40_000.0, 32_767.4])).tolist() == [32767, -32768, 32767]
    square = np.where(np.arange(4800) % 96 < 48, 32767, -32768).astype(np.int16)  # rings above full scale
    out = in_chunks(StreamResampler(48_000, 16_000), square)
    expected = soxr.resample(square.astype(np.float64), 48_000, 16_000)
    loud = np.abs(expected) > 20_000
    assert np.all(np.sign(out[loud]) == np.sign(expected[loud]))


def test_half_a_sample_is_refused_by_size() -> None:
    with pytest.raises(CodecError, match=r"3 bytes is not a whole number of 2-byte samples"):
        PcmDecoder(16_000, 1).duration_ms(b"abc")
    with pytest.raises(CodecError, match=r"6 bytes is not a whole number of 4-byte samples"):
        PcmDecoder(16_000, 2).duration_ms(b"abcdef")


def test_stereo_is_mixed() -> None:
    pairs = np.array([[100, 300], [-5, -7]], "<i2")
    assert PcmDecoder(16_000, 2).decode([pairs.tobytes()], last=True).tolist() == [200, -6]


@pytest.mark.parametrize("rate", [8000, 12_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("frame_ms", [2.5, 20, 60])
def test_opus_in_at_every_rate_keeps_time_and_sound(rate: int, frame_ms: float) -> None:
    frame = round(rate * frame_ms / 1000)
    wave = tone(rate, 0.6, hertz=500)
    encoder = opuslib.Encoder(rate, 1, opuslib.APPLICATION_AUDIO)
    packets = [encoder.encode(wave[i : i + frame].tobytes(), frame) for i in range(0, len(wave), frame)]
    decoder = OpusDecoder()
    assert sum(decoder.duration_ms(p) for p in packets) == pytest.approx(600)
    out = decoder.decode(packets, last=True).astype(np.float64)
    assert len(out) == 9600
    spectrum = np.abs(np.fft.rfft(out[1600:] * np.hanning(8000)))
    assert np.argmax(spectrum) * 2 == pytest.approx(500, abs=4)


@pytest.mark.parametrize("packet", [b"", b"\x03", b"\x03\x00", b"\x1b\x3f" + b"x" * 20])
def test_impossible_opus_packets_are_refused_before_decoding(packet: bytes) -> None:
    with pytest.raises(CodecError):
        packet_ms(packet)


def test_corrupt_opus_is_an_error_not_a_crash() -> None:
    with pytest.raises(CodecError, match="corrupted"):
        OpusDecoder().decode([b"\x4a\xff\xff\x00"], last=False)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 48_000])
def test_pcm_out_has_the_exact_length(rate: int) -> None:
    encoder = PcmEncoder(16_000, rate)
    blocks = np.split(tone(16_000, 1.0), 5)
    sound = b"".join(m for i, block in enumerate(blocks) for m in encoder.encode(block, last=i == 4))
    assert len(sound) == 2 * rate


def test_opus_out_is_one_packet_a_message_and_fills_up_the_last() -> None:
    encoder = OpusEncoder(16_000, 48_000, 20)
    packets = [p for i in range(3) for p in encoder.encode(tone(16_000, 0.05), last=i == 2)]
    assert [packet_ms(p) for p in packets] == [20.0] * 8  # 150 ms
