"""Parts of the studio, each used by a visitor."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared.config import ROOT
from shared.settings import DEMO_KEY
from tests.e2e.conftest import SAMPLE, Serve

from .conftest import MOST_S, Site, Visitor, everything
from .test_page import check_no_fault

DOCUMENT = ROOT / "docs" / "page.md"
pytestmark = [pytest.mark.serial, everything, pytest.mark.timeout(MOST_S + 20)]


def test_options_within_the_worker_s_limits_devices_and_a_file_that_is_dropped(
    chromium: Visitor, diffusing: Serve
) -> None:
    """Some 25 s: a call, and ten seconds of speech through a diffusion model on a CPU."""
    visit = chromium(diffusing.port, "settings")
    check_no_fault(visit)
    seen = visit.seen
    (model,) = diffusing.get("/models")[1]["models"]
    bounds = [[name, low, high] for name, (low, high) in model["options"].items() if low < high]
    assert ["f0_shift", -12, 12] in bounds
    assert seen["shown"] == bounds
    assert seen["typed"] == "12"  # the nearest that it takes
    chosen, asked = seen["chosen"], seen["asked"]
    assert chosen["input"]
    assert asked["input"]["deviceId"] == {"exact": chosen["input"]}
    assert asked["input"]["noiseSuppression"] is False
    assert asked["input"]["echoCancellation"] is True
    assert (asked["sink"] or "") == chosen["output"]
    assert re.match(r"Your machine: \d+ ms", seen["advice"])
    assert seen["kept"] == [chosen["input"], chosen["output"], "12"]
    assert seen["files"] == ["speech-original.wav", "speech-carlo.wav"]


def test_as_many_steps_as_there_is_time_for_are_suggested_and_a_button_takes_them(
    chromium: Visitor, stepping: Serve
) -> None:
    """Some 25 s: nothing is said before six blocks were heard."""
    visit = chromium(stepping.port, "suggestion")
    check_no_fault(visit)
    seen = visit.seen
    assert seen["before"]["steps"] in (0, 2)  # the latest block may be silent
    assert re.search(r"Your machine: \d+ ms, 2 steps\.", seen["before"]["measured"])
    offered = re.fullmatch(r"Use ([134]) steps?, some -?\d+ ms", seen["before"]["offered"])
    assert offered
    assert seen["taken"] == offered[1]
    assert seen["hidden"]
    assert str(seen["steps"]) == offered[1]  # the next call makes them
    assert seen["kept"] == offered[1]


def test_ones_own_voice_is_heard_while_the_button_is_held_and_never_else(chromium: Visitor, shifting: Serve) -> None:
    """Some 20 s of a call in real time."""
    visit = chromium(shifting.port, "monitor")
    check_no_fault(visit)
    seen = visit.seen
    assert (seen["pressed"], seen["released"]) == ("true", "false")
    held = visit.match(seen["from"] + 0.5)
    assert held[0] > 0.95  # it is the microphone's, as it is
    assert held[1] < 0.1
    length_s = len(visit.output) / visit.rate
    elsewhere = [at for at in np.arange(1.0, length_s - 1.2, 0.5) if at + 1 < seen["from"] or at > seen["to"] + 0.7]
    assert len(elsewhere) > 10
    alike = {
        at: visit.match(at)[0]
        for at in elsewhere
        if np.abs(visit.output[int(at * visit.rate) :][: visit.rate]).max() > 1e-3
    }
    assert len(alike) > 5  # something is heard, and
    assert max(alike.values()) < 0.7, alike  # it is another voice, also
    stalled = visit.output[int((seen["resumed"] - 1) * visit.rate) : int((seen["resumed"] - 0.3) * visit.rate)]
    assert np.abs(stalled).max() < 1e-4  # where nothing comes from the worker


def test_a_voice_of_ones_own_is_read_aloud_named_and_used_at_once(
    chromium: Visitor, shifting: Serve, tmp_path: Path
) -> None:
    """Some 20 s: eight are a recording and a call in real time."""
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(2 * 16_000, np.int16), 16_000)
    visit = chromium(shifting.port, "ownVoice", read_ms=4000, silence=str(silence))
    seen = visit.seen
    assert [fault for fault in seen["faults"] if "40" not in fault] == []  # browsers note refusals
    assert seen["violations"] == []
    assert "Choose another name" in seen["taken"]
    assert "read-aloud is there" in seen["added"]
    assert seen["chosen"] == "read-aloud"
    assert "Nothing is to be heard" in seen["silent"]
    assert seen["kept"][-1] == "read-aloud"
    assert "carlo" in seen["kept"]
    assert seen["left"] == seen["kept"][:-1]


def test_a_voice_from_a_file_in_firefox(firefox: Visitor, shifting: Serve) -> None:
    visit = firefox(shifting.port, "ownFile", read_ms=2500, seconds=f"{soundfile.info(SAMPLE).duration:.1f}")
    seen = visit.seen
    assert "No speech" in seen["hum"]
    assert "from-file is there" in seen["added"]
    assert seen["left"]
    assert "from-file" not in seen["left"]
    assert seen["rows"] == 1


def test_operators_see_all_gateways_workers_and_calls(chromium: Visitor, several: Serve) -> None:
    """Some 20 s: the view asks every two seconds."""
    visit = chromium(several.port, "operate", key="a-key-of-operators")
    check_no_fault(visit)
    seen = visit.seen
    tiles = seen["tiles"]
    assert tiles["gateways"] == "2"
    assert tiles["workers"] == "1"
    assert re.fullmatch("1 / 1[3-6]", tiles["sessions_places"])  # places move between gateways, and are nobody's then
    assert 0 < float(tiles["p95"].removesuffix(" ms")) < 5000
    assert tiles["concealed"].endswith("%")
    assert seen["rows"] == 2
    assert "passthrough" in seen["workers"]
    assert seen["overflow"] <= 0
    assert "scope admin" in seen["told"]


def check_embedded(visitor: Visitor, site: Site) -> None:
    """The example of docs/page.md, as it stands there but for the address, the key and its patience."""
    example = DOCUMENT.read_text().split("```html\n")[1].split("```")[0]
    assert len(example.splitlines()) <= 10
    address = f"http://127.0.0.1:{site.serve.port}"
    html = example.replace("https://voice.example", address).replace("KEY", DEMO_KEY).replace("10_000", "3_000")
    visit = visitor(site.serve.port, "embed", html=html, site=site.port)
    seen = visit.seen
    assert seen["stats"]["total_processed_ms"] > 2000
    assert 0 < seen["latencies"][-1] < 3000
    assert seen["refused"]  # a site that is not named
    assert np.abs(visit.output).max() > 0.01


def test_the_example_works_in_a_page_of_another_site(chromium: Visitor, neighbour: Site) -> None:
    check_embedded(chromium, neighbour)


def test_the_example_works_there_in_firefox(firefox: Visitor, neighbour: Site) -> None:
    check_embedded(firefox, neighbour)


def test_a_microphone_that_hears_the_answer_is_noticed(chromium: Visitor, shifting: Serve) -> None:
    """Some 25 s: two calls in real time."""
    visit = chromium(shifting.port, "room", calm_ms=7000, echo_ms=90)
    check_no_fault(visit)
    assert visit.seen["calm"] == ["Use headphones: the microphone would hear the answer.", ""]
    assert "headphones" in visit.seen["warned"][0]
    assert visit.seen["warned"][1] == "wrong"
