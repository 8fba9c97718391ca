"""Measure the ``shift`` engine on the bundled recordings: pitch, words, block borders, level, cost.

Judged by programs that share no code with the engine: Praat for f0, PocketSphinx for words.
"""

from __future__ import annotations

import argparse
import difflib
import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import parselmouth
import pocketsphinx
import soundfile
import torch

from tools.quality.seams import border_excess_db
from worker.engines.shift.engine import ShiftEngine
from worker.geometry import INPUT_RATE, Geometry
from worker.streaming.pool import StreamPool
from worker.voices import list_voices

ROOT = Path(__file__).resolve().parents[2]
VOICES = ROOT / "worker/assets/voices"
SENTENCES = (
    "all of our representatives are currently busy please stay on the line "
    "and your call will be answered by the next available representative"
)
SOURCES: dict[Path, str] = {
    ROOT / "worker/assets/samples/sample.flac": SENTENCES,
    ROOT / "tests/data/male_english.flac": SENTENCES,
    ROOT / "tests/data/male_italian.flac": "",  # no words are counted: the recogniser knows English
}

Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Measures:
    """One source in one voice."""

    source: str
    voice: str
    f0_source_hz: float
    f0_reference_hz: float
    f0_streamed_hz: float
    f0_whole_hz: float
    words_source: float | None
    words_streamed: float | None
    words_whole: float | None
    border_excess_db: float
    level_change_db: float
    peak: float


def read_pcm(path: Path) -> Pcm:
    """A 16 kHz mono recording as int16 ``[n]``."""
    pcm, rate = soundfile.read(path, dtype="int16")
    if rate != INPUT_RATE or pcm.ndim != 1:
        raise ValueError(f"{path} is not 16 kHz mono")
    return pcm


def median_f0_hz(pcm: Pcm) -> float:
    """Median f0 over the frames that Praat calls voiced."""
    pitch = parselmouth.Sound(pcm / 32768.0, INPUT_RATE).to_pitch(0.01, 60, 500)
    f0 = pitch.selected_array["frequency"]
    return float(np.median(f0[f0 > 0]))


@cache
def recogniser() -> pocketsphinx.Decoder:
    """Made once: its models take a third of a second. A whole utterance is normalised by itself."""
    return pocketsphinx.Decoder(samprate=INPUT_RATE, loglevel="FATAL")


def words_kept(pcm: Pcm, text: str) -> float:
    """Share of the words of ``text`` that PocketSphinx (its own US English model) hears, in order."""
    decoder = recogniser()
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    wanted, heard = text.split(), decoder.hyp().hypstr.split() if decoder.hyp() else []
    matches = difflib.SequenceMatcher(None, wanted, heard, autojunk=False).get_matching_blocks()
    return sum(match.size for match in matches) / len(wanted)


def stream(pool: StreamPool, voice: str, pcm: Pcm) -> Pcm:
    """``pcm`` through one session, block by block, and as many samples back, without the pool's delay."""
    size, delay = pool.geometry.block_samples_in, pool.geometry.delay_ms * INPUT_RATE // 1000
    count = -(-(len(pcm) + delay) // size)
    padded = np.pad(pcm, (0, count * size - len(pcm)))
    slot = pool.open(voice)
    blocks = [pool.step([slot], [padded[i * size : (i + 1) * size]]).blocks[0] for i in range(count)]
    pool.close(slot)
    return np.concatenate([block.samples for block in blocks])[delay : delay + len(pcm)]


def whole(engine: ShiftEngine, voice: str, pcm: Pcm) -> Pcm:
    """``pcm`` converted at once."""
    out = engine.convert_whole((pcm / np.float32(32768)).astype(np.float32), voice)
    return np.clip(np.round(out * 32768), -32768, 32767).astype(np.int16)


def active_level_db(pcm: Pcm) -> float:
    """Rms of the 20 ms frames above -45 dBFS, in dBFS."""
    frames = pcm[: len(pcm) // 320 * 320].reshape(-1, 320) / 32768.0
    power = np.square(frames).mean(axis=1)
    return float(10 * np.log10(power[power > 10**-4.5].mean()))


def measure(engine: ShiftEngine, source: Path, text: str, voice: str) -> Measures:
    pcm = read_pcm(source)
    streamed, at_once = stream(StreamPool(engine, 1), voice, pcm), whole(engine, voice, pcm)
    return Measures(
        source=source.stem,
        voice=voice,
        f0_source_hz=median_f0_hz(pcm),
        f0_reference_hz=median_f0_hz(read_pcm(VOICES / f"{voice}.flac")),
        f0_streamed_hz=median_f0_hz(streamed),
        f0_whole_hz=median_f0_hz(at_once),
        words_source=words_kept(pcm, text) if text else None,
        words_streamed=words_kept(streamed, text) if text else None,
        words_whole=words_kept(at_once, text) if text else None,
        border_excess_db=border_excess_db(streamed, engine.geometry),
        level_change_db=active_level_db(streamed) - active_level_db(pcm),
        peak=float(np.abs(streamed.astype(np.float64)).max() / 32768),
    )


def step_ms(rows: int, block_ms: int = 200) -> float:
    """Median milliseconds of a step of ``rows`` sessions that all speak, on one core."""
    engine = ShiftEngine(list_voices(VOICES), rows, geometry=Geometry.from_ms(block_ms=block_ms, left_ms=720))
    pool = StreamPool(engine, rows, rms_mix_rate=0.9)
    pcm, size = read_pcm(next(iter(SOURCES))), pool.geometry.block_samples_in
    slots = [pool.open(list(engine.voices)[row % len(engine.voices)]) for row in range(rows)]
    times = []
    for i in range(24):
        blocks = [np.resize(np.roll(pcm, -(i + 3 * row) * size), size) for row in range(rows)]
        begin = time.perf_counter()
        pool.step(slots, blocks)
        times.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(times[4:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the measures to this file, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    engine = ShiftEngine(list_voices(VOICES), 1)
    table = [measure(engine, source, text, voice) for source, text in SOURCES.items() for voice in engine.voices]
    cost = {rows: step_ms(rows) for rows in (1, 8, 16)}

    print("                             median f0, Hz               words kept       border   level   peak")
    print("source        voice     source  target  stream   whole source stream  whole      dB      dB")
    for row in table:
        hz = (row.f0_source_hz, row.f0_reference_hz, row.f0_streamed_hz, row.f0_whole_hz)
        words = (row.words_source, row.words_streamed, row.words_whole)
        print(
            f"{row.source:13} {row.voice:8}",
            " ".join(f"{value:7.1f}" for value in hz),
            " ".join("     -" if share is None else f"{share:6.2f}" for share in words),
            f"{row.border_excess_db:7.2f} {row.level_change_db:7.2f} {row.peak:6.2f}",
        )
    for rows, ms in cost.items():
        print(f"a step of {rows} sessions, 200 ms each, one core: {ms:.1f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in table], "step_ms": cost}, indent=2))
