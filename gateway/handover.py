"""Sessions that were opened at another worker while the one that leaves still answers what it has of them.

Both have the same blocks then, and whichever answers first is heard, so that leaving delays nobody. The worker that
leaves is told that a session is over once it has answered all it had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.stream import Stream
from shared.messages import Audio, Close, Failed, FromGateway, Opened


@dataclass(slots=True)
class _Former:
    """What a worker that leaves still has of a session."""

    stream: Stream
    epoch: int
    seqs: set[int]


class Handovers:
    """By the identity of the worker that leaves, and by session."""

    def __init__(self, send: Callable[[bytes, FromGateway], None]) -> None:
        self._send = send
        self._former: dict[bytes, dict[str, _Former]] = {}

    def begin(self, identity: bytes, stream: Stream) -> None:
        """Before `stream`, which is at the worker `identity`, is opened elsewhere."""
        former = _Former(stream, stream.epoch, set(stream.at_worker))
        self._former.setdefault(identity, {})[stream.spec.session_id] = former
        self._close_if_done(identity, former)

    def take(self, identity: bytes, message: Audio | Opened | Failed) -> bool:
        """Whether the message is of a session that was handed over by this worker."""
        former = self._former.get(identity, {}).get(message.session)
        if former is None or former.epoch != message.epoch:
            return False
        match message:
            case Audio():
                former.seqs.discard(message.seq)
                former.stream.on_former_audio(message)
            case Failed():
                former.seqs.clear()
            case Opened():
                pass
        self._close_if_done(identity, former)
        return True

    def lose(self, identity: bytes) -> None:
        """The worker is gone; the other one has everything."""
        self._former.pop(identity, None)

    def end(self, stream: Stream) -> None:
        """The session is over."""
        for identity, sessions in list(self._former.items()):
            former = sessions.get(stream.spec.session_id)
            if former is not None and former.stream is stream:
                former.seqs.clear()
                self._close_if_done(identity, former)

    def _close_if_done(self, identity: bytes, former: _Former) -> None:
        if not former.seqs:
            session_id = former.stream.spec.session_id
            del self._former[identity][session_id]
            self._send(identity, Close(session_id, former.epoch))
