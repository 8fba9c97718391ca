"""One caller's session: payloads in, blocks to the stream, ordered answers out as messages.

`take`, `send_on`, `pause` and `finish` belong to the reading side, `write` to the sending side; both run on the event
loop and leave codec work to a thread. What the caller has not read and what the worker has not answered is bounded:
then `send_on` waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from gateway.audio.codec import CodecError, Decoder, Encoder
from gateway.audio.fades import Edges
from gateway.audio.resample import Pcm
from gateway.audio.threads import CodecThreads
from gateway.blocks import Blocker, samples_due
from gateway.errors import SessionError
from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded, SessionObserver
from gateway.statistics import SessionStats
from gateway.stream import Answer, Stream
from shared.messages import CREDIT, LINK_RATE

T = TypeVar("T")
_OMISSION_S = 0.15  # a shorter gap between payloads may be how the caller or its network sends
_MOST_OMITTED_MS = 1000
Say = Callable[[Sequence[bytes]], Awaitable[None]]
Report = Callable[[AnswerSent], Awaitable[None]]


class Session:
    """Between a caller's codecs and a stream."""

    def __init__(
        self,
        stream: Stream,
        decoder: Decoder,
        encoder: Encoder,
        codec_threads: CodecThreads,
        *,
        max_waiting: int,
        observers: Sequence[SessionObserver] = (),
        history_ms: float = 0.0,
        skipped: int = 0,
        on_history: Callable[[Pcm], None] = lambda samples: None,
    ) -> None:
        """max_waiting: blocks beyond the link's credit that may be under way. history_ms: so much comes first that was
        answered in an earlier stream, and is for `on_history`. skipped: samples at the worker's rate, at the beginning
        of the answer, that were heard then."""
        self.ignored = 0  # messages that were neither sound nor control
        self.layout = self._layout = stream.spec.layout
        self._stream = stream
        self._decoder, self._encoder, self._threads = decoder, encoder, codec_threads
        self._now = asyncio.get_running_loop().time
        self._stats = SessionStats(self._now())
        self._observers = (self._stats, *observers)
        self._on_payload = [observer.on_payload for observer in self._observers]
        self._blocker = Blocker(self._layout)
        self._edges = Edges(self._layout.rate_out)
        self._history = round(history_ms * LINK_RATE / 1000)  # samples that are still to come
        self._recalled: list[Pcm] = []
        self._on_history = on_history
        self._skipped = skipped
        self._until_block_ms = history_ms + self._blocker.missing_ms
        self._heard_at = -_OMISSION_S  # loop time of the latest payload
        self._began_at = 0.0  # loop time of the first since the caller began, or spoke again
        self._position_ms = 0.0  # of the caller's sound since then
        self._made_up_ms = 0.0
        self._max_unfinished = max_waiting + CREDIT
        self._sent_blocks = 0
        self._sent_samples = 0  # at the worker's rate
        self._due_samples: int | None = None  # known when the input is over
        self._finished = asyncio.Event()
        self._room = asyncio.Event()

    # --- the caller's sound ---------------------------------------------------------------------------------

    def take(self, payload: bytes | None) -> bool:
        """One message of sound, or None for one that was lost; whether a block is whole, and `send_on` to be waited for
        before the next message. Raises `SessionError` INVALID_AUDIO."""
        now = self._now()
        if not self._position_ms or now - self._heard_at >= _OMISSION_S:
            self._make_up(now)
        self._heard_at = now
        try:
            audio_ms = self._decoder.push(payload)
        except CodecError as error:
            raise SessionError("INVALID_AUDIO", str(error)) from None
        self._position_ms += audio_ms
        event = PayloadReceived(now, payload, audio_ms)
        for on_payload in self._on_payload:
            on_payload(event)
        self._until_block_ms -= audio_ms
        return self._until_block_ms <= 1e-6

    async def send_on(self) -> None:
        """What is whole goes on its way. Raises `SessionError` INVALID_AUDIO."""
        await self._submit(self._blocker.push(self._recall(await self._decode(last=False))))

    def _recall(self, samples: Pcm) -> Pcm:
        """What of the samples is new."""
        if not self._history:
            return samples
        recalled, new = samples[: self._history], samples[self._history :]
        self._history -= len(recalled)
        self._recalled.append(recalled)
        if not self._history:
            self._on_history(np.concatenate(self._recalled))
            self._recalled = []
        return new

    def realign(self) -> None:
        """The caller goes on over another connection."""
        self._decoder.realign()

    @property
    def received_ms(self) -> float:
        """Of the caller's sound that was taken; what is made up for them does not count."""
        return self._stats.input_ms

    def _make_up(self, now: float) -> None:
        """After a gap: what the caller's encoder left out because it was silence, so that time stays right."""
        if self._position_ms == 0.0:
            self._began_at = now
            return
        missing_ms = min(1000 * (now - self._began_at) - self._position_ms, _MOST_OMITTED_MS)
        made_ms = self._decoder.make_up(missing_ms) if missing_ms > 0 else 0.0
        self._position_ms += made_ms
        self._made_up_ms += made_ms
        self._until_block_ms -= made_ms

    async def pause(self) -> None:
        """Nothing has come for a while: what is held goes on its way now, with silence behind it."""
        samples = await self._offload(self._decoder.drain, self._decoder.is_slow)
        blocks = self._blocker.push(self._recall(samples), silence_ms=self._decoder.lag_ms)
        self._position_ms = 0.0
        await self._submit(blocks + self._blocker.pad())

    async def finish(self) -> None:
        """The caller's input is over: flush the rest, so that all of it comes out."""
        blocks = self._blocker.push(self._recall(await self._decode(last=True)))
        blocks += self._blocker.finish()
        self._due_samples = samples_due(self._layout, self._blocker.samples)
        await self._submit(blocks)
        self._finished.set()

    async def _decode(self, *, last: bool) -> Pcm:
        try:
            return await self._offload(partial(self._decoder.decode, last=last), self._decoder.is_slow)
        except CodecError as error:
            raise SessionError("INVALID_AUDIO", str(error)) from None

    async def _submit(self, blocks: Sequence[Pcm]) -> None:
        self._until_block_ms = self._blocker.missing_ms
        for block in blocks:
            while self._stream.submitted - self._sent_blocks >= self._max_unfinished:
                self._room.clear()
                await self._room.wait()
            seq = self._stream.submit(block)
            event = BlockSubmitted(self._now(), seq, block)
            for observer in self._observers:
                observer.on_block(event)

    # --- the answers ----------------------------------------------------------------------------------------

    async def write(self, say: Say, report: Report | None = None) -> None:
        """Say the answers until the last one that is due; each as soon as it is there, in order, and `report` on it."""
        while (answer := await self._next_answer()) is not None:
            samples = self._join(answer)
            last = self._due_samples is not None and self._sent_samples + len(samples) >= self._due_samples
            if last and self._due_samples is not None:
                samples = samples[: self._due_samples - self._sent_samples]
            self._sent_samples += len(samples)
            heard_before = min(len(samples), self._skipped)
            self._skipped, samples = self._skipped - heard_before, samples[heard_before:]
            messages = await self._offload(partial(self._encoder.encode, samples, last), self._encoder.is_slow)
            await say(messages)
            self._sent_blocks += 1
            self._room.set()
            event = AnswerSent(self._now(), answer, samples, messages)
            for observer in self._observers:
                observer.on_answer(event)
            if report is not None:
                await report(event)
            if last:
                return

    async def _next_answer(self) -> Answer | None:
        """None where no answer will come: the caller never said anything."""
        if self._stream.submitted or not self._stream.answers.empty():
            return await self._stream.answers.get()
        first = asyncio.ensure_future(self._stream.answers.get())
        over = asyncio.ensure_future(self._finished.wait())
        try:
            await asyncio.wait((first, over), return_when=asyncio.FIRST_COMPLETED)
            return await first if self._stream.submitted else None
        finally:
            first.cancel()
            over.cancel()

    def _join(self, answer: Answer) -> Pcm:
        if answer.samples is None:
            return self._edges.conceal(self._layout.block_samples_out)
        return self._edges.resume(answer.samples)

    # --- the end --------------------------------------------------------------------------------------------

    def end(self, outcome: str) -> dict[str, Any]:
        """The session is over; its statistics."""
        summary = self.summary()
        event = SessionEnded(self._now(), outcome, summary)
        for observer in self._observers:
            observer.on_end(event)
        return summary

    @property
    def padded_ms(self) -> float:
        """Of silence that stood in where the caller paused: the answer is as much longer than the question."""
        return self._blocker.padded / LINK_RATE * 1000

    def summary(self) -> dict[str, Any]:
        """The statistics so far."""
        return self._stats.summary(
            self._now(),
            reopened=self._stream.reopened,
            padded_ms=self.padded_ms + self._made_up_ms,
            lost=self._decoder.concealed,
            ignored=self.ignored,
        )

    async def _offload(self, work: Callable[[], T], slow: bool) -> T:
        if not slow:
            return work()
        return await self._threads.run(work)
