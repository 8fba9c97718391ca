"""What makes sound: libopus, the device, weights, voices."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import LIBOPUS_ADVICE
from shared.settings import Config
from tools.service.checkup.finding import Finding, fault, note, ok, warning

if TYPE_CHECKING:
    from worker.host import Gpu

_DRIVER = Path("/proc/driver/nvidia/version")
_RATE, _FRAME = 48_000, 960


def check_opus() -> Iterator[Finding]:
    """Whether a frame goes through the encoder and comes out of the decoder."""
    if find_spec("opuslib") is None:
        return
    try:
        import opuslib

        packet = opuslib.Encoder(_RATE, 1, opuslib.APPLICATION_VOIP).encode(bytes(2 * _FRAME), _FRAME)
        decoded = opuslib.Decoder(_RATE, 1).decode(packet, _FRAME)
    except Exception as error:  # the library raises a bare Exception where libopus is missing
        yield fault("libopus", str(error) or "cannot be loaded", LIBOPUS_ADVICE)
        return
    if len(decoded) != 2 * _FRAME:
        yield fault("libopus", f"a frame of {_FRAME} samples became {len(decoded) // 2}", LIBOPUS_ADVICE)
    else:
        yield ok("libopus", f"{ctypes.util.find_library('opus')}: a frame goes through it")


def check_device(config: Config) -> Iterator[Finding]:
    """The device that a worker would use; and a GPU that nobody uses."""
    if find_spec("torch") is None:
        return
    from worker.host import describe

    wanted, host = config.worker.device, describe()
    driver = _driver()
    if wanted == "cpu":
        yield ok("device", f"cpu, {config.worker.threads} of {os.cpu_count()} cores a worker, torch {host.torch}")
        if host.gpus:
            yield note("device", f"{host.gpus[0].name} is idle", "--env prod uses it, or worker.device: cuda:0")
        return
    if host.cuda is None:
        advice = "pip install torch from the package index, whose wheels bring CUDA; or worker.device: cpu"
        yield fault("device", f"torch {host.torch} was built without CUDA", advice)
    elif driver is None:
        advice = "install NVIDIA's driver; in a container, its container toolkit and --gpus"
        yield fault("device", "no NVIDIA driver is loaded", advice)
    elif not host.gpus:
        advice = f"a driver for CUDA {host.cuda} or newer, or torch for the CUDA of this driver; nvidia-smi tells"
        yield fault("device", f"driver {driver}, but torch {host.torch} (CUDA {host.cuda}) sees no device", advice)
    else:
        yield from _check_gpu(config, host.gpus, f"driver {driver}, torch {host.torch}, CUDA {host.cuda}")


def _check_gpu(config: Config, gpus: list[Gpu], versions: str) -> Iterator[Finding]:
    index = int(config.worker.device.partition(":")[2] or 0)
    if index >= len(gpus):
        yield fault("device", f"{config.worker.device}, but there are {len(gpus)}", "worker.device: cuda:0")
        return
    gpu = gpus[index]
    yield ok("device", f"{gpu.name}, {gpu.free_gb:.0f} of {gpu.total_gb:.0f} GB free; {versions}")
    if config.worker.precision == "bf16" and not gpu.bf16:
        yield warning("device", f"{gpu.name} computes bf16 slowly", "worker.precision: fp16")
    if gpu.free_gb < gpu.total_gb / 2:
        yield warning("device", "less than half of its memory is free", "nvidia-smi shows who has it")


def _driver() -> str | None:
    try:
        words = _DRIVER.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[:1].isdigit() and "." in word), "of unknown version")


def check_weights(config: Config) -> Iterator[Finding]:
    """The files of the configured model."""
    settings = config.worker
    for key, path in (
        ("worker.dit_checkpoint_path", settings.dit_checkpoint_path),
        ("worker.dit_config_path", settings.dit_config_path),
    ):
        if path is not None and not path.is_file():
            yield fault(key, f"{path} is not there", f"name the file in {key}, or leave it out")
    if find_spec("torch") is None:
        return
    from worker.models.catalogue import MODULES, model_named
    from worker.models.weights import hub

    if settings.model not in MODULES:
        yield ok("weights", f"{settings.model} has none")
        return
    states = hub.files(model_named(settings.model).networks, settings.checkpoints_dir)
    missing = [state for state in states if state.path is None]
    if not states:
        yield ok("weights", f"{settings.model} is bundled")
    elif not missing:
        size_gb = sum(state.size_bytes for state in states) / 1e9
        yield ok("weights", f"{settings.model}: {len(states)} files, {size_gb:.1f} GB")
    else:
        advice = f"fast-vc models fetch {settings.model} (a worker fetches them itself when it first starts)"
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
            yield fault(
                "weights",
                f"{settings.model}: {len(missing)} of {len(states)} files are missing, and "
                "HF_HUB_OFFLINE forbids to fetch them",
                f"copy them to {settings.checkpoints_dir}/",
            )
        else:
            yield warning("weights", f"{settings.model}: {len(missing)} of {len(states)} files are not here", advice)


def check_voices(config: Config) -> Iterator[Finding]:
    """Whether there is a voice to speak in."""
    folder = config.worker.voices_dir
    if folder is None:
        yield ok("voices", "the bundled ones, and those of voices/")
        return
    recordings = [path for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
    if not recordings:
        yield fault("worker.voices_dir", f"no recordings in {folder}/", "fast-vc voices add FILE")
    else:
        yield ok("voices", f"{len(recordings)} files in {folder}/")
