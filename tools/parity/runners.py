"""How to run each network on a fixture: one generator of comparisons a kind of network."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from tools.parity import runners_ar, runners_v2
from tools.parity.fixture import Comparison, Fixture, ParityError, stack
from worker.models.published import bigvgan, campplus, fbank, hift, mel, rmvpe, whisper, xlsr
from worker.models.seedvc import dit, flow, regulator
from worker.models.seedvc.wavenet import LAYERS, MARGIN
from worker.models.weights.checkpoints import CheckpointError, first_line

WAVENET_REACH = LAYERS * MARGIN  # frames

Runner = Callable[[Fixture], Iterator[Comparison]]


def run_dit(fixture: Fixture) -> Iterator[Comparison]:
    """The batch against each item alone (``out_solo_b``) and against the original's batch (``out_out``).

    With the WaveNet head the original's batch sees padding at an item's end, ours does not: frames its convolutions
    reach from there are compared with the item alone only.
    """
    network: dit.DiT = fixture.network()
    x, prompt, lens, t, style, mu = (
        fixture.tensor(f"in_{name}") for name in ("x", "prompt_x", "x_lens", "t", "style", "mu")
    )
    ours = network(x, prompt, lens, t, style, mu)
    batch = fixture.optional("out_out")
    for row, length in enumerate(lens.tolist()):
        alone = fixture.optional(f"out_solo_{row}")
        if alone is not None:
            yield fixture.compare(f"solo_{row}", ours[row, :, :length], alone)
        if batch is not None:
            padded = network.config.wavenet and length < x.shape[-1]
            until = max(length - WAVENET_REACH, 0) if padded else length
            if until:
                yield fixture.compare(f"out[{row}]", ours[row, :, :until], batch[row, :, :until])


def run_cfm(fixture: Fixture) -> Iterator[Comparison]:
    """All items recorded with the same steps, guidance and schedule go through one batched call."""
    network: dit.DiT = fixture.network()
    groups: dict[tuple[int, float, str], list[str]] = defaultdict(list)
    for suffix in fixture.suffixes("out_"):
        match = re.fullmatch(r"(.+)_n(\d+)_cfg([\d.]+)_(\w+)", suffix)
        if match is None:
            raise ParityError(f"out_{suffix} does not say item, steps, guidance and schedule")
        item, steps, guidance, schedule = match.groups()
        groups[int(steps), float(guidance), schedule].append(item)
    for (steps, guidance, schedule), named in groups.items():
        items = fixture.whole(named, "in_z", "in_mu", "in_prompt", "in_style")
        if not items:
            continue
        solver = flow.FlowSolver(network, steps=steps, guidance=guidance, schedule=schedule)  # type: ignore[arg-type]
        noise, noise_lens = stack([fixture.tensor(f"in_z_{item}") for item in items], dim=2)
        mu, _ = stack([fixture.tensor(f"in_mu_{item}") for item in items], dim=1)
        prompt, prompt_lens = stack([fixture.tensor(f"in_prompt_{item}") for item in items], dim=2)
        style = torch.cat([fixture.tensor(f"in_style_{item}") for item in items])
        ours = solver(noise, mu, prompt, style, noise_lens, prompt_lens)
        row = 0
        for item in items:
            name = f"{item}_n{steps}_cfg{guidance}_{schedule}"
            expected = fixture.tensor(f"out_{name}")
            yield fixture.compare(name, ours[row : row + len(expected), :, : expected.shape[-1]], expected)
            row += len(expected)


def run_regulator(fixture: Fixture) -> Iterator[Comparison]:
    network: regulator.LengthRegulator = fixture.network()
    for item in fixture.whole(fixture.suffixes("in_content_"), "in_ylens"):
        lens = fixture.tensor(f"in_ylens_{item}")
        f0 = fixture.optional(f"in_f0_{item}")
        expected = fixture.optional(f"out_{item}")
        if expected is not None:
            ours = network(fixture.tensor(f"in_content_{item}"), expected.shape[1], target_lens=lens, f0=f0)
            yield from fixture.compare_rows(item, ours, expected)
        bins = fixture.optional(f"out_outbins_{item}")
        if bins is not None and f0 is not None:
            yield fixture.compare(f"outbins_{item}", regulator.f0_bins(f0), bins)


def run_mel(fixture: Fixture) -> Iterator[Comparison]:
    for size in fixture.suffixes("out_mel_"):
        if size not in ("tiny", "small", "base"):
            raise ParityError(f"out_mel_{size}: known are tiny, small and base")
        config: mel.MelConfig = getattr(mel, size.upper())
        if not fixture.has(f"in_audio_{config.rate // 1000}k"):
            continue
        wave = fixture.tensor(f"in_audio_{config.rate // 1000}k")
        yield from fixture.compare_rows(
            size, mel.MelSpectrogram(config).to(fixture.device)(wave), fixture.tensor(f"out_mel_{size}")
        )


def run_fbank(fixture: Fixture) -> Iterator[Comparison]:
    features = fbank.KaldiFbank().to(fixture.device)
    wave = fixture.tensor("in_audio_16k")
    for name, extract in (("fbank_raw", features), ("fbank", features.centred)):
        expected = fixture.optional(f"out_{name}")
        if expected is not None:
            yield fixture.compare(name, extract(wave), expected)


def run_campplus(fixture: Fixture) -> Iterator[Comparison]:
    network: campplus.CamPlus = fixture.network()
    for item in fixture.suffixes("in_fbank_"):
        features = fixture.tensor(f"in_fbank_{item}").to(fixture.dtype)
        embedding = fixture.optional(f"out_{item}")
        if embedding is not None:
            yield from fixture.compare_rows(item, network(features), embedding)
        head = fixture.optional(f"out_head_{item}")
        if head is not None:
            ours = network.head(features[: len(head)].transpose(1, 2))
            yield fixture.compare(f"head_{item}", ours[..., : head.shape[-1]], head)
        masked = fixture.optional(f"out_masked_{item}")
        if masked is not None and fixture.has(f"in_lens_{item}"):
            yield from fixture.compare_rows(
                f"masked_{item}", network(features, fixture.tensor(f"in_lens_{item}")), masked
            )


def run_hift(fixture: Fixture) -> Iterator[Comparison]:
    network: hift.Hift = fixture.network()
    for item in fixture.whole(fixture.suffixes("in_mel_"), "in_f0"):
        spectrum = fixture.tensor(f"in_mel_{item}")
        f0 = fixture.tensor(f"in_f0_{item}")
        samples = spectrum.shape[-1] * hift.HOP
        phase, noise = fixture.optional(f"in_phase_{item}"), fixture.optional(f"in_noise_{item}")
        if phase is None:
            phase = spectrum.new_zeros(len(spectrum), hift.HARMONICS, 1)
        if noise is None:
            noise = spectrum.new_zeros(len(spectrum), hift.HARMONICS, samples)
        results: dict[str, Callable[[], Tensor]] = {
            "f0pred": partial(network.f0_predictor, spectrum.to(fixture.dtype)),
            "source": partial(network.m_source, f0, phase, noise),
            "wave": partial(network, spectrum, f0=f0, phase=phase, noise=noise),
            "wave_predf0": partial(network, spectrum, phase=phase, noise=noise),
        }
        for name, run in results.items():
            expected = fixture.optional(f"out_{name}_{item}")
            if expected is not None:
                yield from fixture.compare_rows(f"{name}_{item}", run(), expected)


def run_bigvgan(fixture: Fixture) -> Iterator[Comparison]:
    network: bigvgan.BigVgan = fixture.network()
    for item in fixture.suffixes("in_mel_"):
        expected = fixture.optional(f"out_{item}")
        if expected is not None:
            yield from fixture.compare_rows(item, network(fixture.tensor(f"in_mel_{item}")), expected)
    for name in ("filter_up", "filter_down"):
        expected = fixture.optional(f"out_{name}")
        if expected is not None:
            yield fixture.compare(name, bigvgan.kaiser_sinc(), expected)


def run_rmvpe(fixture: Fixture) -> Iterator[Comparison]:
    """Pitch is compared through the decoder on recorded salience, and end to end where no near tie could flip it."""
    network: rmvpe.Rmvpe = fixture.network()
    front = rmvpe.RmvpeMel().to(fixture.device)
    for item in fixture.suffixes("in_audio_"):
        spectrum = front(torch.atleast_2d(fixture.tensor(f"in_audio_{item}")))
        expected = fixture.optional(f"out_mel_{item}")
        if expected is not None:
            yield fixture.compare(f"mel_{item}", spectrum, expected)
        ours = network(spectrum)
        salience = fixture.optional(f"out_salience_{item}")
        pitch = fixture.optional(f"out_f0_{item}")
        if salience is not None:
            yield from fixture.compare_rows(f"salience_{item}", ours, salience.view_as(ours))
            if pitch is not None:
                yield fixture.compare(f"f0_{item}", rmvpe.decode_f0(salience.view_as(ours)), pitch)
        if pitch is not None:
            clear = decided(ours.float() if salience is None else salience.view_as(ours), fixture.tolerance)
            recorded = pitch.view_as(clear)[clear]
            yield fixture.compare(f"f0_whole_{item}", rmvpe.decode_f0(ours)[clear], recorded, relative=True)
    if "in_decode_salience" in fixture.arrays and fixture.has("out_decode_f0"):
        ours = rmvpe.decode_f0(fixture.tensor("in_decode_salience"))
        yield fixture.compare("decode_f0", ours, fixture.tensor("out_decode_f0"))


def decided(salience: Tensor, margin: float) -> Tensor:
    """Frames of ``[B, T, 360]`` whose highest class and whose voicing are clear by ``margin``."""
    best, second = salience.topk(2, dim=-1).values.unbind(-1)
    return (best - second > margin) & ((best - rmvpe.UNVOICED).abs() > margin)


def run_xlsr(fixture: Fixture) -> Iterator[Comparison]:
    network: xlsr.Xlsr = fixture.network()
    items = fixture.suffixes("in_audio_")
    wave, lens = stack([fixture.tensor(f"in_audio_{item}") for item in items], dim=1)
    yield from run_encoder(fixture, items, network(wave, lens))
    normalised = xlsr.normalise(wave, lens)
    row = 0
    for item in items:
        head = fixture.optional(f"out_normed_head_{item}")
        if head is not None:
            yield fixture.compare(f"normed_head_{item}", normalised[row : row + len(head), : head.shape[-1]], head)
        row += len(fixture.tensor(f"in_audio_{item}"))


def run_whisper(fixture: Fixture) -> Iterator[Comparison]:
    network: whisper.WhisperEncoder = fixture.network()
    items = fixture.suffixes("in_audio_")
    wave, lens = stack([fixture.tensor(f"in_audio_{item}") for item in items], dim=1)
    log_mel = whisper.WhisperMel().to(fixture.device)(wave, lens)
    yield from run_encoder(fixture, items, network(log_mel, wave.shape[-1]))
    row = 0
    for item in items:
        head = fixture.optional(f"out_logmel_{item}")
        if head is not None:
            yield fixture.compare(f"logmel_{item}", log_mel[row : row + len(head), :, : head.shape[-1]], head)
        row += len(fixture.tensor(f"in_audio_{item}"))


def run_encoder(fixture: Fixture, items: list[str], ours: Tensor) -> Iterator[Comparison]:
    row = 0
    for item in items:
        rows = len(fixture.tensor(f"in_audio_{item}"))
        expected = fixture.optional(f"out_{item}")
        if expected is not None:
            yield from fixture.compare_rows(item, ours[row : row + rows, : expected.shape[1]], expected)
        row += rows


RUNNERS: Mapping[str, Runner] = {
    "dit": run_dit,
    "cfm": run_cfm,
    "regulator": run_regulator,
    "mel": run_mel,
    "fbank": run_fbank,
    "campplus": run_campplus,
    "hift": run_hift,
    "bigvgan": run_bigvgan,
    "rmvpe": run_rmvpe,
    "xlsr": run_xlsr,
    "whisper": run_whisper,
    "hubert": runners_v2.run_hubert,
    "astral": runners_v2.run_astral,
    "regulator_v2": runners_v2.run_regulator2,
    "regulator_ar_v2": runners_v2.run_regulator2,
    "dit_v2": runners_v2.run_dit2,
    "cfm_v2": runners_v2.run_cfm2,
    "timbre_v2": runners_v2.run_timbre,
    "ar_v2": runners_ar.run_ar,
}


def runner_of(name: str) -> Runner:
    """Of a fixture called ``KIND`` or ``KIND_anything``: the longest kind that fits."""
    kinds = [kind for kind in RUNNERS if name == kind or name.startswith(f"{kind}_")]
    return RUNNERS[max(kinds, key=len)]


def lacks(fixture: Fixture) -> str:
    """What kept items of a fixture from being run; empty if nothing did."""
    return f"lacks {', '.join(fixture.missing)}" if fixture.missing else ""


@torch.inference_mode()
def check(fixture: Fixture) -> list[Comparison]:
    """Run one fixture, without the items that lack an array: `lacks` names it. Raises ``ParityError`` if none is left,
    or one cannot be run."""
    try:
        results = list(runner_of(fixture.name)(fixture))
        if not results:
            raise ParityError(lacks(fixture) or "has no output to compare with")
        return results
    except (CheckpointError, RuntimeError, ValueError, IndexError) as error:
        raise ParityError(first_line(error)) from error
