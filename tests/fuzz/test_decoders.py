"""Whatever arrives as bytes is read or refused by name, and nothing else: frames, messages, packets, files.

`make fuzz` gives each 10^5 of them, and lets atheris look for more (`guided.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutations import EXAMPLES, mutations
from .readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_bytes_are_read_or_refused_by_name(name: str, tmp_path: Path) -> None:
    reader = READERS[name](tmp_path)
    count = EXAMPLES // 10 if reader.is_slow else EXAMPLES
    refused = sum(reader.refuses(content) for content in mutations(name, reader.examples, count))
    if name in ("from-worker", "from-gateway", "first"):
        assert refused > count / 4, "they were hardly changed"


@pytest.mark.parametrize("name", READERS)
def test_the_examples_are_right(name: str, tmp_path: Path) -> None:
    reader = READERS[name](tmp_path)
    if name == "recording":
        return  # a tone is no voice, and is refused as one
    assert not any(reader.refuses(content) for content in reader.examples)
