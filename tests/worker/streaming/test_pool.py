"""The pipeline that every engine shares: formulas against plain loops, time, neighbours, silence, context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worker.engine import Batch, StageTimes
from worker.engines.passthrough import PassthroughEngine
from worker.geometry import Geometry
from worker.streaming.crossfade import sola
from worker.streaming.pool import PoolFull, StreamPool, UnknownVoice

GEOMETRY = Geometry.from_ms(block_ms=200, left_ms=200)
BLOCK = GEOMETRY.block_samples_in


def speech(blocks: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Noise with a moving level: int16 of whole blocks."""
    rng = np.random.default_rng(seed)
    level = np.interp(np.arange(blocks * BLOCK), np.arange(0, blocks * BLOCK, 800), rng.uniform(300, 9000, blocks * 4))
    return np.clip(rng.normal(0, 1, blocks * BLOCK) * level, -32768, 32767).astype(np.int16)


def run(pool: StreamPool, slot: int, wave: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([pool.step([slot], [block]).blocks[0].samples for block in wave.reshape(-1, BLOCK)])


def test_sola_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    made = rng.normal(size=(5, GEOMETRY.engine_samples)).astype(np.float32)
    tail = rng.normal(size=(5, GEOMETRY.crossfade_samples)).astype(np.float32)
    tail[1] = made[1, 100 : 100 + GEOMETRY.crossfade_samples]
    block, rest = sola(torch.from_numpy(made), torch.from_numpy(tail), GEOMETRY)
    length = GEOMETRY.crossfade_samples
    fade_in = np.sin(np.pi / 2 * np.linspace(0, 1, length)) ** 2
    for row in range(5):
        y, b = made[row].astype(np.float64), tail[row].astype(np.float64)
        scores = [
            y[o : o + length] @ b / np.sqrt((y[o : o + length] ** 2).sum() + 1e-8)
            for o in range(GEOMETRY.search_samples + 1)
        ]
        offset = int(np.argmax(scores))
        if row == 1:
            assert offset == 100
        y = y[offset:]
        y[:length] = y[:length] * fade_in + b * (1 - fade_in)
        size = GEOMETRY.block_samples_out
        np.testing.assert_allclose(block[row].numpy(), y[:size], atol=1e-5)
        np.testing.assert_allclose(rest[row].numpy(), y[size : size + length], atol=1e-5)


def test_passthrough_gives_the_input_back_later() -> None:
    pool = StreamPool(PassthroughEngine(GEOMETRY), 1)
    wave = speech(8)
    out = run(pool, pool.open("none"), wave)
    delay = GEOMETRY.delay_ms * 16
    assert len(out) == len(wave)
    assert np.abs(out[delay:].astype(int) - wave[:-delay]).max() <= 1


class Quiet(PassthroughEngine):
    """8 dB below what it hears."""

    def convert(self, batch: Batch) -> tuple[torch.Tensor, StageTimes]:
        wave, times = super().convert(batch)
        return 0.4 * wave, times


@pytest.mark.parametrize(("rate", "change_db"), [(1.0, -8), (0.9, 0), (0.0, 0)])
def test_the_level_is_the_callers_unless_the_engines_is_wanted(rate: float, change_db: float) -> None:
    pool = StreamPool(Quiet(GEOMETRY), 1, rms_mix_rate=rate)
    wave = speech(10)
    out, delay = run(pool, pool.open("none"), wave), GEOMETRY.delay_ms * 16
    said, heard = out[delay + 2 * BLOCK :].astype(float), wave[2 * BLOCK : -delay].astype(float)
    assert 10 * np.log10(np.mean(said**2) / np.mean(heard**2)) == pytest.approx(change_db, abs=1.5)


@pytest.mark.parametrize("rate", [0.0, 0.9, 1.0])
def test_neighbours_do_not_matter(rate: float) -> None:
    waves = [speech(5, seed) for seed in range(8)]
    crowd = StreamPool(PassthroughEngine(GEOMETRY), 8, rms_mix_rate=rate)
    slots = [crowd.open("none") for _ in waves]
    together = [[] for _ in waves]
    for number in range(5):
        order = np.random.default_rng(number).permutation(8)
        step = crowd.step([slots[i] for i in order], [waves[i][number * BLOCK :][:BLOCK] for i in order])
        for i, block in zip(order, step.blocks, strict=True):
            together[i].append(block.samples)
    for wave, made in zip(waves, together, strict=True):
        alone = StreamPool(PassthroughEngine(GEOMETRY), 3, rms_mix_rate=rate)
        alone.open("none")
        expected = run(alone, alone.open("none"), wave)
        np.testing.assert_allclose(np.concatenate(made) / 32768, expected / 32768, atol=1e-3)


def test_silence_in_silence_out_and_says_so() -> None:
    pool = StreamPool(PassthroughEngine(GEOMETRY), 1)
    slot = pool.open("none")
    for _ in range(3):
        block = pool.step([slot], [np.zeros(BLOCK, np.int16)]).blocks[0]
        assert not block.samples.any()
        assert not block.speech
    loud = pool.step([slot], [speech(1)]).blocks[0]
    assert loud.speech


def test_a_concealed_block_is_silence_with_faded_edges_and_keeps_context() -> None:
    pool = StreamPool(PassthroughEngine(GEOMETRY), 1)
    slot = pool.open("none")
    tone = np.round(8000 * np.sin(2 * np.pi * 200 * np.arange(6 * BLOCK) / 16_000)).astype(np.int16)
    blocks = tone.reshape(6, BLOCK)
    out = [pool.step([slot], [block], [number == 3]).blocks[0].samples for number, block in enumerate(blocks)]
    assert not out[3][GEOMETRY.crossfade_samples :].any()
    sound = np.concatenate(out).astype(int)[GEOMETRY.delay_ms * 16 + GEOMETRY.crossfade_samples :]
    assert np.abs(np.diff(sound)).max() <= 1.1 * np.abs(np.diff(tone.astype(int))).max()  # no step
    assert np.abs(out[5]).max() > 7000


def test_a_session_goes_on_from_its_history() -> None:
    wave = speech(10, seed=5)
    stays = StreamPool(PassthroughEngine(GEOMETRY), 1)
    whole = run(stays, stays.open("none"), wave)
    moves = StreamPool(PassthroughEngine(GEOMETRY), 1)
    rest = run(moves, moves.open("none", wave[: 6 * BLOCK]), wave[6 * BLOCK :])
    after = GEOMETRY.crossfade_samples
    assert np.abs(rest[after:].astype(int) - whole[6 * BLOCK + after :]).max() <= 1


def test_a_slot_starts_afresh() -> None:
    pool = StreamPool(PassthroughEngine(GEOMETRY), 1)
    first = pool.open("none")
    run(pool, first, speech(4))
    pool.close(first)
    again = pool.open("none")
    assert not run(pool, again, np.zeros(2 * BLOCK, np.int16)).any()


def test_misuse_is_named() -> None:
    pool = StreamPool(PassthroughEngine(GEOMETRY), 1)
    with pytest.raises(UnknownVoice, match="nobody"):
        pool.open("nobody")
    slot = pool.open("none")
    with pytest.raises(PoolFull, match="1 sessions"):
        pool.open("none")
    with pytest.raises(ValueError, match="distinct"):
        pool.step([slot, slot], [np.zeros(BLOCK, np.int16)] * 2)
    short = pool.step([slot], [np.zeros(7, np.int16)]).blocks[0]
    assert "got int16 (7,)" in (short.error or "")
    pool.close(slot)
    with pytest.raises(ValueError, match="not open"):
        pool.close(slot)
