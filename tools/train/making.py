"""The stages around ``run``: what it needs, and where its result goes. Needs the ``train`` extra."""

from __future__ import annotations

import argparse
import ctypes.util
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import torch
from loguru import logger

from tools.train import corpus, packing, parallel
from tools.train.critic import Critic
from tools.train.packing import Samples, Stream
from tools.train.running import START, TEACHER, load
from tools.train.teacher import pack_tensors, read_encoder
from tools.train.teachers import whisper_base
from worker.models.nano.model import WEIGHTS, blank, load_nano, save_nano

RATE = corpus.RATE
LONGEST_S, SHORTEST_S = 300, 20  # of a stream
TEACHER_STEPS = 10  # a deviation


def make(stage: str, out: Path, data: Path, options: argparse.Namespace) -> None:
    """One stage other than ``run``."""
    if stage == "data":
        corpus.build(out)
    elif stage == "parallel":
        parallel.build(out, options.voices)
    elif stage == "pack":
        pack(out, data, options.resume)
    else:
        target = options.weights or WEIGHTS
        logger.info("{:.1f} MB in {}", export(out, target) / 1e6, target)


def pack(out: Path, data: Path, resume: Path | None) -> None:
    """Everything into ``data``. resume: folder of an earlier run, whose weights go along; None: the vocoder that the
    package has, which is kept."""
    data.mkdir(parents=True, exist_ok=True)
    pack_tensors(read_encoder(whisper_base() / "model.bin"), data / TEACHER, TEACHER_STEPS)
    tensors: dict[str, torch.Tensor] = {}
    if resume is None:
        tensors |= {f"vocoder.{key}": value for key, value in load_nano().vocoder.state_dict().items()}
    else:
        networks, critic = blank(), Critic()
        tensors["basis"] = load(resume, networks, critic)
        for name, part in (networks.parts() | {"critic": critic}).items():
            tensors |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    pack_tensors(tensors, data / START)
    packing.pack(data, streams(out), libopus())


def streams(out: Path) -> Iterator[tuple[Stream, Samples]]:
    """All sound there is, in pieces."""
    for path in sorted((out / "speakers").glob("*/*.npy")):
        wave, kind = np.load(path), path.parent.name
        speaker = path.stem.removesuffix("_es") if kind == "bundled" else path.stem
        cuts = [0, *range(LONGEST_S * RATE, len(wave) - SHORTEST_S * RATE, LONGEST_S * RATE), len(wave)]
        for begin, end in pairwise(cuts):
            yield Stream(speaker, kind, 0, 0, 0), wave[begin:end]
    meta = out / "parallel" / "meta.jsonl"
    for line in meta.read_text().splitlines() if meta.exists() else ():
        entry = json.loads(line)
        wave, _ = soundfile.read(meta.parent / entry["file"], dtype="float32")
        samples = (np.clip(corpus.levelled(wave), -1, 1) * 32767).astype(np.int16)
        yield Stream(entry["speaker"], "kokoro", 0, 0, 0, entry["sentence"], entry["language"]), samples


def libopus() -> Path:
    """Where the library lies that Opus is decoded with. Raises ``FileNotFoundError``."""
    name = ctypes.util.find_library("opus")
    for folder in ("/usr/lib", "/usr/local/lib", "/lib"):
        for pattern in ("{}", "*/{}", "**/{}"):  # beside the others, for one architecture, anywhere
            for path in Path(folder).glob(pattern.format(name or "libopus.so")):
                return path
    raise FileNotFoundError("libopus is not installed (Debian: libopus0)")


def export(out: Path, target: Path) -> int:
    """What ``run`` left in ``out`` to ``target``; bytes written."""
    networks = blank()
    load(out, networks)
    return save_nano(networks, target)
