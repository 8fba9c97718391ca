"""A caller over WebRTC: sound both ways, a data channel, and WHIP's requests. It needs the extra `webrtc`.

Packets are encoded before and decoded after the call, as those of `tools.client.client`.
"""

from __future__ import annotations

import asyncio
import fractions
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from tools.client.client import Call, CallConfig, CallError, Sent

if TYPE_CHECKING:
    import aiortc
    import av

RATE = 48_000
FRAME_MS = 20
FRAME = RATE * FRAME_MS // 1000  # samples of a packet
FRAME_S = FRAME_MS / 1000
_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Packet:
    """One that came: when (seconds on the monotonic clock), and its number and timestamp, unwrapped."""

    at: float
    number: int
    timestamp: int
    payload: bytes


class RtcCaller:
    """`dial`, `configure`, then `speak`; what comes is in `packets` and `messages`. `hang_up` in the end."""

    def __init__(
        self, servers: list[aiortc.RTCIceServer] | None = None, *, channel: bool = True, relay: bool = False
    ) -> None:
        """relay: packets go through the TURN server among `servers` alone."""
        import aiortc

        policy = aiortc.RTCIceTransportPolicy.RELAY if relay else aiortc.RTCIceTransportPolicy.ALL
        configuration = aiortc.RTCConfiguration(iceServers=servers or [], iceTransportPolicy=policy)
        self.pc = aiortc.RTCPeerConnection(configuration)
        self.messages: list[dict[str, Any]] = []
        self.packets: list[Packet] = []
        self.sent: list[Sent] = []
        self.location = ""
        self.closed = asyncio.Event()
        self._came = asyncio.Event()
        self._microphone = _Microphone(self.sent)
        self._transceiver = self.pc.addTransceiver("audio", "sendrecv")
        self._transceiver.sender.replaceTrack(cast(Any, self._microphone))
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
        import aiortc

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

    async def speak(self, packets: Iterable[bytes]) -> None:
        """Opus packets of 20 ms, in real time."""
        for packet in packets:
            self._microphone.packets.put_nowait(packet)
        await self._microphone.packets.join()

    @property
    def heard_ms(self) -> float:
        return len(self.packets) * FRAME_MS

    @property
    def local_candidates(self) -> list[aiortc.RTCIceCandidate]:
        return self._transceiver.receiver.transport.transport.iceGatherer.getLocalCandidates()

    async def hang_up(self) -> None:
        await self.pc.close()

    def spoil(self, *, loss: float, jitter_s: float, seed: int = 1) -> None:
        """From now on the network loses packets and delays them by up to twice the jitter, both ways, as netem does."""
        chance, loop = random.Random(seed), asyncio.get_running_loop()

        def passing(carry: Callable[..., object]) -> Callable[..., None]:
            def arrive(*arguments: Any) -> None:
                if self.pc.connectionState != "closed":
                    carry(*arguments)

            def maybe(*arguments: Any) -> None:
                if chance.random() >= loss:
                    loop.call_later(chance.uniform(0, 2 * jitter_s), arrive, *arguments)

            return maybe

        for protocol in self._transceiver.receiver.transport.transport._connection._protocols:
            send = passing(protocol.transport.sendto)

            async def send_data(data: bytes, address: Any, send: Callable[..., None] = send) -> None:
                send(data, address)

            protocol.send_data = send_data  # type: ignore[method-assign, assignment]
            protocol.datagram_received = passing(protocol.datagram_received)  # type: ignore[method-assign]

    # --- aiortc asks ----------------------------------------------------------------------------------------

    def add(self, packet: Any) -> tuple[bool, None]:
        """In the place of aiortc's jitter buffer, whose decoder gets nothing."""
        number, timestamp = packet.sequence_number, packet.timestamp
        if self.packets:
            first = self.packets[0]
            number = first.number + _difference(number, first.number, 16)
            timestamp = first.timestamp + _difference(timestamp, first.timestamp, 32)
        self.packets.append(Packet(time.monotonic(), number, timestamp, packet.payload))
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

    def __init__(self, sent: list[Sent]) -> None:
        self.id = str(uuid.uuid4())
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self._sent = sent
        self._number = 0
        self._next_at = 0.0

    async def recv(self) -> av.Packet:
        import av

        payload = await self.packets.get()
        now = time.monotonic()
        if now - self._next_at > 0.5:  # it begins, or begins again
            self._next_at = now + FRAME_S
        await asyncio.sleep(self._next_at - now)
        self._sent.append(Sent(self._next_at, time.monotonic(), (self._number + 1) * FRAME_MS))
        self._next_at += FRAME_S
        packet = av.Packet(payload)
        packet.pts, packet.time_base = self._number * FRAME, fractions.Fraction(1, RATE)
        self._number += 1
        self.packets.task_done()
        return packet

    def stop(self) -> None:
        pass


def _difference(one: int, other: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (one - other + half) % (1 << bits) - half


async def call_over_webrtc(
    http: aiohttp.ClientSession,
    config: CallConfig,
    packets: list[bytes],
    on_ready: Callable[[RtcCaller], object] = lambda caller: None,
) -> Call:
    """One session with Opus packets of 20 ms, in real time; `config.url` as for a WebSocket. `on_ready`: told of the
    caller before it speaks. Raises `CallError`."""
    url = config.url.replace("ws", "http", 1).removesuffix("/ws").rstrip("/") + "/webrtc"
    caller = RtcCaller()
    try:
        response = await caller.dial(http, url, headers={"Authorization": f"Bearer {config.api_key}"})
        if response.status != 201:
            raise CallError(f"refused with HTTP {response.status}")
        result = Call(config, len(packets) * FRAME_MS, sent=caller.sent)
        result.ready = await caller.configure(**config.first_message())
        if result.ready["type"] == "error":
            raise CallError(f"{result.ready['error_code']}: {result.ready['message']}")
        on_ready(caller)
        await caller.speak(packets)
        result.end_due = caller.sent[-1].due
        caller.tell({"type": "end"})
        last = await caller.message("complete", "error")
        if last["type"] == "error":
            raise CallError(f"{last['error_code']}: {last['message']}")
        result.complete = last["stats"]
        result.received = [(packet.at, packet.payload) for packet in caller.packets]
        return result
    except TimeoutError:
        raise CallError(f"nothing came for {_TIMEOUT_S:g} s") from None
    finally:
        await caller.hang_up()
