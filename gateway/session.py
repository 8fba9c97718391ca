"""One caller's session: payloads in, blocks to the stream, ordered answers out as messages.

`feed` and `finish` belong to the reading side, `write` to the sending side; both run on the event loop and leave codec
work to a thread. What the caller has not read and what the worker has not answered is bounded: then `feed` waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from gateway.blocks import Blocker, Edges, Layout, samples_due
from gateway.codecs import CodecError, Decoder, Encoder, OpusDecoder, OpusEncoder, PcmDecoder, PcmEncoder
from gateway.protocols import SessionError, SessionRequest
from gateway.stream import CREDIT, Answer, Stream
from shared.audio import LINK_RATE, Pcm

T = TypeVar("T")
Send = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class SessionStats:
    """What a session reports at its end."""

    started_at: float = field(default_factory=time.monotonic)
    input_ms: float = 0.0
    blocks: int = 0
    concealed: int = 0
    latency_sum_ms: float = 0.0
    latency_max_ms: float = 0.0
    queue_sum_ms: float = 0.0
    batch_sum: int = 0
    steps_min: int | None = None
    measured: int = 0  # answers that came with statistics
    converted: int = 0  # of them, those that were in a batch: silence is not

    def add(self, answer: Answer, latency_ms: float) -> None:
        self.blocks += 1
        self.latency_sum_ms += latency_ms
        self.latency_max_ms = max(self.latency_max_ms, latency_ms)
        if answer.samples is None or (answer.stats is not None and answer.stats.concealed):
            self.concealed += 1
        if answer.stats is not None:
            self.measured += 1
            self.queue_sum_ms += answer.stats.queue_ms
            self.converted += answer.stats.batch_size > 0
            self.batch_sum += answer.stats.batch_size
            steps = answer.stats.steps
            if steps:  # silence takes none
                self.steps_min = steps if self.steps_min is None else min(self.steps_min, steps)

    def summary(self, reopened: int) -> dict[str, Any]:
        """For the `complete` message; milliseconds."""
        per_block, per_answer = max(1, self.blocks), max(1, self.measured)
        return {
            "total_processed_ms": round(self.input_ms, 3),
            "chunks_processed": self.blocks,
            "average_latency_ms": round(self.latency_sum_ms / per_block, 3),
            "max_latency_ms": round(self.latency_max_ms, 3),
            "average_queue_ms": round(self.queue_sum_ms / per_answer, 3),
            "average_batch_size": round(self.batch_sum / max(1, self.converted), 2),
            "min_steps": self.steps_min,
            "concealed_chunks": self.concealed,
            "reopened": reopened,
            "session_ms": round((time.monotonic() - self.started_at) * 1000),
        }


def make_codecs(request: SessionRequest, model_rate: int) -> tuple[Decoder, Encoder]:
    """Decoder and encoder of a session."""
    decoder: Decoder = OpusDecoder() if request.opus_in else PcmDecoder(request.rate_in, request.channels)
    if request.opus_out:
        return decoder, OpusEncoder(model_rate, request.rate_out, request.opus_frame_ms)
    return decoder, PcmEncoder(model_rate, request.rate_out)


class Session:
    """Between a WebSocket and a stream."""

    def __init__(self, request: SessionRequest, layout: Layout, codec_threads: Executor, max_unfinished: int) -> None:
        self.request = request
        self.layout = layout
        self.stats = SessionStats()
        self.stream: Stream | None = None
        self._threads = codec_threads
        self._decoder, self._encoder = make_codecs(request, layout.rate_out)
        self._decodes_slowly = request.opus_in or request.rate_in != LINK_RATE or request.channels > 1
        self._encodes_slowly = request.opus_out or request.rate_out != layout.rate_out
        self._blocker = Blocker(layout)
        self._edges = Edges(layout.rate_out)
        self._payloads: list[bytes] = []
        self._until_block_ms = float(layout.block_ms - layout.prefill_ms)  # of sound still missing
        self._answers: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._max_unfinished = max_unfinished + CREDIT
        self._sent_blocks = 0
        self._sent_samples = 0  # at the worker's rate
        self._due_samples: int | None = None  # known when the input is over
        self._room = asyncio.Event()

    def on_answer(self, answer: Answer) -> None:
        """The stream's sink: answers in order."""
        self._answers.put_nowait(answer)

    async def feed(self, payload: bytes) -> None:
        """One message of audio. Raises `SessionError` INVALID_AUDIO."""
        if not payload:
            return
        try:
            duration_ms = self._decoder.duration_ms(payload)
        except CodecError as error:
            raise SessionError("INVALID_AUDIO", str(error)) from None
        self.stats.input_ms += duration_ms
        self._payloads.append(payload)
        self._until_block_ms -= duration_ms
        if self._until_block_ms <= 1e-6:
            await self._submit(last=False)

    async def finish(self) -> None:
        """The caller's input is over: flush the rest, so that all of it comes out."""
        await self._submit(last=True)
        assert self.stream is not None
        if not self.stream.submitted:
            self._answers.put_nowait(None)

    async def write(self, send: Send) -> None:
        """Send answers until the last one that is due; each as soon as it is there, in order."""
        while (answer := await self._answers.get()) is not None:
            samples = self._join(answer)
            last = self._due_samples is not None and self._sent_samples + len(samples) >= self._due_samples
            if last and self._due_samples is not None:
                samples = samples[: self._due_samples - self._sent_samples]
            self._sent_samples += len(samples)
            encode = partial(self._encoder.encode, samples, last)
            for message in await self._offload(encode, self._encodes_slowly):
                await send(message)
            self._sent_blocks += 1
            self._room.set()
            self.stats.add(answer, max(0.0, (asyncio.get_running_loop().time() - answer.complete_at) * 1000))
            if last:
                return

    def _join(self, answer: Answer) -> Pcm:
        if answer.samples is None:
            return self._edges.conceal(self.layout.block_samples_out)
        return self._edges.resume(answer.samples)

    async def _submit(self, last: bool) -> None:
        assert self.stream is not None
        payloads, self._payloads = self._payloads, []
        decode = partial(self._decoder.decode, payloads, last)
        try:
            samples = await self._offload(decode, self._decodes_slowly and bool(payloads or last))
        except CodecError as error:
            raise SessionError("INVALID_AUDIO", str(error)) from None
        blocks = self._blocker.push(samples)
        if last:
            blocks += self._blocker.finish()
            self._due_samples = samples_due(self.layout, self._blocker.samples)
        self._until_block_ms = self._blocker.missing_ms
        for block in blocks:
            while self.stream.submitted - self._sent_blocks >= self._max_unfinished:
                self._room.clear()
                await self._room.wait()
            self.stream.submit(block)

    async def _offload(self, work: Callable[[], T], slow: bool) -> T:
        if not slow:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
