"""A caller over WebRTC who speaks waves, and whose network may go."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import opuslib

from tools.client.webrtc import FRAME, RATE, RtcCaller

Wave = npt.NDArray[np.int16]


class TestCaller(RtcCaller):
    """Speaks waves, and may lose its network."""

    __test__ = False

    async def say(self, wave: Wave) -> None:
        """Int16 at 48 kHz, in real time; the last packet is filled up."""
        await self.speak(encoded(wave))

    def heard(self) -> Wave:
        """What came, in the order of its numbers, without its pauses; int16 at 48 kHz."""
        decoder = opuslib.Decoder(RATE, 1)
        packets = [packet.payload for packet in sorted(self.packets, key=lambda one: one.number)]
        return np.frombuffer(b"".join(decoder.decode(payload, FRAME) for payload in packets), "<i2")

    def cut_off(self) -> None:
        """The network is gone: nothing is sent or received any more."""
        for protocol in self._transceiver.receiver.transport.transport._connection._protocols:
            protocol.datagram_received = lambda data, addr: None  # type: ignore[method-assign]


def encoded(wave: Wave) -> list[bytes]:
    """As a browser would."""
    encoder = opuslib.Encoder(RATE, 1, opuslib.APPLICATION_VOIP)
    wave = np.pad(wave, (0, -len(wave) % FRAME))
    return [encoder.encode(frame.astype("<i2").tobytes(), FRAME) for frame in wave.reshape(-1, FRAME)]
