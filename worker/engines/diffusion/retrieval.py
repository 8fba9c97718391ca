"""What a voice has said before, in place of how the caller said it: the nearest content features of a recorded voice
are mixed into those of the caller.

The habit is RVC's, and that of Baas et al., "Voice Conversion With Just Nearest Neighbors" (2023), whose measure
(cosine) and mean over four neighbours are taken. What of the caller's voice the features still hold goes; what the
recordings never said suffers. An index is searched exactly and at once for all rows, as products of matrices on the
device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shared.settings import WorkerConfig
from worker.geometry import INPUT_RATE, UNIT_SAMPLES
from worker.models.catalogue import load_model
from worker.models.networks import ContentFeatures
from worker.recordings import Recording
from worker.voices import Voice, VoiceError, index_file, offered_voices

MODELS = ("nano", "tiny", "small", "base")  # whose content is features, not codes
NEIGHBOURS = 4
MOST = 4096  # features of an index: what more there is is drawn together around so many means
ROUNDS = 3  # of moving means
ROWS_AT_ONCE = 8  # of a search: bounds its memory
PIECE_S, EDGE_S = 20.0, 1.0  # of a recording that is heard at once, and what is dropped at its ends
QUIET_DB = -40.0  # below a recording's loudest 20 ms nothing is worth keeping
LEAST = 50


@dataclass(frozen=True, slots=True)
class Index:
    """Content features of one voice, float16 ``[N, D]`` on the CPU."""

    features: Tensor
    encoder: str  # fingerprint of the network that made them


def fingerprint(encoder: ContentFeatures) -> str:
    """Names an encoder and its weights, whatever device and precision they are in now."""
    digest = hashlib.blake2b(type(encoder).__name__.encode(), digest_size=8)
    for name, weight in sorted(encoder.named_parameters()):
        digest.update(f"{name} {list(weight.shape)}".encode())
        digest.update(np.float16(weight.detach().flatten()[:8].float().cpu().numpy()).tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def make_index(encoder: ContentFeatures, recordings: Iterable[Recording], device: str | torch.device = "cpu") -> Index:
    """An index of everything that recordings of one voice say. Raises ``VoiceError`` for less than a second of it."""
    parts = [
        _features(encoder, wave, device)
        for recording in recordings
        for wave in _pieces(np.concatenate(list(recording.pieces())))
    ]
    features = torch.cat(parts) if parts else torch.zeros(0, 1)
    if len(features) < LEAST:
        raise VoiceError("an index needs at least a second of speech")
    if len(features) > MOST:
        features = means(features, MOST)
    return Index(features.half().cpu(), fingerprint(encoder))


def _pieces(wave: np.ndarray) -> Iterable[np.ndarray]:
    size, edge = int(PIECE_S * INPUT_RATE), int(EDGE_S * INPUT_RATE)
    for begin in range(0, max(1, len(wave) - 2 * edge), size - 2 * edge):
        yield wave[begin : begin + size]


def _features(encoder: ContentFeatures, wave: np.ndarray, device: str | torch.device) -> Tensor:
    """Of the frames that are not quiet; ``[n, D]``."""
    if len(wave) < 2 * UNIT_SAMPLES:
        return torch.zeros(0, 1)
    heard = torch.from_numpy(np.ascontiguousarray(wave)).to(device)
    features: Tensor = encoder(heard[None])[0].float()
    count = min(len(features), len(heard) // UNIT_SAMPLES)
    power = heard[: count * UNIT_SAMPLES].view(count, UNIT_SAMPLES).square().mean(1)
    return features[:count][power > power.max() * 10 ** (QUIET_DB / 10)].cpu()


def means(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """``count`` means of ``features [N, D]``, by Lloyd's rounds from a random choice of them."""
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:count]
    centres = features[chosen]
    for _ in range(ROUNDS):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in features.split(4096)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, features)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres


def write_index(config: WorkerConfig, voice: str, files: Sequence[Path], device: str) -> tuple[Path, int]:
    """Make and keep the index of one of the voices that ``config`` offers, from recordings of it (none: from the
    voice's own). Returns where it lies and how many features it has. Raises ``VoiceError``, ``CheckpointError`` and
    ``SourceError``."""
    if config.model not in MODELS:
        raise VoiceError(f"{config.model} has no features to look up: an index is for {', '.join(MODELS)}")
    offered = {one.name: one for one in offered_voices(config.voices_dir)}
    if voice not in offered:
        raise VoiceError(f"no voice {voice!r}; there are {', '.join(offered)}")
    networks = load_model(config.model, config.checkpoints_dir, config.dit_checkpoint_path, config.dit_config_path)
    encoder = networks.content.to(device)
    index = make_index(encoder, [Recording(path) for path in files or [offered[voice].path]], device)
    path = index_file(config.voices_dir, voice, config.model)
    save_index(index, path)
    return path, len(index.features)


