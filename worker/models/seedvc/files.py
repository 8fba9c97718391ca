"""Where Seed-VC publishes its models: one file holds a model's transformer and its length regulator."""

from __future__ import annotations

from worker.models.weights.published import PublishedFile, Rules

REPOSITORY = "Plachta/Seed-VC"
LICENCE = "GPL-3.0"
FILES = {
    "tiny": "DiT_uvit_tat_xlsr_ema.pth",
    "small": "DiT_seed_v2_uvit_whisper_small_wavenet_bigvgan_pruned.pth",
    "base": "DiT_seed_v2_uvit_whisper_base_f0_44k_bigvgan_pruned_ft_ema_v2.pth",
    "v2": "v2/cfm_small.pth",
    "ar_v2": "v2/ar_base.pth",
}


def layout(
    size: str | None, part: str, prefixes: tuple[str, ...] = ("",), rename: Rules = (), ignore: tuple[str, ...] = ()
) -> PublishedFile:
    """Of ``part`` of a model. size: of ``FILES``; None: of a fine-tuned model's file, which has the same names."""
    file = "" if size is None else FILES[size]
    return PublishedFile(REPOSITORY, file, LICENCE, ("net", part), prefixes, rename, ignore)
