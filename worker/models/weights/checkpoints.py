"""Published weights into our networks: strictly, or with one sentence that says why not.

A published file nests its entries, prefixes them, keeps weight norm as two tensors and carries entries nobody uses.
A ``Layout`` says so for each network; everything a network needs must then be there, in shape, and nothing else may be.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.models.published import bigvgan, campplus, hift, rmvpe, whisper, xlsr
from worker.models.seedvc import dit, regulator
from worker.models.seedvc2 import ar, astral, hubert
from worker.models.seedvc2 import dit as dit2
from worker.models.seedvc2 import regulator as regulator2

Entries = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Rules = tuple[tuple[str, str], ...]

COUNTER = ".num_batches_tracked"  # BatchNorm's, of no use in inference
NAMED_IN_ERRORS = 4


class CheckpointError(Exception):
    """A file of weights cannot be used; the message is one sentence for its owner."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a published file names what a network needs."""

    repository: str
    file: str
    nesting: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)  # the first that occurs is taken off; entries without it belong to others
    rename: Rules = ()  # regular expressions from published names to ours, applied in order
    ignore: tuple[str, ...] = ()  # regular expressions of published names the original carries and does not use
    mirrors: tuple[str, ...] = ()  # repositories to try when the first has no such file
    config_file: str | None = None  # beside the weights, read by the network's configuration

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if self.config_file is None else (self.file, self.config_file)


@dataclass(frozen=True, slots=True)
class Network:
    layout: Layout
    build: Callable[[Any], nn.Module]
    config: Callable[[Shapes], Any]  # its sizes: as published, or read off the file's shapes


DIT_RENAME: Rules = (
    (r"\.conv\.conv\.", "."),
    (r"^(wavenet|conv1|conv2|res_projection|final_layer)\.", r"output.head.\1."),
    (r"^(final_mlp|skip_linear|t_embedder2)\.", r"output.\1."),
)
DIT_IGNORE = (
    r"^input_pos$",
    r"\.freqs$",
    r"^(x_embedder|cond_embedder|content_mask_embedder|skip_linear)\.",
    r"\.skip_in_linear\.",
    r"^transformer\.layers\.\d+\.(attention|ffn)_norm\.project_layer\.",
)
REGULATOR_IGNORE = (r"^(embedding|f0_embedding|extra_codebooks?.*)\.", r"^(mask_token|f0_mask|extra_codebook_mask.*)$")
CAMPPLUS_RENAME: Rules = (
    (r"^dense\.", "xvector.dense."),
    (r"nonlinear(\d?)\.batchnorm\.", r"norm\1."),
)
DIT2_IGNORE = (
    r"(^|\.)(freqs_cis|causal_mask|input_pos)$",
    r"^(x_embedder|skip_linear|content_mask_embedder)\.",
)
AR_IGNORE = (r"(^|\.)(freqs_cis|causal_mask|k_cache|v_cache)$", r"^codebook_", r"^style_in\.", r"^model\.codebook_")
AR_RENAME: Rules = ((r"^model\.", ""),)
ASTRAL_RENAME: Rules = ((r"^(encoder|quantizer)\.", ""),)
ASTRAL_IGNORE = (r"^quantizer\.(mask$|project_out\.)", r"^(decoder|asr_decoder)\.")
XLSR_RENAME: Rules = (
    (r"^feature_extractor\.conv_layers\.", "conv_layers."),
    (r"^feature_projection\.layer_norm\.", "conv_norm."),
    (r"^feature_projection\.", ""),
    (r"^encoder\.pos_conv_embed\.conv\.", "position."),
    (r"^encoder\.", ""),
    (r"^(layers\.\d+)\.layer_norm\.", r"\1.attention_norm."),
    (r"^(layers\.\d+)\.final_layer_norm\.", r"\1.ffn_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".up."),
    (r"\.feed_forward\.output_dense\.", ".down."),
)
WHISPER_RENAME: Rules = (
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".attention_norm."),
    (r"\.final_layer_norm\.", ".ffn_norm."),
    (r"\.fc1\.", ".up."),
    (r"\.fc2\.", ".down."),
)