def save_index(index: Index, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    save_file({"features": index.features.contiguous()}, part, metadata={"encoder": index.encoder})
    part.replace(path)


def load_index(path: Path) -> Index:
    """Raises ``VoiceError`` for a file that is no index."""
    try:
        with safe_open(path, "pt") as file:
            features: Tensor = file.get_tensor("features")
            encoder = (file.metadata() or {}).get("encoder", "")
    except (OSError, SafetensorError) as error:
        raise VoiceError(f"{path}: is no index of a voice ({error})") from None
    whole = features.dtype == torch.float16 and features.dim() == 2
    if not whole or len(features) < NEIGHBOURS or not bool(features.isfinite().all()):
        raise VoiceError(f"{path}: is no index of a voice")
    return Index(features, encoder)


def indexes_of(folder: Path | None, voices: Iterable[Voice], model: str, encoder: ContentFeatures) -> dict[str, Index]:
    """Those that there are, by voice. One that another encoder made is left out with a warning, and one whose features
    are of another width, whatever it says of itself."""
    found, ours = {}, fingerprint(encoder)
    width = 0
    for voice in voices:
        path = index_file(folder, voice.name, model)
        if not path.is_file():
            continue
        try:
            index = load_index(path)
        except VoiceError as error:
            logger.warning("{}; it is left out", error)
            continue
        if index.encoder != ours:
            logger.warning("{} was made with other weights: fast-vc voices index {} makes it anew", path, voice.name)
            continue
        width = width or _width(encoder)
        if index.features.shape[1] != width:
            wrong = f"features of {index.features.shape[1]} numbers where {model} makes {width}"
            logger.warning("{}: is no index of a voice ({}); it is left out", path, wrong)
            continue
        found[voice.name] = index
    return found


@torch.inference_mode()
def _width(encoder: ContentFeatures) -> int:
    """Numbers of a feature. The encoder is on the CPU, in float32."""
    return int(encoder(torch.zeros(1, INPUT_RATE)).shape[-1])


class IndexBank:
    """Indexes of voices side by side on the device."""

    def __init__(self, indexes: Mapping[str, Index], device: torch.device, dtype: torch.dtype) -> None:
        """dtype: of the content features that will be looked up."""
        self._row = {name: row for row, name in enumerate(indexes)}
        room = max(len(index.features) for index in indexes.values())
        width = next(iter(indexes.values())).features.shape[1]
        self._features = torch.zeros(len(indexes), room, width, device=device, dtype=dtype)
        # What a product is scaled by to be a cosine; where there is no feature, its cosine is -inf.
        self._scale = torch.zeros(len(indexes), 1, room, device=device)
        self._none = torch.full((len(indexes), 1, room), -torch.inf, device=device)
        for row, index in enumerate(indexes.values()):
            count = len(index.features)
            self._features[row, :count] = index.features.to(device, dtype)
            self._scale[row, 0, :count] = 1 / index.features.float().norm(dim=1).clamp(min=1e-6).to(device)
            self._none[row, 0, :count] = 0

    def __contains__(self, voice: str) -> bool:
        return voice in self._row

    def row(self, voice: str) -> int:
        """0 for a voice without an index: its rate must be 0."""
        return self._row.get(voice, 0)

    def mix(self, content: Tensor, rows: Tensor, rate: Tensor) -> Tensor:
        """content: ``[B, T, D]``. rows: int64 ``[B]``. rate: ``[B]`` in 0 .. 1, the nearest features' share."""
        near = torch.cat(
            [
                self._nearest(part, at)
                for part, at in zip(content.split(ROWS_AT_ONCE), rows.split(ROWS_AT_ONCE), strict=True)
            ]
        )
        return torch.lerp(content, near, rate[:, None, None].to(content.dtype))

    def _nearest(self, content: Tensor, rows: Tensor) -> Tensor:
        known = self._features[rows]
        score = (content @ known.transpose(1, 2)).float() * self._scale[rows] + self._none[rows]
        places = score.topk(NEIGHBOURS, dim=-1).indices
        flat = places.flatten(1)[..., None].expand(-1, -1, known.shape[-1])
        return known.gather(1, flat).unflatten(1, places.shape[1:]).mean(2)
