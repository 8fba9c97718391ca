"""What setup.cfg cannot say: a wheel knows the commit that it was built from, and when."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithVersion(build_py):
    """Writes ``shared/build.json`` beside the copied modules; `shared.version` reads it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # a checkout asks git
        folder = Path(self.build_lib) / "shared"
        folder.mkdir(parents=True, exist_ok=True)
        # SOURCE_DATE_EPOCH: https://reproducible-builds.org/specs/source-date-epoch/
        built = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(UTC).timestamp()), UTC)
        content = {"commit": _commit(), "build_date": built.isoformat(timespec="seconds")}
        (folder / "build.json").write_text(json.dumps(content), encoding="utf-8")


def _commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


setup(cmdclass={"build_py": BuildWithVersion})
