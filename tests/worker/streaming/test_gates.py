"""The speech gates: silero in rows of any phase equals silero alone, frame by frame; speech opens, silence closes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import silero_vad
import soundfile
import torch

from shared.config import ROOT
from worker.models.published.silero import CONTEXT, FRAME, SileroVad
from worker.streaming.gates import EnergyGate, SileroGate

SAMPLE = ROOT / "worker/assets/samples/sample.flac"


def speech() -> torch.Tensor:
    wave, rate = soundfile.read(SAMPLE, dtype="float32")
    assert rate == 16_000
    return torch.from_numpy(wave[: 5 * 16_000])


def published() -> tuple[Any, SileroVad]:
    """The TorchScript model of the silero-vad package, and ours with its weights (the safetensors file beside it is
    of another release)."""
    model = silero_vad.load_silero_vad()
    model.reset_states()
    names = {"stft_conv.weight": "stft.forward_basis_buffer"}
    for part in ("weight", "bias"):
        names[f"final_conv.{part}"] = f"decoder.decoder.2.{part}"
        names |= {f"conv{number + 1}.{part}": f"encoder.{number}.reparam_conv.{part}" for number in range(4)}
        names |= {f"lstm_cell.{part}_{end}": f"decoder.rnn.{part}_{end}" for end in ("ih", "hh")}
    weights = model.state_dict()
    ours = SileroVad()
    ours.load_state_dict({name: weights[f"_model.{theirs}"] for name, theirs in names.items()})
    return model, ours.eval().requires_grad_(False)


def frame_by_frame(vad: SileroVad, wave: torch.Tensor) -> list[float]:
    """Probabilities of one frame after the other."""
    state = (torch.zeros(1, 128), torch.zeros(1, 128))
    said = []
    with torch.inference_mode():
        for frame in torch.nn.functional.pad(wave, (CONTEXT, 0)).unfold(0, CONTEXT + FRAME, FRAME):
            probability, state = vad(vad.features(frame[None]), state)
            said.append(float(probability))
    return said


def test_it_says_what_the_published_model_says() -> None:
    wave = speech()
    model, ours = published()
    expected = [float(model(frame, 16_000).detach()) for frame in wave.unfold(0, FRAME, FRAME)]
    np.testing.assert_allclose(frame_by_frame(ours, wave)[: len(expected)], expected, atol=1e-4)
    assert max(expected) > 0.9
    assert min(expected) < 0.1


@cache
def speech_and_pause() -> tuple[torch.Tensor, list[float]]:
    """And what the detector says of it, frame by frame."""
    wave = speech()
    wave[24_000:56_000] = 0.0
    return wave, frame_by_frame(SileroVad.bundled(), wave)


@pytest.mark.parametrize("block", [2560, 3200, 8000, 320])
def test_rows_of_any_phase_hear_what_they_hear_alone(block: int) -> None:
    wave, expected = speech_and_pause()

    def run(slots: Sequence[int], late: int) -> list[bool]:
        """Decisions of slot 1; with company, the others are ``late`` blocks behind it and hear something else."""
        gate = SileroGate(4, hangover_blocks=0, on=0.5, off=0.5)
        gate.open(1)
        gate.hear([1], wave[None, 8_000:16_100])  # of a session before, which is forgotten
        gate.open(1)
        said = []
        for number, newest in enumerate(wave.unfold(0, block, block)):
            here = [1, *(slot for slot in slots if number >= late)]
            others = [newest.flip(0) * slot / 4 for slot in here[1:]]
            said.append(bool(gate.hear(here, torch.stack([newest, *others]))[0]))
        return said

    alone, together = run([], 0), run([0, 2, 3], 3)
    frames_by = [(number + 1) * block // FRAME for number in range(len(alone))]
    wanted = [
        max(expected[before:after], default=0.0) >= 0.5
        for before, after in zip([0, *frames_by[:-1]], frames_by, strict=True)
    ]
    assert alone == wanted
    assert together == wanted
    assert any(wanted)
    assert not all(wanted)


def test_silence_noise_and_speech() -> None:
    gate = SileroGate(3, hangover_blocks=1)
    noise = torch.randn(40_000, generator=torch.Generator().manual_seed(0)) * 0.003
    for slot in range(3):
        gate.open(slot)
    rows = torch.stack([torch.zeros(40_000), noise, speech()[:40_000]])
    said = [gate.hear([0, 1, 2], rows[:, at : at + 8000]).tolist() for at in range(0, 40_000, 8000)]
    assert not any(first or second for first, second, _ in said)
    assert sum(third for *_, third in said) >= 4


@pytest.mark.parametrize("make", [lambda: EnergyGate(1, hangover_blocks=2), lambda: SileroGate(1, hangover_blocks=2)])
def test_the_gate_stays_open_for_the_hangover_and_a_reopened_row_remembers(make: Any) -> None:
    gate, wave = make(), speech()[8000:24_000]
    gate.open(0)
    assert gate.hear([0], wave[None, :8000])[0]
    after = [bool(gate.hear([0], torch.zeros(1, 8000))[0]) for _ in range(5)]
    assert after[:2] == [True, True]
    assert not after[-1]
    gate.open(0)
    assert not gate.hear([0], torch.zeros(1, 8000))[0]
    gate.open(0, wave)
    assert gate.hear([0], torch.zeros(1, 8000))[0]


def test_wrong_thresholds_are_named() -> None:
    with pytest.raises(ValueError, match=r"on 0\.3, off 0\.5"):
        SileroGate(1, on=0.3, off=0.5)
    with pytest.raises(ValueError, match="hangover_blocks"):
        EnergyGate(1, hangover_blocks=-1)


def heard(gate: SileroGate, wave: torch.Tensor, block: int = 8000) -> list[bool]:
    gate.open(0)
    return [bool(gate.hear([0], newest[None])[0]) for newest in wave.unfold(0, block, block)]


def sung() -> torch.Tensor:
    wave, _ = soundfile.read(ROOT / "tests/data/sung.flac", dtype="float32")
    return torch.from_numpy(wave)


def test_the_detector_alone_does_not_hear_a_sung_line() -> None:
    """Why the gate asks for more: held vowels are nothing that it has learnt."""
    assert max(frame_by_frame(SileroVad.bundled(), sung())) < 0.5


@pytest.mark.parametrize("block", [3200, 8000])
@pytest.mark.parametrize("gain_db", [0, -10, 10])
def test_a_sung_line_is_not_gated_away(block: int, gain_db: int) -> None:
    said = heard(SileroGate(1, hangover_blocks=0), (sung() * 10 ** (gain_db / 20)).clamp(-1, 1), block)
    assert sum(said) >= 0.9 * len(said)


def test_a_voice_opens_the_gate_by_its_level_and_keeps_it_open_lower() -> None:
    loud, soft = sung(), sung() * 10 ** (-15 / 20)
    assert not all(heard(SileroGate(1, hangover_blocks=0), soft))
    assert not any(heard(SileroGate(1, hangover_blocks=0), sung() * 10 ** (-40 / 20)))
    assert all(heard(SileroGate(1, hangover_blocks=1), torch.cat([loud[:8000], soft])))


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "hum", "breath"])
@pytest.mark.parametrize("level_db", [-50, -30])
def test_loud_noise_is_noise(kind: str, level_db: int) -> None:
    generator = torch.Generator().manual_seed(4)
    spectrum = torch.fft.rfft(torch.randn(48_000, generator=generator))
    hz = torch.arange(len(spectrum)) / 3 + 1
    slopes = {"white": hz**0, "pink": hz**-0.5, "brown": hz**-1, "breath": (hz / 800) / (1 + (hz / 800) ** 2)}
    if kind == "hum":
        time = torch.arange(48_000) / 16_000
        wave = sum(torch.sin(2 * torch.pi * 50 * k * time) / k for k in range(1, 8))
    else:
        wave = torch.fft.irfft(spectrum * slopes[kind])
    assert isinstance(wave, torch.Tensor)
    assert not any(heard(SileroGate(1, hangover_blocks=0), wave / wave.std() * 10 ** (level_db / 20)))
