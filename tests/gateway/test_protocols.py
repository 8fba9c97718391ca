"""First messages: what is accepted, and how a refusal names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.auth import is_allowed
from gateway.protocols import SessionError, parse_first
from shared.config import AuthConfig


def config(**fields: Any) -> str:
    return json.dumps({"type": "config", "session_id": "s", "api_key": "k", **fields})


def test_defaults_of_the_standard_protocol() -> None:
    request = parse_first(config()).request
    assert (request.rate_in, request.rate_out, request.channels, request.opus_in, request.opus_out) == (
        16_000,
        16_000,
        1,
        False,
        False,
    )


def test_output_is_pcm_whatever_comes_in_unless_asked_for() -> None:
    assert not parse_first(config(encoding="OPUS")).request.opus_out
    assert parse_first(config(encoding="PCM", encoding_out="OPUS")).request.opus_out


def test_the_simple_protocol_is_told_by_its_signal() -> None:
    protocol = parse_first(json.dumps({"signal": "start", "stream_id": "x", "sample_rate": 8000, "sample_bit": 16}))
    assert protocol.name == "simple"
    assert protocol.request.api_key is None
    assert protocol.is_end('{"signal":"end"}')
    assert protocol.ready({}) is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sample_rate": 7999}, "sample_rate"),
        ({"sample_rate": "16000"}, "sample_rate"),
        ({"sample_rate_out": 96_000}, "sample_rate_out"),
        ({"encoding": "MP3"}, "encoding"),
        ({"bit_depth": 24}, "bit_depth"),
        ({"channels": 3}, "channels"),
        ({"encoding": "OPUS", "sample_rate": 44_100}, "sample_rate"),
        ({"encoding_out": "OPUS", "sample_rate_out": 22_050}, "sample_rate_out"),
        ({"opus_frame_duration": 15}, "opus_frame_duration"),
        ({"session_id": "../../etc/passwd"}, "session_id"),
        ({"session_id": "a" * 65}, "session_id"),
        ({"voice": ""}, "voice"),
        ({"api_key": 5}, "api_key"),
        ({"type": "confg"}, "type"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SessionError, match=named) as caught:
        parse_first(config(**fields))
    assert caught.value.code == "INVALID_CONFIG"


@pytest.mark.parametrize("text", ["", "null", "[]", "[" * 100_000, "hello", "{}", '{"type":', "\x00"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(SessionError) as caught:
        parse_first(text)
    assert caught.value.code == "INVALID_CONFIG"


def test_only_known_keys_open_a_session() -> None:
    auth = AuthConfig(required=True, api_keys=["the-right-key", "another-key"])
    assert is_allowed("another-key", auth)
    assert not is_allowed("the-right-kez", auth)
    assert not is_allowed("", auth)
    assert is_allowed("", AuthConfig(required=False))
