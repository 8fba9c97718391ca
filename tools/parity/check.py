"""Compare our networks with recorded inputs and outputs of the original ones.

    python -m tools.check_parity tests/data/parity [--device cuda:0] [--dtype bf16] [--only dit_tiny] [--json FILE]

A folder holds ``NAME.npz`` (``in_*``, ``out_*``), ``NAME.keys.json`` (the checkpoint's names and shapes; ``dit_*`` uses
that of ``cfm_*``) and, if tolerances differ from 1e-4, ``manifest.json``. Weights are drawn from names and shapes and
go through the strict loader as a published file would. Batches, items, lengths, step counts, guidance and schedules are
read from the arrays and their names. Items recorded alone are run as a batch of unequal lengths where the network takes
one. At lower precision the bounds are measured ones. Outputs that no item here is compared with are named, and arrays
that an item lacks, which is left out. Exit code 1: an item is beyond its tolerance, or a fixture cannot be run as a
whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tools.parity.fixture import Comparison, ParityError, fixture_names, open_fixture
from tools.parity.runners import check, lacks
from worker.models import fused
from worker.models.weights.checkpoints import first_line
from worker.precision import PRECISIONS


@dataclass(frozen=True, slots=True)
class Failure:
    network: str
    reason: str


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="check_parity", description="Compare the networks with recorded outputs.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=PRECISIONS, default="float32")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="one fixture; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    rows: list[Comparison] = []
    failures: list[Failure] = []
    not_compared: dict[str, list[str]] = {}
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        parser.error(f"argument --json: {options.json} can be no file: no such folder, or one itself")
    try:
        device = torch.empty(0, device=options.device).device
        fused.try_out(device, PRECISIONS[options.dtype])
        names = fixture_names(options.folder, options.only)
    except (ParityError, RuntimeError, AssertionError) as error:
        print(f"check_parity: {first_line(error)}", file=sys.stderr)
        return 1
    print(f"{'network':<16} {'item':<28} {'error':>10} {'tolerance':>10}")
    for name in names:
        try:
            fixture = open_fixture(options.folder, name, device, PRECISIONS[options.dtype])
            results = check(fixture)
        except ParityError as error:
            failures.append(Failure(name, str(error)))
            print(f"{name:<16} cannot be run: {error}")
            continue
        rows += results
        for row in results:
            verdict = "" if row.passed else "  BEYOND"
            unit = "" if row.unit == "abs" else f" ({row.unit})"
            print(f"{row.network:<16} {row.item:<28} {row.error:10.2e} {row.tolerance:10.1e}{unit}{verdict}")
        if reason := lacks(fixture):
            failures.append(Failure(name, reason))
            print(f"{name:<16} cannot be run as a whole: {reason}")
        if left := fixture.unused_outputs():
            not_compared[name] = left
            print(f"{name:<16} not compared: {', '.join(left)}")
    beyond = sum(not row.passed for row in rows)
    print(f"{len(rows)} items, {beyond} beyond tolerance, {len(failures)} fixtures that cannot be run")
    if options.json:
        report = {
            "device": str(device),
            "dtype": options.dtype,
            "items": [asdict(row) | {"passed": row.passed} for row in rows],
            "failures": [asdict(failure) for failure in failures],
            "not_compared": not_compared,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if beyond or failures else 0
