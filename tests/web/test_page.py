"""The page in both browsers: what comes out of it is the visitor's speech in another voice, on time."""

from __future__ import annotations

import urllib.request
from typing import Any

import numpy as np
import parselmouth
import pytest

from tests.e2e.conftest import Serve

from .conftest import Visit, Visitor, Wave, everything

pytestmark = pytest.mark.serial


def level_db(wave: Wave) -> float:
    return float(10 * np.log10(np.mean(wave.astype(float) ** 2) + 1e-12))


def pitch_hz(wave: Wave, rate: int) -> float:
    """Median over what is voiced."""
    f0 = parselmouth.Sound(wave.astype(float), rate).to_pitch(0.01, 75, 500).selected_array["frequency"]
    return float(np.median(f0[f0 > 0]))


def heard(visit: Visit, from_s: float) -> Wave:
    """What the loudspeaker gave from then on."""
    return visit.output[int(from_s * visit.rate) :]


def check_no_fault(visit: Visit) -> None:
    assert visit.seen["faults"] == []
    assert visit.seen["violations"] == []  # of axe-core, where it was asked


def check_converted(visit: Visit, talk_s: float) -> None:
    check_no_fault(visit)
    sounding = np.flatnonzero(np.abs(visit.output) > 1e-3)
    assert np.ptp(sounding) / visit.rate > 0.7 * talk_s  # nearly all of it came
    began_s = sounding[0] / visit.rate
    assert abs(level_db(heard(visit, began_s)) - level_db(visit.input)) < 9
    ratio = pitch_hz(heard(visit, began_s), visit.rate) / pitch_hz(visit.input, visit.rate)
    assert abs(np.log2(ratio)) > 0.2, f"pitch {ratio:.2f} of the visitor's own: not converted"


def test_a_visitor_of_the_demo_presses_one_button_and_is_heard_in_another_voice(
    chromium: Visitor, shifting: Serve
) -> None:
    """Some 15 s: six of them are a call in real time."""
    check_converted(chromium(shifting.port, "talk", talk_ms=6000), 6)


@everything
def test_the_same_in_firefox(firefox: Visitor, shifting: Serve) -> None:
    """Some 20 s: a call in real time. Firefox's microphone hums at 200 Hz."""
    check_converted(firefox(shifting.port, "talk", talk_ms=6000), 6)


@everything
def test_the_same_over_webrtc(chromium: Visitor, shifting: Serve) -> None:
    """Some 15 s: a call in real time."""
    pytest.importorskip("aiortc", reason="the extra webrtc is not installed")
    check_converted(chromium(shifting.port, "talk", talk_ms=6000, webrtc=True), 6)
    assert "WebRTC, voice" in (shifting.folder / "serve.out").read_text()


@everything
def test_a_call_over_webrtc_that_ends_begins_anew_by_itself(chromium: Visitor, passing: Serve) -> None:
    """Some 15 s: two calls in real time."""
    pytest.importorskip("aiortc", reason="the extra webrtc is not installed")
    visit = chromium(passing.port, "deleted", webrtc=True)
    check_no_fault(visit)
    assert np.abs(heard(visit, len(visit.output) / visit.rate - 3)).max() > 1e-2
    assert visit.seen["live"]["latency"]["total"] > 0
    assert visit.seen["live"]["playback"]["cushionMs"] is not None


@everything
def test_the_same_over_webrtc_in_firefox(firefox: Visitor, shifting: Serve) -> None:
    """Some 20 s: a call in real time."""
    pytest.importorskip("aiortc", reason="the extra webrtc is not installed")
    check_converted(firefox(shifting.port, "talk", talk_ms=6000, webrtc=True), 6)


def check_punctual_after_stall(visit: Visit) -> None:
    check_no_fault(visit)
    end_s = len(visit.output) / visit.rate
    before_s, after_s = visit.delay_s(2.5), visit.delay_s(end_s - 3.5)
    assert before_s < 1.0
    assert after_s < before_s + 0.35
    state: dict[str, Any] = visit.seen["after"]["playback"]
    assert state["droppedMs"] > 500  # the stall's sound was made up for, not left out by chance
    for moment, late_s in (("before", before_s), ("after", after_s)):
        told = visit.seen[moment]["latency"]
        assert (told["total"] - told["device"]) / 1000 == pytest.approx(late_s, abs=0.15)  # the page's own figure


@everything
def test_a_stalled_line_leaves_no_lateness(chromium: Visitor, passing: Serve) -> None:
    """Some 25 s: the line stands still for three of them. Before, playback stayed 2.3 s late for good."""
    visit = chromium(passing.port, "stall", before_ms=4500, stall_ms=3000, after_ms=10_000)
    check_punctual_after_stall(visit)


@everything
def test_a_line_that_was_cut_comes_back_by_itself(chromium: Visitor, passing: Serve) -> None:
    """Some 20 s of a call in real time: the same call, with what was said meanwhile."""
    visit = chromium(passing.port, "cut")
    assert all("WebSocket" in fault for fault in visit.seen["faults"])
    with urllib.request.urlopen(f"http://127.0.0.1:{passing.port}/metrics", timeout=5) as response:
        assert 'fastvc_sessions_resumed_total{stream="same"} 1.0' in response.read().decode()
    late_s = visit.delay_s(len(visit.output) / visit.rate - 2.5)
    assert late_s < 1.0


@everything
def test_a_tour_of_the_studio(chromium: Visitor, shifting: Serve) -> None:
    """Some 40 s: a call, a voice's sample, a file, two languages, a phone, a reload; axe-core finds nothing."""
    visit = chromium(shifting.port, "tour")
    check_no_fault(visit)
    seen = visit.seen
    parts = seen["live"]["latency"]
    assert all(parts[name] is not None for name in ("block", "network", "queue", "conversion", "playback", "total"))
    assert parts["total"] == pytest.approx(sum(ms for name, ms in parts.items() if name != "total"), abs=150)
    assert seen["muted"]["inputPeak"] == 0
    assert seen["muted"]["pressed"] == "true"
    assert seen["recordings"] == ["original.wav", "converted.wav"]
    (a, a_s), (b, b_s) = (caption.split(", ") for caption in seen["files"])
    assert (a, b) == ("A: Original", "B: Converted")
    assert a_s == b_s
    assert seen["overflow"] <= 0
    assert seen["kept"]["lang"] == "zh"
    assert seen["kept"]["voice"] == seen["kept"]["last"]


@everything
def test_a_stranger_is_asked_for_a_key_and_told_when_it_is_wrong(chromium: Visitor, foreign: Serve) -> None:
    seen = chromium(foreign.port, "stranger", key="a-key-of-ones-own").seen
    assert seen["asked"]
    assert "AUTH_FAILED" in seen["told"]
    assert "operator" in seen["told"]  # and what to do
    assert seen["kept"] == "a-key-of-ones-own"  # for the tab, and
    assert "a-key-of-ones-own" not in seen["stored"]  # no longer
