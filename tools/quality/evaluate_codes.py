"""How much of what V2 settles on in real time is what it hears in thirty seconds at once.

    python -m tools.evaluate_codes talk.wav more.wav --checkpoints checkpoints [--left-ms 2500] [--right-ms 240]

The recordings are put one after another and cut to thirty seconds, which the content encoder and the quantiser hear
once as a whole, and once window by window as a stream does. ``--synthetic KEYS`` takes weights nobody trained, drawn
from the names and shapes in a folder of fixtures. Beside it: the same for the whole's own features, which is what the
quantiser alone loses, and how many codes would change from one window to the next if nothing were settled.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from tools.parity.fixture import synthetic_entries
from worker.engines.diffusion.offline import Recording
from worker.engines.v2.hearing import Heard, hear
from worker.geometry import INPUT_RATE, UNIT_MS, UNIT_SAMPLES, Geometry
from worker.models.seedvc2.astral import ASTRAL_WIDE, Astral
from worker.models.seedvc2.hubert import HUBERT, Hubert
from worker.models.weights import hub
from worker.models.weights.checkpoints import assemble

WHOLE_S = 30


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of settled codes with the whole's, from the first full window on."""

    settled: int
    equal: float  # share
    equal_by_quantiser: float  # share, given the whole's features
    unsettled_change: float  # share of codes that another window would change, 40 frames from either edge


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--checkpoints", default=hub.DEFAULT_FOLDER, type=click.Path(path_type=Path))
@click.option("--synthetic", type=click.Path(path_type=Path), metavar="KEYS", help="A folder with NAME.keys.json.")
@click.option("--block-ms", default=500)
@click.option("--left-ms", default=2500)
@click.option("--right-ms", default=240)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    sources: tuple[Path, ...],
    checkpoints: Path,
    synthetic: Path | None,
    block_ms: int,
    left_ms: int,
    right_ms: int,
    json_path: Path | None,
) -> None:
    """Compare settled codes with those of thirty seconds heard at once."""
    networks = [
        hub.load(network, checkpoints)
        if synthetic is None
        else assemble(network, synthetic_entries(synthetic / f"{network.name}.keys.json"))
        for network in (HUBERT, ASTRAL_WIDE)
    ]
    wave = np.concatenate([piece for source in sources for piece in Recording(source).pieces()])
    wave = wave[: WHOLE_S * INPUT_RATE]
    geometry = Geometry.from_ms(block_ms=block_ms, left_ms=left_ms, right_ms=right_ms)
    result = measure(networks[0], networks[1], torch.from_numpy(wave), geometry)  # type: ignore[arg-type]
    click.echo(
        f"{len(wave) / INPUT_RATE:.1f} s in windows of {geometry.window_units * UNIT_MS} ms, right {right_ms} ms"
    )
    click.echo(f"  {result.equal:.1%} of {result.settled} settled codes equal those of the whole")
    click.echo(f"  {result.equal_by_quantiser:.1%} given its features")
    click.echo(f"  {result.unsettled_change:.1%} would change from window to window if none were settled")
    if json_path is not None:
        json_path.write_text(json.dumps(asdict(result)) + "\n")


@torch.inference_mode()
def measure(hubert: Hubert, wide: Astral, wave: Tensor, geometry: Geometry) -> Agreement:
    """wave: ``[n]`` at 16 kHz, longer than a window."""
    whole = hubert(wave[None])
    expected = wide(whole)[0]
    own, given = Heard.nothing(1, geometry, wide), Heard.nothing(1, geometry, wide)
    window, block, right = geometry.window_units, geometry.block_units, geometry.right_units
    equal, by_quantiser, changed, compared, settled = 0, 0, 0, 0, 0
    before: Tensor | None = None
    for begin in range(0, whole.shape[1] + 1 - window + 1, block):
        features = hubert(wave[None, begin * UNIT_SAMPLES :][:, : window * UNIT_SAMPLES])
        position = torch.tensor([begin + window])
        own, _ = hear(wide, features, position, own, geometry)
        given, _ = hear(wide, whole[:, begin : begin + window - 1], position, given, geometry)
        newest = slice(window - right - block, window - right)
        heard = expected[begin:][newest]
        equal += int((own.codes[0, newest] == heard).sum())
        by_quantiser += int((given.codes[0, newest] == heard).sum())
        settled += len(heard)
        fresh = wide(features)[0]
        if before is not None:
            inner = fresh[40 : window - 41 - block]
            changed += int((before[40 + block : window - 41] != inner).sum())
            compared += len(inner)
        before = fresh
    return Agreement(settled, equal / settled, by_quantiser / settled, changed / max(1, compared))
