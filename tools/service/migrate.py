"""`fast-vc migrate OLD.yaml`: a fast-vc-service configuration, said in this service's words.

A table says of every old key what it is here. Old keys that a file leaves out had a default, and that is carried over
as well, so that the new service does what the old one did. docs/migration.md has the rest of a move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from shared.config import read_yaml, validate
from shared.errors import ConfigError
from shared.options import Command

UNIT_MS = 20


@dataclass(frozen=True, slots=True)
class Moved:
    """An old key that has a counterpart. `default` is what the old service took without it."""

    to: str  # SECTION.KEY
    default: Any
    convert: Callable[[Any], Any] = lambda value: value


def _milliseconds(seconds: Any) -> int:
    return round(float(seconds) * 1000)


def _units(seconds: Any) -> int:
    """Whole units of 20 ms, at least one."""
    return max(UNIT_MS, round(_milliseconds(seconds) / UNIT_MS) * UNIT_MS)


def _device(devices: Any) -> str:
    first = str((devices if isinstance(devices, list) else [devices])[0])
    return first if first == "cpu" or ":" in first else f"{first}:0"


MOVED: dict[str, Moved] = {
    "app.host": Moved("gateway.host", "0.0.0.0"),
    "app.port": Moved("gateway.port", 18822),
    "app.workers": Moved("serve.workers", 2, int),
    "app.receive_timeout": Moved("gateway.idle_timeout_s", 480, float),
    "app.log_dir": Moved("log.dir", "logs"),
    "buffer.prefill_time": Moved("gateway.prefill_ms", 375, int),
    "realtime_vc.device": Moved("worker.device", ["cuda:0"], _device),
    "realtime_vc.is_debug": Moved("log.level", False, lambda debug: "DEBUG" if debug else "INFO"),
    "realtime_vc.extra_time_ce": Moved("worker.left_ms", 4.5, _units),
    "realtime_vc.extra_time_dit": Moved("worker.dit_left_ms", 1.5, _units),
    "realtime_vc.sola_buffer_time": Moved("worker.crossfade_ms", 0.04, _units),
    "realtime_vc.block_time": Moved("worker.block_ms", 0.5, _units),
    "realtime_vc.extra_time_right": Moved("worker.right_ms", 0.02, _units),
    "realtime_vc.diffusion_steps": Moved("worker.steps", 10, int),
    "realtime_vc.inference_cfg_rate": Moved("worker.guidance", 0.7, float),
    "realtime_vc.max_prompt_length": Moved("worker.max_prompt_s", 3.0, float),
    "realtime_vc.rms_mix_rate": Moved("worker.rms_mix_rate", 0.0, float),
    "models.t_span_schedule": Moved("worker.schedule", "cosine"),
    "models.dit_checkpoint_path": Moved("worker.dit_checkpoint_path", None),
    "models.dit_config_path": Moved("worker.dit_config_path", None),
    "models.defalut_original_model": Moved("worker.model", "tiny"),  # spelt so in the old files
}

RECORDINGS = ("realtime_vc.save_input", "realtime_vc.save_output", "realtime_vc.save_dir")

_RETRIEVAL = "faiss files are not read; fast-vc voices index NAME makes an index, worker.retrieval_rate is the rate"
NO_COUNTERPART: dict[str, str] = {
    "buffer.opus_frame_duration": "each session's own: opus_frame_duration of its first message (default 20)",
    "realtime_vc.reference_wav_path": "voices are files in a folder: fast-vc voices add FILE; sessions name one",
    "realtime_vc.SAMPLERATE_IN": "always 16000 towards the model; callers may send 8000 to 48000",
    "realtime_vc.SAMPLERATE_OUT": "follows from the model; callers ask for sample_rate_out",
    "realtime_vc.BIT_DEPTH": "each session's own: bit_depth of its first message",
    "realtime_vc.FRAMERATE": "always 50 a second: lengths are multiples of 20 ms",
    "realtime_vc.is_f0": "the model `base` follows the melody; f0_shift is an option of each session",
    "realtime_vc.total_block_for_f0": "see is_f0",
    "realtime_vc.is_sola": "always on; search_ms says how far it looks",
    "realtime_vc.send_slow_threshold": "slow intervals are logged by the caller's own pace",
    "realtime_vc.recv_slow_threshold": "slow intervals are logged by the caller's own pace",
    "realtime_vc.vc_slow_threshold": "conversions slower than a block are logged",
    "models.is_torch_compile": "CUDA graphs instead: worker.graphs, on by default",
    "models.is_retrieval": _RETRIEVAL,
    "models.index_rate": _RETRIEVAL,
    "models.index_path": _RETRIEVAL,
    "models.speech_noise_thres": "another detector: worker.vad, vad_on, vad_off",
    "models.decibel_thres": "another detector: worker.vad; silence_dbfs belongs to vad: energy",
}


@dataclass(frozen=True, slots=True)
class Migration:
    """Our configuration, and what of the old one it cannot say."""

    content: dict[str, dict[str, Any]]
    notes: list[str]

    def text(self) -> str:
        """A file for `--config`; the notes are comments at its end."""
        body = yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True)
        return "\n".join([body.rstrip(), "", *(f"# {note}" for note in self.notes)])


@click.command(cls=Command)
@click.argument("old", type=click.Path(path_type=Path))
def migrate(old: Path) -> None:
    """Print our configuration for a fast-vc-service file OLD.yaml, and name what has no counterpart."""
    made = translate(read_yaml(old), str(old))
    validate(made.content, str(old))
    click.echo(f"# From {old}, by fast-vc migrate. What is not here is as in default.yaml.\n{made.text()}")


def translate(old: dict[str, Any], name: str) -> Migration:
    """`old` is the content of a fast-vc-service file. Raises `ConfigError` naming the key that has no such value."""
    given = dict(_flat(old))
    content: dict[str, dict[str, Any]] = {}
    for key, moved in MOVED.items():
        value = given.get(key, moved.default)
        if value is None:
            continue
        section, _, own = moved.to.partition(".")
        try:
            content.setdefault(section, {})[own] = moved.convert(value)
        except (TypeError, ValueError, IndexError):
            raise ConfigError(f"{name}: {key}: {value!r} cannot be understood") from None
    if any(given.get(key) is True for key in RECORDINGS[:2]):  # only where asked for: somebody's voice is kept
        content["recording"] = {"enabled": True, "dir": str(given.get(RECORDINGS[2], "outputs"))}
    return Migration(content, list(_notes(given, content)))


def _notes(given: dict[str, Any], content: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "auth.api_keys: any key that was not empty was accepted; here callers need one of those that you name."
    for key, value in given.items():
        if key in NO_COUNTERPART:
            yield f"{key} = {value!r}: no counterpart: {NO_COUNTERPART[key]}."
        elif key not in MOVED and key not in RECORDINGS:
            yield f"{key} = {value!r}: not a key of fast-vc-service: left out."
    if "recording" in content:
        yield "recording: both sides of every call are kept for recording.keep_days; ask your callers."
    if content["serve"]["workers"] > 1:
        count = content["serve"]["workers"]
        yield f"app.workers: {count} are {count} copies of the model on one device; one batches all callers."
    devices = given.get("realtime_vc.device")
    if isinstance(devices, list) and len(set(devices)) > 1:
        others = ", ".join(f"fast-vc worker --device {device}" for device in dict.fromkeys(devices[1:]))
        first = content["worker"]["device"]
        yield f"realtime_vc.device = {devices!r}: serve starts its workers on {first}; start beside it: {others}."
    for key, moved in MOVED.items():
        section, _, own = moved.to.partition(".")
        if moved.convert is _units and key in given and content[section][own] != _milliseconds(given[key]):
            yield f"{key} = {given[key]!r}: rounded to {content[section][own]} ms."


def _flat(old: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, values in old.items():
        if isinstance(values, dict):
            yield from ((f"{section}.{key}", value) for key, value in values.items())
        elif values is not None:
            yield str(section), values
