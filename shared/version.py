"""Which version of the program this is: number, commit, and when it was built.

A wheel or an image holds ``build.json`` beside this file (setup.py and the Dockerfiles write it). A checkout is its
own build: the commit that is checked out, and that commit's time.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "fast-vc-pool"
_HERE = Path(__file__).resolve().parent
_GIT_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Version:
    """`built` is ISO 8601. What cannot be known is None."""

    version: str
    commit: str | None
    build_date: str | None

    def __str__(self) -> str:
        known = [part for part in (self.commit and self.commit[:12], self.build_date) if part]
        return f"{PACKAGE} {self.version}" + (f" ({', '.join(known)})" if known else "")


@cache
def version() -> Version:
    """Of this program. Asks git once in a checkout, so a server calls it before it serves."""
    number = importlib.metadata.version(PACKAGE)
    try:
        build = json.loads((_HERE / "build.json").read_text(encoding="utf-8"))
        return Version(number, build.get("commit") or None, build.get("build_date") or None)
    except (OSError, ValueError):
        commit, _, date = _git(_HERE.parent).partition(" ")
        return Version(number, commit or None, date or None)


def _git(checkout: Path) -> str:
    """Commit and its time, or nothing: this may be no checkout, or a machine without git."""
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "show", "-s", "--format=%H %cI", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
