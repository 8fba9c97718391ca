"""File conversion with models of reduced size: lengths, windows, batches, formats, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from shared.config import ROOT
from tests.support.reduced import reduced, write_hub
from tools.files import convert as convert_module
from tools.files.convert import main
from worker import recordings
from worker.engines.diffusion import offline
from worker.engines.diffusion.offline import ConversionOptions, FileConverter
from worker.engines.diffusion.pipeline import Pipeline
from worker.engines.diffusion.prompts import make_prompt
from worker.models.catalogue import load_model
from worker.models.seedvc import spec
from worker.recordings import Recording
from worker.voices import Voice

from .conftest import REFERENCE, SAMPLE, hub_alone


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hub")
    with hub_alone(folder) as patch:
        for name in ("tiny", "small"):
            patch.setitem(spec.SPECS, name, reduced(name))  # type: ignore[arg-type]
            write_hub(folder, spec.SPECS[name])
        patch.setattr(convert_module, "load_model", cache(load_model))  # each model from its files once
        yield folder


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: Any) -> Result:
        given = [
            "--reference-wav-path",
            checkpoints / REFERENCE,
            "--checkpoints",
            checkpoints,
            "--output",
            tmp_path / "out",
        ]
        chosen = [] if "--model" in arguments or "--f0-condition" in arguments else ["--model", "tiny"]
        steps = ["--diffusion-steps", 2]
        return CliRunner().invoke(main, [str(one) for one in (*given, *chosen, *steps, *arguments)])

    return run


def write(path: Path, seconds: float, rate: int = 16_000, channels: int = 1) -> Path:
    """Speech, repeated to any length."""
    wave, recorded = soundfile.read(SAMPLE)
    assert recorded == 16_000
    at = np.arange(int(seconds * rate)) * recorded / rate
    mono = wave[at.astype(int) % len(wave)]
    soundfile.write(path, np.stack([mono] * channels, axis=1), rate)
    return path


def test_several_sources_of_several_formats(run: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "a.ogg", 1.3, 44_100, 2)
    write(folder / "b.flac", 2.0, 8_000)
    (folder / "notes.txt").write_text("no sound")
    other = write(tmp_path / "a.wav", 0.31)
    result = run("--source-wav-path", folder, "--source-wav-path", other, "--batch", 3)
    assert result.exit_code == 0, result.output
    for name, seconds in (("a_june", 1.3), ("b_june", 2.0), ("a_june-2", 0.31)):
        wave, rate = soundfile.read(tmp_path / "out" / f"{name}.wav")
        assert rate == 22_050
        assert abs(len(wave) - seconds * rate) <= 1
        assert np.abs(wave).max() > 0.01
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_june-2.wav", "a_june.wav", "b_june.wav"]


@pytest.mark.parametrize("adjust", [0.8, 1.25])
def test_another_speed(run: Callable[..., Result], tmp_path: Path, adjust: float) -> None:
    source, out = write(tmp_path / "a.wav", 2.0), tmp_path / "one.flac"
    result = run("--source-wav-path", source, "--output", out, "--length-adjust", adjust, "--model", "small")
    assert result.exit_code == 0, result.output
    wave, rate = soundfile.read(out)
    assert abs(len(wave) - 2.0 * adjust * rate) <= 1
    assert np.abs(wave[-rate // 10 :]).max() > 0.001  # to the very end


@pytest.fixture
def converter(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FileConverter]:
    monkeypatch.setattr(offline, "WINDOW_S", 6.0)  # so that little sound has many windows
    pipeline = Pipeline(load_model("tiny", checkpoints))
    prompt = make_prompt(pipeline, Voice("june", "", checkpoints / REFERENCE), 1.5)

    def converter(batch: int = 1, steps: int = 2) -> FileConverter:
        return FileConverter(pipeline, prompt, ConversionOptions(steps=steps), batch=batch)

    return converter


def convert(converter: FileConverter, paths: list[Path]) -> list[Any]:
    recordings = [Recording(path) for path in paths]
    out: list[list[Any]] = [[] for _ in paths]
    done: list[float] = []
    converter.convert(recordings, lambda number, wave: out[number].append(wave), done.append)
    assert sum(done) == pytest.approx(sum(recording.units for recording in recordings) / 50)
    return [np.concatenate(pieces) for pieces in out]


def test_a_batch_gives_what_each_window_gives_alone(converter: Callable[..., FileConverter], tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seconds}.wav", seconds) for seconds in (6.0, 0.9, 8.3)]
    alone = [convert(converter(), [path])[0] for path in paths]
    together = convert(converter(batch=3), paths)
    for one, other, seconds in zip(alone, together, (6.0, 0.9, 8.3), strict=True):
        assert abs(len(one) - seconds * 22_050) <= 1
        assert np.abs(one - other).max() <= 1e-3
        assert np.abs(one).max() > 0.01


@pytest.mark.parametrize("seconds", [3.5, 3.98, 4.3, 7.95])
def test_windows_cover_everything_once(converter: Callable[..., FileConverter], tmp_path: Path, seconds: float) -> None:
    """Whatever the length, windows follow one another with the same overlap and hear their own stretch of sound."""
    made, path = converter(), write(tmp_path / "a.wav", seconds)
    recording = Recording(path)
    windows = list(made._windows(0, recording))
    source, _ = soundfile.read(path, dtype="float32")
    assert windows[0].begin == 0
    assert windows[-1].end == recording.units
    assert [window.last for window in windows] == [False] * (len(windows) - 1) + [True]
    for before, after in pairwise(windows):
        assert before.end - after.begin == made.overlap_units
    for window in windows:
        assert len(window.wave) <= offline.WINDOW_S * 16_000
        heard = source[window.heard_from * 320 :][: len(window.wave)]
        assert np.array_equal(window.wave[: len(heard)], heard)
        assert not window.wave[len(heard) :].any()


def test_memory_does_not_grow_with_the_recording(
    converter: Callable[..., FileConverter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, held = converter(), []
    pad = np.concatenate

    def watched(parts: Any, *rest: Any, **more: Any) -> Any:
        out = pad(parts, *rest, **more)
        held.append(out.nbytes)
        return out

    recording = Recording(write(tmp_path / "a.wav", 40.0))
    monkeypatch.setattr(np, "concatenate", watched)
    assert len(list(made._windows(0, recording))) > 10
    assert max(held) <= 4 * 16_000 * (offline.WINDOW_S + 2 * recordings.READ_S)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source-wav-path", "{folder}"], ["folder", "no recordings"]),
        (["--source-wav-path", "{good}", "--reference-wav-path", "{short}"], ["'short'", "too short"]),
        (["--source-wav-path", "{good}", "--reference-wav-path", "{text}"], ["'text'", "cannot read"]),
        (["--source-wav-path", "{good}", "--reference-wav-path", "gone.wav"], ["gone.wav", "no such file"]),
        (["--source-wav-path", "{good}", "--output", "x.m4a"], ["x.m4a", ".wav, .flac, .ogg, .mp3"]),
        (
            ["--source-wav-path", "{good}", "--f0-condition", "--model", "tiny"],
            ["--f0-condition", "takes no f0", "base"],
        ),
        (["--source-wav-path", "{good}", "--device", "cuda:9"], ["cuda:9", "--device cpu"]),
        (["--source-wav-path", "{good}", "--source-wav-path", "{good}", "--output", "x.wav"], ["2 sources", "folder"]),
        (["--source-wav-path", "{good}", "--model", "huge"], ["huge", "nano"]),
        (["--source-wav-path", "{good}", "--dit-checkpoint-path", "{text}"], ["text.wav", "not a file of weights"]),
        (["--source-wav-path", "{good}", "--dit-config-path", "{text}"], ["dit_checkpoint_path"]),
        (["--source-wav-path", "{good}", "--semi-tone-shift", "nan"], ["--semi-tone-shift", "nan is not a number"]),
        (["--source-wav-path", "{good}", "--output", "{good}"], ["--output", "good.wav is a recording that is read"]),
        (["--source-wav-path", "{good}", "--output", "{text}/x.wav"], ["--output", "x.wav: cannot be written"]),
        (["--source-wav-path", "{good}", "--output", "/proc/x.wav"], ["--output /proc/x.wav: cannot be written"]),
        (["--source-wav-path", "{good}", "--output", "/dev/full/x.wav"], ["--output /dev/full/x.wav: cannot be"]),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: Callable[..., Result], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.wav").write_text("not a recording")
    write(tmp_path / "good.wav", 1.0)
    write(tmp_path / "short.wav", 0.5)
    names = {name: tmp_path / (name if name == "folder" else f"{name}.wav") for name in
             ("folder", "text", "good", "short")}  # fmt: skip
    result = run(*(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output
    assert not list(tmp_path.glob("out/*"))


def test_bad_recordings_are_skipped_and_named_and_the_others_converted(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "text.wav").write_text("not a recording")
    (folder / "._good.wav").write_bytes(b"another system's note")
    soundfile.write(folder / "empty.wav", np.zeros(0), 16_000)
    wave = np.full(10 * 16_000, 0.1, np.float32)
    wave[-1] = np.nan  # long after the first windows could have been converted
    soundfile.write(folder / "nan.wav", wave, 16_000, subtype="FLOAT")
    write(folder / "good.wav", 1.0)
    write(folder / "zulu.wav", 1.0)
    result = run("--source-wav-path", folder, "--source-wav-path", tmp_path / "gone.wav")
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_june.wav", "zulu_june.wav"]
    for words in ("nan.wav: holds values that are not finite", "empty.wav: holds no sound", "text.wav: cannot be read",
                  "gone.wav: no such file"):  # fmt: skip
        assert words in result.output
    assert result.output.count("skipped") == 4
    assert "._good" not in result.output


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_the_output_is_of_the_format_that_its_name_says(
    run: Callable[..., Result], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    result = run("--source-wav-path", write(tmp_path / "a.wav", 1.0), "--output", path)
    assert result.exit_code == 0, result.output
    info = soundfile.info(path)
    assert info.format in {"WAV", "FLAC", "OGG", "MP3"}
    assert info.format.lower() == suffix[1:]
    assert info.duration == pytest.approx(1.0, abs=0.1)


def test_an_mp3_is_as_long_as_its_samples_whatever_it_announces() -> None:
    """Variable bit rate without a header: libsndfile takes the first frame's rate for all, and announces 13.5 s."""
    path = ROOT / "tests/data/vbr_no_header.mp3"
    assert soundfile.info(path).duration < 14
    recording = Recording(path)
    pieces = np.concatenate(list(recording.pieces()))
    assert recording.samples / recording.rate == pytest.approx(20.05, abs=0.05)
    assert len(pieces) == pytest.approx(20.05 * 16_000, abs=800)
    assert np.abs(pieces[17 * 16_000 : 18 * 16_000]).max() > 0.1  # speech beyond what is announced
    assert np.abs(pieces[19 * 16_000 :]).max() < 1e-3  # and nothing after the silence at its end


def test_digital_silence_stays_silent(converter: Callable[..., FileConverter], tmp_path: Path) -> None:
    wave, rate = soundfile.read(SAMPLE)
    pause = np.concatenate([wave[: 2 * rate], np.zeros(2 * rate), wave[2 * rate : 4 * rate]])
    path = tmp_path / "pause.wav"
    soundfile.write(path, pause, rate)
    [out] = convert(converter(), [path])
    at = 22_050 / rate
    assert not out[int(2.2 * rate * at) : int(3.8 * rate * at)].any()
    for span in (out[: int(1.9 * rate * at)], out[int(4.1 * rate * at) :]):
        assert np.sqrt(np.mean(span**2)) > 0.01
