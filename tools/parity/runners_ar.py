"""How to run the AR model of Seed-VC V2 on its fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from tools.parity.fixture import Comparison, Fixture
from tools.parity.runners_v2 import beside, exact
from worker.models.seedvc2 import ar, regulator, sampling


def run_ar(fixture: Fixture) -> Iterator[Comparison]:
    """Prefills in one batch of unequal lengths, then each item's tokens with its own sampling and noise."""
    if "in_logits_sampler" in fixture.arrays:
        if fixture.has("in_settings_sampler", "in_previous_sampler", "out_probs_sampler"):
            yield from run_sampler(fixture, ar.BASE.end)
        if not any(name.startswith("in_narrow_") for name in fixture.arrays):
            return
    model: ar.ArModel = fixture.network()
    embed = cast(regulator.CodeEmbedding, beside(fixture, "regulator_ar_v2"))
    items = fixture.whole(fixture.suffixes("in_narrow_"), "in_prompt")
    if not items:
        return
    conditions = [embed(fixture.tensor(f"in_narrow_{item}"))[0] for item in items]
    prompts = [fixture.tensor(f"in_prompt_{item}")[0] for item in items]
    first, _ = model.prefill(conditions, prompts, room=1)
    for row, item in enumerate(items):
        expected = fixture.optional(f"out_prefill_{item}")
        if expected is not None:
            yield fixture.compare(f"prefill_{item}", first[row], expected)
        if not fixture.has(f"out_tokens_{item}"):
            continue
        recorded = fixture.tensor(f"out_tokens_{item}")
        every, gap = fixture.optional(f"out_logits_{item}"), fixture.optional(f"out_gap_{item}")
        if every is not None or gap is not None:
            logits = forced(model, conditions[row], prompts[row], recorded)
            if every is not None:
                yield fixture.compare(f"logits_{item}", logits[: len(every)], every)
            if gap is not None:  # the end token has one, but is not among the tokens
                best, second = logits[: len(gap)].topk(2, dim=-1).values.unbind(-1)
                yield fixture.compare(f"gap_{item}", best - second, gap)
        if fixture.dtype != torch.float32 or not fixture.has(f"in_sampling_{item}", f"in_steps_{item}"):
            continue  # one token that falls otherwise changes all that follow
        temperature, top_p, penalty = fixture.tensor(f"in_sampling_{item}").tolist()
        noise = fixture.optional(f"in_noise_{item}")
        steps = int(fixture.tensor(f"in_steps_{item}"))
        (tokens,) = sampling.generate(
            model,
            [conditions[row]],
            [prompts[row]],
            sampling.Sampling(top_p, temperature, penalty),
            lambda step, rows, vocabulary, noise=noise: None if noise is None else noise[step].expand(len(rows), -1),
            steps,
        )
        yield exact(fixture, f"tokens_{item}", tokens, recorded)


def run_sampler(fixture: Fixture, end: int) -> Iterator[Comparison]:
    settings = fixture.tensor("in_settings_sampler").tolist()
    ours = [
        sampling.probabilities(
            logits[None],
            previous[None],
            sampling.Sampling(top_p, temperature, penalty),
            end=end,
            suppress_end=suppressed > 0,
        )[0]
        for logits, previous, (temperature, top_p, penalty, suppressed) in zip(
            fixture.tensor("in_logits_sampler"), fixture.tensor("in_previous_sampler"), settings, strict=True
        )
    ]
    yield from fixture.compare_rows("probs_sampler", torch.stack(ours), fixture.tensor("out_probs_sampler"))


def forced(model: ar.ArModel, condition: Tensor, prompt: Tensor, tokens: Tensor) -> Tensor:
    """Logits at every step when the tokens are given, and those that follow them."""
    logits, cache = model.prefill([condition], [prompt], room=len(tokens))
    steps = [logits]
    for token in tokens:
        steps.append(model.step(token[None], cache))
    return torch.cat(steps)
