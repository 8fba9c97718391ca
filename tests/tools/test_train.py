"""Training from recordings to weights: what is packed comes back, batches are what they should be, and a run of two
steps with small networks, without corpora or teachers."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import tools.train.annotated
import tools.train.running
import tools.train.teacher
from shared.config import ROOT
from tests.support.reduced import reduced_nano
from tools.train import corpus, packing, parallel
from tools.train.__main__ import main
from tools.train.annotated import GRID, Annotated
from tools.train.critic import Critic
from tools.train.making import libopus, streams
from tools.train.packing import Stream
from tools.train.running import START, TEACHER, follow, load
from tools.train.sampling import Sampler, Shape
from tools.train.teacher import pack_tensors, unpack_tensors
from worker.models.nano.model import NanoNetworks
from worker.models.published.mel import NANO

RATE = 16_000
WIDTH = 64


def speech(seconds: float) -> np.ndarray:
    wave, _ = soundfile.read(ROOT / "worker/assets/samples/sample.flac", dtype="int16")
    return np.asarray(wave[: int(seconds * RATE)])


def small() -> NanoNetworks:
    """To be trained."""
    made = reduced_nano(WIDTH)
    for part in made.parts().values():
        part.train().requires_grad_(True)
    return made


def whisper() -> dict[str, torch.Tensor]:
    """Weights nobody trained, with a teacher's names."""
    shapes: dict[str, tuple[int, ...]] = {"conv1/weight": (WIDTH, 80, 3), "conv2/weight": (WIDTH, WIDTH, 3)}
    shapes |= {f"conv{number}/bias": (WIDTH,) for number in (1, 2)}
    shapes |= {f"layer_norm/{part}": (WIDTH,) for part in ("gamma", "beta")}
    for index in range(6):
        for name, rows in (
            ("self_attention/linear_0", 3),
            ("self_attention/linear_1", 1),
            ("ffn/linear_0", 1),
            ("ffn/linear_1", 1),
        ):
            shapes[f"layer_{index}/{name}/weight"], shapes[f"layer_{index}/{name}/bias"] = (
                (rows * WIDTH, WIDTH),
                (rows * WIDTH,),
            )
        for name in ("self_attention", "ffn"):
            shapes |= {f"layer_{index}/{name}/layer_norm/{part}": (WIDTH,) for part in ("gamma", "beta")}
    torch.manual_seed(0)
    return {name: torch.randn(shape) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is sent to another machine: two speakers, and a sentence by two voices. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("packed")
    wave = speech(7)
    given = [
        (Stream("june", "bundled", 0, 0, 0), wave),
        (Stream("somebody", "real", 0, 0, 0), wave[::-1].copy()),
        (Stream("stranger", "stranger", 0, 0, 0), wave[: 5 * RATE]),
        *(
            (Stream(name, "kokoro", 0, 0, 0, 3, "en-us"), wave[: 6 * RATE] // (index + 1))
            for index, name in enumerate("ab")
        ),
    ]
    packing.pack(folder, given, libopus())
    pack_tensors(whisper(), folder / TEACHER)
    return folder


def test_sound_comes_back(packed: Path):
    given, waves = packing.unpack(packed)
    assert [stream.speaker for stream in given] == ["june", "somebody", "stranger", "a", "b"]
    assert [len(wave) for wave in waves] == [7 * RATE, 7 * RATE, 5 * RATE, 6 * RATE, 6 * RATE]
    assert packing.unpack(packed, wanted=lambda stream: stream.sentence == 3)[0] == given[3:]
    before, after = (np.abs(np.fft.rfft(wave.astype(float)))[:6000] for wave in (speech(7), waves[0]))
    assert np.corrcoef(before, after)[0, 1] > 0.95


def test_weights_come_back_nearly(tmp_path: Path):
    tensors = {"big": torch.randn(200, 100), "small": torch.randn(7), "vocoder.big": torch.randn(200, 100)}
    pack_tensors(tensors, tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < 2 * 20_000 * 2
    for name, most in (("big", 0.03), ("small", 1e-3), ("vocoder.big", 1e-3)):
        back = unpack_tensors(tmp_path / "file")[name]
        assert float((back - tensors[name]).norm() / tensors[name].norm()) < most


def test_batches_stay_within_their_streams(packed: Path):
    sound = Annotated(*packing.unpack(packed), torch.device("cpu"))
    shape = Shape(55, 95, 4 * GRID, 64)
    rows = Sampler(sound, 0).rows(shape)
    place = np.searchsorted(sound.starts, rows.target, side="right") - 1
    samples, prompt = shape.frames * NANO.hop, shape.prompt_frames * NANO.hop
    end = (sound.starts + sound.lengths)[place]
    assert (rows.target + samples * rows.speed <= end + GRID).all()
    assert (rows.prompt >= sound.starts[place]).all()
    assert (rows.prompt + prompt * rows.speed <= end + GRID).all()
    apart = (rows.prompt + prompt * rows.speed <= rows.target + GRID) | (
        rows.prompt >= rows.target + samples * rows.speed - GRID
    )
    assert apart.mean() > 0.9  # a short recording has no room for everything
    assert (rows.speed[shape.resampled :] == 1).all()
    theirs = np.searchsorted(sound.starts, rows.source, side="right") - 1
    assert (rows.target - sound.starts[place] == rows.source - sound.starts[theirs]).all()
    said = [sound.streams[index].sentence for index in place]
    assert said == [sound.streams[index].sentence for index in theirs]
    assert (
        set(sound.speaker_of[place])
        == set(rows.speaker)
        == {sound.speakers.index(name) for name in ("june", "somebody", "a", "b")}
    )


@pytest.mark.thorough
def test_a_run_leaves_weights_that_load(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (tools.train.teacher, tools.train.annotated):
        monkeypatch.setattr(module, "WIDTH", WIDTH)
    monkeypatch.setattr(tools.train.teacher, "HEADS", 1)
    monkeypatch.setattr(tools.train.teacher, "INNER", WIDTH)
    monkeypatch.setattr(tools.train.running, "blank", small)
    monkeypatch.setattr(tools.train.running, "Critic", partial(Critic, 4))
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, rows: [cls(55, 60, 4 * GRID, 4)]))
    out = tmp_path / "out"
    run = ["run", "--smoke", "--data", str(packed), "--out", str(out), "--swap-from", "-0.1", "--fool-from", "-0.1"]
    main(run)
    first, second = small(), small()
    load(out, first)
    main([*run, "--resume", str(out)])
    load(out, second)
    for name in ("content", "regulator", "decoder", "style"):
        pairs = zip(first.parts()[name].parameters(), second.parts()[name].parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs), name
    assert not (packed / START).exists()
    pairs = zip(first.vocoder.parameters(), second.vocoder.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_loss_that_is_no_number_leads_nowhere():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    follow(optimizer, (weight * math.nan).sum(), [weight], 1.0)
    assert torch.equal(weight.detach(), torch.ones(3))
    follow(optimizer, weight.sum(), [weight], 1.0)
    assert (weight < 1).all()


def test_recordings_are_levelled_and_their_pauses_shortened():
    tone = 0.3 * np.sin(np.arange(RATE) * 0.3).astype(np.float32)
    wave = corpus.tidy(np.concatenate([tone, np.zeros(3 * RATE, np.float32), tone]))
    assert wave is not None
    assert len(wave) == pytest.approx((2 + 2 * corpus.PAUSE_S) * RATE, abs=320)
    assert float(np.sqrt((wave[4000:12_000] ** 2).mean())) == pytest.approx(corpus.LEVEL, rel=0.05)
    assert corpus.tidy(np.zeros(RATE, np.float32)) is None


def test_long_recordings_are_packed_in_pieces(tmp_path: Path):
    corpus.save(tmp_path, corpus.Speaker("allison_es", "bundled", np.zeros(615 * RATE, np.float32)))
    pieces = list(streams(tmp_path))
    assert [len(wave) // RATE for _, wave in pieces] == [300, 315]
    assert {stream.speaker for stream, _ in pieces} == {"allison"}


def test_parallel_sentences_are_said_by_many_but_those_held_out():
    names = ["af_a", "am_b", "bf_c", "bm_d", "ef_e", "ff_f", "if_g", "im_h"]
    for number in range(9):
        language, text = parallel.sentence(number)
        assert parallel.sentence(number) == (language, text)
        prosody, mixed = parallel.timbres(number, names, language)
        assert mixed[0] == {prosody: 1.0}
        assert len(mixed) == 6
        assert all(sum(shares.values()) == pytest.approx(1) for shares in mixed)
    assert len({parallel.sentence(number)[1] for number in range(40)}) > 30
