"""From what a caller asks for to a session: codecs, a worker, how the sound lies in blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.audio.table import find_codec
from gateway.blocks import BlockLayout
from gateway.context import CallContext
from gateway.events import SessionObserver
from gateway.request import SessionRequest
from gateway.resume.continuation import Continuation, begin_anew
from gateway.session import Session
from gateway.stream import Stream, StreamSpec
from gateway.voices.references import Reference


@dataclass(frozen=True, slots=True)
class Opening:
    """A session, whose stream a worker has been asked to open."""

    session: Session
    stream: Stream
    continuation: Continuation | None  # of what a caller heard of a process that is gone


def open_session(
    request: SessionRequest,
    reference: Reference | None,
    context: CallContext,
    observe: Callable[[StreamSpec], Sequence[SessionObserver]],
) -> Opening:
    """reference: of a voice that the caller brought; `observe`: who watches the session.

    Raises `SessionError`: no place, no such voice or model, an id in use.
    """
    config, pool = context.config, context.pool
    codec_in, codec_out = find_codec(request.audio_in.encoding), find_codec(request.audio_out.encoding)
    assert codec_in is not None
    assert codec_out is not None
    decoder = codec_in.decoder(request.audio_in)
    worker = pool.pick(request.voice, request.model, brings_voice=reference is not None)
    hello = worker.hello
    layout = BlockLayout.fit(hello.block_ms, hello.delay_ms, hello.sample_rate_out, config.prefill_ms, decoder.lag_ms)
    voice = reference.id if reference else request.voice or hello.voices[0].name
    flac = reference.flac if reference else b""
    spec = StreamSpec(request.session_id, voice, hello.model, layout, request.options, flac)
    clock = asyncio.get_running_loop().time
    stream = Stream(spec, budget_s=config.latency_budget_ms / 1000, counters=context.counters, clock=clock)
    began = None
    if request.resume is not None:
        began = begin_anew(request.resume, request.audio_in, request.audio_out, layout, hello.history_ms)
    session = Session(
        stream,
        decoder,
        codec_out.encoder(request.audio_out, layout.rate_out),
        context.codec_threads,
        max_waiting=config.max_waiting_blocks,
        observers=observe(spec),
        history_ms=0.0 if began is None else began.history / request.audio_in.rate * 1000,
        skipped=0 if began is None else began.skipped,
        on_history=partial(pool.recall, stream),
    )
    pool.adopt(stream, worker)
    return Opening(session, stream, began)
