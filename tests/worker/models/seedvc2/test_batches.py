"""An item of a V2 batch gets what it gets alone, whatever the lengths of its neighbours."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from worker.models.published.xlsr import XlsrConfig
from worker.models.seedvc2 import ar, astral, dit, flow, hubert, regulator, sampling

LENS = (31, 9, 20)
M = TypeVar("M", bound=nn.Module)


def ready(network: M, seed: int = 0) -> M:
    """With weights that make outputs of ordinary size, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        scale = value[0].numel() ** -0.5 if value.dim() > 1 else 0.2
        value.copy_(torch.randn(value.shape, generator=generator) * scale + (name.endswith("norm.weight")))
    return network.eval().requires_grad_(False)


def close(ours: Tensor, alone: Tensor) -> None:
    torch.testing.assert_close(ours, alone, atol=2e-5, rtol=1e-4)


def lens_of(sizes: tuple[int, ...] = LENS) -> Tensor:
    return torch.tensor(sizes)


def test_hubert() -> None:
    network = ready(hubert.Hubert(XlsrConfig(conv_width=16, width=64, heads=4, inner=128, depth=2)))
    lens = torch.tensor([8000, 3777, 6400])
    wave = torch.randn(3, 8000)
    batch, frames = network(wave, lens), hubert.frame_count(lens)
    for row, (samples, count) in enumerate(zip(lens.tolist(), frames.tolist(), strict=True)):
        close(batch[row, :count], network(wave[row : row + 1, :samples])[0])


def test_astral_masks_its_padding() -> None:
    network = ready(astral.Astral(astral.AstralConfig(bits=5, feature_width=24, width=32, inner=96, depth=4)))
    features = torch.randn(3, max(LENS), 24) * 5  # what lies beyond an item's end is not zero
    batch = network.hidden(features, lens_of())
    for row, length in enumerate(LENS):
        close(batch[row, :length], network.hidden(features[row : row + 1, :length])[0])
        assert torch.equal(network(features, lens_of())[row, :length], network(features[row : row + 1, :length])[0])


