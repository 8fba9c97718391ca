"""Calls through a relay: Debian's coturn, a real process (`make test-webrtc` installs it)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until

aiortc = pytest.importorskip("aiortc", reason="the extra webrtc is not installed")

from aioice.ice import get_host_addresses  # noqa: E402

from shared.addresses import free_port  # noqa: E402

from ..conftest import KEY, Service  # noqa: E402
from .test_webrtc import callers, speech  # noqa: E402, F401

PROGRAM = "turnserver"
EVERYTHING = os.environ.get("TEST_WEBRTC") == "all"
USER, WORD = "fastvc", "a-long-word"


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[str]:
    """A TURN server's URL."""
    if shutil.which(PROGRAM) is None:
        text = "no call is relayed: there is no turnserver. Install: apt-get install coturn"
        (pytest.fail if EVERYTHING else pytest.skip)(text)
    address, port = get_host_addresses(True, False)[0], free_port()  # it relays to no loopback address
    options = [
        "-n",
        f"--listening-ip={address}",
        f"--relay-ip={address}",
        f"--listening-port={port}",
        f"--user={USER}:{WORD}",
        "--realm=fast-vc",
        f"--pidfile={tmp_path / 'turn.pid'}",
        f"--userdb={tmp_path / 'turn.db'}",
        *("--lt-cred-mech", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout"),
    ]
    log = tmp_path / "turn.log"
    with log.open("w") as out:
        server = subprocess.Popen([PROGRAM, *options], stdout=out, stderr=out, cwd=tmp_path)
    until(lambda: "IO method" in log.read_text() or server.poll() is not None)
    assert server.poll() is None, log.read_text()[-2000:]
    yield f"turn:{address}:{port}?transport=udp"
    server.terminate()
    server.wait(10)


@pytest.fixture
def sections(turn: str) -> dict[str, Any]:
    return {"webrtc": {"ice_servers": [{"urls": [turn], "username": USER, "credential": WORD}]}}


async def test_a_caller_whose_packets_all_go_through_a_relay_is_heard(
    service: Service,
    callers: Callable[..., Any],  # noqa: F811
    turn: str,
) -> None:
    await service.worker()
    caller = callers(servers=[aiortc.RTCIceServer([turn], USER, WORD)], relay=True)
    await caller.dial(service.http, service.url + "/webrtc", headers={"Authorization": f"Bearer {KEY}"})
    assert {candidate.type for candidate in caller.local_candidates} == {"relay"}
    assert "typ relay" in caller.pc.remoteDescription.sdp, "the gateway has no relay"
    await caller.configure()
    await caller.say(speech(1000))
    caller.tell({"type": "end"})
    complete = await caller.message("complete", "error")
    assert (complete["type"], complete["stats"]["lost_packets"]) == ("complete", 0)
    assert caller.heard_ms >= 1000
