"""Stage ``pack``: everything a training run needs in one small folder, so that it can be sent to a machine with nothing
but torch: sound as Opus packets, the teacher's weights in 6 bits each, the vocoder.

``streams.json``: what ``audio.bin`` holds. ``libopus.so.0`` lies beside it and is called through ``ctypes``.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

RATE = 16_000
FRAME = 960  # samples of a packet
LIBRARY, AUDIO, STREAMS = "libopus.so.0", "audio.bin", "streams.json"
BITRATES = {"bundled": 26_000, "kokoro": 20_000, "real": 16_500, "stranger": 18_000}

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Stream:
    """One stretch of one speaker."""

    speaker: str
    kind: str
    samples: int
    at: int  # first byte in ``audio.bin``
    size: int  # bytes
    sentence: int = -1  # of parallel speech: those of one number say the same at the same moments
    language: str = ""  # of parallel speech


def pack(folder: Path, waves: Iterable[tuple[Stream, Samples]], library: Path) -> None:
    """Encode streams (whose places are filled in) to ``folder``. library: libopus."""
    streams, at = [], 0
    with (folder / AUDIO).open("wb") as file:
        for stream, wave in waves:
            packets = encode(wave, BITRATES[stream.kind])
            file.write(packets)
            streams.append(asdict(stream) | {"samples": len(wave), "at": at, "size": len(packets)})
            at += len(packets)
    (folder / STREAMS).write_text(json.dumps(streams))
    (folder / LIBRARY).write_bytes(library.read_bytes())


def encode(wave: Samples, bitrate: int) -> bytes:
    """Opus packets, each behind its length."""
    import opuslib

    encoder = opuslib.Encoder(RATE, 1, opuslib.APPLICATION_VOIP)
    encoder.bitrate, encoder.complexity = bitrate, 10
    padded = np.pad(wave, (0, -len(wave) % FRAME))
    out = bytearray()
    for begin in range(0, len(padded), FRAME):
        packet = encoder.encode(padded[begin : begin + FRAME].tobytes(), FRAME)
        out += struct.pack("<H", len(packet)) + packet
    return bytes(out)


def unpack(
    folder: Path, processes: int = 1, wanted: Callable[[Stream], bool] = lambda stream: True
) -> tuple[list[Stream], list[Samples]]:
    """Streams and their sound."""
    streams = [stream for entry in json.loads((folder / STREAMS).read_text()) if wanted(stream := Stream(**entry))]
    packed = (folder / AUDIO).read_bytes()
    jobs = [(str(folder / LIBRARY), packed[s.at : s.at + s.size], s.samples) for s in streams]
    if processes == 1:
        return streams, [decode(job) for job in jobs]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
        return streams, list(pool.map(decode, jobs, chunksize=2))


def decode(job: tuple[str, bytes, int]) -> Samples:
    """What ``encode`` made, by the library at a path, cut to its samples."""
    path, data, samples = job
    opus = ctypes.CDLL(path)
    opus.opus_decoder_create.restype = ctypes.c_void_p
    pointer, number = ctypes.c_void_p, ctypes.c_int
    opus.opus_decode.argtypes = [pointer, ctypes.c_char_p, number, pointer, number, number]
    opus.opus_decoder_destroy.argtypes = [pointer]
    decoder = opus.opus_decoder_create(RATE, 1, ctypes.byref(number()))
    out = np.zeros(samples + 2 * FRAME, np.int16)
    read = written = 0
    while read < len(data) and written + FRAME <= len(out):
        (size,) = struct.unpack_from("<H", data, read)
        packet = data[read + 2 : read + 2 + size]
        place = out[written:].ctypes.data_as(ctypes.c_void_p)
        written += max(0, opus.opus_decode(decoder, packet, size, place, FRAME, 0))
        read += 2 + size
    opus.opus_decoder_destroy(decoder)
    return out[:samples]
