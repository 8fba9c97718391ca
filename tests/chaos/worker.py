"""``python -m tests.chaos.worker NAME SLOW_MS FOLDER LINK...``: a worker whose engine marks what it converts.

It dies within a batch when the file ``FOLDER/NAME.die`` appears, and is as slow as ``FOLDER/NAME.slow`` says (ms).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import worker.engines.passthrough
import worker.main
from shared.config import load
from tests.chaos.signals import MARK
from worker.engine import Batch


def main(name: str, slow_ms: float, folder: Path, gateways: list[str]) -> int:
    convert = worker.engines.passthrough.PassthroughEngine.convert
    die, slow = folder / f"{name}.die", folder / f"{name}.slow"

    def marking(self: Any, batch: Batch) -> Any:
        if die.exists():
            die.unlink()
            os._exit(3)
        took_ms = float(slow.read_text()) if slow.exists() else slow_ms
        if took_ms:
            time.sleep(took_ms / 1000)
        samples, stages = convert(self, batch)
        return samples * MARK, stages

    worker.engines.passthrough.PassthroughEngine.convert = marking  # type: ignore[method-assign]
    return worker.main.run(load(), gateways, "cpu", name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
