"""The page in both browsers: what comes out of it is the visitor's speech in another voice, on time."""

from __future__ import annotations

import urllib.request

import numpy as np
import parselmouth
import pytest
import soundfile
import soxr

from tests.e2e.conftest import Serve

from .conftest import MOST_S, Visit, Visitor, Wave, everything, find

pytestmark = [pytest.mark.serial, pytest.mark.timeout(MOST_S + 20)]


def level_db(wave: Wave) -> float:
    return float(10 * np.log10(np.mean(wave.astype(float) ** 2) + 1e-12))


def pitch_hz(wave: Wave, rate: int) -> float:
    """Median over what is voiced."""
    f0 = parselmouth.Sound(wave.astype(float), rate).to_pitch(0.01, 75, 500).selected_array["frequency"]
    return float(np.median(f0[f0 > 0]))


def heard(visit: Visit, from_s: float) -> Wave:
    """What the loudspeaker gave from then on."""
    return visit.output[int(from_s * visit.rate) :]


def resumed(serve: Serve) -> float:
    """How many calls went on with the same stream."""
    name = 'fastvc_sessions_resumed_total{stream="same"} '
    with urllib.request.urlopen(f"http://127.0.0.1:{serve.port}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))  # absent before the first


def check_no_fault(visit: Visit) -> None:
    assert visit.seen["faults"] == []
    assert visit.seen["violations"] == []  # of axe-core, where it was asked


def check_converted(visit: Visit, talk_s: float) -> None:
    check_no_fault(visit)
    sounding, spoken = (np.flatnonzero(np.abs(wave) > 1e-3) for wave in (visit.output, visit.input))
    # nearly all of it came; a machine too slow for the browser records less of both, since both are one node's
    assert np.ptp(spoken) / visit.rate > 0.3 * talk_s
    assert np.ptp(sounding) > 0.8 * np.ptp(spoken)
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


def check_found_its_way(visitor: Visitor, serve: Serve) -> Visit:
    before = resumed(serve)
    visit = visitor(serve.port, "astray", webrtc=True)
    check_no_fault(visit)
    assert visit.seen["used"] > 0
    assert visit.seen["noticedMs"] < 30_000
    assert resumed(serve) == before + 1
    assert np.abs(heard(visit, visit.seen["from"] + 1)).max() > 1e-2
    return visit


@everything
def test_a_call_over_webrtc_whose_network_is_gone_comes_back_by_itself(chromium: Visitor, passing: Serve) -> None:
    """Some 25 s: a browser takes eight of them to believe it."""
    visit = check_found_its_way(chromium, passing)
    likeness, late_s = max(visit.match(visit.seen["from"] + at_s) for at_s in (1.0, 1.5, 2.0, 2.5))
    assert likeness > 0.7  # Opus, and the browser's playback as it finds its pace
    assert late_s < 1.5  # without what was said meanwhile


@everything
def test_it_does_so_in_firefox(firefox: Visitor, passing: Serve) -> None:
    """Some 25 s, as above."""
    check_found_its_way(firefox, passing)


@everything
def test_the_same_over_webrtc_in_firefox(firefox: Visitor, shifting: Serve) -> None:
    """Some 20 s: a call in real time."""
    pytest.importorskip("aiortc", reason="the extra webrtc is not installed")
    check_converted(firefox(shifting.port, "talk", talk_ms=6000, webrtc=True), 6)


def check_punctual_again(visit: Visit) -> None:
    """Before and after, while playback was steady: what is late beyond the spare that gaps have made is made up for."""
    late_s = {}
    for moment in ("before", "after"):
        told = visit.seen[moment]
        late_s[moment] = visit.delay_s(told["from"] + 0.7)
        own = told["latency"]["total"] - told["latency"]["device"]
        assert own / 1000 == pytest.approx(late_s[moment], abs=0.15)  # the page's own figure
    assert late_s["before"] < 1.0
    spare_s = (visit.seen["after"]["playback"]["targetMs"] + 60) / 1000
    assert late_s["after"] < late_s["before"] + spare_s + 0.1


@everything
def test_a_stalled_line_leaves_no_lateness(chromium: Visitor, passing: Serve) -> None:
    """Some 25 s: the line stands still for three of them. Before, playback stayed 2.3 s late for good."""
    visit = chromium(passing.port, "stall", stall_ms=3000)
    check_no_fault(visit)
    check_punctual_again(visit)
    assert visit.seen["after"]["playback"]["droppedMs"] > 500  # the stall was made up for, not left out by chance


def check_whole(visit: Visit, lead_s: float) -> None:
    """What came back is what was said, to the sample; where it is not, it is a block that was concealed. While nothing
    came from the page the gateway filled up a block with silence, which it told."""
    files = (visit.folder / name for name in ("original.wav", "converted.wav"))
    (said, said_rate), (wave, rate) = (soundfile.read(path, dtype="float32") for path in files)
    padded_s = visit.seen["last"]["padded_ms"] / 1000
    assert len(wave) / rate == pytest.approx(len(said) / said_rate + lead_s + padded_s, abs=0.25)
    wave = soxr.resample(wave, rate, said_rate)
    step = said_rate // 2
    pieces = [(at, wave[at : at + step]) for at in range(step, len(wave) - 2 * step, step)]
    found = [(at, *find(piece, said)) for at, piece in pieces if np.abs(piece).max() > 1e-3]
    alike = {at: (at - where) / said_rate for at, likeness, where in found if likeness > 0.99}
    assert len(alike) > 0.8 * len(found)
    assert min(alike) < 4 * step, "nothing of the time before"
    leads = [round(late_s, 3) for late_s in alike.values()]
    assert leads == sorted(leads)
    assert leads[0] == pytest.approx(lead_s, abs=0.001)
    assert leads[-1] < lead_s + padded_s + 0.001


@everything
@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_a_line_that_is_lost_comes_back_by_itself(chromium: Visitor, passing: Serve, how: str) -> None:
    """Some 20 s of a call in real time, ten more where the line only falls silent: the same call, without a sample more
    or less, and on time again."""
    before = resumed(passing)
    visit = chromium(passing.port, "lost", how=how)
    assert all("WebSocket" in fault for fault in visit.seen["faults"])
    assert resumed(passing) == before + 1
    check_whole(visit, lead_s=0.2)
    check_punctual_again(visit)


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
    assert seen["players"] == 3 * [[1, True, True]]  # one at a time; the one before is silent, and its sound let go
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


@everything
def test_a_page_that_is_left_in_the_middle_of_a_call_hangs_up(chromium: Visitor, diffusing: Serve) -> None:
    """Some 20 s: six calls. There is one place."""
    seen = chromium(diffusing.port, "leave").seen
    assert all("WebSocket" in fault for fault in seen["faults"])  # the line that is cut
    assert seen["told"] in ("Ended.", "")  # from the browser's cache, or loaded anew
    assert seen["again"] == "Speak."
    assert seen["muted"] == "Muted: silence is sent."
    assert "MICROPHONE" in seen["unplugged"]
    assert "no longer there" in seen["nobody"]
