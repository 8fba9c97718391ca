"""Visits to the page with Debian's browsers: real sockets, real workers, a fake microphone, and what came out of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from shared.addresses import free_port, free_ports
from shared.settings import DEMO_KEY
from tests.e2e.conftest import SAMPLE, Serve
from tests.e2e.test_model import SETTINGS, Pool
from tests.support.reduced import reduced, write_hub

Wave = npt.NDArray[np.float32]

HERE = Path(__file__).parent
INSTALL = "make test-web, or: apt-get install chromium firefox-esr pulseaudio nodejs && npm ci --prefix tests/web"
PROGRAMS = {"chromium": "chromium", "firefox": "firefox-esr"}
MOST_S = 280  # of a visit: a ceiling, for visits wait for what they see
EVERYTHING = os.environ.get("TEST_WEB") == "all"  # else one visit alone: `make test` is short

everything = pytest.mark.skipif(not EVERYTHING, reason="make test-web runs it")


def missing(*programs: str) -> list[str]:
    """Which of them, and of the packages of tests/web/package.json, are not installed."""
    absent = [name for name in programs if shutil.which(name) is None]
    return absent if (HERE / "node_modules").is_dir() else [*absent, "tests/web/node_modules"]


def need(*programs: str) -> None:
    """Skips where something is not installed, with what to do; fails where everything was asked for."""
    if absent := missing(*programs):
        text = f"the page is NOT tested, there is no {', '.join(absent)}. Install: {INSTALL}"
        (pytest.fail if EVERYTHING else pytest.skip)(text)


@dataclass(frozen=True)
class Visit:
    """What a visitor saw and heard."""

    seen: dict[str, Any]
    rate: int
    input: Wave  # from the microphone, and
    output: Wave  # to the loudspeaker, on one clock
    folder: Path  # of what was saved

    def delay_s(self, at_s: float, length_s: float = 1.0, reach_s: float = 4.5) -> float:
        """How much later than the microphone the loudspeaker has the sound around `at_s`: the same, else this fails."""
        likeness, delay_s = self.match(at_s, length_s, reach_s)
        assert likeness > 0.8, f"nothing alike at {at_s} s: {likeness:.2f}"
        return delay_s

    def match(self, at_s: float, length_s: float = 1.0, reach_s: float = 4.5) -> tuple[float, float]:
        """How much the loudspeaker's sound from `at_s` on is like any of the microphone's, up to `reach_s` before (1:
        the same), and how much later it is."""
        begin, end = int(at_s * self.rate), int((at_s + length_s) * self.rate)
        first = max(0, begin - int(reach_s * self.rate))
        likeness, at = find(self.output[begin:end], self.input[first:end])
        return likeness, (begin - first - at) / self.rate


def find(piece: Wave, whole: Wave) -> tuple[float, int]:
    """How much `piece` is like any stretch of `whole` (1: the same), and the first sample of the likest one."""
    heard, said = piece.astype(float), whole.astype(float)
    size = 1 << (len(said) + len(heard)).bit_length()
    product = np.fft.irfft(np.fft.rfft(said, size) * np.conj(np.fft.rfft(heard, size)), size)
    product = product[: len(said) - len(heard) + 1]
    energy = np.cumsum(np.concatenate([[0.0], said**2]))
    energy = energy[len(heard) :] - energy[: len(energy) - len(heard)]
    likeness = product / np.sqrt(np.maximum(energy, 1e-9) * max(float((heard**2).sum()), 1e-9))
    return float(likeness.max()), int(likeness.argmax())


Visitor = Callable[..., Visit]


def _visit(port: int, folder: Path, browser: str, scenario: str, environ: dict[str, str], **wanted: Any) -> Visit:
    speech = folder / "speech.wav"
    samples, rate = soundfile.read(SAMPLE, dtype="int16")
    soundfile.write(speech, samples, rate)
    profile, out = folder / "profile", folder / "out"
    profile.mkdir()
    content = {
        "scenario": scenario,
        "browser": browser,
        "executable": shutil.which(PROGRAMS[browser]),
        "port": port,
        "profile": str(profile),
        "speech": str(speech),
        "out": str(out),
        **wanted,
    }
    command = ["node", str(HERE / "drive.mjs"), json.dumps(content)]
    node = subprocess.Popen(
        command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        said, complaints = node.communicate(timeout=MOST_S)
    except BaseException:
        os.killpg(node.pid, signal.SIGTERM)  # it closes the browser
        raise
    assert node.returncode == 0, complaints[-3000:]
    seen = json.loads(said.splitlines()[-1])
    tracks = [np.fromfile(path, "<f4") for name in ("input", "output") if (path := out / f"{name}.f32").exists()]
    silent = np.zeros(0, np.float32)
    return Visit(seen, seen.get("rate", 0), *(tracks or [silent, silent]), out)


@pytest.fixture
def chromium(tmp_path: Path) -> Visitor:
    """Its microphone says the bundled sample again and again."""
    need("node", "chromium")

    def visit(port: int, scenario: str, **wanted: Any) -> Visit:
        return _visit(port, tmp_path, "chromium", scenario, dict(os.environ), **wanted)

    return visit


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Visitor]:
    """Its microphone hums. Without a loudspeaker Firefox plays nothing at all: it gets one that nobody hears."""
    need("node", "firefox-esr", "pulseaudio")
    socket = tmp_path / "pulse"
    modules = ("module-null-sink rate=48000", f"module-native-protocol-unix socket={socket} auth-anonymous=1")
    options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm"]
    environ = os.environ | {"HOME": str(tmp_path), "PULSE_RUNTIME_PATH": str(tmp_path)}
    with (tmp_path / "pulse.log").open("w") as log:
        server = subprocess.Popen(
            ["pulseaudio", *options, *(f"--load={module}" for module in modules)], env=environ, stdout=log, stderr=log
        )
    end = time.monotonic() + 20
    while not socket.exists():
        assert server.poll() is None, (tmp_path / "pulse.log").read_text()
        assert time.monotonic() < end, "pulseaudio does not start"
        time.sleep(0.05)

    def visit(port: int, scenario: str, **wanted: Any) -> Visit:
        browsing = os.environ | {"PULSE_SERVER": f"unix:{socket}"}
        return _visit(port, tmp_path, "firefox", scenario, browsing, **wanted)

    yield visit
    server.terminate()
    server.wait(10)


def _serve(folder: Path, **settings: Any) -> Iterator[Serve]:
    need("node", "chromium")  # nothing is started for visits that cannot be made
    demo = {"AUTH__API_KEYS": '["fast-vc-demo-key"]', "VOICES__DIR": folder / "uploads"}
    serve = Serve(folder).start(**{**demo, **settings})
    yield serve
    assert serve.stop() == 0


@pytest.fixture(scope="session")
def shifting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The demo configuration with the cheapest model that converts."""
    yield from _serve(tmp_path_factory.mktemp("shifting"))


