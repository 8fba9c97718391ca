"""The encoder of Whisper-tiny out of CTranslate2's model file, as weights to start the content encoder from.

Layout of the file: https://github.com/OpenNMT/CTranslate2, ``python/ctranslate2/specs/model_spec.py``, version 6.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from worker.models.nano.content import NanoContent

FLOAT16 = 4
NAMES = {"linear_0": "up", "linear_1": "down"}


def read_encoder(path: Path) -> dict[str, Tensor]:
    """The file's half-precision tensors below ``encoder/``, in float32."""
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
            if name.startswith("encoder/") and kind == FLOAT16:
                values = np.frombuffer(content, np.float16).astype(np.float32).reshape(shape)
                tensors[name.removeprefix("encoder/")] = torch.from_numpy(values)
    return tensors


def unpack(file: BinaryIO, kind: str) -> int:
    return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))[0])


def text(file: BinaryIO) -> str:
    return file.read(unpack(file, "H"))[:-1].decode()


def start_from_whisper(network: NanoContent, tensors: dict[str, Tensor]) -> None:
    """Give convolutions and layers Whisper's weights; of the inner units, those with the largest weights."""
    width, weights = network.config.width, network.state_dict()
    for part in ("weight", "bias"):
        for name in ("conv1", "conv2"):
            weights[f"{name}.{part}"] = tensors[f"{name}/{part}"]
        for index in range(network.config.depth):
            theirs, ours = f"layer_{index}", f"layers.{index}"
            thirds = tensors[f"{theirs}/self_attention/linear_0/{part}"].split(width)
            for name, third in zip(("q_proj", "k_proj", "v_proj"), thirds, strict=True):
                if f"{ours}.attention.{name}.{part}" in weights:  # keys have no bias
                    weights[f"{ours}.attention.{name}.{part}"] = third
            weights[f"{ours}.attention.out_proj.{part}"] = tensors[f"{theirs}/self_attention/linear_1/{part}"]
            scale = {"weight": "gamma", "bias": "beta"}[part]
            weights[f"{ours}.attention_norm.{part}"] = tensors[f"{theirs}/self_attention/layer_norm/{scale}"]
            weights[f"{ours}.ffn_norm.{part}"] = tensors[f"{theirs}/ffn/layer_norm/{scale}"]
            for name, own in NAMES.items():
                weights[f"{ours}.{own}.{part}"] = tensors[f"{theirs}/ffn/{name}/{part}"]
    network.load_state_dict(narrowed(weights, network.config.depth, network.config.inner))


def narrowed(weights: dict[str, Tensor], depth: int, inner: int) -> dict[str, Tensor]:
    """With the ``inner`` units of each feed-forward layer whose weights, in times out, are largest."""
    weights = dict(weights)
    for index in range(depth):
        up, bias, down = (f"layers.{index}.{name}" for name in ("up.weight", "up.bias", "down.weight"))
        share = weights[up].norm(dim=1) * weights[down].norm(dim=0)
        kept = share.topk(inner).indices.sort().values
        weights[up], weights[bias], weights[down] = weights[up][kept], weights[bias][kept], weights[down][:, kept]
    return weights