SEED_VC = "Plachta/Seed-VC"
ASTRAL = "Plachta/ASTRAL-quantization"
CFM2_FILE = "v2/cfm_small.pth"
AR2_FILE = "v2/ar_base.pth"
TINY_FILE = "DiT_uvit_tat_xlsr_ema.pth"
SMALL_FILE = "DiT_seed_v2_uvit_whisper_small_wavenet_bigvgan_pruned.pth"
BASE_FILE = "DiT_seed_v2_uvit_whisper_base_f0_44k_bigvgan_pruned_ft_ema_v2.pth"
BIGVGAN_FILE = "bigvgan_generator.pt"


def _dit(file: str, config: dit.DiTConfig | None = None) -> Network:
    layout = Layout(SEED_VC, file, ("net", "cfm"), ("estimator.",), DIT_RENAME, DIT_IGNORE)
    return Network(layout, dit.DiT, lambda shapes: config or dit.DiTConfig.from_shapes(shapes))


def _regulator(file: str, config: regulator.RegulatorConfig | None = None) -> Network:
    layout = Layout(SEED_VC, file, ("net", "length_regulator"), ignore=REGULATOR_IGNORE)
    return Network(
        layout, regulator.LengthRegulator, lambda shapes: config or regulator.RegulatorConfig.from_shapes(shapes)
    )


def _astral(file: str, config: astral.AstralConfig) -> Network:
    return Network(Layout(ASTRAL, file, rename=ASTRAL_RENAME, ignore=ASTRAL_IGNORE), astral.Astral, lambda _: config)


def _bigvgan(repository: str, config: bigvgan.BigVganConfig) -> Network:
    layout = Layout(repository, BIGVGAN_FILE, ("generator",), ignore=(r"\.filter$",), config_file="config.json")
    return Network(layout, bigvgan.BigVgan, lambda shapes: config)


