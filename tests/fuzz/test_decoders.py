"""Whatever arrives as bytes is read or refused by name, and nothing else: frames, messages, packets, files.

`make fuzz` gives each 10^5 of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import opuslib
import pytest
import soundfile

from gateway.audio.codec import AudioFormat, CodecError
from gateway.audio.opus import OpusDecoder
from gateway.audio.pcm import PcmDecoder
from gateway.auth.keys import add_key, read_keys
from gateway.errors import SessionError
from gateway.protocols.first import error_writer, parse_first
from gateway.voices.clip import ClipError, read_clip
from shared import messages as m
from shared.config import ConfigError, read_yaml
from shared.curve import LinkError, make_pair, read_public
from shared.state import read_states

from .mutations import EXAMPLES, mutations

_STATS = m.ChunkStats(1.0, 2, 3, True, False, {"a": 0.5})
FROM_WORKER = [
    m.encode(message)
    for message in (
        m.Hello(m.PROTOCOL_VERSION, "w", "h", 1, "cpu", "x", 200, 80, 200, 16_000, [m.VoiceInfo("v")], capacity=4),
        m.Heartbeat(1, 2, 3.0, 4),
        m.Opened("s", 1),
        m.Audio("s", 1, 2, b"\1\2" * 50, _STATS),
        m.Failed("s", 1, "OVERLOADED", "no"),
        m.Goodbye("bye"),
    )
]
FROM_GATEWAY = [
    m.encode(message)
    for message in (
        m.Open("s", 1, "v", b"\1\2" * 50, {"steps": 2.0}),
        m.Chunk("s", 1, 2, b"\1\2" * 50, 100.0),
        m.Close("s", 1),
        m.GatewayHeartbeat(m.PROTOCOL_VERSION, known=True),
    )
]
FIRST = [
    json.dumps(message).encode()
    for message in (
        {"type": "config", "api_key": "k", "session_id": "s", "sample_rate": 16_000, "encoding": "OPUS"},
        {"type": "config", "resume": "a-b-c", "heard": 5, "kept": 0, "padded_ms": 1.5, "options": {"steps": 2}},
        {"signal": "start", "stream_id": "s", "sample_rate": 8000, "sample_bit": 16},
    )
]
CONTROL = [b'{"type":"end"}', b'{"type":"lost","count":3}', b'{"type":"ack","heard":7}', b'{"type":"ping"}', b"{}"]


@pytest.mark.parametrize(
    ("seeds", "read"), [(FROM_WORKER, m.decode_from_worker), (FROM_GATEWAY, m.decode_from_gateway)]
)
def test_link_frames(seeds: Sequence[bytes], read: Callable[[bytes], object]) -> None:
    refused = 0
    for frame in mutations(read.__name__, seeds):
        try:
            read(frame)
        except m.MessageError:
            refused += 1
    assert refused > EXAMPLES / 4


def test_first_messages_and_what_follows() -> None:
    codes: set[str] = set()
    later: set[str] = set()
    for sent in mutations("first", FIRST):
        text = sent.decode(errors="replace")
        json.loads(error_writer(text)(SessionError("INTERNAL_ERROR", "x")))
        try:
            protocol = parse_first(text)
        except SessionError as error:
            codes.add(error.code)
            json.loads(error_writer(text)(error))
            continue
        for control in mutations(text, CONTROL, 3):
            try:
                protocol.read(control.decode(errors="replace"))
            except SessionError as error:
                later.add(error.code)
    assert codes <= {"INVALID_CONFIG", "AUTH_FAILED"}
    assert later <= {"INVALID_AUDIO"}


def test_opus_packets() -> None:
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    noise = np.random.default_rng(0).integers(-9000, 9000, (20, 320)).astype("<i2")
    packets = [encoder.encode(frame.tobytes(), 320) for frame in noise]
    decoder = OpusDecoder(AudioFormat("OPUS"))
    for packet in mutations("opus", packets):
        try:
            ms = decoder.push(packet)
            assert len(decoder.decode(last=False)) == round(ms * 16)
        except CodecError:
            decoder = OpusDecoder(AudioFormat("OPUS"))


@pytest.mark.parametrize("depth", [16, 24, 32, "float32"])
def test_samples(depth: int | str) -> None:
    audio = AudioFormat("PCM", 22_050, 2, depth)  # type: ignore[arg-type]
    decoder = PcmDecoder(audio)
    for payload in mutations(f"pcm {depth}", [bytes(range(256)), b"\0" * 333, b"\xff" * 24]):
        try:
            decoder.push(payload)
            decoder.decode(last=False)
        except CodecError:
            decoder = PcmDecoder(audio)


def recordings() -> list[bytes]:
    made = []
    sound = np.sin(np.arange(24_000) / 20) * 0.3
    for kind in ("WAV", "FLAC", "OGG", "AIFF"):
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, 16_000, format=kind)
        made.append(buffer.getvalue())
    return made


def test_recordings() -> None:
    for content in mutations("recordings", recordings(), EXAMPLES // 10):
        with suppress(ClipError):
            read_clip(content)


def test_files_that_people_write(tmp_path: Path) -> None:
    public, _ = make_pair(tmp_path, "w")
    add_key(tmp_path / "keys.json", "alice", ("call",))
    yaml = b"gateway:\n  port: 8042\n  allowed_origins: [a, 'b']\nworker: {model: nano}\n"
    state = {"role": "gateway", "pid": 1, "started": 1.0, "host": "h", "port": 1, "link_port": 2}
    files: tuple[tuple[str, bytes, Callable[[Path], object], tuple[type[Exception], ...]], ...] = (
        ("w.key", public.read_bytes(), read_public, (LinkError,)),
        ("keys.json", (tmp_path / "keys.json").read_bytes(), read_keys, (ConfigError,)),
        ("config.yaml", yaml, read_yaml, (ConfigError,)),
        ("gateway-1.json", json.dumps(state).encode(), lambda path: read_states(path.parent), ()),
    )
    for name, content, read, refusals in files:
        path = tmp_path / name
        for changed in mutations(name, [content], EXAMPLES // 10):
            path.write_bytes(changed)
            with suppress(*refusals):
                read(path)
