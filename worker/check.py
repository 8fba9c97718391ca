"""Whether a model works on this machine: what its files hold, what of it is used, and a second of speech through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import soundfile

from shared.config import ROOT, WorkerConfig
from worker.factory import make_engine
from worker.geometry import INPUT_RATE
from worker.models.catalogue import MODULES, model_named
from worker.models.weights import hub
from worker.models.weights.checkpoints import CheckpointError
from worker.models.weights.hub import FileState
from worker.models.weights.usage import FileUsage, usage
from worker.streaming.pool import Pcm, StreamPool

SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
SPEECH_S = 1.0
QUIETEST_DBFS = -60.0  # of what comes out


def check_model(config: WorkerConfig, device: str, say: Callable[[str], None]) -> None:
    """Tell about ``config.model``, line by line. Raises ``CheckpointError`` or ``ConfigError`` if it does not work."""
    name = config.model
    if name in MODULES:
        networks = model_named(name).networks
        states = hub.files(networks, config.checkpoints_dir)
        held = {(one.layout.repository, one.layout.file): one for one in usage(networks, config.checkpoints_dir)}
        for state in states:
            say(describe(state, held.get((state.repository, state.file))))
        missing = [state for state in states if state.path is None]
        if missing:
            raise CheckpointError(f"{name} lacks {len(missing)} of {len(states)} files: fast-vc models fetch {name}")
        if not states:
            say(f"{name}: its weights come with the package")
    began = time.monotonic()
    engine = make_engine(config.model_copy(update={"max_sessions": 1, "max_prompts": 1}), device)
    loaded = time.monotonic()
    pool = StreamPool(engine, 1, device=device)
    made = _convert(pool, next(iter(engine.voices)), config.steps)
    took = time.monotonic() - loaded
    level = 20 * np.log10(max(1e-9, float(np.sqrt(np.mean(np.square(made / 32768.0))))))
    say(
        f"{name}: loaded in {loaded - began:.1f} s on {device}; {len(made) / engine.geometry.output_rate:.1f} s of "
        f"speech at {engine.geometry.output_rate} Hz and {level:.0f} dBFS made in {took:.1f} s"
    )
    if level < QUIETEST_DBFS:
        raise CheckpointError(f"{name} makes silence of speech: its weights are not those of its networks.")


def describe(state: FileState, held: FileUsage | None) -> str:
    """A few lines. held: None of what holds no weights."""
    title = f"{state.repository}: {state.file} ({state.licence})"
    if state.path is None:
        return f"{title}\n  not here"
    lines = [title, f"  {state.path}, {state.size_bytes / 1e6:.1f} MB"]
    if held is not None:
        lines += [f"  found   {_counted(held.used)}", f"  unused  {_counted(held.unused)}"]
    return "\n".join(lines)


def _counted(entries: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in entries.items()) or "nothing"


def _convert(pool: StreamPool, voice: str, steps: int) -> Pcm:
    """The last ``SPEECH_S`` of what the sample becomes. Raises ``CheckpointError`` where the engine fails."""
    wave, _ = soundfile.read(SAMPLE, dtype="int16")
    geometry = pool.geometry
    blocks = -(-int((SPEECH_S + geometry.delay_ms / 1000) * INPUT_RATE) // geometry.block_samples_in)
    slot, out = pool.open(voice), []
    for block in wave[: blocks * geometry.block_samples_in].reshape(blocks, -1):
        made = pool.step([slot], [block], steps=steps).blocks[0]
        if made.error is not None:
            raise CheckpointError(f"{pool.engine.name} cannot convert speech: {made.error}")
        out.append(made.samples)
    return np.concatenate(out)[-int(SPEECH_S * geometry.output_rate) :]
