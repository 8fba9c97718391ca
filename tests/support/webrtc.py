"""A caller over WebRTC, as a program with aiortc is one: sound both ways, a data channel, and WHIP's requests."""

from __future__ import annotations

import asyncio
import fractions
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp
import aiortc
import av
import numpy as np
import numpy.typing as npt
import opuslib

RATE = 48_000
FRAME = 960  # samples, 20 ms
FRAME_S = 0.02
_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_TIMEOUT_S = 15.0

Wave = npt.NDArray[np.int16]


class RtcCaller:
    """`dial`, then `speak`; what comes is in `packets` and `messages`."""

    def __init__(
        self, servers: list[aiortc.RTCIceServer] | None = None, *, channel: bool = True, relay: bool = False
    ) -> None:
        """relay: packets go through the TURN server among `servers` alone."""
        policy = aiortc.RTCIceTransportPolicy.RELAY if relay else aiortc.RTCIceTransportPolicy.ALL
        configuration = aiortc.RTCConfiguration(iceServers=servers or [], iceTransportPolicy=policy)
        self.pc = aiortc.RTCPeerConnection(configuration)
        self.messages: list[dict[str, Any]] = []
        self.packets: list[tuple[float, int, int, bytes]] = []  # when, number, timestamp, payload
        self.location = ""
        self.closed = asyncio.Event()
        self._came = asyncio.Event()
        self._track = _Microphone()
        self._transceiver = self.pc.addTransceiver("audio", "sendrecv")
        self._transceiver.sender.replaceTrack(self._track)  # type: ignore[arg-type]
        setattr(self._transceiver.receiver, _BUFFER, self)
        self.pc.on("connectionstatechange", self._on_state)
        self.channel = self.pc.createDataChannel("control") if channel else None
        if self.channel is not None:
            self.channel.on("message", self._on_message)

    async def dial(
        self,
        http: aiohttp.ClientSession,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        change: Callable[[str], str] = lambda sdp: sdp,
    ) -> aiohttp.ClientResponse:
        """POST the offer, as `change` has it; with a 201 the connection begins."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        headers = {"Content-Type": "application/sdp", **(headers or {})}
        async with http.post(url, data=change(self.pc.localDescription.sdp), headers=headers) as response:
            text = await response.text()
        if response.status == 201:
            self.location = response.headers["Location"]
            await self.pc.setRemoteDescription(aiortc.RTCSessionDescription(text, "answer"))
        return response

    async def configure(self, **config: Any) -> dict[str, Any]:
        """The first message, and what is said to it."""
        assert self.channel is not None
        if self.channel.readyState != "open":
            opened = asyncio.Event()
            self.channel.on("open", opened.set)
            async with asyncio.timeout(_TIMEOUT_S):
                await opened.wait()
        self.tell({"type": "config", **config})
        return await self.message("ready", "error")

    def tell(self, content: Any) -> None:
        assert self.channel is not None
        self.channel.send(content if isinstance(content, str | bytes) else json.dumps(content))

    async def message(self, *kinds: str) -> dict[str, Any]:
        """The first of these kinds."""
        async with asyncio.timeout(_TIMEOUT_S):
            while not (found := [one for one in self.messages if one["type"] in kinds]):
                self._came.clear()
                await self._came.wait()
        return found[0]

    async def until_heard(self, packets: int) -> None:
        async with asyncio.timeout(_TIMEOUT_S):
            while len(self.packets) < packets:
                self._came.clear()
                await self._came.wait()

    async def speak(self, wave: Wave) -> None:
        """Int16 at 48 kHz, in real time; the last packet is filled up."""
        for packet in encoded(wave):
            self._track.packets.put_nowait(packet)
        await self._track.packets.join()

    def heard(self) -> Wave:
        """What came, in the order of its numbers, without its pauses; int16 at 48 kHz."""
        decoder = opuslib.Decoder(RATE, 1)
        packets = [payload for _, _, _, payload in sorted(self.packets, key=lambda one: one[1])]
        return np.frombuffer(b"".join(decoder.decode(payload, FRAME) for payload in packets), "<i2")

    @property
    def local_candidates(self) -> list[aiortc.RTCIceCandidate]:
        return self._transceiver.receiver.transport.transport.iceGatherer.getLocalCandidates()

    @property
    def heard_ms(self) -> float:
        return len(self.packets) * 1000 * FRAME_S

    def cut_off(self) -> None:
        """The network is gone: nothing is sent or received any more."""
        for protocol in self._transceiver.receiver.transport.transport._connection._protocols:
            protocol.datagram_received = lambda data, addr: None  # type: ignore[method-assign]

    def spoil(self, *, loss: float, jitter_s: float, seed: int = 1) -> None:
        """From now on the network loses packets and delays them by up to twice the jitter, both ways, as netem does."""
        chance, loop = random.Random(seed), asyncio.get_running_loop()

        def passing(carry: Callable[..., object]) -> Callable[..., None]:
            def maybe(*arguments: Any) -> None:
                if chance.random() >= loss:
                    loop.call_later(chance.uniform(0, 2 * jitter_s), carry, *arguments)

            return maybe

        for protocol in self._transceiver.receiver.transport.transport._connection._protocols:
            send = passing(protocol.transport.sendto)

            async def send_data(data: bytes, address: Any, send: Callable[..., None] = send) -> None:
                send(data, address)

            protocol.send_data = send_data  # type: ignore[method-assign]
            protocol.datagram_received = passing(protocol.datagram_received)  # type: ignore[method-assign]

    async def hang_up(self) -> None:
        await self.pc.close()

    # --- within: aiortc asks ---

    def add(self, packet: Any) -> tuple[bool, None]:
        """In the place of aiortc's jitter buffer."""
        at = asyncio.get_running_loop().time()
        first = self.packets[0][1] if self.packets else packet.sequence_number
        number = first + (packet.sequence_number - first + (1 << 15)) % (1 << 16) - (1 << 15)
        self.packets.append((at, number, packet.timestamp, packet.payload))
        self._came.set()
        return False, None

    def _on_message(self, message: str) -> None:
        self.messages.append(json.loads(message))
        self._came.set()

    def _on_state(self) -> None:
        if self.pc.connectionState in ("closed", "failed"):
            self.closed.set()


class _Microphone:
    """A track whose packets are ready; one every 20 ms."""

    kind = "audio"

    def __init__(self) -> None:
        self.id = str(uuid.uuid4())
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self._number = 0
        self._next_at = 0.0

    async def recv(self) -> av.Packet:
        payload = await self.packets.get()
        now = asyncio.get_running_loop().time()
        if now - self._next_at > 0.5:  # it begins, or begins again
            self._next_at = now
        await asyncio.sleep(self._next_at - now)
        self._next_at += FRAME_S
        packet = av.Packet(payload)
        packet.pts, packet.time_base = self._number * FRAME, fractions.Fraction(1, RATE)
        self._number += 1
        self.packets.task_done()
        return packet

    def stop(self) -> None:
        pass


def encoded(wave: Wave) -> list[bytes]:
    """As a browser would."""
    encoder = opuslib.Encoder(RATE, 1, opuslib.APPLICATION_VOIP)
    wave = np.pad(wave, (0, -len(wave) % FRAME))
    return [encoder.encode(frame.astype("<i2").tobytes(), FRAME) for frame in wave.reshape(-1, FRAME)]
