"""The other side of a WebRTC connection: everything that the gateway needs of aiortc, which an extra brings.

aiortc negotiates, connects, encrypts and reports (RTCP). It does not decode or encode: packets go to the gateway's own
jitter buffer and codecs, and come from them. For that, one private attribute of its receiver is replaced, and two are
read of its transports; `setup.cfg` bounds its version accordingly.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from loguru import logger

from gateway.errors import CallerGone, SessionError, bad_field
from gateway.rtp.jitter import CLOCK_RATE
from gateway.rtp.offer import Offer
from gateway.rtp.playout import Playout
from shared.settings import IceServer

if TYPE_CHECKING:
    import av

GATHER_TIMEOUT_S = 6.0  # for STUN and TURN servers to answer
_TIME_BASE = fractions.Fraction(1, CLOCK_RATE)
_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_FLUSH_INTERVAL_S = 0.02
_MAX_UNSENT_BYTES = 1 << 20  # of control messages to somebody who does not take them
_OPEN, _BROKEN, _CLOSED = "connected", "failed", "closed"


class Ears(Protocol):
    """Who is told what arrives; on the event loop, and must not raise."""

    def on_packet(self, sequence: int, timestamp: int, ssrc: int, payload: bytes) -> None: ...

    def on_text(self, text: str | None) -> None:
        """A message of the data channel; None for one that is no text."""
        ...

    def on_sent(self) -> None:
        """A packet of the answer is on its way."""
        ...

    def on_gone(self, *, hung_up: bool) -> None:
        """Nobody is there any more; `hung_up`: on purpose."""
        ...


class Peer:
    """One connection, made by `answer`; `close` it."""

    def __init__(self, ice_servers: Sequence[IceServer], ears: Ears, playout: Playout) -> None:
        """What `playout` has to send is sent. Raises `ImportError` without the extra."""
        import aiortc

        servers = [aiortc.RTCIceServer(one.urls, one.username, one.credential) for one in ice_servers]
        self._pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=servers))
        self._ears = ears
        self._track = _Track(playout, ears)
        self._channel: Any = None
        self._gone = False
        self._settled = asyncio.Event()
        self._less_unsent = asyncio.Event()
        self._transceiver = self._pc.addTransceiver("audio", "sendrecv")
        codecs = aiortc.RTCRtpSender.getCapabilities("audio").codecs
        self._transceiver.setCodecPreferences([codec for codec in codecs if codec.mimeType == "audio/opus"])
        self._transceiver.sender.replaceTrack(cast(Any, self._track))
        assert hasattr(self._transceiver.receiver, _BUFFER), "another aiortc than the one this was written for"
        setattr(self._transceiver.receiver, _BUFFER, _Tap(ears))
        self._pc.on("connectionstatechange", self._on_state)
        self._pc.on("datachannel", self._on_channel)

    async def answer(self, offer: Offer) -> str:
        """The SDP answer, with all candidates. Raises `SessionError`: INVALID_CONFIG for an unusable offer, TIMEOUT."""
        import aiortc

        try:
            async with asyncio.timeout(GATHER_TIMEOUT_S):
                await self._pc.setRemoteDescription(aiortc.RTCSessionDescription(offer.sdp, "offer"))
                await self._pc.setLocalDescription(await self._pc.createAnswer())
        except TimeoutError:
            raise SessionError("TIMEOUT", f"no answer of the ICE servers within {GATHER_TIMEOUT_S:g} s") from None
        except Exception as error:  # whatever a parser may stumble over
            logger.info("an SDP offer cannot be used: {!r}", error)
            raise bad_field("sdp", f"cannot be used: {error or type(error).__name__}"[:300]) from None
        return str(self._pc.localDescription.sdp)

    async def until_connected(self) -> None:
        """Raises `CallerGone` where that comes to nothing."""
        await self._settled.wait()
        if self._gone:
            raise CallerGone

    def wake(self) -> None:
        """`playout` has something to send."""
        self._track.wake()

    async def send_text(self, text: str) -> None:
        """A control message; nothing happens without a data channel. Raises `CallerGone`."""
        channel = self._channel
        if channel is None:
            return
        while channel.readyState == "open" and channel.bufferedAmount > _MAX_UNSENT_BYTES:
            self._less_unsent.clear()
            await self._less_unsent.wait()
        if self._gone or channel.readyState != "open":
            raise CallerGone
        channel.send(text)

    async def flush(self, timeout_s: float) -> bool:
        """Until the other side has all that was said on the data channel; False: not within that time."""
        if self._channel is None:
            return True
        sctp = self._channel.transport
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._gone and (  # noqa: ASYNC110 - aiortc tells nobody
                    sctp._outbound_queue or sctp._sent_queue or self._channel.bufferedAmount
                ):
                    await asyncio.sleep(_FLUSH_INTERVAL_S)
                return not self._gone
        return False

    async def answers(self, timeout_s: float) -> bool:
        """Whether the other side answers a check of the connection (RFC 7675) within that time."""
        connection: Any = self._transceiver.receiver.transport.transport._connection
        pairs = list(connection._nominated.values())
        if self._gone or not pairs:
            return False
        pair = pairs[0]
        key = connection.remote_password.encode()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(timeout_s):
                await pair.protocol.request(
                    connection.build_request(pair, nominate=False), pair.remote_addr, integrity_key=key
                )
                return True
        return False

    async def close(self) -> None:
        """Tell the other side, and let go of everything."""
        self._gone = True
        self._settled.set()
        await self._pc.close()

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == _OPEN:
            self._settled.set()
        elif state in (_BROKEN, _CLOSED):
            self._leave(hung_up=state == _CLOSED)

    def _on_channel_closed(self) -> None:
        self._leave(hung_up=self._pc.connectionState == _OPEN)

    def _leave(self, *, hung_up: bool) -> None:
        if self._gone:
            return
        self._gone = True
        self._settled.set()
        self._less_unsent.set()
        self._ears.on_gone(hung_up=hung_up)

    def _on_channel(self, channel: Any) -> None:
        if self._channel is not None:
            return  # one is enough
        self._channel = channel
        channel.on("message", lambda message: self._ears.on_text(message if isinstance(message, str) else None))
        channel.on("close", self._on_channel_closed)
        channel.bufferedAmountLowThreshold = _MAX_UNSENT_BYTES // 2
        channel.on("bufferedamountlow", self._less_unsent.set)


class _Tap:
    """In the place of aiortc's jitter buffer: takes every packet, and gives its decoder none."""

    def __init__(self, ears: Ears) -> None:
        self._ears = ears

    def add(self, packet: Any) -> tuple[bool, None]:
        self._ears.on_packet(packet.sequence_number, packet.timestamp, packet.ssrc, packet.payload)
        return False, None


class _Track:
    """What aiortc's sender asks for the next packet. It has been encoded already."""

    kind = "audio"

    def __init__(self, playout: Playout, ears: Ears) -> None:
        self.id = str(uuid.uuid4())
        self._playout, self._ears = playout, ears
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        self._wake.set()

    async def recv(self) -> av.Packet:
        import av

        while (due := self._playout.due) is None:
            self._wake.clear()
            await self._wake.wait()
        if (left_s := due - self._loop.time()) > 0:
            await asyncio.sleep(left_s)
        payload, timestamp = self._playout.pop(self._loop.time())
        self._ears.on_sent()
        packet = av.Packet(payload)
        packet.pts, packet.time_base = timestamp, _TIME_BASE
        return packet

    def stop(self) -> None:
        """The sender is done."""
