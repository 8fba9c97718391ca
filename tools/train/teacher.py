"""The teacher: Whisper-base's whole encoder (Radford et al., 2022; MIT), whose first layers the student starts from.

Layout of the packages' file: https://github.com/OpenNMT/CTranslate2, ``python/ctranslate2/specs/model_spec.py``,
version 6. For the journey matrices are rounded to a fourteenth of each row's deviation, which costs 2 % of noise.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.nano.content import MEL_BINS, POSITIONS, NanoContent, sinusoids
from worker.models.published.encoder import EncoderLayer

FLOAT16 = 4
WIDTH, HEADS, INNER, DEPTH = 512, 8, 2048, 6
KEPT = (1, 3, 5)  # layers whose outputs are compared
STEPS_A_DEVIATION, MOST_STEPS = 14, 127
MATRIX = 10_000  # numbers: smaller tensors travel in half precision
EXACT = ("vocoder.", "basis")  # names that keep their half precision
NAMES = {"linear_0": "up", "linear_1": "down"}


class Teacher(nn.Module):
    """Hears any length up to 30 s, without padding."""

    positions: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MEL_BINS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, 2, padding=1)
        self.layers = nn.ModuleList(EncoderLayer(WIDTH, HEADS, INNER, key_bias=False) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("positions", sinusoids(POSITIONS, WIDTH), persistent=False)
        weights = {f"norm.{part}": tensors[f"layer_norm/{scale}"] for part, scale in SCALES.items()}
        self.load_state_dict(weights | first_layers(tensors, DEPTH))
        self.eval().requires_grad_(False)

    def forward(self, log_mel: Tensor) -> list[Tensor]:
        """Base-10 log-mel power ``[B, 80, 2 N]`` to what ``KEPT`` layers say, normalised, each ``[B, N, 512]``."""
        x = (log_mel.maximum(log_mel.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        said = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in KEPT:
                said.append(self.norm(x) if index == DEPTH - 1 else F.layer_norm(x, x.shape[-1:]))
        return said


SCALES = {"weight": "gamma", "bias": "beta"}


def first_layers(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Convolutions and ``depth`` layers, by our names."""
    weights = {}
    for part, scale in SCALES.items():
        for name in ("conv1", "conv2"):
            weights[f"{name}.{part}"] = tensors[f"{name}/{part}"]
        for index in range(depth):
            theirs, ours = f"layer_{index}", f"layers.{index}"
            thirds = tensors[f"{theirs}/self_attention/linear_0/{part}"].split(WIDTH)
            for name, third in zip(("q_proj", "k_proj", "v_proj"), thirds, strict=True):
                if (name, part) != ("k_proj", "bias"):  # keys have none
                    weights[f"{ours}.attention.{name}.{part}"] = third
            weights[f"{ours}.attention.out_proj.{part}"] = tensors[f"{theirs}/self_attention/linear_1/{part}"]
            weights[f"{ours}.attention_norm.{part}"] = tensors[f"{theirs}/self_attention/layer_norm/{scale}"]
            weights[f"{ours}.ffn_norm.{part}"] = tensors[f"{theirs}/ffn/layer_norm/{scale}"]
            for name, own in NAMES.items():
                weights[f"{ours}.{own}.{part}"] = tensors[f"{theirs}/ffn/{name}/{part}"]
    return weights


def start_from_teacher(network: NanoContent, tensors: dict[str, Tensor]) -> None:
    """Give the student the teacher's first layers."""
    network.load_state_dict(network.state_dict() | first_layers(tensors, network.config.depth))


def read_encoder(path: Path) -> dict[str, Tensor]:
    """The half-precision tensors below ``encoder/`` of CTranslate2's file, in float32."""
    tensors = {}
    with path.open("rb") as file:
        version, _, _, count = unpack(file, "I"), text(file), unpack(file, "I"), unpack(file, "I")
        if version != 6:
            raise ValueError(f"{path} is of version {version}, not 6")
        for _ in range(count):
            name, rank = text(file), unpack(file, "B")
            shape = [unpack(file, "I") for _ in range(rank)]
            kind, size = unpack(file, "B"), unpack(file, "I")
            content = file.read(size)
            if name.startswith("encoder/") and kind == FLOAT16 and "position" not in name:  # they are sinusoids
                values = np.frombuffer(content, np.float16).astype(np.float32).reshape(shape)
                tensors[name.removeprefix("encoder/")] = torch.from_numpy(values)
    return tensors


def unpack(file: BinaryIO, kind: str) -> int:
    return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))[0])


def text(file: BinaryIO) -> str:
    return file.read(unpack(file, "H"))[:-1].decode()


def pack_tensors(tensors: dict[str, Tensor], path: Path, steps: int = STEPS_A_DEVIATION) -> None:
    """Write tensors small: matrices in ``steps`` steps a deviation of each row, others, and ``EXACT`` ones, in half
    precision."""
    index, out = [], bytearray()
    for name, tensor in tensors.items():
        values = tensor.float().cpu().numpy()
        if values.size < MATRIX or name.startswith(EXACT):
            raw = values.astype(np.float16).tobytes()
            index.append((name, values.shape, len(raw), 0))
            out += raw
            continue
        rows = values.reshape(len(values), -1)
        step = np.maximum(rows.std(1) / steps, np.abs(rows).max(1) / MOST_STEPS).astype(np.float16)
        rounded = np.round(rows / step.astype(np.float32)[:, None]).clip(-MOST_STEPS, MOST_STEPS).astype(np.int8)
        squeezer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
        raw = squeezer.compress(rounded.tobytes()) + squeezer.flush()
        index.append((name, values.shape, len(raw), 2 * len(step)))
        out += raw + step.tobytes()
    head = json.dumps(index).encode()
    path.write_bytes(struct.pack("<I", len(head)) + head + bytes(out))


def unpack_tensors(path: Path) -> dict[str, Tensor]:
    """What ``pack_tensors`` wrote, in float32."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<I", raw)
    at, tensors = 4 + length, {}
    for name, shape, size, steps in json.loads(raw[4:at]):
        if steps:
            rounded = np.frombuffer(zlib.decompress(raw[at : at + size]), np.int8).reshape(shape[0], -1)
            step = np.frombuffer(raw[at + size : at + size + steps], np.float16).astype(np.float32)
            values = (rounded * step[:, None]).reshape(shape)
        else:
            values = np.frombuffer(raw[at : at + size], np.float16).astype(np.float32).reshape(shape)
        at += size + steps
        tensors[name] = torch.from_numpy(values.copy())
    return tensors
