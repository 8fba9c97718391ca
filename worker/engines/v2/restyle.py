"""The style path: what the source says, spoken anew as the reference speaks.

Narrow codes without their durations go through the next-token model, which answers in wide codes of the reference's
rhythm and accent. A source is spoken in pieces; the pieces are joined as codes, before any sound is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from loguru import logger
from torch import Tensor

from worker.engine import session_seed
from worker.engines.v2.pipeline import Codes, V2Pipeline
from worker.models.seedvc2.sampling import MAX_TOKENS, Sampling, generate, most_tokens

CONDITION_CODES = 1500  # narrow codes of reference and piece together


@dataclass(frozen=True, slots=True)
class Speech:
    """One source to speak anew. seed: of its draws, so that a source sounds the same whatever its batch."""

    codes: Codes
    seed: str


def speak(
    pipeline: V2Pipeline, reference: Codes | None, speeches: Sequence[Speech], sampling: Sampling, batch: int
) -> list[list[Tensor]]:
    """Wide codes of each piece of each source, int64 ``[g]``; ``batch`` pieces a call.

    reference: None for nobody's style.
    """
    networks = pipeline.v2.ar
    assert networks is not None
    device = pipeline.device
    said = torch.zeros(0, dtype=torch.int64, device=device) if reference is None else reference.spoken
    prompt = torch.zeros(0, dtype=torch.int64, device=device) if reference is None else reference.wide
    size = CONDITION_CODES - len(said)
    pieces = [
        (number, order, piece)
        for number, speech in enumerate(speeches)
        for order, piece in enumerate(speech.codes.spoken.split(size))
    ]
    spoken: list[list[Tensor]] = [[] for _ in speeches]
    for begin in range(0, len(pieces), batch):
        some = pieces[begin : begin + batch]
        race = _Race([f"{speeches[number].seed}/{order}" for number, order, _ in some], device)
        conditions = [networks.embedding(torch.cat([said, piece])) for _, _, piece in some]
        answers = generate(networks.ar, conditions, [prompt] * len(some), sampling, race, MAX_TOKENS)
        for (number, order, piece), answer in zip(some, answers, strict=True):
            if len(answer) == most_tokens(len(said) + len(piece), len(prompt), MAX_TOKENS):
                logger.warning("{}: piece {} was cut off after {} codes", speeches[number].seed, order, len(answer))
            spoken[number].append(answer)
    return spoken


class _Race:
    """Exp(1) numbers, each sequence from a generator of its own."""

    def __init__(self, seeds: Sequence[str], device: torch.device) -> None:
        self._generators = [torch.Generator().manual_seed(session_seed(seed)) for seed in seeds]
        self._device = device

    def __call__(self, step: int, rows: Tensor, vocabulary: int) -> Tensor:
        numbers = [torch.empty(vocabulary).exponential_(generator=self._generators[row]) for row in rows.tolist()]
        return torch.stack(numbers).to(self._device)
