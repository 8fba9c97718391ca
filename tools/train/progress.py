"""What a run reports on: strangers it never trains on, said by the bundled voices."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.train.annotated import GRID, RATE
from tools.train.learning import Learner
from worker.models.nano.model import NanoNetworks
from worker.models.published.mel import NANO

STRETCH = 4 * RATE // GRID * GRID
MOST_STRETCHES = 8  # of a stranger
PROMPT_FRAMES = 187


class Progress(NamedTuple):
    """Means of cosines: content and the teacher's word; what the teacher hears in the source and in the output, and in
    copy synthesis; style of output and target, and of source and target."""

    content: float
    words: float
    copied: float
    voice: float
    before: float


@torch.no_grad()
def measure(learner: Learner, networks: NanoNetworks) -> dict[str, Progress]:
    """By stranger."""
    corpus = learner.corpus
    bundled = {
        corpus.streams[index].speaker: int(corpus.starts[index]) for index in reversed(corpus.of_kind("bundled"))
    }
    starts: dict[str, list[int]] = {}
    for index in corpus.of_kind("stranger"):
        places = range(0, int(corpus.lengths[index]) - STRETCH + 1, STRETCH)
        starts.setdefault(corpus.streams[index].speaker, []).extend(int(corpus.starts[index]) + at for at in places)
    return {
        name: stranger(learner, networks, places[:MOST_STRETCHES], list(bundled.values()))
        for name, places in starts.items()
        if places
    }


def stranger(learner: Learner, networks: NanoNetworks, places: list[int], voices: list[int]) -> Progress:
    corpus, device = learner.corpus, learner.device
    start, speed = torch.tensor(places, device=device), torch.ones(len(places), device=device)
    wave, f0 = learner.read(start, speed, STRETCH), corpus.pitch(start, speed, STRETCH)
    content = learner.hear(networks, wave)
    said = F.cosine_similarity(content[..., :-1], corpus.targets(start, speed, STRETCH // NANO.hop), dim=-1).mean()
    meant = heard(learner, wave)
    copied = words(heard(learner, learner.spoken(learner.mel(wave), f0)), meant)
    usual = f0[f0 > 0].median() if bool((f0 > 0).any()) else f0.new_tensor(150.0)
    rows: list[Tensor] = []
    for place in voices:
        at, one = torch.tensor([place], device=device), speed[:1]
        reference_f0 = corpus.pitch(at, one, PROMPT_FRAMES * NANO.hop)
        style, memory = learner.voice(networks, learner.read(at, one, PROMPT_FRAMES * NANO.hop), reference_f0)
        moved = f0 * reference_f0[reference_f0 > 0].median() / usual
        with learner.autocast():
            condition = networks.regulator(content, STRETCH // NANO.hop, f0=moved)
            mel = networks.decoder(condition, style.expand(len(wave), -1), memory.expand(len(wave), -1, -1, -1, -1))
        output = learner.spoken(mel.float(), moved)
        voice, before = (F.cosine_similarity(networks.style(x), style, dim=-1).mean() for x in (output, wave))
        rows.append(torch.stack([words(heard(learner, output), meant), voice, before]))
    kept, voice, before = torch.stack(rows).mean(dim=0)
    return Progress(*(round(float(value), 3) for value in (said, kept, copied, voice, before)))


def heard(learner: Learner, wave: Tensor) -> Tensor:
    """The teacher's last layer, the stretch's mean taken off."""
    log_mel = learner.listen(wave)
    with learner.autocast():
        last = learner.teacher(log_mel)[-1].float()
    return last - last.mean(1, keepdim=True)


def words(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(one, other, dim=-1).mean()
