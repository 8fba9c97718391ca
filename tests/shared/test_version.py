"""Which version runs: from the file that a build leaves, else from the checkout."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import version as room
from shared.version import version


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of `shared` in an installation."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(room, "_HERE", tmp_path / "shared")
    version.cache_clear()
    yield tmp_path / "shared"
    version.cache_clear()


def test_a_build_knows_its_commit_and_date(here: Path) -> None:
    (here / "build.json").write_text(json.dumps({"commit": "0123456789abcdef", "build_date": "2026-01-02T03:04:05Z"}))
    assert re.fullmatch(r"fast-vc-pool [\d.]+ \(0123456789ab, 2026-01-02T03:04:05Z\)", str(version()))


def test_a_checkout_is_asked_for_its_commit(here: Path) -> None:
    git = ["git", "-C", str(here.parent), "-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert version().commit is None  # no commit yet
    version.cache_clear()
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert version().commit == head
    assert version().build_date is not None


@pytest.mark.parametrize("text", [None, "no json", '{"commit": "", "build_date": null}'])
def test_what_cannot_be_known_is_left_out(here: Path, text: str | None) -> None:
    if text is not None:
        (here / "build.json").write_text(text)
    assert re.fullmatch(r"fast-vc-pool [\d.]+", str(version()))
