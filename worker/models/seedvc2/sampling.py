"""Sampling of the AR model's tokens, in the order in which the published model is used.

    repetition penalty  ->  end suppressed  ->  top-p  ->  temperature  ->  draw

Two habits of the original are kept, because the published defaults were found with them: only the *first* generated
token is penalised, and top-p is taken before the temperature and drops the token that crosses it. Holtzman et al., "The
Curious Case of Neural Text Degeneration" (2019), for top-p; the draw is the exponential race, ``argmax(p / q)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.models.seedvc2.ar import MAX_PLACES, ArModel

SEPARATORS = 2  # in a sequence
MIN_TOKENS = 10
MAX_TOKENS = 4001
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class Sampling:
    """top_p: in 0 .. 1, 0 is greedy. temperature: 0 or more. repetition_penalty: above 0, 1 is none."""

    top_p: float = 0.9
    temperature: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be within 0 and 1, got {self.top_p}")
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"temperature must be within 0 and 100, got {self.temperature}")
        if not 0 < self.repetition_penalty <= 100:
            raise ValueError(f"repetition_penalty must be above 0 and at most 100, got {self.repetition_penalty}")


class Race(Protocol):
    """Where draws get their numbers from."""

    def __call__(self, step: int, rows: Tensor, vocabulary: int) -> Tensor | None:
        """Exp(1) numbers ``[len(rows), vocabulary]`` of sequences ``rows`` at a step; None: greedy."""
        ...


def probabilities(logits: Tensor, first: Tensor | None, sampling: Sampling, *, end: int, suppress_end: bool) -> Tensor:
    """logits: float32 ``[B, vocabulary]``. first: the token each sequence began with, int64 ``[B]``, -1: none yet."""
    logits = logits.clone()
    if first is not None:
        index = first.clamp(min=0)[:, None]
        chosen = logits.gather(1, index)
        penalised = torch.where(chosen < 0, chosen * sampling.repetition_penalty, chosen / sampling.repetition_penalty)
        logits.scatter_(1, index, torch.where(first[:, None] < 0, chosen, penalised))
    if suppress_end:
        logits[:, end] = -torch.inf
    ordered, order = logits.sort(dim=-1, descending=True)
    dropped = ordered.softmax(-1).cumsum(-1) > sampling.top_p
    dropped[:, 0] = False
    logits = logits.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), -torch.inf)
    return (logits / max(sampling.temperature, MIN_TEMPERATURE)).softmax(-1)


def most_tokens(condition: int, prompt: int, most: int) -> int:
    """That a sequence of so many narrow and wide codes can become: fewer where the model's places are used up."""
    return min(most, MAX_PLACES - condition - prompt - SEPARATORS)


@torch.inference_mode()
def generate(
    model: ArModel,
    conditions: list[Tensor],
    prompts: list[Tensor],
    sampling: Sampling,
    race: Race,
    max_tokens: int = MAX_TOKENS,
) -> list[Tensor]:
    """Wide codes for each condition ``[n, D]``, int64 ``[g]`` without the end token.

    A sequence that is done leaves the batch. Each stops at the end token or after ``most_tokens``. Raises
    ``ValueError`` for a sequence that leaves no place for a token.
    """
    end = model.config.end
    sizes = [(len(condition), len(prompt)) for condition, prompt in zip(conditions, prompts, strict=True)]
    most = [most_tokens(*size, max_tokens) for size in sizes]
    longest = max(sum(size) for size in sizes) + SEPARATORS
    if min(most) < 1:
        raise ValueError(f"{longest} codes leave no place for a token among the model's {MAX_PLACES}")
    room = max(sum(size) + SEPARATORS + count for size, count in zip(sizes, most, strict=True)) - longest
    logits, cache = model.prefill(conditions, prompts, room)
    limits = torch.tensor(most, device=logits.device)
    rows = torch.arange(len(conditions), device=logits.device)
    tokens: list[list[Tensor]] = [[] for _ in conditions]
    first: Tensor | None = None
    for step in range(max(most)):
        likely = probabilities(logits, first, sampling, end=end, suppress_end=step < MIN_TOKENS)
        numbers = race(step, rows, likely.shape[1])
        drawn = (likely if numbers is None else likely / numbers).argmax(-1)
        going = drawn != end
        for row, token in zip(rows[going].tolist(), drawn[going], strict=True):
            tokens[row].append(token)
        going &= limits[rows] > step + 1
        if not bool(going.any()):
            break
        first = drawn if first is None else first
        if not bool(going.all()):
            index = going.nonzero()[:, 0]
            rows, drawn, first, cache = rows[index], drawn[index], first[index], cache.rows(index)
        logits = model.step(drawn, cache)
    return [torch.stack(codes) if codes else rows.new_zeros(0) for codes in tokens]
