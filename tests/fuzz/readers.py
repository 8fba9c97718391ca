"""What reads bytes that strangers wrote: each reader, the errors it may refuse by, and examples of what is right."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import opuslib
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
_FROM_GATEWAY = [
    m.encode(message)
    for message in (
        m.Open("s", 1, "v", b"\1\2" * 50, {"steps": 2.0}),
        m.Chunk("s", 1, 2, b"\1\2" * 50, 100.0),
        m.Close("s", 1),
        m.GatewayHeartbeat(m.PROTOCOL_VERSION, known=True),
    )
]
_FIRST = [
    json.dumps(message).encode()
    for message in (
        {"type": "config", "api_key": "k", "session_id": "s", "sample_rate": 16_000, "encoding": "OPUS"},
        {"type": "config", "resume": "a-b-c", "heard": 5, "kept": 0, "padded_ms": 1.5, "options": {"steps": 2}},
        {"signal": "start", "stream_id": "s", "sample_rate": 8000, "sample_bit": 16},
    )
]
_CONTROL = [b'{"type":"end"}', b'{"type":"lost","count":3}', b'{"type":"ack","heard":7}', b'{"type":"ping"}', b"{}"]
_CODES = {"INVALID_CONFIG", "AUTH_FAILED", "INVALID_AUDIO"}
_CONFIG = b"gateway:\n  port: 8042\n  allowed_origins: ['*', 'https://b.example']\nworker: {model: nano}\n"
_STATE = {"role": "gateway", "pid": 1, "started": 1.0, "host": "h", "port": 1, "link_port": 2}


@dataclass(frozen=True)
class Reader:
    """`read` takes any bytes: it returns, or raises one of `refusals`."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    examples: list[bytes]
    is_slow: bool = False  # milliseconds each

    def refuses(self, content: bytes) -> bool:
        """Whether it does; what else it raises is a fault."""
        try:
            self.read(content)
        except self.refusals:
            return True
        return False


def _first(content: bytes) -> None:
    """The first line begins a session, the others are what follows."""
    first, *later = content.decode(errors="replace").split("\n")
    json.loads(error_writer(first)(SessionError("INTERNAL_ERROR", "x")))
    try:
        protocol = parse_first(first)
        for control in later:
            protocol.read(control)
    except SessionError as error:
        if error.code not in _CODES:
            raise RuntimeError(f"refused as {error.code}") from error
        json.loads(error_writer(first)(error))
        raise


def _opus(content: bytes) -> None:
    """Packets, each behind a byte with its length; their time stays right whatever is in them."""
    decoder = OpusDecoder(AudioFormat("OPUS"))
    while content:
        size, content = content[0], content[1:]
        packet, content = content[:size], content[size:]
        ms = decoder.push(packet)
        assert len(decoder.decode(last=False)) == round(ms * 16)


def _packets() -> bytes:
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    noise = np.random.default_rng(0).integers(-9000, 9000, (20, 320)).astype("<i2")
    packets = [encoder.encode(frame.tobytes(), 320) for frame in noise]
    return b"".join(bytes([len(packet)]) + packet for packet in packets if len(packet) < 256)


def _samples(depth: int | str) -> Callable[[bytes], None]:
    audio = AudioFormat("PCM", 22_050, 2, depth)  # type: ignore[arg-type]

    def read(content: bytes) -> None:
        decoder = PcmDecoder(audio)
        for start in range(0, len(content), 97):
            decoder.push(content[start : start + 97])
            decoder.decode(last=False)

    return read


def _recordings() -> list[bytes]:
    made = []
    sound = np.sin(np.arange(24_000) / 20) * 0.3
    for kind in ("WAV", "FLAC", "OGG", "AIFF"):
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, 16_000, format=kind)
        made.append(buffer.getvalue())
    return made


def _file(
    folder: Path, name: str, read: Callable[[Path], Any], refusals: tuple[type[Exception], ...], example: bytes
) -> Reader:
    alone = folder / "read"
    alone.mkdir()

    def read_bytes(content: bytes) -> object:
        (alone / name).write_bytes(content)
        return read(alone / name)

    return Reader(read_bytes, refusals, [example], is_slow=True)


def _public_key(folder: Path) -> Reader:
    public, _ = make_pair(folder, "w")
    return _file(folder, "w.key", read_public, (LinkError,), public.read_bytes())


def _keys(folder: Path) -> Reader:
    add_key(folder / "keys.json", "alice", ("call",))
    return _file(folder, "keys.json", read_keys, (ConfigError,), (folder / "keys.json").read_bytes())


def _state(folder: Path) -> Reader:
    return _file(folder, "gateway-1.json", lambda path: read_states(path.parent), (), json.dumps(_STATE).encode())


_INTEGERS = [bytes(range(256)), b"\0" * 333, b"\xff" * 24]
_FLOATS = [np.linspace(-1, 1, 96, dtype="<f4").tobytes()]
READERS: dict[str, Callable[[Path], Reader]] = {  # each with a folder of its own, where it may write
    "from-worker": lambda _: Reader(m.decode_from_worker, (m.MessageError,), FROM_WORKER),
    "from-gateway": lambda _: Reader(m.decode_from_gateway, (m.MessageError,), _FROM_GATEWAY),
    "first": lambda _: Reader(_first, (SessionError,), [b"\n".join([one, *_CONTROL]) for one in _FIRST]),
    "opus": lambda _: Reader(_opus, (CodecError,), [_packets()], is_slow=True),
    "pcm-16": lambda _: Reader(_samples(16), (CodecError,), _INTEGERS),
    "pcm-24": lambda _: Reader(_samples(24), (CodecError,), _INTEGERS),
    "pcm-32": lambda _: Reader(_samples(32), (CodecError,), _INTEGERS),
    "pcm-float32": lambda _: Reader(_samples("float32"), (CodecError,), _FLOATS),
    "recording": lambda _: Reader(read_clip, (ClipError,), _recordings(), is_slow=True),
    "public-key": _public_key,
    "keys": _keys,
    "config": lambda folder: _file(folder, "c.yaml", read_yaml, (ConfigError,), _CONFIG),
    "state": _state,
}