def test_codes_and_bits() -> None:
    codes = torch.randint(2048, (3, 7))
    assert torch.equal(astral.codes_of(astral.bits_of(codes, 11)), codes)
    assert astral.codes_of(torch.tensor([True, False, False, False, True])).item() == 17
    assert astral.without_runs(torch.tensor([4, 4, 1, 1, 1, 4, 2])).tolist() == [4, 1, 4, 2]
    assert astral.without_runs(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_regulator() -> None:
    network = ready(regulator.CodeRegulator(regulator.CodeRegulatorConfig(codes=32, width=24)))
    codes, targets = torch.randint(32, (3, max(LENS))), torch.tensor([40, 15, 37])
    batch = network(codes, 40, target_lens=targets, code_lens=lens_of())
    for row, (length, target) in enumerate(zip(LENS, targets.tolist(), strict=True)):
        close(batch[row, :target], network(codes[row : row + 1, :length], target)[0])
        assert not batch[row, target:].any()


SMALL_DIT = dit.DiT2Config(mel_bins=8, width=64, depth=2, inner=96, style_width=16)


@pytest.mark.parametrize(
    "rates",
    [flow.Rates(0.7, 0.5), flow.Rates(0, 0.5), flow.Rates(0.7, 0), flow.Rates(0, 0), flow.Rates(anonymous=True)],
)
def test_solver(rates: flow.Rates) -> None:
    network = ready(dit.DiT2(SMALL_DIT))
    solver = flow.FlowSolver2(network, steps=3, rates=rates)
    noise, mu = torch.randn(3, 8, max(LENS)), torch.randn(3, max(LENS), 64)
    prompt, prompt_lens, style = torch.randn(3, 8, 12), (12, 4, 7), torch.randn(3, 16)
    batch = solver(noise, mu, prompt, style, lens_of(), torch.tensor(prompt_lens))
    for row, (length, room) in enumerate(zip(LENS, prompt_lens, strict=True)):
        one = slice(row, row + 1)
        alone = solver(noise[one, :, :length], mu[one, :length], prompt[one, :, :room], style[one])
        close(batch[row, :, :length], alone[0])
        assert not batch[row, :, length:].any()
        assert not batch[row, :, :room].any()


def test_each_row_has_steps_and_rates_of_its_own() -> None:
    network = ready(dit.DiT2(SMALL_DIT))
    noise, mu = torch.randn(3, 8, 20), torch.randn(3, 20, 64)
    prompt, style = torch.randn(3, 8, 5), torch.randn(3, 16)
    rows = flow.RowOptions2(torch.tensor([4, 1, 2]), torch.tensor([0.7, 0.0, 0.3]), torch.tensor([0.0, 0.5, 1.0]))
    batch = flow.FlowSolver2(network, steps=4, rates=flow.Rates(0.5, 0.5))(noise, mu, prompt, style, rows=rows)
    assert rows.intelligibility is not None
    assert rows.similarity is not None
    for row, steps in enumerate(rows.steps.tolist()):
        one = slice(row, row + 1)
        rates = flow.Rates(float(rows.intelligibility[row]), float(rows.similarity[row]))
        alone = flow.FlowSolver2(network, steps=steps, rates=rates)(noise[one], mu[one], prompt[one], style[one])
        close(batch[one], alone)


def test_a_rate_of_zero_costs_no_evaluation() -> None:
    assert flow.Rates(0.7, 0.7).branches == ("full", "text", "null")
    assert flow.Rates(0.0, 0.7).branches == ("full", "text")
    assert flow.Rates(0.7, 0.0).branches == ("full", "null")
    assert flow.Rates(0.0, 0.0).branches == ("full",)
    assert flow.Rates(0.7, 0.7, anonymous=True).branches == ("text", "null")
    with pytest.raises(ValueError, match="similarity must be 0 or more"):
        flow.Rates(0.7, -0.1)


SMALL_AR = ar.ArConfig(codes=30, width=384, depth=2, heads=6, key_heads=2, inner=128)


def inputs() -> tuple[list[Tensor], list[Tensor]]:
    conditions = [torch.randn(count, SMALL_AR.width) for count in (7, 3, 12)]
    return conditions, [torch.randint(30, (count,)) for count in (5, 0, 2)]


def test_the_cache_equals_reading_everything_anew() -> None:
    model = ready(ar.ArModel(SMALL_AR))
    conditions, prompts = inputs()
    _, cache = model.prefill(conditions, prompts, room=6)
    tokens = torch.randint(30, (3, 6))
    for step in range(5):
        logits = model.step(tokens[:, step], cache)
        for row, (condition, prompt) in enumerate(zip(conditions, prompts, strict=True)):
            whole, _ = model.prefill([condition], [torch.cat([prompt, tokens[row, : step + 1]])], room=1)
            close(logits[row], whole[0])


def test_generation_in_a_batch() -> None:
    model = ready(ar.ArModel(SMALL_AR))
    conditions, prompts = inputs()
    numbers = torch.empty(25, 3, 31).exponential_(generator=torch.Generator().manual_seed(3))
    numbers[12:, 1, 30] = 1e-9  # the second ends early
    settings = sampling.Sampling(top_p=1.0)
    together = sampling.generate(model, conditions, prompts, settings, lambda step, rows, _: numbers[step, rows], 25)
    assert len(together[1]) <= 12 < len(together[0])
    for row in range(3):
        (alone,) = sampling.generate(
            model,
            conditions[row : row + 1],
            prompts[row : row + 1],
            settings,
            lambda step, rows, _, row=row: numbers[step, row][None],  # type: ignore[misc]
            25,
        )
        assert torch.equal(together[row], alone)


def test_generation_stays_within_the_models_places() -> None:
    model = ready(ar.ArModel(SMALL_AR))
    with pytest.raises(ValueError, match="leave no place"):
        sampling.generate(model, [torch.zeros(4095, SMALL_AR.width)], [torch.zeros(0, dtype=torch.int64)],
                          sampling.Sampling(), lambda step, rows, _: None)  # fmt: skip
