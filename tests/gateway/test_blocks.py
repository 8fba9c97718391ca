"""Blocks, lead and concealment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.fades import Edges
from gateway.blocks import Blocker, BlockLayout, samples_due


@pytest.mark.parametrize(
    ("block_ms", "delay_ms", "wanted", "lag", "prefill"),
    [(500, 80, 375, 0, 360), (200, 80, 375, 0, 120), (200, 80, 375, 3, 103), (200, 80, 0, 0, 0), (100, 100, 50, 0, 0)],
)
def test_prefill_keeps_the_lead_within_a_block(
    block_ms: int, delay_ms: int, wanted: int, lag: int, prefill: int
) -> None:
    layout = BlockLayout.fit(block_ms, delay_ms, 16_000, wanted, lag)
    assert layout.prefill_ms == prefill
    assert layout.lead_ms <= block_ms


@given(st.lists(st.integers(0, 9000), max_size=12), st.sampled_from([(500, 80, 375), (200, 80, 100), (160, 80, 0)]))
def test_time_is_conserved(sizes: list[int], lengths: tuple[int, int, int]) -> None:
    layout = BlockLayout.fit(lengths[0], lengths[1], 16_000, lengths[2])
    wave = np.arange(1, sum(sizes) + 1).astype(np.int16)
    blocker = Blocker(layout)
    blocks = [b for part in np.split(wave, np.cumsum(sizes)[:-1]) for b in blocker.push(part)] if sizes else []
    blocks += blocker.finish()
    assert all(len(block) == layout.block_samples for block in blocks)
    if not len(wave):
        assert blocks == []
        assert samples_due(layout, 0) == 0
        return
    sound = np.concatenate(blocks)
    start = layout.prefill_ms * 16
    np.testing.assert_array_equal(sound[start : start + len(wave)], wave)
    assert not sound[:start].any()
    assert not sound[start + len(wave) :].any()
    due = samples_due(layout, len(wave))
    assert due == len(wave) + layout.lead_ms * 16
    assert due <= len(sound) < due + layout.block_samples  # enough for the delayed tail, and not a block too many


def test_a_concealed_block_has_no_step_at_its_edges() -> None:
    rng = np.random.default_rng(0)
    wave = np.cumsum(rng.normal(0, 300, 9600)).clip(-20_000, 20_000).astype(np.int16)
    before, after = wave[:3200], wave[6400:]
    steps = np.abs(np.diff(before.astype(int))).max()
    edges = Edges(16_000)
    sound = np.concatenate([edges.resume(before), edges.conceal(3200), edges.conceal(3200), edges.resume(after)])
    assert np.abs(np.diff(sound.astype(int))).max() <= steps * 1.3
    silent = sound[3200 + 160 : 9600]
    assert not silent.any()
    np.testing.assert_array_equal(sound[9600 + 160 :], after[160:])
