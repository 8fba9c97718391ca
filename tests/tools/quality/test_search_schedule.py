"""The search for a solver's positions: it finds what is better, and judges on what it has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from shared.config import ROOT
from tests.support.reduced import reduced, write_hub
from tools.quality.search_schedule import PROMPT_S, Planned, compare, search, windows_of
from worker.engines.diffusion.offline import Recording
from worker.engines.diffusion.prompts import make_prompt
from worker.models.catalogue import load_model
from worker.models.seedvc import spec
from worker.models.seedvc.plan import Plan
from worker.voices import Voice


def test_the_search_finds_the_lowest_place() -> None:
    def cost(plan: Plan) -> float:
        return (plan.times[1] - 0.2) ** 2 + (plan.times[2] - 0.7) ** 2

    found = search(Plan.of(3, "linear"), cost)
    assert found.times[1:3] == pytest.approx((0.2, 0.7), abs=0.011)
    assert found.times[0] == 0
    assert found.times[3] == 1


def test_a_small_model_on_a_recording(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setitem(spec.SPECS, "tiny", reduced("tiny"))  # type: ignore[arg-type]
    write_hub(tmp_path, spec.SPECS["tiny"])
    monkeypatch.setattr("tools.quality.search_schedule.MANY_STEPS", 6)
    monkeypatch.setattr("tools.quality.search_schedule.LAST_MOVE", 0.16)
    pipeline = Planned(load_model("tiny", tmp_path), guidance=0.0)
    reference = ROOT / "worker/assets/voices/june.flac"
    prompt = make_prompt(pipeline, Voice("june", "", reference), PROMPT_S)
    windows = windows_of(pipeline, [Recording(ROOT / "worker/assets/samples/sample.flac")])
    assert len(windows.noise) == 3
    rows = {(row.method, row.schedule, row.steps): row for row in compare(pipeline, prompt, windows, (1, 2))}
    assert rows["euler", "linear", 1].evaluations == 1
    assert rows["midpoint", "linear", 2].evaluations == 4
    assert rows["heun", "linear", 2].evaluations == 3
    assert rows["euler", "linear", 2].distance < rows["euler", "linear", 1].distance
    with pytest.raises(ValueError, match="fewer than two windows"):
        windows_of(pipeline, [])
