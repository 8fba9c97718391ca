"""State files of running processes (placeholder until the CLI's own lands)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_state(folder: Path, name: str, content: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.{os.getpid()}.tmp"
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(folder / name)


def remove_state(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