@pytest.fixture(scope="session")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """What goes in comes out: so that a moment can be found again."""
    yield from _serve(
        tmp_path_factory.mktemp("passing"), WORKER__MODEL="passthrough", WORKER__RMS_MIX_RATE=1, WORKER__VAD="energy"
    )


@pytest.fixture(scope="session")
def diffusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A model with a solver, for one caller."""
    only_one = {"WORKER__MAX_SESSIONS": 1, "WORKER__MAX_BATCH": 1, "WORKER__WARM_UP_S": 1}
    yield from _serve(tmp_path_factory.mktemp("diffusing"), ENV="", WORKER__MODEL="nano", **only_one)


class Stepping(Pool):
    """A model with a solver of several steps, and the demo key."""

    settings: ClassVar[dict[str, Any]] = SETTINGS | {
        "AUTH__API_KEYS": f'["{DEMO_KEY}"]',
        "WORKER__STEPS": 4,
        "WORKER__MIN_STEPS": 4,
        "WORKER__BLOCK_MS": 800,  # of which half is to spare, also on a machine that does much else
        "WORKER__MAX_BATCH": 1,
    }


@pytest.fixture(scope="session")
def stepping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Published networks in small, with weights of no meaning: what comes out is noise, in time."""
    need("node", "chromium")
    checkpoints = tmp_path_factory.mktemp("hub")
    write_hub(checkpoints, reduced("tiny"))
    pool = Stepping(tmp_path_factory.mktemp("stepping")).start_with(checkpoints)
    yield pool
    pool.end()


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Two gateway processes, and a key of operators."""
    keys = {
        "AUTH__API_KEYS": '["fast-vc-demo-key", "a-key-of-operators"]',
        "AUTH__API_KEYS_SCOPES": '["call", "admin"]',
    }
    shared = {"GATEWAY__PROCESSES": 2, "LINK__PORT": free_ports(2), "WORKER__MODEL": "passthrough"}
    yield from _serve(tmp_path_factory.mktemp("several"), **keys, **shared)


@dataclass(frozen=True)
class Site:
    """Another site, whose pages may call."""

    port: int  # of its own server
    serve: Serve


@pytest.fixture(scope="session")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    port = free_port()
    origins = {"GATEWAY__ALLOWED_ORIGINS": f'["http://127.0.0.1:{port}"]'}
    for serve in _serve(tmp_path_factory.mktemp("neighbour"), **origins):
        yield Site(port, serve)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service with a key of its own."""
    yield from _serve(
        tmp_path_factory.mktemp("foreign"), AUTH__API_KEYS='["a-key-of-ones-own"]', WORKER__MODEL="passthrough"
    )
