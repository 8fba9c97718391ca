"""The networks of V2 against the recorded numbers of the original, through the engine of tools.check_parity."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiers import by_size
from tools.parity.fixture import fixture_names, open_fixture
from tools.parity.runners import check

FOLDER = Path(__file__).parents[3] / "data" / "parity_v2"
KINDS = [
    *("ar_v2", "astral_narrow", "astral_wide", "campplus_v2", "cfm_v2", "dit_v2", "hubert_v2"),
    *("regulator_ar_v2", "regulator_v2", "timbre_v2"),
]

LARGE = {"ar_v2", "cfm_v2", "dit_v2", "hubert_v2", "timbre_v2"}


def test_no_kind_is_left_out() -> None:
    assert sorted(fixture_names(FOLDER)) == KINDS


@pytest.mark.parametrize("name", by_size(fixture_names(FOLDER), LARGE))
def test_equals_the_original(name: str) -> None:
    results = check(open_fixture(FOLDER, name))
    assert results
    assert [result for result in results if not result.passed] == []
