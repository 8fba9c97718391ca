"""``fast-vc voices``: what is offered, added and removed, with real recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from shared.config import ROOT
from tools.service.cli import main
from worker.voices import offered_voices

ENGLISH = ROOT / "tests" / "data" / "male_english.flac"
BUNDLED = ["carlo", "allison", "june", "ivrvoice", "awb"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["voices", *map(str, arguments)], input=answer)


def names() -> list[str]:
    result = run("list")
    assert result.exit_code == 0, result.output
    return [line.split()[0] for line in result.output.splitlines()]


def test_bundled_voices_are_offered_in_any_folder() -> None:
    assert names() == BUNDLED
    assert run().output == run("list").output
    assert "7.2 s  Female, US English" in run().output


def test_a_recording_is_added_and_removed(home: Path) -> None:
    result = run("add", ENGLISH, "--name", "bob")
    assert result.exit_code == 0
    assert (home / "voices" / "bob.flac").read_bytes() == ENGLISH.read_bytes()
    assert names() == [*BUNDLED, "bob"]
    assert [voice.name for voice in offered_voices(None)] == [*BUNDLED, "bob"]
    assert run("remove", "bob", answer="n\n").exit_code == 1
    assert run("remove", "bob", answer="y\n").exit_code == 0
    assert names() == BUNDLED


def test_one_s_own_takes_the_place_of_a_bundled_one_of_that_name(home: Path) -> None:
    assert run("add", ENGLISH, "--name", "june").exit_code == 0
    assert names() == BUNDLED
    assert next(voice.path for voice in offered_voices(None) if voice.name == "june") == Path("voices/june.flac")


def test_a_format_that_workers_do_not_read_becomes_flac(home: Path) -> None:
    wave, rate = soundfile.read(ENGLISH)
    soundfile.write(home / "bob.aiff", wave, rate)
    assert run("add", "bob.aiff").exit_code == 0
    added, added_rate = soundfile.read(home / "voices" / "bob.flac")
    assert added_rate == rate
    assert np.allclose(added, wave, atol=1e-4)


def test_a_folder_of_one_s_own_is_all_there_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVC_WORKER__VOICES_DIR", "mine")
    assert run().exit_code == 1
    assert run("add", ENGLISH).exit_code == 0
    assert names() == ["male_english"]
    assert (home / "mine" / "male_english.flac").exists()


def test_what_is_no_voice_is_refused_by_name_and_leaves_nothing(home: Path) -> None:
    (home / "text.wav").write_text("no sound")
    soundfile.write(home / "short.wav", np.ones(1600, "float32") / 4, 16_000)
    soundfile.write(home / "silent.wav", np.zeros(48_000, "float32"), 16_000)
    for path, said in (
        ("text.wav", "cannot read text.wav"),
        ("short.wav", "too short"),
        ("silent.wav", "silent"),
        ("none.wav", "none.wav: no such file"),
    ):
        result = run("add", path)
        assert (result.exit_code, said in result.stderr) == (1, True), result.stderr
    result = run("add", ENGLISH, "--name", "../bob")
    assert (result.exit_code, "use --name" in result.stderr) == (1, True)
    assert names() == BUNDLED
    assert not (home / "voices").exists()


def test_a_name_is_taken_once(home: Path) -> None:
    run("add", ENGLISH, "--name", "bob")
    again = run("add", ENGLISH, "--name", "bob")
    assert (again.exit_code, "is there already (voices/bob.flac)" in again.stderr) == (1, True)
    bundled = run("remove", "june", "-y")
    assert (bundled.exit_code, "bundled ones stay" in bundled.stderr) == (1, True)


def test_what_was_learnt_of_a_voice_goes_with_it(home: Path) -> None:
    """Another voice of its name would otherwise speak with its features."""
    assert run("add", ENGLISH, "--name", "own").exit_code == 0
    assert run("add", ENGLISH, "--name", "own.too").exit_code == 0
    names = ("own.nano", "own.tiny", "own.too.nano")
    for name in names:
        (home / "voices" / f"{name}.index.safetensors").write_bytes(b"")
    assert run("remove", "own", "--yes").exit_code == 0
    kept = sorted(path.name for path in (home / "voices").iterdir())
    assert kept == ["own.too.flac", "own.too.nano.index.safetensors"]


def test_what_was_learnt_of_a_bundled_voice_does_not_speak_for_one_s_own_of_its_name(home: Path) -> None:
    (home / "voices").mkdir()
    for name in ("june", "carlo"):
        (home / "voices" / f"{name}.nano.index.safetensors").write_bytes(b"")
    (home / "noise.wav").write_text("no sound")
    assert run("add", "noise.wav", "--name", "june").exit_code == 1
    assert len(list((home / "voices").iterdir())) == 2
    added = run("add", ENGLISH, "--name", "june")
    assert added.exit_code == 0
    assert "voices/june.nano.index.safetensors: deleted" in added.output
    kept = sorted(path.name for path in (home / "voices").iterdir())
    assert kept == ["carlo.nano.index.safetensors", "june.flac"]


def test_a_device_for_an_index_that_is_not_there() -> None:
    result = run("index", "june", "--device", "cuda:9")
    assert result.exit_code == 1
    assert result.output.startswith("fast-vc: ")
    assert "cuda:9 is not there" in result.output
