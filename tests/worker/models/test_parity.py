"""Every network against the recorded numbers of the original, through the engine of tools/check_parity.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.tiers import by_size
from tools.parity.fixture import fixture_names, open_fixture
from tools.parity.runners import check

FOLDER = Path(__file__).parents[2] / "data" / "parity"

TABLE = "cfm_tiny"
FEW = ("_n4_cfg0.7_linear", "_n4_cfg0.0_cosine")  # of its table: these reach every branch of the solver
NETWORKS = [
    *("bigvgan_22k", "bigvgan_44k", "campplus", "cfm_base", "cfm_small", "cfm_tiny", "dit_base", "dit_small"),
    *("dit_tiny", "fbank", "hift", "mel", "regulator_base", "regulator_small", "regulator_tiny", "rmvpe"),
    *("whisper", "xlsr"),
]

LARGE = {"bigvgan_22k", "bigvgan_44k", "cfm_base", "cfm_small", "dit_base", "dit_small", "rmvpe", "whisper", "xlsr"}


def test_no_network_is_left_out() -> None:
    assert sorted(fixture_names(FOLDER)) == NETWORKS


@pytest.mark.parametrize("name", by_size(fixture_names(FOLDER), LARGE))
def test_equals_the_original(name: str) -> None:
    fixture = open_fixture(FOLDER, name)
    if name == TABLE:
        kept = {key: value for key, value in fixture.arrays.items() if key.startswith("in_") or key.endswith(FEW)}
        fixture = replace(fixture, arrays=kept)
    results = check(fixture)
    assert results
    assert [result for result in results if not result.passed] == []


@pytest.mark.thorough
def test_the_whole_table_of_the_solver_equals_the_original() -> None:
    results = check(open_fixture(FOLDER, TABLE))
    assert len(results) > len(FEW)
    assert [result for result in results if not result.passed] == []
