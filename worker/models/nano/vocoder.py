"""The bundled model's vocoder: a pulse train and noise, each through a filter of its own in the Fourier domain.

    mel, f0 -> filters;   wave = inverse STFT (harmonic filter * STFT(pulses) + noise filter * STFT(noise))

A source-filter model (Wang et al., "Neural Source-Filter Waveform Models", 2019) with the band-limited pulse train of
Stilson & Smith, "Alias-Free Digital Synthesis of Classic Analog Waveforms" (1996). Its pitch is exact, whatever the
filters; the mel itself is the filters' first guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.nano.blocks import MEL_MEAN, MEL_SCALE, ConvBlock
from worker.models.published.mel import NANO, hann, mel_filters

HIGHEST_HZ = 7900.0
HELD_HZ = 150.0  # of the pulse train where there is no voice to hear it
USUAL_HZ = 150.0
WINDOW_GAIN = 19.6  # of a Hann window of 1024: root of the sum of its squares
MAX_LOG_GAIN = 6.0
NOISE_LOG_GAIN = -1.0
DEAD_LOG_GAIN = -8.0  # of bins that no mel filter covers


@dataclass(frozen=True, slots=True)
class NanoVocoderConfig:
    width: int = 192
    inner: int = 512
    depth: int = 6
    kernel: int = 7


class NanoVocoder(nn.Module):
    spread: Tensor
    area: Tensor
    dead: Tensor
    window: Tensor

    def __init__(self, config: NanoVocoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoVocoderConfig()
        self.bins = NANO.n_fft // 2 + 1
        self.input = nn.Linear(NANO.bins + 2, config.width)
        self.blocks = nn.ModuleList(ConvBlock(config.width, config.inner, config.kernel) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.filters = nn.Linear(config.width, 3 * self.bins)
        basis = mel_filters(NANO.rate, NANO.n_fft, NANO.bins, 0.0, NANO.fmax)
        self.register_buffer("spread", basis / (basis.sum(0, keepdim=True) + 1e-8), persistent=False)
        self.register_buffer("area", basis.sum(1).log(), persistent=False)
        self.register_buffer("dead", DEAD_LOG_GAIN * (basis.sum(0) < 1e-6).float(), persistent=False)
        self.register_buffer("window", hann(NANO.n_fft), persistent=False)

    def forward(self, mel: Tensor, f0: Tensor, noise: Tensor) -> Tensor:
        """mel: natural-log mel ``[B, 80, T]`` of ``published.mel.NANO``. f0: Hz ``[B, T]``, 0 where unvoiced.
        noise: standard normal ``[B, 256 T]``. Returns the wave ``[B, 256 T]`` at 16 kHz."""
        frames = mel.transpose(1, 2).float()
        voiced = f0 > 0
        log_f0 = torch.where(voiced, (f0.clamp(min=50) / USUAL_HZ).log(), 0.0)
        x = torch.cat([(frames - MEL_MEAN) / MEL_SCALE, log_f0[..., None], voiced[..., None]], dim=-1)
        x = self.input(x.to(self.input.weight.dtype))
        for block in self.blocks:
            x = block(x)
        pulse_gain, phase, noise_gain = self.filters(self.norm(x)).float().chunk(3, dim=-1)
        guess = (frames - self.area) @ self.spread + self.dead
        magnitude = (guess + pulse_gain).clamp(max=MAX_LOG_GAIN).exp()
        voice = torch.polar(magnitude, phase) * self.analyse(pulses(f0))
        breath = (guess + noise_gain + NOISE_LOG_GAIN).clamp(max=MAX_LOG_GAIN).exp() * self.analyse(noise)
        return self.synthesise(voice + breath)

    def analyse(self, wave: Tensor) -> Tensor:
        """``[B, 256 T]`` to frames ``[B, T, 513]``, frame ``i`` centred on sample ``256 i + 128``."""
        edge = (NANO.n_fft - NANO.hop) // 2
        padded = F.pad(wave.float(), (edge, edge))
        spectrum = torch.stft(padded, NANO.n_fft, NANO.hop, window=self.window, center=False, return_complex=True)
        return spectrum.transpose(1, 2) / WINDOW_GAIN

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """Overlap-add of ``[B, T, 513]`` to ``[B, 256 T]``."""
        pieces = torch.fft.irfft(spectrum, NANO.n_fft) * self.window
        count, edge = spectrum.shape[1], (NANO.n_fft - NANO.hop) // 2
        length = (count - 1) * NANO.hop + NANO.n_fft

        def overlap(x: Tensor) -> Tensor:
            return F.fold(x.transpose(1, 2), (1, length), (1, NANO.n_fft), stride=(1, NANO.hop))[:, 0, 0]

        weight = overlap(self.window.square().expand(1, count, -1))
        return (overlap(pieces) / weight.clamp(min=1e-3))[:, edge : edge + count * NANO.hop]


def pulses(f0: Tensor) -> Tensor:
    """Band-limited pulse train ``[B, 256 T]`` of unit power at f0 in Hz ``[B, T]``, silent where it is 0. The phase is
    0 at the start."""
    length = f0.shape[1] * NANO.hop
    held = torch.where(f0 > 0, f0, HELD_HZ).float()
    hz = F.interpolate(held[:, None], size=length, mode="linear", align_corners=False)[:, 0]
    voicing = F.interpolate((f0 > 0).float()[:, None], size=length, mode="linear", align_corners=False)[:, 0]
    cycles = torch.cumsum(hz.double() / NANO.rate, 1)
    angle = ((cycles - cycles.floor()) * 2 * math.pi).float()
    harmonics = torch.floor(HIGHEST_HZ / hz)
    half = torch.sin(angle / 2)
    peak = half.abs() < 1e-4
    train = torch.sin((harmonics + 0.5) * angle) / (2 * half.masked_fill(peak, 1.0)) - 0.5
    train = torch.where(peak, harmonics, train)
    return train * (2 / harmonics).sqrt() * voicing


def start_from_prototype(network: NanoVocoder, weights: dict[str, Tensor]) -> None:
    """Weights of the earlier vocoder of the same form."""
    names = {"inp": "input", "n": "norm", "o": "filters"}
    taken = {
        f"{ours}.{part}": weights[f"{theirs}.{part}"] for theirs, ours in names.items() for part in ("weight", "bias")
    }
    for index in range(network.config.depth):
        for theirs, ours in {"dw": "mix", "n": "norm", "a": "up", "b": "down"}.items():
            for part in ("weight", "bias"):
                taken[f"blocks.{index}.{ours}.{part}"] = weights[f"bl.{index}.{theirs}.{part}"]
        taken[f"blocks.{index}.gain"] = weights[f"bl.{index}.g"]
    network.load_state_dict(taken)