NETWORKS: Mapping[str, Network] = {
    "cfm_tiny": _dit(TINY_FILE, dit.TINY),
    "cfm_small": _dit(SMALL_FILE, dit.SMALL),
    "cfm_base": _dit(BASE_FILE, dit.BASE),
    "cfm": _dit(""),  # a fine-tuned model: sizes from the file
    "regulator_tiny": _regulator(TINY_FILE, regulator.TINY),
    "regulator_small": _regulator(SMALL_FILE, regulator.SMALL),
    "regulator_base": _regulator(BASE_FILE, regulator.BASE),
    "regulator": _regulator(""),
    "campplus": Network(
        Layout("funasr/campplus", "campplus_cn_common.bin", rename=CAMPPLUS_RENAME),
        lambda config: campplus.CamPlus(),
        lambda shapes: None,
    ),
    "hift": Network(
        Layout("FunAudioLLM/CosyVoice-300M", "hift.pt", mirrors=("model-scope/CosyVoice-300M",)),
        hift.Hift,
        lambda shapes: hift.HiftConfig(),
    ),
    "bigvgan_22k": _bigvgan("nvidia/bigvgan_v2_22khz_80band_256x", bigvgan.BIGVGAN_22K),
    "bigvgan_44k": _bigvgan("nvidia/bigvgan_v2_44khz_128band_512x", bigvgan.BIGVGAN_44K),
    "rmvpe": Network(
        Layout("lj1995/VoiceConversionWebUI", "rmvpe.pt"), lambda config: rmvpe.Rmvpe(), lambda shapes: None
    ),
    "xlsr": Network(
        Layout(
            "facebook/wav2vec2-xls-r-300m",
            "pytorch_model.bin",
            prefixes=("wav2vec2.", ""),
            rename=XLSR_RENAME,
            ignore=(r"^masked_spec_embed$", r"^encoder\.layers\.(1[2-9]|2[0-3])\.", r"^(quantizer|project_\w+)\."),
        ),
        xlsr.Xlsr,
        lambda shapes: xlsr.XlsrConfig(),
    ),
    "whisper": Network(
        Layout(
            "openai/whisper-small", "model.safetensors", prefixes=("model.encoder.", "encoder."), rename=WHISPER_RENAME
        ),
        whisper.WhisperEncoder,
        lambda shapes: whisper.WhisperConfig(),
    ),
    "hubert_v2": Network(
        Layout(
            "facebook/hubert-large-ll60k",
            "pytorch_model.bin",
            prefixes=("hubert.", ""),
            rename=XLSR_RENAME,
            ignore=(r"^masked_spec_embed$", r"^encoder\.layers\.(1[89]|2[0-3])\.", r"^encoder\.layer_norm\."),
        ),
        hubert.Hubert,
        lambda shapes: hubert.LARGE,
    ),
    "astral_wide": _astral("bsq2048/bsq2048_light.pth", astral.WIDE),
    "astral_narrow": _astral("bsq32/bsq32_light.pth", astral.NARROW),
    "cfm_v2": Network(
        Layout(SEED_VC, CFM2_FILE, ("net", "cfm"), ("estimator.",), ignore=DIT2_IGNORE),
        dit2.DiT2,
        dit2.DiT2Config.from_shapes,
    ),
    "regulator_v2": Network(
        Layout(SEED_VC, CFM2_FILE, ("net", "length_regulator"), ignore=(r"^mask_token$",)),
        regulator2.CodeRegulator,
        lambda shapes: regulator2.CFM,
    ),
    "ar_v2": Network(
        Layout(SEED_VC, AR2_FILE, ("net", "ar"), rename=AR_RENAME, ignore=AR_IGNORE), ar.ArModel, lambda shapes: ar.BASE
    ),
    "regulator_ar_v2": Network(
        Layout(SEED_VC, AR2_FILE, ("net", "length_regulator"), ignore=(r"^mask_token$",)),
        regulator2.CodeEmbedding,
        lambda shapes: regulator2.AR,
    ),
}


