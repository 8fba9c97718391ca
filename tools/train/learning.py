"""One step of training all parts at once.

    source, in another voice, another room -> content -> decoder (style and memory of a prompt) -> mel

The content says what the teacher says of the clean words, averaged over voices; the mel is the target's. Then the same
content in somebody else's voice: there is no recording of that, but the teacher must hear the same words in it, the
style encoder the other voice, and the critic a person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.train import sound
from tools.train.annotated import Annotated, Autocast
from tools.train.critic import Critic, critic_loss, fooling_loss, likeness_loss
from tools.train.sampling import Rows, Shape
from tools.train.sound import between, chance, rms
from tools.train.teacher import Teacher
from worker.models.nano.blocks import MEL_SCALE
from worker.models.nano.content import SAMPLES_A_FRAME, loudness
from worker.models.nano.model import NanoNetworks
from worker.models.nano.style import NanoStyle
from worker.models.published.mel import NANO, MelSpectrogram
from worker.pitch import HOP as F0_HOP

FORMANTS, FORMANTS_HEARD = (0.8, 1.25), (0.88, 1.14)  # factors
PITCH_OCTAVES = 0.87  # by which another voice's pitch may differ
PITCH_HZ = (75.0, 420.0)
HIGHEST_HZ = 620.0
OTHER_VOICE, WARPED = 0.5, 0.4  # shares of rows
UNSURE, MOST_UNSURE = 0.5, 0.35  # share of rows whose content gets noise, its largest deviation
PAUSES, SILENT = 0.18, 0.04
NOTHING_BELOW = 0.06  # of the sound's level: below it nobody is asked what is said
LAST, LAST_WEIGHT = 4, 0.3  # frames at the end of a window, which hear little of what follows
START_AT = {"mix.weight": 0.3, "mix.bias": 0.0, "out.weight": 0.5, "down.weight": 0.5}  # times what they would be
TEMPERATURE, NEAR_SPEED = 0.08, 0.15
WEIGHTS = {"content": 1.0, "mel": 2.0, "style": 0.15}
SWAP_WEIGHTS = {"words": 0.8, "voice": 0.8, "texture": 0.5}
FOOL_WEIGHTS = {"fooling": 0.15, "likeness": 0.6}


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that differs from batch to batch of one shape. Tensors alone: a graph is captured over them."""

    target: Tensor  # int64 [B], as in ``Rows``
    source: Tensor
    prompt: Tensor
    speed: Tensor  # [B]
    speaker: Tensor  # int64 [B]
    other: Tensor  # int64 [swapped]
    first: Tensor  # int64 []
    swap: Tensor  # [], 0 to 1: how much what others say counts
    fool: Tensor  # [], 0 to 1: how much the critic's word counts

    @classmethod
    def of(cls, rows: Rows, swap: float, fool: float, device: torch.device) -> Inputs:
        parts = (rows.target, rows.source, rows.prompt, rows.speed, rows.speaker, rows.other, rows.first)
        shares = (torch.tensor(share, device=device) for share in (swap, fool))
        return cls(*(torch.from_numpy(part).to(device) for part in parts), *shares)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch as the networks get it."""

    heard: Tensor  # [B, 80, 2 N], base-10 log-mel with its context
    loud: Tensor  # [B, N]
    asked: Tensor  # [B, N], 0 where there is nothing to hear
    said: Tensor  # [B, N, features], the teacher's word
    clean: Tensor  # [B, n], the target
    mel: Tensor  # [B, 80, M], of it
    f0: Tensor  # [B, 2 N]
    usual_hz: Tensor  # [B]
    prompt: Tensor  # [B, p]
    prompt_f0: Tensor


class Learner:
    def __init__(
        self, networks: NanoNetworks, critic: Critic, teacher: Teacher, corpus: Annotated, autocast: Autocast
    ) -> None:
        self.networks, self.critic, self.teacher, self.corpus = networks, critic, teacher, corpus
        self.autocast, self.device = autocast, corpus.device
        self.mel = MelSpectrogram(NANO).to(self.device)
        self._centres = sound.centres_hz().to(self.device)
        self.read = sound.Reader(corpus.audio)

    def listen(self, wave: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.networks.content.listen(wave)

    def hear(self, networks: NanoNetworks, wave: Tensor) -> Tensor:
        """Content ``[B, N, output]`` of clean sound."""
        log_mel = self.listen(wave)
        with self.autocast():
            features = networks.content.features(log_mel)
        return torch.cat([features.float(), loudness(log_mel)[..., None]], dim=-1)

    def voice(self, networks: NanoNetworks, wave: Tensor, f0: Tensor) -> tuple[Tensor, Tensor]:
        """Style and memory of prompts ``[B, p]``."""
        mel, content = self.mel(wave), self.hear(networks, wave)
        with torch.autocast(self.device.type, enabled=False):
            style: Tensor = networks.style(wave)
        with self.autocast():
            condition = networks.regulator(content, mel.shape[-1], f0=f0)
            return style, networks.decoder.remember(mel, condition, style)

    def spoken(self, mel: Tensor, f0: Tensor) -> Tensor:
        """The vocoder's wave."""
        wave: Tensor = self.networks.vocoder(
            mel, at_mel_frames(f0, mel.shape[-1]), torch.randn(len(mel), mel.shape[-1] * NANO.hop, device=self.device)
        )
        return wave

    @torch.no_grad()
    def prepare(self, given: Inputs, shape: Shape) -> Prepared:
        device, count, resampled = self.device, shape.rows, shape.resampled
        target, source, speed = given.target, given.source, given.speed
        samples, context = shape.frames * NANO.hop, shape.context
        whole, early = samples + context, (context * speed.double()).long()
        clean = self.read(target - early, speed, whole, resampled)
        said_by = torch.where((source == target)[:, None], clean, self.read(source - early, speed, whole, resampled))
        f0 = self.corpus.pitch(target - early, speed, whole)
        usual = (f0.sum(1) / (f0 > 0).sum(1).clamp(min=1)).clamp(min=60)
        said_by = torch.where(chance(count, OTHER_VOICE, device)[:, None], self.another(said_by, f0, usual), said_by)
        louder_db = torch.where(
            chance(count, 0.6, device), between(count, -4, 3, device), between(count, -20, 6, device)
        )
        gain = 10 ** (louder_db / 20)[:, None]
        silent = chance(count, SILENT, device)[:, None]
        envelope = gain * torch.where(
            silent, 10 ** (between(count, -75, -38, device)[:, None] / 20), pauses(count, whole, device)
        )
        wave = sound.heard(said_by * envelope, rms(clean).clamp(0.03, 0.1) * gain)
        log_mel = self.listen(wave)
        factor = factors(count, FORMANTS_HEARD, device)
        warped = sound.stretched(log_mel, factor, self._centres)
        clean = clean * envelope
        prompt = shape.prompt_frames * NANO.hop
        reference = self.read(given.prompt, speed, prompt, resampled)
        level_db = torch.where(chance(count, 0.5, device), between(count, -9, 6, device), between(count, -2, 2, device))
        reference = reference * 10 ** (level_db / 20)[:, None]
        coloured = sound.recorded(reference, colour_db=1.5, room=0.1, band=0.05)
        present = envelope[:, context:].unfold(1, SAMPLES_A_FRAME, SAMPLES_A_FRAME).amax(-1) >= NOTHING_BELOW
        return Prepared(
            heard=torch.where(chance(count, WARPED, device)[:, None, None], warped, log_mel),
            loud=loudness(log_mel)[:, context // SAMPLES_A_FRAME :],
            asked=(present & ~silent).float(),
            said=self.corpus.targets(target, speed, shape.frames),
            clean=clean[:, context:],
            mel=self.mel(clean)[..., context // NANO.hop :],
            f0=torch.where(silent, 0.0, f0[:, context // F0_HOP :]),
            usual_hz=usual,
            prompt=torch.where(chance(count, 0.2, device)[:, None], coloured, reference),
            prompt_f0=self.corpus.pitch(given.prompt, speed, prompt),
        )

    def another(self, wave: Tensor, f0: Tensor, usual: Tensor) -> Tensor:
        """The same said by another voice: copy synthesis with formants and pitch moved apart."""
        count, device = len(wave), self.device
        lowest, highest = (PITCH_HZ[0] / usual).clamp(max=0.95), (PITCH_HZ[1] / usual).clamp(min=1.05)
        ratio = torch.exp2(between(count, -PITCH_OCTAVES, PITCH_OCTAVES, device)).maximum(lowest).minimum(highest)
        factor = factors(count, FORMANTS, device)
        made = self.spoken(sound.stretched(self.mel(wave), factor, self._centres), f0 * ratio[:, None])
        return made * (rms(wave) / rms(made).clamp(min=1e-5)).clamp(max=3)

    def losses(
        self, inputs: Inputs, shape: Shape, *, swap: bool, fool: bool
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The loss, the critic's own (None: it has no say yet), and a report. Nothing here reads a value on the
        host."""
        given, networks = self.prepare(inputs, shape), self.networks
        with self.autocast():
            features = networks.content.features(given.heard, inputs.first)[:, shape.context // SAMPLES_A_FRAME :]
        features = features.float()
        asked = given.asked.clone()
        asked[:, -LAST + 1 :] *= LAST_WEIGHT
        content = ((features - given.said).square().mean(-1) * asked).sum() / asked.sum().clamp(min=1)
        style, memory = self.voice(networks, given.prompt, given.prompt_f0)
        doubt = between(shape.rows, 0, MOST_UNSURE, self.device) * chance(shape.rows, UNSURE, self.device)
        doubted = features + doubt[:, None, None] * torch.randn_like(features)
        mel = self.said(doubted, given.loud, given.f0, style, memory)
        elsewhere = networks.style(sound.recorded(given.clean, colour_db=2.0, room=0.1, band=0.1))
        report = {
            "content": content,
            "mel": mel_loss(mel, given.mel),
            "style": contrast(style, elsewhere, inputs.speaker, inputs.speed),
        }
        total = weighted(report, WEIGHTS)
        style, memory = style.detach(), memory.detach()
        fakes, styles = mel, style
        if swap:
            swapped, parts = self._swapped(given, inputs, features, style, memory)
            total = total + inputs.swap * weighted(parts, SWAP_WEIGHTS)
            fakes, styles, report = torch.cat([mel, swapped]), torch.cat([style, style[inputs.other]]), report | parts
        if not fool:
            return total, None, report
        with self.autocast():
            own = critic_loss(self.critic(given.mel, style), self.critic(fakes.detach(), styles))
            self.critic.requires_grad_(False)
            made = self.critic(fakes, styles)
            with torch.no_grad():
                recorded = self.critic(given.mel, style)
            self.critic.requires_grad_(True)
        parts = {"fooling": fooling_loss(made), "likeness": likeness_loss(recorded, made)}
        total = total + inputs.fool * weighted(parts, FOOL_WEIGHTS)
        return total, own, report | parts | {"critic": own}

    def said(self, features: Tensor, loud: Tensor, f0: Tensor, style: Tensor, memory: Tensor) -> Tensor:
        """The decoder's mel."""
        frames = features.shape[1] * SAMPLES_A_FRAME // NANO.hop
        with self.autocast():
            condition = self.networks.regulator(torch.cat([features, loud[..., None]], dim=-1), frames, f0=f0)
            mel: Tensor = self.networks.decoder(condition, style, memory)
        return mel.float()

    def _swapped(
        self, given: Prepared, inputs: Inputs, features: Tensor, style: Tensor, memory: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mels of the first rows' words in other voices, and how far words and voice are from what they should be."""
        other, count, networks = inputs.other, len(inputs.other), self.networks
        usual = self.corpus.median_hz[inputs.speaker[other]] * inputs.speed[other]
        ratio = torch.where(usual > 0, usual / given.usual_hz[:count], 1.0).clamp(0.3, 3.5)
        f0 = given.f0[:count] * ratio[:, None]
        f0 = torch.where(f0 > HIGHEST_HZ, 0.0, f0)
        mel = self.said(features[:count], given.loud[:count], f0, style[other], memory[other])
        wave = self.spoken(mel, f0)
        with torch.no_grad(), self.autocast():
            meant = self.teacher(self.listen(given.clean[:count]))
        log_mel = self.listen(wave)
        with self.autocast():
            heard = self.teacher(log_mel)
        asked, words = given.asked[:count, :, None], []
        for ours, theirs in zip(heard, meant, strict=True):
            theirs = theirs.float() - theirs.float().mean(1, keepdim=True)
            away = ours.float() - ours.float().mean(1, keepdim=True) - theirs
            words.append((away.square() * asked).mean() / theirs.square().mean().clamp(min=1e-3))
        networks.style.requires_grad_(False)
        voice = 1 - F.cosine_similarity(networks.style(wave), style[other], dim=-1).mean()
        ours = textures(networks.style, wave)
        with torch.no_grad():
            theirs = textures(networks.style, given.prompt)[other]
        networks.style.requires_grad_(True)
        speaking = (asked.mean(1) > 0.5).float()
        texture = ((ours - theirs).abs() * speaking).mean() / theirs.abs().mean()
        return mel, {"words": torch.stack(words).mean(), "voice": voice, "texture": texture}


def weighted(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    return torch.stack([weights[name] * value for name, value in parts.items()]).sum()


def textures(style: NanoStyle, wave: Tensor) -> Tensor:
    """Mean and deviation over time of what the style encoder's blocks say, ``[B, ...]``: a voice's colour, whatever it
    says (after Gatys et al., "Image Style Transfer Using Convolutional Neural Networks", 2016)."""
    x, said = style.start(style.mel(wave).transpose(1, 2)), []
    for block in style.blocks:
        x = block(x)
        said += [x.mean(1), (x.var(1) + 1e-5).sqrt()]
    return torch.cat(said, dim=-1)


def factors(rows: int, bounds: tuple[float, float], device: torch.device) -> Tensor:
    """``[rows]`` between bounds, as often above 1 as below."""
    return torch.exp(between(rows, math.log(bounds[0]), math.log(bounds[1]), device))


def pauses(rows: int, samples: int, device: torch.device) -> Tensor:
    """Gains ``[rows, samples]``: of some rows dips, as between words."""
    deep = between(1, -70, -30, device)
    knots = torch.where(torch.rand(rows, 1, max(3, samples // 4800), device=device) < 0.35, deep, 0.0)
    gains = 10 ** (F.interpolate(knots, size=samples, mode="linear", align_corners=True)[:, 0] / 20)
    return torch.where(chance(rows, PAUSES, device)[:, None], gains, 1.0)


def at_mel_frames(f0: Tensor, frames: int) -> Tensor:
    """f0 ``[B, F]`` at the centres of so many mel frames over the same time."""
    at = (torch.arange(frames, device=f0.device) + 0.5) * f0.shape[1] / frames + 0.5
    return f0[:, at.long().clamp(max=f0.shape[1] - 1)]


def mel_loss(made: Tensor, mel: Tensor) -> Tensor:
    """Absolute, square and frame-to-frame distance of log-mels ``[B, 80, M]``."""
    away = (made - mel) / MEL_SCALE
    weight = torch.ones(mel.shape[-1], device=mel.device)
    weight[-LAST:] = LAST_WEIGHT
    return (away.abs() * weight).mean() + 0.4 * (away.square() * weight).mean() + 0.5 * away.diff(dim=-1).abs().mean()


def contrast(one: Tensor, other: Tensor, speaker: Tensor, speed: Tensor) -> Tensor:
    """Each style is most like that of the same person elsewhere (van den Oord et al., "Contrastive Predictive Coding",
    2018). A speaker read at another speed is somebody else."""
    logits = one @ other.T / TEMPERATURE
    same = (speaker[:, None] == speaker) & ((speed[:, None] / speed).log().abs() < NEAR_SPEED)
    logits = logits.masked_fill(same.fill_diagonal_(False), -1e4)
    at = torch.arange(len(one), device=one.device)
    return 0.5 * (F.cross_entropy(logits, at) + F.cross_entropy(logits.T, at))


def prepare(networks: NanoNetworks) -> None:
    """Start where everything is heard and blocks do little."""
    decoder = networks.decoder
    nn.init.normal_(decoder.style.weight, std=0.02)
    nn.init.zeros_(decoder.style.bias)
    with torch.no_grad():
        decoder.style.weight[: decoder.config.width] *= 8  # styles are of unit length, so of small numbers
        for name, weight in decoder.blocks.named_parameters():
            weight.mul_(START_AT.get(name.partition(".")[2], 1.0))
