"""Link messages: what is written can be read, and nothing that is read can do harm."""

from __future__ import annotations

import contextlib
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import messages as m

names = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())
counts = st.integers(0, 2**31)
durations = st.floats(0, 1e9, allow_nan=False)
sound = st.binary(max_size=4000)
stats = st.builds(
    m.ChunkStats, durations, counts, counts, st.booleans(), st.booleans(), st.dictionaries(names, durations, max_size=5)
)
voices = st.lists(st.builds(m.VoiceInfo, names, st.text(max_size=50)), min_size=1, max_size=4)
from_worker = st.one_of(
    st.builds(
        m.Hello,
        *(counts, names, names, counts, names, names),
        block_ms=st.integers(1, 100).map(lambda units: units * 20),
        delay_ms=st.integers(0, 10_000),
        history_ms=st.integers(0, 30_000),
        sample_rate_out=st.integers(8000, 48_000),
        voices=voices,
        capacity=counts,
        kind=st.just("hello"),
    ),
    st.builds(m.Heartbeat, counts, counts, durations, counts, kind=st.just("heartbeat")),
    st.builds(m.Opened, names, counts, kind=st.just("opened")),
    st.builds(m.Audio, names, counts, counts, sound, stats, kind=st.just("audio")),
    st.builds(m.Failed, names, counts, st.just("INTERNAL_ERROR"), st.text(max_size=50), kind=st.just("failed")),
    st.builds(m.Goodbye, st.text(max_size=50), kind=st.just("goodbye")),
)
from_gateway = st.one_of(
    st.builds(
        m.Open,
        *(names, counts, names, sound),
        options=st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
        kind=st.just("open"),
    ),
    st.builds(m.Chunk, names, counts, counts, sound, durations, kind=st.just("chunk")),
    st.builds(m.Close, names, counts, kind=st.just("close")),
    st.builds(m.GatewayHeartbeat, counts, st.booleans(), kind=st.just("heartbeat")),
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)


@given(from_worker)
def test_worker_messages_survive_the_link(message: Any) -> None:
    assert m.decode_from_worker(m.encode(message)) == message


@given(from_gateway)
def test_gateway_messages_survive_the_link(message: Any) -> None:
    assert m.decode_from_gateway(m.encode(message)) == message


def decodes_or_refuses(frame: bytes) -> None:
    for decode in (m.decode_from_worker, m.decode_from_gateway):
        with contextlib.suppress(m.MessageError):
            decode(frame)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_do_more_than_be_refused(frame: bytes) -> None:
    decodes_or_refuses(frame)


@given(anything)
def test_arbitrary_msgpack_never_does_more_than_be_refused(content: Any) -> None:
    decodes_or_refuses(msgpack.packb(content))


@given(st.one_of(from_worker, from_gateway), st.data())
def test_a_valid_message_with_one_field_changed(message: Any, data: st.DataObject) -> None:
    content = msgpack.unpackb(m.encode(message))
    content[data.draw(st.sampled_from([*content, "new"]))] = data.draw(anything)
    decodes_or_refuses(msgpack.packb(content))


@given(st.one_of(from_worker, from_gateway), st.data())
def test_a_valid_frame_with_one_byte_changed_or_cut(message: Any, data: st.DataObject) -> None:
    frame = bytearray(m.encode(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_refuses(bytes(frame))
    decodes_or_refuses(bytes(frame[: data.draw(st.integers(0, len(frame)))]))


CHUNK = {"kind": "chunk", "session": "s", "epoch": 0, "seq": 0, "samples": b"", "deadline_ms": 1.0}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seq": -1}, "chunk.seq"),
        ({"seq": "0"}, "chunk.seq"),
        ({"epoch": True}, "chunk.epoch"),
        ({"samples": "text"}, "chunk.samples"),
        ({"samples": b"x" * (m.MAX_BLOCK_BYTES + 1)}, "chunk.samples"),
        ({"deadline_ms": float("nan")}, "chunk.deadline_ms"),
        ({"session": ""}, "chunk.session"),
        ({"extra": 1}, "chunk.extra"),
        ({"kind": "audio"}, "audio"),
        ({"kind": None}, "kind"),
    ],
)
def test_a_refusal_names_the_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(m.MessageError, match=named):
        m.decode_from_gateway(msgpack.packb(CHUNK | change))


@pytest.mark.parametrize("field", [key for key in CHUNK if key != "kind"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(m.MessageError, match=field):
        m.decode_from_gateway(msgpack.packb({key: value for key, value in CHUNK.items() if key != field}))


def test_frames_are_bounded_both_ways() -> None:
    with pytest.raises(m.MessageError, match="exceeds"):
        m.decode_from_worker(b"\0" * (m.MAX_FRAME_BYTES + 1))
    with pytest.raises(m.MessageError, match="exceeds"):
        m.encode(m.Chunk("s", 0, 0, b"\0" * (m.MAX_FRAME_BYTES + 1), 1.0))


def test_deep_nesting_is_refused() -> None:
    decodes_or_refuses(b"\x91" * 100_000)
    decodes_or_refuses(b"\x81\xa1a" * 100_000)


def test_every_kind_is_covered_here() -> None:
    kinds = {cls.__name__ for union in (m.FromWorker, m.FromGateway) for cls in typing.get_args(union)}
    assert kinds == {
        *("Hello", "Heartbeat", "Opened", "Audio", "Failed", "Goodbye"),
        *("Open", "Chunk", "Close", "GatewayHeartbeat"),
    }
