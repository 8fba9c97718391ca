"""From packages to weights: ``python -m tools.train STAGE [--out DIR] ...``.

``data`` (recordings of Debian packages), ``parallel`` (Kokoro's voices, the same words at the same moments), ``pack``
(both, the teacher and an earlier run's weights into one small folder), ``run`` (needs that folder, torch and numpy
alone: on a GPU against the clock, anywhere else with ``--smoke``), ``export`` (into the package).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shared.extras import needing

STAGES = ("data", "parallel", "pack", "run", "export")


def main(arguments: list[str] | None = None) -> None:
    from tools.train.running import Settings, run

    usual = Settings()
    parser = argparse.ArgumentParser(prog="python -m tools.train", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"), help="folder of everything")
    parser.add_argument("--data", type=Path, help="packed folder (default: OUT/packed)")
    parser.add_argument("--resume", type=Path, help="of run: folder of an earlier run. Of pack: take its weights along")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of run, in all")
    parser.add_argument("--rows", type=int, default=usual.rows, help="of a batch, about 1.6 s each")
    parser.add_argument("--pace", type=float, default=usual.pace, help="times the learning rates")
    parser.add_argument("--fool-from", type=float, default=usual.fool_from, help="share of the run")
    parser.add_argument("--swap-from", type=float, default=usual.swap_from, help="share of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--smoke", action="store_true", help="two steps on a few seconds of sound")
    parser.add_argument("--halved", action="store_true", help="bfloat16 on a CPU too")
    parser.add_argument("--voices", type=Path, help="of parallel: folder of Kokoro's voices (npm: kokoro-js)")
    parser.add_argument("--weights", type=Path, help="of export: where to (default: the package)")
    options = parser.parse_args(arguments)
    data = options.data or options.out / "packed"
    if options.stage == "run":
        names = ("seconds", "rows", "pace", "fool_from", "swap_from", "seed", "eager", "smoke", "halved")
        run(data, options.out, Settings(**{name: getattr(options, name) for name in names}), options.resume)
        return
    from tools.train import making  # needs what ``run`` does not

    making.make(options.stage, options.out, data, options)


if __name__ == "__main__":
    with needing("worker,train", "tools.train"):
        main()
