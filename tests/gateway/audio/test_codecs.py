"""Codecs and streaming resampling: exact lengths, no clicks at borders, clear refusals."""

from __future__ import annotations

import numpy as np
import opuslib
import pytest
import soxr
from opuslib.api import ctl as libopus_ctl
from opuslib.api import encoder as libopus

from gateway.audio.codec import AudioFormat, CodecError
from gateway.audio.opus import FRAMES_MS, MAX_BAD_RUN, OpusDecoder, OpusEncoder, packet_ms
from gateway.audio.pcm import PcmDecoder, PcmEncoder
from gateway.audio.resample import LAG_MS, StreamResampler, to_pcm
from gateway.audio.table import CODECS, find_codec


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
    assert 0 <= held_ms <= LAG_MS


def test_loud_samples_clip_and_do_not_wrap() -> None:
    assert to_pcm(np.array([40_000.0, -40_000.0, 32_767.4])).tolist() == [32767, -32768, 32767]
    square = np.where(np.arange(4800) % 96 < 48, 32767, -32768).astype(np.int16)  # rings above full scale
    out = in_chunks(StreamResampler(48_000, 16_000), square)
    expected = soxr.resample(square.astype(np.float64), 48_000, 16_000)
    loud = np.abs(expected) > 20_000
    assert np.all(np.sign(out[loud]) == np.sign(expected[loud]))


def decoded(decoder: PcmDecoder | OpusDecoder, *payloads: bytes | None) -> np.ndarray:
    for payload in payloads:
        decoder.push(payload)
    return decoder.decode(last=True)


def packets_of(wave: np.ndarray, rate: int, frame_ms: float) -> list[bytes]:
    frame = round(rate * frame_ms / 1000)
    encoder = opuslib.Encoder(rate, 1, opuslib.APPLICATION_AUDIO)
    return [encoder.encode(wave[i : i + frame].tobytes(), frame) for i in range(0, len(wave), frame)]


@pytest.mark.parametrize("name", ["PCM", "pcm", "Wav", " opus "])
def test_codecs_are_found_by_any_name_in_any_case(name: str) -> None:
    assert find_codec(name) in CODECS


@pytest.mark.parametrize("name", ["", "MP3", "P C M"])
def test_other_encodings_are_unknown(name: str) -> None:
    assert find_codec(name) is None


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_every_codec_gives_back_the_time_it_is_given(codec) -> None:
    """Whatever is added to the table: a second in is a second out."""
    audio = AudioFormat(codec.name, 16_000)
    encoder, decoder = codec.encoder(audio, 16_000), codec.decoder(audio)
    messages = [m for i in range(5) for m in encoder.encode(tone(16_000, 0.2), last=i == 4)]
    assert sum(decoder.push(message) for message in messages) == pytest.approx(1000)
    assert len(decoder.decode(last=True)) == 16_000


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("channels", [1, 2])
def test_half_samples_are_completed_by_the_next_message(size: int, channels: int) -> None:
    wave = np.arange(1, 241, dtype="<i2").repeat(channels)  # the same in each channel
    sound = wave.tobytes()
    decoder = PcmDecoder(AudioFormat(channels=channels))
    payloads = [sound[i : i + size] for i in range(0, len(sound), size)]
    ms = [decoder.push(payload) for payload in payloads]
    assert sum(ms) == pytest.approx(15)
    np.testing.assert_array_equal(decoder.decode(last=True), np.arange(1, 241))


def test_half_a_sample_survives_a_decode() -> None:
    decoder = PcmDecoder(AudioFormat())
    decoder.push(b"\x01\x02\x03")
    assert decoder.decode(last=False).tolist() == [0x0201]
    decoder.push(b"\x04")
    assert decoder.decode(last=True).tolist() == [0x0403]


@pytest.mark.parametrize(
    ("depth", "sound"),
    [
        (16, np.array([0, 1000, -1000, 32767, -32768], "<i2").tobytes()),
        (24, b"".join(int(v * 256).to_bytes(3, "little", signed=True) for v in (0, 1000, -1000, 32767, -32768))),
        (32, np.array([0, 1000 << 16, -1000 << 16, (32767 << 16) + 65535, -32768 << 16], "<i4").tobytes()),
        ("float32", np.array([0, 1000 / 32768, -1000 / 32768, 1.5, -1.5], "<f4").tobytes()),
    ],
)
def test_every_bit_depth_becomes_the_same_samples(depth, sound: bytes) -> None:
    assert decoded(PcmDecoder(AudioFormat(bit_depth=depth)), sound).tolist() == [0, 1000, -1000, 32767, -32768]


def test_floats_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(CodecError, match="not finite"):
        decoded(PcmDecoder(AudioFormat(bit_depth="float32")), np.array([0.1, np.nan], "<f4").tobytes())


def test_stereo_is_mixed() -> None:
    pairs = np.array([[100, 300], [-5, -7]], "<i2")
    assert decoded(PcmDecoder(AudioFormat(channels=2)), pairs.tobytes()).tolist() == [200, -6]


