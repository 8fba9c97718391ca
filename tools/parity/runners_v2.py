"""How to run the networks of Seed-VC V2 on their fixtures; kinds that V1 has as well are in ``runners``, the AR model
is in ``runners_ar``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.parity.fixture import WIDER, Comparison, Fixture, ParityError, filled_network, stack, synthetic_entries
from worker.engines.diffusion.offline import Join
from worker.engines.v2.offline import cut
from worker.models.published import xlsr
from worker.models.seedvc.flow import time_span
from worker.models.seedvc2 import astral, dit, flow, hubert, regulator

# Share of an item's certain codes that may flip at lower precision: twice what was measured on a CPU, at least a frame.
FLIPPED_CODES = {torch.bfloat16: 0.17, torch.float16: 0.05}
HOP = 256
BATCH = ("in_x", "in_prompt_x", "in_x_lens", "in_t", "in_style", "in_mu")
LONG = tuple(
    f"{name}_long"
    for name in ("in_prompt_x", "in_t", "in_style", "in_rows", "in_index", "out_first", "out_last", "out_mean")
)
WINDOW_FRAMES_A_SECOND = 22_050 // HOP


def run_hubert(fixture: Fixture) -> Iterator[Comparison]:
    """Items recorded alone or in batches go through one batch of unequal lengths."""
    network: hubert.Hubert = fixture.network()
    items = fixture.suffixes("in_audio_")
    waves = [fixture.tensor(f"in_audio_{item}") for item in items]
    wave, lens = stack(waves, dim=1)
    own = [fixture.optional(f"in_lens_{item}") for item in items]
    lens = torch.cat(
        [lens.new_full((len(w),), w.shape[1]) if o is None else o for w, o in zip(waves, own, strict=True)]
    )
    ours = network(wave, lens)
    normalised = xlsr.normalise(wave, lens)
    frames = hubert.frame_count(lens)
    row = 0
    for item, recorded in zip(items, waves, strict=True):
        count = len(recorded)
        rows = slice(row, row + count)
        row += count
        expected = fixture.optional(f"out_{item}")
        if expected is not None:
            for i, length in enumerate(frames[rows].tolist()):
                name = item if count == 1 else f"{item}[{i}]"
                yield fixture.compare(name, ours[rows][i, :length], expected[i, :length])
        recorded_lens = fixture.optional(f"out_featlens_{item}")
        if recorded_lens is not None:
            most = int(hubert.frame_count(torch.tensor(recorded.shape[1])))
            yield exact(fixture, f"featlens_{item}", hubert.content_lens(lens[rows], most), recorded_lens)
        head = fixture.optional(f"out_normed_head_{item}")
        if head is not None:
            yield fixture.compare(f"normed_head_{item}", normalised[rows, : head.shape[1]], head)
        stages = {"conv_head": network.convolved, "projected_head": network.projected}
        for name, stage in stages.items():
            expected = fixture.optional(f"out_{name}_{item}")
            if expected is not None:
                yield fixture.compare(f"{name}_{item}", stage(recorded)[:, : expected.shape[1]], expected)


def run_astral(fixture: Fixture) -> Iterator[Comparison]:
    """All items in one batch of unequal lengths. Codes must be equal where the recorded margin leaves no doubt."""
    entries = synthetic_entries(fixture.keys, "quantizer.project_out.")
    out = [entries[f"quantizer.project_out.{name}"].to(fixture.device) for name in ("weight", "bias")]
    bits = out[0].shape[1]

    def quantised(codes: Tensor) -> Tensor:
        signs = astral.bits_of(codes, bits).float() * 2 - 1
        return F.linear(signs / bits**0.5, *out)

    if "in_projected_edge" in fixture.arrays:
        p = fixture.tensor("in_projected_edge")
        u, codes = astral.unit(p), astral.codes_of(p > 0)
        if fixture.has("out_unit_edge"):
            yield fixture.compare("unit_edge", u, fixture.tensor("out_unit_edge"))
        if fixture.has("out_codes_edge"):
            yield exact(fixture, "codes_edge", codes, fixture.tensor("out_codes_edge"))
        if fixture.has("out_quantized_edge"):
            yield fixture.compare("quantized_edge", quantised(codes), fixture.tensor("out_quantized_edge"))
        if not any(name.startswith("in_features_") for name in fixture.arrays):
            return
    network: astral.Astral = fixture.network()
    items = fixture.suffixes("in_features_")
    features, lens = stack([fixture.tensor(f"in_features_{item}") for item in items], dim=1)
    hidden = network.hidden(features, lens)
    projected = network.project(hidden)
    row = 0
    for item in items:
        shape = fixture.tensor(f"in_features_{item}").shape
        rows, length = slice(row, row + shape[0]), shape[1]
        row += shape[0]
        own = hidden[rows, :length].float()
        p = projected[rows, :length]
        u, codes = astral.unit(p), astral.codes_of(p > 0)
        results = {
            "hidden_head": own[:, :8],
            "hidden_mean": own.mean(1),
            "projected": p,
            "unit": u,
            "margin": u.abs().amin(-1),
        }
        for name, ours in results.items():
            expected = fixture.optional(f"out_{name}_{item}")
            if expected is not None:
                if name == "hidden_head":
                    ours = ours[:, : expected.shape[1]]
                yield fixture.compare(f"{name}_{item}", ours, expected)
        recorded, margin = fixture.optional(f"out_codes_{item}"), fixture.optional(f"out_margin_{item}")
        if recorded is None:
            continue
        doubt = 2 * (fixture.tolerance if fixture.dtype == torch.float32 else WIDER["astral"])
        certain = torch.ones_like(recorded, dtype=torch.bool) if margin is None else margin > doubt
        yield exact(fixture, f"codes_{item}", codes[certain], recorded[certain])
        head = fixture.optional(f"out_quantized_head_{item}")
        if head is not None:
            yield fixture.compare(f"quantized_head_{item}", quantised(recorded[:, : head.shape[1]]), head)
        for i, sequence in enumerate(recorded):
            name = f"reduced_{item}" if f"out_reduced_{item}" in fixture.arrays else f"reduced_{item}_{i}"
            reduced = fixture.optional(f"out_{name}")
            if reduced is not None:
                yield exact(fixture, name, astral.without_runs(sequence), reduced)


def run_regulator2(fixture: Fixture) -> Iterator[Comparison]:
    network: regulator.CodeRegulator | regulator.CodeEmbedding = fixture.network()
    for item in fixture.suffixes("in_content_"):
        codes = fixture.tensor(f"in_content_{item}")
        codes = codes[:, 0] if codes.dim() == 3 else codes
        expected = fixture.optional(f"out_{item}")
        if expected is None:
            continue
        if isinstance(network, regulator.CodeEmbedding):
            ours = network(codes)
        elif not fixture.has(f"in_ylens_{item}"):
            continue
        else:
            ours = network(codes, expected.shape[1], target_lens=fixture.tensor(f"in_ylens_{item}"))
        yield from fixture.compare_rows(item, ours, expected)


def run_dit2(fixture: Fixture) -> Iterator[Comparison]:
    if not any(name.startswith("in_x") for name in fixture.arrays):  # the table alone, which any size has
        network = dit.DiT2(dit.DiT2Config(width=64, depth=1, inner=64)).to(fixture.device)
    else:
        network = fixture.network()
    recorded = "out_out" in fixture.arrays or any(name.startswith("out_solo_") for name in fixture.arrays)
    if recorded and fixture.has(*BATCH):
        x, prompt, lens, t, style, mu = map(fixture.tensor, BATCH)
        ours = network(x, prompt, lens, t, style, mu)
        batch = fixture.optional("out_out")
        for row, length in enumerate(lens.tolist()):
            for name, expected in ((f"solo_{row}", fixture.optional(f"out_solo_{row}")), (f"out[{row}]", batch)):
                if expected is not None:
                    alone = expected[0] if name.startswith("solo") else expected[row]
                    yield fixture.compare(name, ours[row, :, :length], alone[:, :length])
    if "in_x_long" in fixture.arrays and fixture.has(*LONG):
        x, prompt, t, style = (fixture.tensor(f"in_{name}_long") for name in ("x", "prompt_x", "t", "style"))
        mu = fixture.tensor("in_rows_long")[fixture.tensor("in_index_long")][None]
        ours = network(x, prompt, None, t, style, mu).float()
        first, last, mean = (fixture.tensor(f"out_{name}_long") for name in ("first", "last", "mean"))
        yield fixture.compare("first_long", ours[..., : first.shape[-1]], first)
        yield fixture.compare("last_long", ours[..., -last.shape[-1] :], last)
        yield fixture.compare("mean_long", ours.mean(-1), mean)
    if "in_positions" in fixture.arrays and fixture.has("out_rotary"):
        yield fixture.compare("rotary", network.rotary[fixture.tensor("in_positions")], fixture.tensor("out_rotary"))


def run_cfm2(fixture: Fixture) -> Iterator[Comparison]:
    """All items recorded with the same steps and rates go through one batched call."""
    network: dit.DiT2 = fixture.network()
    groups: dict[tuple[int, float, float, bool], list[tuple[str, str]]] = defaultdict(list)
    for suffix in fixture.suffixes("out_"):
        if suffix.startswith("times_n"):
            span = time_span(int(suffix.removeprefix("times_n")), "cosine")
            yield fixture.compare(suffix, span, fixture.tensor(f"out_{suffix}"))
            continue
        match = re.fullmatch(r"(.+)_n(\d+)_int([\d.]+)_sim([\d.]+)(_anon)?_cosine", suffix)
        if match is None:
            raise ParityError(f"out_{suffix} does not say item, steps and rates")
        item, steps, a, s, anonymous = match.groups()
        groups[int(steps), float(a), float(s), anonymous is not None].append((item, suffix))
    for (steps, a, s, anonymous), named in groups.items():
        solver = flow.FlowSolver2(network, steps=steps, rates=flow.Rates(a, s, anonymous))
        items = fixture.whole([item for item, _ in named], "in_z", "in_mu", "in_prompt", "in_style")
        if not items:
            continue
        noise, lens = stack([fixture.tensor(f"in_z_{item}") for item in items], dim=2)
        mu, _ = stack([fixture.tensor(f"in_mu_{item}") for item in items], dim=1)
        prompt, prompt_lens = stack([fixture.tensor(f"in_prompt_{item}") for item in items], dim=2)
        style = torch.cat([fixture.tensor(f"in_style_{item}") for item in items])
        ours = solver(noise, mu, prompt, style, lens, prompt_lens)
        row = 0
        for suffix in (suffix for item, suffix in named if item in items):
            expected = fixture.tensor(f"out_{suffix}")
            yield fixture.compare(suffix, ours[row : row + len(expected), :, : expected.shape[-1]], expected)
            row += len(expected)


def run_timbre(fixture: Fixture) -> Iterator[Comparison]:
    """Codes to joined sound, with windows as the original cuts them, all windows in one batch."""
    estimator: dit.DiT2 = fixture.network()
    codes_to_frames = cast(regulator.CodeRegulator, beside(fixture, "regulator_v2"))
    wanted = ("target_mel", "target_codes", "style", "rates", "source_frames", "steps", "context_s", "z")
    for item in fixture.whole(fixture.suffixes("in_source_codes_"), *(f"in_{name}" for name in wanted)):
        prompt, style = fixture.tensor(f"in_target_mel_{item}"), fixture.tensor(f"in_style_{item}")
        a, s = fixture.tensor(f"in_rates_{item}").tolist()
        total, steps = int(fixture.tensor(f"in_source_frames_{item}")), int(fixture.tensor(f"in_steps_{item}"))
        room = prompt.shape[-1]
        condition = codes_to_frames(fixture.tensor(f"in_source_codes_{item}"), total)
        prompt_condition = codes_to_frames(fixture.tensor(f"in_target_codes_{item}"), room)
        width = WINDOW_FRAMES_A_SECOND * int(fixture.tensor(f"in_context_s_{item}")) - room
        windows = cut(total, width)
        mu, lens = stack([torch.cat([prompt_condition, condition[:, b:e]], dim=1) for b, e in windows], dim=1)
        noise = fixture.tensor(f"in_z_{item}")[..., : mu.shape[1]].expand(len(windows), -1, -1)
        solver = flow.FlowSolver2(estimator, steps=steps, rates=flow.Rates(a, s))
        rows = len(windows)
        mel = solver(noise, mu, prompt.expand(rows, -1, -1), style.expand(rows, -1), lens)[..., room:]
        sizes = torch.tensor([e - b for b, e in windows])
        if fixture.has(f"out_chunk_frames_{item}"):
            yield exact(fixture, f"chunk_frames_{item}", sizes, fixture.tensor(f"out_chunk_frames_{item}"))
        join, pieces = Join(total * HOP), []
        for k, (size, (begin, end)) in enumerate(zip(sizes.tolist(), windows, strict=True)):
            own = mel[k, :, :size]
            if fixture.has(f"out_mel_{item}_{k}"):
                yield fixture.compare(f"mel_{item}_{k}", own, fixture.tensor(f"out_mel_{item}_{k}"))
            pieces.append(join.add(begin * HOP, stand_in_vocoder(own).cpu().numpy(), end == total))
        wave = torch.from_numpy(np.concatenate(pieces))
        if fixture.has(f"out_wave_{item}"):
            yield fixture.compare(f"wave_{item}", wave, fixture.tensor(f"out_wave_{item}"))


def stand_in_vocoder(mel: Tensor) -> Tensor:
    """The recording's own: mel ``[80, T]`` to ``[HOP T]``."""
    ramp = 1 + torch.arange(HOP, device=mel.device) / HOP
    return (mel.float().mean(0)[:, None] * ramp).tanh().flatten()


def beside(fixture: Fixture, name: str) -> torch.nn.Module:
    """Another network that a fixture runs, with its synthetic weights."""
    keys = fixture.keys.parent / f"{name}.keys.json"
    if not keys.is_file():
        raise ParityError(f"lacks {keys.name}")
    network = filled_network.__wrapped__(name, keys)
    return network.to(fixture.device, fixture.dtype)


def exact(fixture: Fixture, item: str, ours: Tensor, expected: Tensor) -> Comparison:
    """Whole numbers: the error is the share that differs, and none may in float32."""
    a, b = ours.cpu().flatten(), expected.cpu().flatten()
    if a.shape != b.shape:
        return Comparison(fixture.name, item, 1.0, 0.0, "share")
    share = (a != b).double().mean().item() if a.numel() else 0.0
    computed = item.startswith("codes_") and fixture.dtype != torch.float32
    return Comparison(fixture.name, item, share, FLIPPED_CODES[fixture.dtype] if computed else 0.0, "share")
