"""Recordings are read in another process, which may die of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from gateway.voices import reader as readers
from gateway.voices.clip import ClipError, read_clip
from gateway.voices.reader import ClipReader

RECORDING = (Path(__file__).parents[3] / "worker" / "assets" / "voices" / "june.flac").read_bytes()


@pytest.fixture
async def reader() -> AsyncIterator[ClipReader]:
    reader = ClipReader()
    yield reader
    await reader.stop()


def pid_of(reader: ClipReader) -> int:
    assert reader._process is not None
    return reader._process.pid


async def test_it_says_what_reading_here_would_say(reader: ClipReader) -> None:
    assert await reader.read(RECORDING) == read_clip(RECORDING)
    first = pid_of(reader)
    for wrong in (b"", b"no sound", RECORDING[:1000]):
        with pytest.raises(ClipError) as refused:
            await reader.read(wrong)
        assert refused.value.reason == "unreadable"
    assert pid_of(reader) == first
    assert (await asyncio.gather(*(reader.read(RECORDING) for _ in range(3))))[2].seconds > 7


async def test_one_that_died_is_replaced_unnoticed(reader: ClipReader) -> None:
    await reader.read(RECORDING)
    first = pid_of(reader)
    os.kill(first, signal.SIGKILL)
    assert (await reader.read(RECORDING)).seconds > 7
    assert pid_of(reader) != first


async def test_a_recording_that_takes_too_long_is_given_up(reader: ClipReader, monkeypatch: pytest.MonkeyPatch) -> None:
    await reader.read(RECORDING)
    first = pid_of(reader)
    os.kill(first, signal.SIGSTOP)  # as one that computes for ever
    monkeypatch.setattr(readers, "TIMEOUT_S", 0.3)
    with pytest.raises(ClipError, match="cannot be read"):
        await reader.read(RECORDING)
    assert not psutil.pid_exists(first)
    monkeypatch.undo()
    assert (await reader.read(RECORDING)).seconds > 7


async def test_it_ends_with_its_gateway(reader: ClipReader) -> None:
    await reader.read(RECORDING)
    assert reader._process is not None
    assert reader._process.stdin is not None
    reader._process.stdin.close()  # as the kernel does
    assert await asyncio.wait_for(reader._process.wait(), 10) == 0
