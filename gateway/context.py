"""What all calls of a gateway share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway.audio.threads import CodecThreads
from gateway.auth.door import Door
from gateway.metrics import Metrics
from gateway.pool import Pool
from gateway.recording.traces import Traces
from gateway.resume.returns import Returns
from gateway.stream import StreamCounters
from gateway.voices.references import References
from shared.config import GatewayConfig


@dataclass(frozen=True, slots=True)
class CallContext:
    """Of one gateway."""

    config: GatewayConfig
    door: Door
    pool: Pool
    counters: StreamCounters
    codec_threads: CodecThreads
    draining: asyncio.Event  # set: calls get their sound, and end
    metrics: Metrics
    traces: Traces
    references: References
    returns: Returns
    make_room: Callable[[str], bool]  # end a call of a principal whose caller is away; whether there was one
