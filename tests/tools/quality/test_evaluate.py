"""The evaluation's own arithmetic: error rates, pairs, summaries. The judges themselves are other people's programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tools.quality.evaluate import (
    VOICES,
    Case,
    Pair,
    bundled_pairs,
    named,
    read_pairs,
    recorded_pairs,
    strangers,
    summary,
    table,
)
from tools.quality.judges import Measures, error_rate, levelled
from tools.quality.transcripts import plain
from tools.train.corpus import LEVEL


def measures(to_target: float, to_source: float, cer: float | None, f0_error: float) -> Measures:
    return Measures(
        to_target=to_target,
        to_source=to_source,
        before=0.5,
        ceiling=None,
        mos_source=3.0,
        mos_output=2.5,
        mos_copy=2.9,
        cer=cer,
        cer_copy=None,
        f0_target_hz=200.0,
        f0_source_hz=100.0,
        f0_output_hz=200.0,
        f0_error=f0_error,
    )


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(1600), 16_000)
    return path


@pytest.mark.parametrize(
    ("heard", "said", "rate"),
    [("", "abcd", 1.0), ("abcd", "abcd", 0.0), ("abd", "abcd", 0.25), ("xabcd", "abcd", 0.25)],
)
def test_character_error_rate(heard: str, said: str, rate: float):
    assert error_rate(heard, said) == pytest.approx(rate)


def test_summary_and_table():
    cases = [
        Case(Pair(Path("a"), Path("b"), group="known"), measures(0.8, 0.5, 0.1, 0.02)),
        Case(Pair(Path("c"), Path("d"), group="unknown"), measures(0.6, 0.7, None, 0.04)),
    ]
    values = summary(cases)
    assert values["cases"] == 2
    assert values["to_target"] == pytest.approx(0.7)
    assert values["nearer"] == 0.5
    assert values["cer"] == pytest.approx(0.1)  # of those measured
    assert values["f0_error"] == pytest.approx(0.03)
    assert "ceiling" not in values
    assert [line.split("|")[1].strip() for line in table(cases).splitlines()[2:]] == ["known", "unknown", "all"]


def test_pairs_of_a_csv(tmp_path: Path):
    write(tmp_path / "s.wav")
    write(tmp_path / "t.wav")
    path = tmp_path / "pairs.csv"
    path.write_text("source,target,language\ns.wav,t.wav,it\n")
    assert read_pairs(path) == [Pair(tmp_path / "s.wav", tmp_path / "t.wav", language="it")]
    path.write_text("source,target\ns.wav,gone.wav\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        read_pairs(path)


def test_pairs_of_a_folder(tmp_path: Path):
    source, target = write(tmp_path / "source/a.wav"), write(tmp_path / "target/a.flac")
    (tmp_path / "source/notes.txt").write_text("")
    assert read_pairs(tmp_path) == [Pair(source, target)]
    output = write(tmp_path / "output/a.wav")
    assert read_pairs(tmp_path) == [Pair(source, target, output)]
    assert named(tmp_path / "nowhere", "a") is None
    target.unlink()
    with pytest.raises(FileNotFoundError, match="named a"):
        read_pairs(tmp_path)


def test_a_folder_of_recordings_goes_to_every_voice_by_language(tmp_path: Path):
    known, unknown = write(tmp_path / "cs/a.wav"), write(tmp_path / "somebody/b.flac")
    (tmp_path / "notes.txt").write_text("")
    pairs = recorded_pairs(tmp_path, lambda wave: "nl")
    voices = sorted(VOICES.glob("*.flac"))
    assert [(pair.source, pair.target) for pair in pairs] == [
        (source, target) for source in (known, unknown) for target in voices
    ]
    assert {pair.source: (pair.language, pair.group) for pair in pairs} == {known: ("cs", "cs"), unknown: ("nl", "nl")}
    with pytest.raises(FileNotFoundError, match="no recording"):
        recorded_pairs(tmp_path / "cs" / "deeper", lambda wave: "en")


def test_what_strangers_share_is_said_beside_likeness():
    cases = [Case(Pair(Path("a"), Path("b")), measures(0.8, 0.5, 0.1, 0.02)) for _ in range(3)]
    assert strangers(cases) == "sources and targets before: median 0.500, 95th percentile 0.500"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" And, Mr. John's -- 3 dogs!", "and mr john's dogs"),
        ("Žluťoučký  kůň?", "žluťoučký kůň"),
        ("你好，世界。", "你好 世界"),
    ],
)
def test_transcripts_are_compared_as_words(text: str, words: str):
    assert plain(text) == words


def test_bundled_recordings_are_there():
    assert all(path.is_file() for pair in bundled_pairs() for path in (pair.source, pair.target))


def test_levelled():
    wave = np.sin(np.arange(16_000) * 0.1).astype(np.float32)
    assert float(np.sqrt((levelled(wave) ** 2).mean())) == pytest.approx(LEVEL, rel=1e-4)
