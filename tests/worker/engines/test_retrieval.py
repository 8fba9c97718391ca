"""Indexes of content features: what is kept of recordings, and what looking up does to a caller's features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from shared.config import ROOT, WorkerConfig, load
from tests.worker.engines.test_shift import read_pcm
from tools.service.cli import main as fast_vc
from worker.engine import OptionLimits, SessionOptions
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.retrieval import (
    Index,
    IndexBank,
    fingerprint,
    indexes_of,
    load_index,
    make_index,
    means,
    save_index,
)
from worker.factory import make_engine
from worker.models.nano.networks import load_bundled
from worker.recordings import Recording
from worker.streaming.pool import StreamPool
from worker.voices import Voice, VoiceError, index_file

JUNE = ROOT / "worker/assets/voices/june.flac"


def bank_of(*sizes: int, width: int = 6) -> tuple[IndexBank, list[torch.Tensor]]:
    features = [torch.rand(size, width, generator=torch.Generator().manual_seed(size)) for size in sizes]
    indexes = {f"v{number}": Index(one.half(), "") for number, one in enumerate(features)}
    return IndexBank(indexes, torch.device("cpu"), torch.float32), [one.half().float() for one in features]


def test_features_are_drawn_to_their_nearest_neighbours() -> None:
    bank, features = bank_of(30, 7)
    content = torch.rand(11, 5, 6, generator=torch.Generator().manual_seed(0))  # more rows than are searched at once
    rows = torch.tensor([0, 1] * 5 + [1])
    rate = torch.linspace(0, 1, 11)
    mixed = bank.mix(content, rows, rate)
    for row in range(11):
        known = features[rows[row]]
        cosines = torch.nn.functional.normalize(content[row], dim=1) @ torch.nn.functional.normalize(known, dim=1).T
        near = known[cosines.topk(4, dim=1).indices].mean(1)
        torch.testing.assert_close(mixed[row], content[row] + rate[row] * (near - content[row]), atol=1e-5, rtol=1e-5)
    assert torch.equal(mixed[0], content[0])


def test_much_speech_is_drawn_together() -> None:
    centres = torch.eye(8) * 10
    features = centres[torch.arange(800) % 8] + 0.1 * torch.randn(800, 8, generator=torch.Generator().manual_seed(1))
    made = means(features, 32)
    assert made.shape == (32, 8)
    assert torch.cdist(features, made).amin(1).mean() < 0.35


def test_silence_is_not_kept_and_too_little_is_refused(tmp_path: Path) -> None:
    wave, rate = soundfile.read(JUNE, dtype="float32")
    soundfile.write(tmp_path / "a.wav", wave[: 3 * rate], rate)
    soundfile.write(tmp_path / "b.wav", np.concatenate([np.zeros(5 * rate, np.float32), wave[: 3 * rate]]), rate)
    soundfile.write(tmp_path / "c.wav", wave[: rate // 2], rate)
    encoder = load_bundled().content
    plain, padded = (make_index(encoder, [Recording(tmp_path / name)]) for name in ("a.wav", "b.wav"))
    assert 100 < len(plain.features) <= 150
    assert abs(len(padded.features) - len(plain.features)) < 8
    assert plain.encoder == padded.encoder
    with pytest.raises(VoiceError, match="a second of speech"):
        make_index(encoder, [Recording(tmp_path / "c.wav")])


def test_a_session_asks_for_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command to the sound: made, found, offered as an option, and heard."""
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(fast_vc, ["voices", "index", "june", str(JUNE)])
    assert made.exit_code == 0, made.output
    path = index_file(None, "june", "nano")
    assert path.is_file()
    assert "features" in made.output
    config = load(environ={}).worker.model_copy(update={"max_sessions": 4, "steps": 1, "max_prompt_s": 1.5})
    engine = make_engine(config, "cpu")
    assert isinstance(engine, DiffusionEngine)
    assert engine.limits.max_retrieval == 1.0
    assert engine.limits.check({"retrieval_rate": 0.5}).retrieval_rate == 0.5
    sessions = [("june", None), ("june", 0.0), ("june", 1.0), ("carlo", 1.0)]  # carlo has no index
    outs = spoken(engine, sessions)
    assert np.array_equal(outs[0], outs[1])
    assert np.abs(outs[2] - outs[1]).max() > 300
    other = spoken(make_engine(without_index(config, path), "cpu"), [("june", None), ("carlo", None)])
    assert np.abs(outs[1] - other[0]).max() <= 33
    assert np.abs(outs[3] - other[1]).max() <= 33


def without_index(config: WorkerConfig, path: Path) -> WorkerConfig:
    """Made with other weights: left out."""
    save_index(Index(load_index(path).features, "another"), path)
    return config


def test_an_index_of_another_width_is_left_out_though_it_claims_the_weights(tmp_path: Path, log: list[str]) -> None:
    encoder = load_bundled().content
    voices = [Voice(name, name, JUNE) for name in ("june", "carlo")]
    for voice, width in zip(voices, (64, 65), strict=True):
        features = torch.ones(60, width, dtype=torch.float16)
        save_index(Index(features, fingerprint(encoder)), index_file(tmp_path, voice.name, "nano"))
    assert list(indexes_of(tmp_path, voices, "nano", encoder)) == ["carlo"]
    [line] = log
    assert "june.nano.index.safetensors: is no index of a voice (features of 64 numbers where nano makes 65)" in line


def spoken(engine: object, sessions: list[tuple[str, float | None]]) -> list[np.ndarray]:
    assert isinstance(engine, DiffusionEngine)
    pool = StreamPool(engine, 4)
    wave = read_pcm(ROOT / "worker/assets/samples/sample.flac")[16_000:]
    slots = [pool.open(voice, options=SessionOptions(retrieval_rate=rate), seed=3) for voice, rate in sessions]
    size = pool.geometry.block_samples_in
    parts = [pool.step(slots, [wave[i * size :][:size]] * len(slots), steps=1).blocks for i in range(2)]
    return [np.concatenate([part[row].samples for part in parts]).astype(int) for row in range(len(slots))]


def test_without_an_index_there_is_no_such_option() -> None:
    with pytest.raises(ValueError, match=r"options\.retrieval_rate: this model knows steps"):
        OptionLimits(4, 0.0, 0.0).check({"retrieval_rate": 0.5})


def test_what_cannot_be_indexed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["nobody"], "no voice 'nobody'"),
        (["june", "nothing.wav"], "nothing.wav: no such file"),
    ):
        made = CliRunner().invoke(fast_vc, ["voices", "index", *arguments])
        assert made.exit_code == 1
        assert words in made.output
    monkeypatch.setenv("FASTVC_WORKER__MODEL", "v2")
    made = CliRunner().invoke(fast_vc, ["voices", "index", "june"])
    assert "v2 has no features to look up" in made.output
    (tmp_path / "voices").mkdir()
    broken = index_file(None, "june", "nano")
    broken.write_bytes(b"nonsense")
    with pytest.raises(VoiceError, match="is no index"):
        load_index(broken)
    for other in (torch.float8_e4m3fn, torch.int64):  # of numbers that no index is written in
        save_file({"features": torch.zeros(60, 4).to(other)}, broken, metadata={"encoder": "x"})
        with pytest.raises(VoiceError, match="is no index"):
            load_index(broken)
