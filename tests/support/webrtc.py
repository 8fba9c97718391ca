"""A caller over WebRTC whose network can be spoiled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

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


def encoded(wave: Wave) -> list[bytes]:
    """As a browser would."""
    encoder = opuslib.Encoder(RATE, 1, opuslib.APPLICATION_VOIP)
    wave = np.pad(wave, (0, -len(wave) % FRAME))
    return [encoder.encode(frame.astype("<i2").tobytes(), FRAME) for frame in wave.reshape(-1, FRAME)]