def load_network(name: str, path: str | Path, config: Any = None) -> nn.Module:
    """The network ``name`` (of ``NETWORKS``) with the weights of a file, in float32 on the CPU, in evaluation mode.

    config: the network's sizes; None: as published (``cfm`` and ``regulator``: as the file's shapes say). Raises
    ``CheckpointError``; nothing half-loaded is ever returned.
    """
    entries = read_entries(Path(path), network_named(name).layout.nesting)
    try:
        network = assemble(name, entries, config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    for tensor in network.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.clone()  # what was read is a view of the file, which may change or go away
    return network


def read_entries(path: Path, nesting: tuple[str, ...] = ()) -> Entries:
    """The tensors of a ``.safetensors`` or ``torch.save`` file by name, without executing anything it holds.

    nesting: keys that lead to them; a file that holds its tensors at the top is taken as it is.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a complete file of weights ({first_line(error)}).") from error
    except Exception as error:  # pickle raises what it likes for bytes that are not a pickle
        raise CheckpointError(f"{path}: not a file of weights ({first_line(error)}).") from error
    for key in nesting:
        if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
            break
        if not isinstance(content, Mapping) or key not in content:
            raise CheckpointError(f"{path}: expected its weights under {' / '.join(nesting)}, found no {key!r}.")
        content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a table of weights, found {type(content).__name__}.")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def assemble(name: str, entries: Mapping[str, Tensor], config: Any = None) -> nn.Module:
    """As ``load_network``, from entries with their published names; shares memory with them."""
    network = network_named(name)
    published = take_prefix(entries, network.layout.prefixes)
    if not published:
        raise CheckpointError(f"holds none of the weights of {name}.")
    weights = {}
    ignorable = set()
    for entry, tensor in fold_weight_norm(published).items():
        ours = entry
        for pattern, replacement in network.layout.rename:
            ours = re.sub(pattern, replacement, ours)
        weights[ours] = tensor.float() if tensor.is_floating_point() else tensor
        if any(re.search(pattern, entry) for pattern in network.layout.ignore):
            ignorable.add(ours)
    if config is None:
        try:
            config = network.config({entry: tuple(tensor.shape) for entry, tensor in published.items()})
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"not a checkpoint of {name}: it lacks {error}.") from error
    with torch.device("meta"):
        module = network.build(config)
    fill(module, name, weights, ignorable)
    return module.eval().requires_grad_(False)


def fill(module: nn.Module, name: str, weights: Entries, ignorable: set[str]) -> None:
    """Give ``module`` its weights, or raise ``CheckpointError`` and leave it alone."""
    wanted = {entry: tensor for entry, tensor in module.state_dict().items() if not entry.endswith(COUNTER)}
    missing = [entry for entry in wanted if entry not in weights]
    unknown = [
        entry for entry in weights if entry not in wanted and entry not in ignorable and not entry.endswith(COUNTER)
    ]
    misshapen = [
        f"{entry} is {list(weights[entry].shape)}, not {list(tensor.shape)}"
        for entry, tensor in wanted.items()
        if entry in weights and weights[entry].shape != tensor.shape
    ]
    complaints = [
        f"{verdict} {len(entries)} ({', '.join(entries[:NAMED_IN_ERRORS])}{', ...' * (len(entries) > NAMED_IN_ERRORS)})"
        for verdict, entries in (("missing", missing), ("of another shape", misshapen), ("unknown", unknown))
        if entries
    ]
    if complaints:
        raise CheckpointError(f"not a checkpoint of {name}: entries {'; '.join(complaints)}.")
    module.load_state_dict({entry: weights[entry] for entry in wanted}, strict=False, assign=True)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.num_batches_tracked = torch.zeros((), dtype=torch.int64)


def take_prefix(entries: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> Entries:
    """Entries under the first prefix that occurs, without it and without the ``module.`` of data-parallel training."""
    bare = {name.removeprefix("module."): tensor for name, tensor in entries.items()}
    for prefix in prefixes:
        chosen = {name.removeprefix(prefix): tensor for name, tensor in bare.items() if name.startswith(prefix)}
        if chosen:
            return chosen
    return {}


def fold_weight_norm(entries: Mapping[str, Tensor]) -> Entries:
    """Replace ``g`` and ``v`` of weight norm (Salimans & Kingma, 2016) by ``g * v / |v|``, old names and new alike.

    The norm runs over the axes along which ``g`` has one value.
    """
    folded = {}
    for name, tensor in entries.items():
        match = re.fullmatch(r"(.*)(weight_[gv]|parametrizations\.weight\.original[01])", name)
        if match is None:
            folded[name] = tensor
            continue
        stem, part = match.groups()
        direction_name = {
            "weight_g": "weight_v",
            "parametrizations.weight.original0": "parametrizations.weight.original1",
        }
        if part not in direction_name:
            continue
        direction = entries.get(stem + direction_name[part])
        if direction is None or direction.dim() != tensor.dim():
            raise CheckpointError(f"lacks {stem}{direction_name[part]}, the other half of a weight norm.")
        axes = [axis for axis, size in enumerate(tensor.shape) if size == 1]
        if any(size not in (1, whole) for size, whole in zip(tensor.shape, direction.shape, strict=True)):
            raise CheckpointError(f"has a weight norm at {stem}weight whose halves differ in shape.")
        norm = direction.float().square().sum(axes, keepdim=True).sqrt()
        folded[f"{stem}weight"] = direction.float() * (tensor.float() / norm)
    return folded


def network_named(name: str) -> Network:
    if name not in NETWORKS:
        raise CheckpointError(f"unknown network {name!r}; known are {', '.join(NETWORKS)}.")
    return NETWORKS[name]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
