"""First messages: read as generously as they can be meant, refused by the field's name where they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.codec import AudioFormat
from gateway.caller import Cue, Lost
from gateway.errors import SessionError
from gateway.protocols.first import error_writer, parse_first
from gateway.request import SessionRequest

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["type", "signal", "session_id", "stream_id", "api_key", "sample_rate", "sample_rate_out", "bit_depth",
     "sample_bit", "channels", "encoding", "encoding_out", "opus_frame_duration", "voice", "model", "options", "count"]
)  # fmt: skip


def config(**fields: Any) -> str:
    return json.dumps({"type": "config", "session_id": "s", "api_key": "k", **fields})


def start(**fields: Any) -> str:
    return json.dumps({"signal": "start", "stream_id": "x", **fields})


def asked(text: str) -> SessionRequest:
    return parse_first(text).request


def test_defaults() -> None:
    assert asked(config()) == SessionRequest("s", "k")
    assert asked(start()) == SessionRequest("x", None)
    assert AudioFormat() == AudioFormat("PCM", 16_000, 1, 16, 20)


@pytest.mark.parametrize(
    "name",
    ["session_id", "api_key", "sample_rate", "sample_rate_out", "bit_depth", "channels", "encoding", "encoding_out",
     "opus_frame_duration", "voice", "model", "options"],
)  # fmt: skip
def test_null_is_the_default(name: str) -> None:
    made, default = asked(config(**{name: None})), asked(json.dumps({"type": "config"}))
    if name == "session_id":
        assert len(made.session_id) == 32
    elif name != "api_key":
        assert (made.audio_in, made.audio_out, made.voice, made.model, made.options) == (
            default.audio_in, default.audio_out, None, None, {},
        )  # fmt: skip


@pytest.mark.parametrize("given", ["声音.wav", "my voice.wav", "2025:11:04", "../../etc/passwd", "a" * 200, "\n", "🎙"])
def test_a_session_id_is_any_text(given: str) -> None:
    assert asked(config(session_id=given)).session_id == given
    assert asked(start(stream_id=given)).session_id == given


@pytest.mark.parametrize("text", ['{"type":"config","session_id":""}', '{"signal":"start"}', '{"type":"config"}'])
def test_without_a_session_id_one_is_made(text: str) -> None:
    first, second = asked(text), asked(text)
    assert len(first.session_id) == 32
    assert first.session_id != second.session_id


def test_a_number_is_a_session_id_too() -> None:
    assert asked(config(session_id=17)).session_id == "17"


@pytest.mark.parametrize("rate", [16_000, 16_000.0, "16000", " 16000 ", "16000.0"])
def test_a_number_may_be_a_whole_float_or_digits(rate: Any) -> None:
    assert asked(config(sample_rate=rate, sample_rate_out=rate)).audio_in.rate == 16_000
    assert asked(start(sample_rate=rate)).audio_in.rate == 16_000


@pytest.mark.parametrize(
    ("encoding", "name"), [("PCM", "PCM"), ("pcm", "PCM"), ("WAV", "PCM"), ("wav", "PCM"), ("opus", "OPUS")]
)
def test_an_encoding_in_any_case(encoding: str, name: str) -> None:
    request = asked(config(encoding=encoding, encoding_out=encoding))
    assert (request.audio_in.encoding, request.audio_out.encoding) == (name, name)
    assert asked(start(encoding=encoding)).audio_in.encoding == name


@pytest.mark.parametrize(
    ("given", "depth"),
    [(16, 16), ("16", 16), (24, 24), (32.0, 32), ("float32", "float32"), ("FLOAT32", "float32"), ("f32", "float32")],
)
def test_bit_depths(given: Any, depth: Any) -> None:
    request = asked(config(bit_depth=given))
    assert request.audio_in.bit_depth == depth
    assert request.audio_out.bit_depth == 16
    assert asked(start(sample_bit=given)).audio_in.bit_depth == depth


@pytest.mark.parametrize("frame", [None, 2.5, 20, 60, 80, 100, 120, "40"])
def test_opus_frame_durations(frame: Any) -> None:
    made = asked(config(encoding="OPUS", encoding_out="OPUS", opus_frame_duration=frame)).audio_out.frame_ms
    assert made == float(frame or 20)


@pytest.mark.parametrize("fields", [{"opus_frame_duration": 15}, {"opus_frame_duration": "?"}, {"unheard_of": []}])
def test_fields_that_do_not_apply_are_ignored(fields: dict[str, Any]) -> None:
    assert asked(config(**fields)) == SessionRequest("s", "k")
    assert asked(start(**fields)) == SessionRequest("x", None)


def test_samples_of_packets_are_not_asked_about() -> None:
    assert asked(config(encoding="OPUS", bit_depth=8, channels=7)).audio_in == AudioFormat("OPUS")


def test_output_is_pcm_whatever_comes_in_unless_asked_for() -> None:
    assert asked(config(encoding="OPUS")).audio_out.encoding == "PCM"
    assert asked(config(encoding="PCM", encoding_out="OPUS")).audio_out.encoding == "OPUS"


def test_the_simple_protocol_has_an_output_rate() -> None:
    assert asked(start(sample_rate_out=24_000)).audio_out == AudioFormat("PCM", 24_000)


def test_options_are_numbers() -> None:
    assert asked(config(options={"steps": "4", "f0_shift": -2.5, "guidance": None})).options == {
        "steps": 4.0,
        "f0_shift": -2.5,
    }


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sample_rate": 7999}, "sample_rate"),
        ({"sample_rate": 16_000.5}, "sample_rate"),
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"sample_rate": True}, "sample_rate"),
        ({"sample_rate": 1e300}, "sample_rate"),
        ({"sample_rate_out": 96_000}, "sample_rate_out"),
        ({"encoding": "MP3"}, "encoding"),
        ({"encoding": 1}, "encoding"),
        ({"bit_depth": 8}, "bit_depth"),
        ({"bit_depth": "sixteen"}, "bit_depth"),
        ({"channels": 3}, "channels"),
        ({"encoding": "OPUS", "sample_rate": 44_100}, "sample_rate"),
        ({"encoding_out": "OPUS", "sample_rate_out": 22_050}, "sample_rate_out"),
        ({"encoding": "OPUS", "opus_frame_duration": 15}, "opus_frame_duration"),
        ({"encoding_out": "opus", "opus_frame_duration": "long"}, "opus_frame_duration"),
        ({"session_id": "a" * 201}, "session_id"),
        ({"session_id": ["a"]}, "session_id"),
        ({"session_id": "\ud800"}, "session_id"),
        ({"voice": ""}, "voice"),
        ({"voice": "\udfff"}, "voice"),
        ({"api_key": [5]}, "api_key"),
        ({"type": "confg"}, "type"),
        ({"options": {"steps": 0}}, "options.steps"),
        ({"options": {"pitch": 1}}, "options.pitch"),
        ({"options": 5}, "options"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SessionError, match=named) as caught:
        parse_first(config(**fields))
    assert caught.value.code == "INVALID_CONFIG"
    assert caught.value.details == {"fields": [named]}


@pytest.mark.parametrize("fields", [{"sample_bit": 8}, {"sample_rate": 1}, {"encoding": "AAC"}, {"signal": "begin"}])
def test_the_simple_protocol_names_its_own_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(SessionError) as caught:
        parse_first(start(**fields))
    assert caught.value.details == {"fields": list(fields)}


@pytest.mark.parametrize("text", ["", "null", "[]", "[" * 100_000, "hello", "{}", '{"type":', "\x00"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(SessionError) as caught:
        parse_first(text)
    assert caught.value.code == "INVALID_CONFIG"


def test_the_simple_protocol_only_where_it_is_allowed() -> None:
    with pytest.raises(SessionError) as caught:
        parse_first(start(), allow_simple=False)
    assert caught.value.code == "AUTH_FAILED"


@pytest.mark.parametrize("stream_id", ["s1", "", 5, None, ["x"]])
def test_errors_of_the_simple_protocol_have_the_stream_id_that_came(stream_id: Any) -> None:
    explain = error_writer(json.dumps({"signal": "start", "stream_id": stream_id, "sample_bit": 5}))
    told = json.loads(explain(SessionError("INVALID_CONFIG", "sample_bit: no")))
    assert told == {"status": "failed", "stream_id": stream_id, "error_msg": "INVALID_CONFIG: sample_bit: no"}


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ('{"type":"end"}', Cue.END),
        ('{"type":"ping"}', Cue.PING),
        ('{"type":"lost"}', Lost(1)),
        ('{"type":"lost","count":7}', Lost(7)),
        ('{"type":"config"}', Cue.UNKNOWN),
        ('{"signal":"end"}', Cue.UNKNOWN),
        ("hello", Cue.UNKNOWN),
        ("", Cue.UNKNOWN),
        ("[1]", Cue.UNKNOWN),
    ],
)
def test_control_messages_of_the_standard_protocol(text: str, heard: Any) -> None:
    assert parse_first(config()).read(text) == heard


@pytest.mark.parametrize("count", [0, -1, 501, 2.5, "3", True, None, [1]])
def test_impossible_numbers_of_lost_packets_are_refused(count: Any) -> None:
    with pytest.raises(SessionError, match="count"):
        parse_first(config()).read(json.dumps({"type": "lost", "count": count}))


def test_control_messages_of_the_simple_protocol() -> None:
    protocol = parse_first(start())
    assert protocol.read('{"signal":"end"}') is Cue.END
    assert protocol.read('{"type":"ping"}') is Cue.PING
    assert protocol.read("anything") is Cue.UNKNOWN
    assert protocol.ready({}) is None


def outcome(work: Callable[[], Any]) -> Any:
    """What it returns, or the refusal it raises; nothing else may be raised."""
    try:
        return work()
    except SessionError as error:
        return error


@given(st.dictionaries(names, values), st.sampled_from([{"type": "config"}, {"signal": "start"}, {}]))
def test_whatever_comes_first_is_a_request_or_a_refusal(fields: dict[str, Any], kind: dict[str, str]) -> None:
    text = json.dumps({**fields, **kind})
    told = json.loads(error_writer(text)(SessionError("INVALID_CONFIG", "no")))
    assert told.get("error_code") == "INVALID_CONFIG" or told.get("status") == "failed"
    made = outcome(lambda: parse_first(text).request)
    if isinstance(made, SessionError):
        assert made.code == "INVALID_CONFIG"
        assert made.details is None or made.details["fields"]
    else:
        made.session_id.encode()
        assert 1 <= len(made.session_id) <= 200
        assert 8000 <= made.audio_in.rate <= 48_000


@given(values, st.sampled_from(["end", "ping", "lost", "other"]))
def test_whatever_comes_later_is_understood_ignored_or_refused(value: Any, kind: str) -> None:
    for text in (json.dumps(value), json.dumps({"type": kind, "signal": kind, "count": value})):
        for protocol in (parse_first(config()), parse_first(start())):
            heard = outcome(partial(protocol.read, text))
            assert isinstance(heard, Cue | Lost) or heard.details == {"fields": ["count"]}
