"""One worker as the gateway sees it: what it offers, how full it is, and which sessions it can serve."""

from __future__ import annotations

import socket as net
from dataclasses import dataclass, field

from gateway.errors import SessionError
from gateway.stream import Stream, StreamSpec
from shared.messages import Hello
from shared.state import PooledWorker


@dataclass(eq=False, slots=True)
class WorkerRecord:
    """A worker as the gateway sees it."""

    identity: bytes
    hello: Hello
    quota: int  # of its places, as it said last
    capacity: int  # as many, or fewer until its next beat
    queue_ms: float = 0.0
    steps: int = 0  # of the solver, in use
    draining: bool = False
    over_beats: int = 0  # in a row in which it had more sessions than its quota
    shed_at: float = -1e9  # when sessions were last moved away for that
    streams: dict[str, Stream] = field(default_factory=dict)
    voices: frozenset[str] = field(init=False)  # names

    def __post_init__(self) -> None:
        self.voices = frozenset(voice.name for voice in self.hello.voices)

    @property
    def name(self) -> str:
        return self.hello.worker_id

    @property
    def free(self) -> int:
        free = self.capacity - len(self.streams)
        return free if free > 0 and not self.draining else 0

    @property
    def load(self) -> tuple[float, float]:
        return len(self.streams) / max(1, self.capacity), self.queue_ms

    @property
    def takes_references(self) -> bool:
        """Whether a session may bring its voice."""
        return self.hello.reference_ms > 0

    def serves(self, spec: StreamSpec) -> bool:
        """Whether a session of this kind can be opened here, also in its middle."""
        hello, layout = self.hello, spec.layout
        return (
            hello.model == spec.model
            and (hello.block_ms, hello.delay_ms, hello.sample_rate_out)
            == (layout.block_ms, layout.delay_ms, layout.rate_out)
            and (self.takes_references if spec.reference else spec.voice in self.voices)
        )

    def describe(self) -> PooledWorker:
        """For `status`."""
        return PooledWorker(
            worker_id=self.name,
            pid=self.hello.pid,
            host=self.hello.host,
            device=self.hello.device,
            model=self.hello.model,
            sessions=len(self.streams),
            capacity=self.capacity,
            draining=self.draining,
            local=self.hello.host == net.gethostname(),
        )


def common_bounds(workers: list[WorkerRecord]) -> dict[str, list[float]]:
    """Options of a session that all of them take: lowest and highest value."""
    known = set.intersection(*(set(worker.hello.options) for worker in workers))
    bounds = [worker.hello.options for worker in workers]
    return {
        name: [max(one[name][0] for one in bounds), min(one[name][1] for one in bounds)]
        for name in workers[0].hello.options
        if name in known
    }


def least_loaded(workers: list[WorkerRecord]) -> WorkerRecord:
    free = [worker for worker in workers if worker.free > 0]
    if not free:
        raise SessionError("OVERLOADED", "no worker has a free place")
    return min(free, key=lambda worker: worker.load)
