"""Where callers' voices are kept: whole or not at all, for who may have them, for several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.voices.clip import Clip
from gateway.voices.store import StoreError, VoiceStore

CLIP = Clip(b"flac", 2.0, 16_000)


def store(folder: Path, per_principal: int = 3, total: int = 5) -> VoiceStore:
    return VoiceStore(folder, per_principal=per_principal, total=total)


def test_a_voice_is_its_owners_unless_it_is_shared(tmp_path: Path) -> None:
    voices = store(tmp_path / "new")
    voices.add("own", "anna", CLIP)
    voices.add("ours", "boss", CLIP, shared=True)
    assert [voice.name for voice in voices.visible("anna")] == ["own", "ours"]
    assert [voice.name for voice in voices.visible("bert")] == ["ours"]
    assert [voice.name for voice in voices.visible(None)] == ["ours"]
    assert [voice.name for voice in voices.visible("boss", everything=True)] == ["own", "ours"]
    assert voices.find("own", "bert") is None
    assert voices.find("own", "bert", owner="anna") is not None


def test_names_are_ones_own_and_no_part_of_a_path(tmp_path: Path) -> None:
    voices = store(tmp_path)
    first, second = (voices.add("../x", owner, CLIP) for owner in ("anna", "bert"))
    assert first.id != second.id
    assert {path.name for path in tmp_path.iterdir()} == {".lock"} | {
        f"{voice.id}.{suffix}" for voice in (first, second) for suffix in ("json", "flac")
    }
    with pytest.raises(StoreError, match="already"):
        voices.add("../x", "anna", CLIP)
    with pytest.raises(StoreError, match="already"):
        voices.add("../x", "boss", CLIP, shared=True)


def test_what_one_process_keeps_another_finds(tmp_path: Path) -> None:
    here, there = store(tmp_path), store(tmp_path)
    assert there.visible(None) == []
    added = here.add("june", "anna", CLIP)
    assert there.find("june", "anna") == added
    assert there.sound(added) == b"flac"
    there.remove(added)
    assert here.find("june", "anna") is None


def test_room_is_bounded(tmp_path: Path) -> None:
    voices = store(tmp_path, per_principal=2, total=3)
    for owner, name in (("anna", "a"), ("anna", "b"), ("bert", "a")):
        voices.add(name, owner, CLIP)
    for owner in ("anna", "bert"):
        with pytest.raises(StoreError) as refused:
            voices.add("more", owner, CLIP)
        assert refused.value.field is None
    voices.remove(voices.visible("anna")[0])
    voices.add("more", "bert", CLIP)


def test_a_description_that_is_none_is_left_out(tmp_path: Path) -> None:
    voices = store(tmp_path)
    voices.add("june", "anna", CLIP)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "foreign.json").write_text('{"name": "x"}')
    assert [voice.name for voice in store(tmp_path).visible("anna")] == ["june"]
