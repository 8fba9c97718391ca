"""Nobody's call drops: one short run of troubles under calls in real time. `make chaos` has them all, and a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tests.support.preloaded  # noqa: F401
from tests.chaos.overload import overload
from tests.chaos.scenarios import SELECTION, run
from tests.chaos.signals import MARK, RATE, check, voice_of
from tools.client.client import CallConfig
from tools.client.resuming import ResumingCall

SEED = 14


@pytest.mark.serial
async def test_killed_and_replaced_processes_cost_nobody_a_call(tmp_path: Path) -> None:
    """Some 25 s: five processes start, six callers speak for 11 s, four processes are replaced meanwhile."""
    result = await run(SELECTION, tmp_path, seed=SEED, callers=6, seconds=11)
    assert result.problems == []
    assert (result.faults, result.blocks) == (4, 6 * 11 * 1000 // 200)


@pytest.mark.serial
async def test_three_times_the_callers(tmp_path: Path) -> None:
    """Some 12 s: a service starts, four callers speak for 3 s, eight are refused."""
    made = await overload(tmp_path, places=4, seconds=3, forked=True)
    assert made.problems == []
    assert (made.admitted, made.refused) == (4, 8)
    assert made.real_time_factor_p95 > 0  # how far below 1 is the machine's: docs/reliability.md has it measured
    assert made.refused_ms < 3000  # nobody is let wait until a call is over


def heard(sound: np.ndarray[tuple[int], np.dtype[np.int16]]) -> ResumingCall:
    made = ResumingCall(CallConfig("", ""), 2000.0, ready={"block_ms": 200, "prefill_ms": 100, "delay_ms": 100})
    made.received = [(0.0, sound.tobytes())]
    made.close_code = 1000
    return made


def test_the_checker_sees_what_is_wrong() -> None:
    wave = voice_of(3, 2.0)
    good = np.concatenate([np.zeros(3200), wave * MARK]).astype(np.int16)
    assert (check(3, 9, wave, heard(good)).converted, check(3, 9, wave, heard(good)).faults) == (10, [])
    silent, own, foreign, moved, twice = (good.copy() for _ in range(5))
    silent[6400:9600] = 0
    own[6400:9600] = wave[3200:6400]
    foreign[6400:9600] = (voice_of(5, 2.0) * MARK).astype(np.int16)[3200:6400]
    moved[6400:9600] = np.roll(good, 5)[6400:9600]
    twice[9600:12_800] = good[6400:9600]
    assert check(3, 9, wave, heard(silent)).concealed == [2]
    for sound, words in (
        (own, "own voice"),
        (foreign, "not caller 3's"),
        (moved, "not at their place"),
        (twice, "not at their place"),
        (good[:-3200], "samples in place of"),
    ):
        (fault,) = check(3, 9, wave, heard(sound)).faults
        assert words in fault
    assert len(wave) == 2 * RATE
