"""What is done to sound on the device, a batch at once: reading it faster or slower, other microphones, rooms, noises,
other formants."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.published.mel import hz_to_mel, mel_to_hz

RATE = 16_000
TAPS = 24  # of the interpolation between samples
ROOM_SAMPLES = 8000
LAW_LEVELS = 60  # of a coarse codec


class Reader:
    """Stretches of one long recording."""

    def __init__(self, audio: Tensor) -> None:
        """audio: int16 ``[n]``."""
        self.audio = audio

    def __call__(self, start: Tensor, speed: Tensor, samples: int, resampled: int = 0) -> Tensor:
        """start: int64 ``[B]``. speed: ``[B]``, of reading: pitch and formants rise with it; 1 from row ``resampled``
        on. Float ``[B, samples]``."""
        at = torch.arange(samples, device=self.audio.device)
        plain = self.audio[(start[resampled:, None] + at).clamp(0, len(self.audio) - 1)].float()
        if not resampled:
            return plain / 32768
        return torch.cat([self._between(start[:resampled], speed[:resampled], at), plain]) / 32768

    def _between(self, start: Tensor, speed: Tensor, at: Tensor) -> Tensor:
        place = start.double()[:, None] + at.double() * speed.double()[:, None]
        low = place.floor().long()
        share, cut = (place - low).float(), (1 / speed).clamp(max=1.0)[:, None]
        total, half = torch.zeros_like(share), TAPS // 2
        for tap in range(-half + 1, half + 1):
            away = tap - share
            window = 0.5 + 0.5 * torch.cos(math.pi * (away / half).clamp(-1, 1))
            sample = self.audio[(low + tap).clamp(0, len(self.audio) - 1)].float()
            total = total + cut * torch.sinc(cut * away) * window * sample
        return total


def centres_hz() -> Tensor:
    """Of the 80 mel bins to 8 kHz that both front ends have."""
    low, high = hz_to_mel(0, "slaney"), hz_to_mel(8000, "slaney")
    return torch.from_numpy(mel_to_hz(np.linspace(low, high, 82), "slaney")[1:-1]).float()


def stretched(mel: Tensor, factor: Tensor, centres: Tensor) -> Tensor:
    """``mel [B, 80, T]`` with its frequency axis, so its formants, moved by ``factor [B]``."""
    hz = centres[None] / factor[:, None]
    high = torch.searchsorted(centres, hz.clamp(centres[0] + 1e-3, centres[-1] - 1e-3)).clamp(1, len(centres) - 1)
    low = high - 1
    share = ((hz - centres[low]) / (centres[high] - centres[low])).clamp(0, 1)[..., None].to(mel.dtype)

    def bins(index: Tensor) -> Tensor:
        return mel.gather(1, index[..., None].expand(-1, -1, mel.shape[2]))

    return bins(low) * (1 - share) + bins(high) * share


def between(rows: int, low: float, high: float, device: torch.device) -> Tensor:
    """Uniform ``[rows]``."""
    return torch.empty(rows, device=device).uniform_(low, high)


def chance(rows: int, share: float, device: torch.device) -> Tensor:
    """True for a share of ``[rows]``."""
    return torch.rand(rows, device=device) < share


def rms(wave: Tensor) -> Tensor:
    """``[B, 1]``."""
    return wave.square().mean(1, keepdim=True).sqrt()


def recorded(wave: Tensor, *, colour_db: float = 4.0, room: float = 0.35, band: float = 0.3) -> Tensor:
    """``[B, n]`` through another microphone, some (``room``, ``band``: shares) in a room, some in a narrow band."""
    rows, samples = wave.shape
    device, size = wave.device, 1 << (samples + ROOM_SAMPLES - 1).bit_length()
    hz = torch.linspace(0, RATE / 2, size // 2 + 1, device=device)
    octave = (hz.clamp(min=50) / 50).log2() / math.log2(160)
    knots = colour_db * torch.randn(rows, 1, 9, device=device)
    curve = F.interpolate(knots, size=512, mode="linear", align_corners=True)[:, 0]
    gain_db = curve.gather(1, (octave * 511).long().expand(rows, -1))
    low, high = between(rows, 60, 400, device)[:, None], between(rows, 2800, 7500, device)[:, None]
    cut_low, cut_high = chance(rows, band, device)[:, None], chance(rows, band, device)[:, None]
    gain_db = gain_db - cut_low * 10 * torch.log10(1 + (low / hz.clamp(min=5)) ** 6)
    gain_db = gain_db - cut_high * 10 * torch.log10(1 + (hz / high) ** 14)
    seconds = torch.arange(ROOM_SAMPLES, device=device) / RATE
    decay = torch.exp(-6.9 * seconds / between(rows, 0.08, 0.6, device)[:, None])
    echo = torch.randn(rows, ROOM_SAMPLES, device=device) * decay
    echo[:, :40] = 0
    echo = echo / echo.square().sum(1, keepdim=True).sqrt() * 10 ** (between(rows, -14, 2, device)[:, None] / 20)
    echo = echo * chance(rows, room, device)[:, None]
    echo[:, 0] = 1  # the direct sound
    response = 10 ** (gain_db / 20) * torch.fft.rfft(echo, size)
    out = torch.fft.irfft(torch.fft.rfft(wave, size) * response, size)[:, :samples]
    return out * (rms(wave) / rms(out).clamp(min=1e-6))


def noise(rows: int, samples: int, device: torch.device) -> Tensor:
    """Of any colour, swelling and fading, of unit power: ``[rows, samples]``."""
    size = 1 << (samples - 1).bit_length()
    hz = torch.linspace(0, RATE / 2, size // 2 + 1, device=device)
    knots = torch.randn(rows, 1, 12, device=device)
    colour = torch.exp(0.5 * F.interpolate(knots, size=len(hz), mode="linear", align_corners=True)[:, 0])
    shape = (hz.clamp(min=60) / 500) ** between(rows, -1.3, 0.3, device)[:, None] * colour
    white = torch.fft.rfft(torch.randn(rows, size, device=device))
    out = torch.fft.irfft(white * shape, size)[:, :samples]
    knots = torch.randn(rows, 1, 2 + samples // 3200, device=device)
    swell = F.interpolate(knots, size=samples, mode="linear", align_corners=True)[:, 0]
    out = out * torch.exp(swell * between(rows, 0, 0.8, device)[:, None])
    return out / rms(out).clamp(min=1e-6)


def heard(wave: Tensor, speech: Tensor) -> Tensor:
    """What a cheap microphone hears of ``wave [B, n]``. speech: rms of the speech in it ``[B, 1]``."""
    rows, samples = wave.shape
    device = wave.device
    out = torch.where(chance(rows, 0.8, device)[:, None], recorded(wave), wave)
    below_db = torch.where(chance(rows, 0.5, device), between(rows, 8, 30, device), between(rows, 25, 50, device))
    noisy = chance(rows, 0.75, device)
    out = out + noise(rows, samples, device) * speech * (noisy * 10 ** (-below_db / 20))[:, None]
    others = chance(rows, 0.1, device) * 10 ** (-between(rows, 8, 22, device) / 20)
    out = out + others[:, None] * wave.roll(1, 0)
    peak = out.abs().amax(1, keepdim=True).clamp(min=1e-5)
    law = (out / peak).abs().mul(255).log1p() / math.log(256)
    law = ((law * LAW_LEVELS).round() / LAW_LEVELS * math.log(256)).expm1() / 255 * out.sign() * peak
    out = torch.where(chance(rows, 0.12, device)[:, None], law, out)
    top = peak * between(rows, 0.25, 0.7, device)[:, None]
    return torch.where(chance(rows, 0.06, device)[:, None], out.clamp(-top, top), out)
