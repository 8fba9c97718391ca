"""Minutes of the day that principals have spent, kept in a file: a gateway that is started again goes on counting."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from loguru import logger

from gateway.auth.ledger import Ledger


class SpentMinutes:
    """Of one gateway process. Every method may block, and none raises: a disk that is gone costs the count alone."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path, self._ledger = path, ledger
        self._written: dict[str, float] = {}
        self._failed = False

    def load(self) -> None:
        """What was spent before, if it was today."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            spent = {str(name): float(seconds) for name, seconds in content["spent_s"].items()}
            self._ledger.restore(int(content["day"]), spent)

    def save(self) -> None:
        """What is spent now, if that has changed."""
        day, spent = self._ledger.spent()
        if spent == self._written:
            return
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"day": day, "spent_s": spent}, file)
            part.replace(self._path)
        except OSError as error:
            if not self._failed:
                logger.error("{}: the minutes of the day will not outlive this process: {}", self._path, error)
            self._failed = True
        else:
            self._written, self._failed = spent, False