@pytest.mark.parametrize("rate", [8000, 12_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("frame_ms", [2.5, 20, 60, 80, 100, 120])
def test_opus_in_at_every_rate_keeps_time_and_sound(rate: int, frame_ms: float) -> None:
    packets = packets_of(tone(rate, 1.2, hertz=500), rate, frame_ms)
    decoder = OpusDecoder(AudioFormat("OPUS", rate))
    assert sum(decoder.push(p) for p in packets) == pytest.approx(1200)
    out = decoder.decode(last=True).astype(np.float64)
    assert len(out) == 19_200
    spectrum = np.abs(np.fft.rfft(out[1600:9600] * np.hanning(8000)))
    assert np.argmax(spectrum) * 2 == pytest.approx(500, abs=4)


@pytest.mark.parametrize("packet", [b"", b"\x03", b"\x03\x00", b"\x1b\x3f" + b"x" * 20])
def test_impossible_opus_packets_have_no_duration(packet: bytes) -> None:
    with pytest.raises(CodecError):
        packet_ms(packet)


@pytest.mark.parametrize("bad", [None, b"\x42\xff\xff", b"\x03", b"\x1b\x3f" + b"x" * 20, b"\xff\xff\xff"])
def test_a_lost_or_damaged_packet_is_made_up_for_and_time_stays_right(bad: bytes | None) -> None:
    wave = tone(16_000, 0.4, hertz=200)
    packets: list[bytes | None] = [*packets_of(wave, 16_000, 20)]
    whole = decoded(OpusDecoder(AudioFormat("OPUS")), *packets).astype(float)
    packets[10] = bad
    decoder = OpusDecoder(AudioFormat("OPUS"))
    made = decoded(decoder, *packets).astype(float)
    assert len(made) == len(whole) == 6400
    assert decoder.concealed == 1
    np.testing.assert_array_equal(made[: 10 * 320], whole[: 10 * 320])
    gap, sound = made[10 * 320 : 11 * 320], whole[10 * 320 : 11 * 320]
    assert 0.3 < np.sqrt(np.mean(gap**2) / np.mean(sound**2)) < 1.5  # the tone goes on: neither a hole nor a crash


def test_a_lost_packet_comes_back_from_the_one_behind_it_where_that_holds_it_once_more() -> None:
    wave = np.concatenate([tone(16_000, 0.1, hertz=hertz) for hertz in (200, 300, 400, 500)])  # nobody could guess it
    errors = []
    for redundant in (False, True):
        encoder = OpusEncoder(AudioFormat("OPUS", 16_000, redundant=redundant), 16_000)
        packets: list[bytes | None] = [*encoder.encode(wave, True)]
        whole = decoded(OpusDecoder(AudioFormat("OPUS")), *packets).astype(float)
        packets[10] = None  # 300 Hz gives way to 400
        made = decoded(OpusDecoder(AudioFormat("OPUS")), *packets).astype(float)
        assert len(made) == len(whole)
        errors.append(np.sqrt(np.mean((made - whole)[10 * 320 : 11 * 320] ** 2)))
    assert errors[1] < 0.5 * errors[0]


def test_a_run_of_damaged_packets_ends_the_call() -> None:
    decoder = OpusDecoder(AudioFormat("OPUS"))
    for _ in range(MAX_BAD_RUN - 1):
        decoder.push(b"\x4a\xff\xff\x00")
    decoder.decode(last=False)
    for packet in packets_of(tone(16_000, 0.02), 16_000, 20):
        decoder.push(packet)
    decoder.decode(last=False)  # one good packet, and counting begins anew
    with pytest.raises(CodecError, match=f"{MAX_BAD_RUN} damaged packets"):
        decoded(decoder, *[b"\x4a\xff\xff\x00"] * MAX_BAD_RUN)


def test_packets_of_discontinuous_transmission_keep_time() -> None:
    wave = np.concatenate([tone(16_000, 0.2), np.zeros(16_000, np.int16)])
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    libopus.encoder_ctl(encoder.encoder_state, libopus_ctl.set_dtx, 1)
    packets = [encoder.encode(wave[i : i + 320].tobytes(), 320) for i in range(0, len(wave), 320)]
    assert min(map(len, packets)) <= 2  # it did stop sending
    assert len(decoded(OpusDecoder(AudioFormat("OPUS")), *packets)) == len(wave)


def test_what_an_encoder_left_out_in_silence_is_made_up_for() -> None:
    decoder = OpusDecoder(AudioFormat("OPUS"))
    speech = packets_of(tone(16_000, 0.1), 16_000, 20)
    for packet in speech:
        decoder.push(packet)
    assert decoder.make_up(400) == 0  # speech is not left out: a gap behind it is the network's
    decoder.push(speech[0][:1])
    assert decoder.make_up(390) == 380
    assert len(decoder.decode(last=True)) == (120 + 380) * 16
    assert decoder.concealed == 0


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 48_000])
def test_pcm_out_has_the_exact_length(rate: int) -> None:
    encoder = PcmEncoder(AudioFormat(rate=rate), 16_000)
    blocks = np.split(tone(16_000, 1.0), 5)
    sound = b"".join(m for i, block in enumerate(blocks) for m in encoder.encode(block, last=i == 4))
    assert len(sound) == 2 * rate


@pytest.mark.parametrize("frame_ms", FRAMES_MS)
def test_opus_out_is_one_packet_a_message_and_fills_up_the_last(frame_ms: float) -> None:
    encoder = OpusEncoder(AudioFormat("OPUS", 48_000, frame_ms=frame_ms), 16_000)
    packets = [p for i in range(3) for p in encoder.encode(tone(16_000, 0.05), last=i == 2)]
    assert [packet_ms(p) for p in packets] == [frame_ms] * -int(-150 // frame_ms)
