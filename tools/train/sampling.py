"""Which stretches of whom a batch is made of."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tools.train.annotated import GRID, Annotated
from worker.models.published.mel import NANO

SHARES = {"bundled": 0.38, "real": 0.32, "kokoro": 0.30}
BY_LENGTH = {"bundled": 0.5, "real": 0.7}  # power of a speaker's length by which it is drawn
OTHER_SPEED, SPEEDS = 0.33, (0.78, 1.4)  # share of rows read faster or slower: new speakers
TRIES = 8  # to find a prompt that is not part of the source
SWAPPED, TO_BUNDLED = 0.35, 0.6  # share of rows whose words somebody else says; share of these said by a bundled voice
FROM_START, LAST_POSITION = 0.6, 1200  # share of batches whose first content frame has position 0; most of others

Ints = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths of a batch, and its rows."""

    frames: int  # mel frames of the source
    prompt_frames: int
    context: int  # samples that the content encoder hears before
    rows: int

    @property
    def resampled(self) -> int:
        """The first so many rows are read at another speed."""
        return int(OTHER_SPEED * self.rows)

    @property
    def swapped(self) -> int:
        """The first so many rows' words are said by somebody else too."""
        return max(1, int(SWAPPED * self.rows))

    @classmethod
    def of(cls, rows: int) -> list[Shape]:
        """Of a run: ``rows`` of 100 frames, more of shorter ones."""
        lengths = ((55, 125, 8), (80, 185, 12), (100, 125, 8), (140, 95, 4))
        return [cls(m, p, context * GRID, max(8, rows * 100 // m // 8 * 8)) for m, p, context in lengths]


@dataclass(frozen=True, slots=True)
class Rows:
    """Stretches of one batch, a row each; begins in samples of the whole recording."""

    target: Ints
    source: Ints  # the same words at the same moments, perhaps in another voice
    prompt: Ints
    speed: npt.NDArray[np.float32]
    speaker: Ints
    other: Ints  # [swapped], rows whose voices the first rows' words are said in
    first: Ints  # [], position of the first content frame


class Sampler:
    def __init__(self, corpus: Annotated, seed: int) -> None:
        self._corpus, self._rng = corpus, np.random.default_rng(seed)
        self._streams = {kind: np.array(corpus.of_kind(kind)) for kind in SHARES}
        shares = np.array([share * bool(len(self._streams[kind])) for kind, share in SHARES.items()])
        self._shares = shares / shares.sum()
        self._drawn = {
            kind: self._cumulative(kind, power) for kind, power in BY_LENGTH.items() if len(self._streams[kind])
        }
        self._members = np.array([index for members in corpus.sentences.values() for index in members])
        counts = np.array([len(members) for members in corpus.sentences.values()])
        self._counts, self._firsts = counts, np.cumsum(counts) - counts

    def _cumulative(self, kind: str, power: float) -> npt.NDArray[np.float64]:
        streams, corpus = self._streams[kind], self._corpus
        speakers = corpus.speaker_of[streams]
        weights = np.zeros(len(streams))
        for speaker in np.unique(speakers):
            own = corpus.lengths[streams[speakers == speaker]].astype(float)
            weights[speakers == speaker] = own.sum() ** power * own / own.sum()
        return np.asarray(np.cumsum(weights / weights.sum()))

    def rows(self, shape: Shape) -> Rows:
        rng, corpus, count = self._rng, self._corpus, shape.rows
        kinds = rng.choice(list(SHARES), count, p=self._shares)
        speed = np.ones(count)
        speed[: shape.resampled] = np.exp(rng.uniform(math.log(SPEEDS[0]), math.log(SPEEDS[1]), shape.resampled))
        samples, prompt = shape.frames * NANO.hop, shape.prompt_frames * NANO.hop
        own, other = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for kind, drawn in self._drawn.items():
            some = kinds == kind
            place = np.searchsorted(drawn, rng.random(some.sum()))
            own[some] = self._streams[kind][np.minimum(place, len(drawn) - 1)]
            other[some] = own[some]
        parallel = kinds == "kokoro"
        if parallel.any():
            sentence = rng.integers(0, len(self._counts), parallel.sum())
            first, members = self._firsts[sentence], self._counts[sentence]
            own[parallel] = self._members[first + (rng.random(len(sentence)) * members).astype(int)]
            other[parallel] = self._members[first + (rng.random(len(sentence)) * members).astype(int)]
        length = np.minimum(corpus.lengths[own], corpus.lengths[other])
        speed[parallel & ((samples + prompt) * speed > length)] = 1.0
        begin, prompt_begin = self._alone(length, samples * speed, prompt * speed, shape.context * speed)
        end, prompt_end = self._ends(length, samples * speed, prompt * speed)
        at = np.where(parallel, end, begin).astype(np.int64) // GRID * GRID
        prompt_at = np.where(parallel, prompt_end, prompt_begin).astype(np.int64)
        starts = corpus.starts
        return Rows(
            target=starts[own] + at,
            source=starts[other] + at,
            prompt=starts[own] + prompt_at,
            speed=speed.astype(np.float32),
            speaker=corpus.speaker_of[own],
            other=self._others(kinds == "bundled", shape.swapped),
            first=np.array(0 if rng.random() < FROM_START else rng.integers(0, LAST_POSITION)),
        )

    def _alone(
        self,
        length: Ints,
        samples: npt.NDArray[np.float64],
        prompt: npt.NDArray[np.float64],
        context: npt.NDArray[np.float64],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Source and prompt anywhere in a long recording, apart."""
        rng, count = self._rng, len(length)
        room = length - samples
        at = np.where(
            room > context, context + rng.random(count) * (room - context), rng.random(count) * np.maximum(0, room)
        )
        tries = rng.random((TRIES, count)) * np.maximum(1, length - prompt)
        apart = (tries + prompt < at) | (tries > at + samples)
        return at, tries[apart.argmax(axis=0), np.arange(count)]

    def _ends(
        self, length: Ints, samples: npt.NDArray[np.float64], prompt: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of a short one: the prompt at one end, the source at the other."""
        rng, count = self._rng, len(length)
        begin = rng.random(count) * np.maximum(0, length - samples - prompt)
        before = rng.random(count) < 0.5
        at, prompt_at = np.where(before, begin + prompt, begin), np.where(before, 0, begin + samples)
        return at, np.minimum(prompt_at, np.maximum(0, length - prompt))

    def _others(self, bundled: npt.NDArray[np.bool_], count: int) -> Ints:
        rng = self._rng
        anyone = rng.integers(0, len(bundled), count)
        voices = np.flatnonzero(bundled)
        if len(voices):
            anyone = np.where(rng.random(count) < TO_BUNDLED, rng.choice(voices, count), anyone)
        return anyone


class Ahead(Generic[T]):
    """What a thread of its own makes, a few pieces ahead."""

    def __init__(self, make: Callable[[], T], depth: int = 4) -> None:
        self._made: queue.Queue[T | Exception] = queue.Queue(depth)
        self._make, self._ended = make, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            try:
                piece: T | Exception = self._make()
            except Exception as error:
                piece = error
            while not self._ended:
                try:
                    self._made.put(piece, timeout=0.5)
                    break
                except queue.Full:
                    continue

    def next(self) -> T:
        piece = self._made.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def end(self) -> None:
        self._ended = True
        self._thread.join()
