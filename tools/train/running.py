"""Stage ``run``: all parts, from a packed folder, on whatever device there is, against the clock."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from tools.train.annotated import Annotated
from tools.train.critic import Critic
from tools.train.learning import Inputs, Learner, prepare
from tools.train.packing import Stream, unpack
from tools.train.progress import measure
from tools.train.sampling import Ahead, Rows, Sampler, Shape
from tools.train.teacher import Teacher, start_from_teacher, unpack_tensors
from worker.models.nano.model import NanoNetworks, blank

TEACHER, START = "teacher.bin", "start.bin"  # of the packed folder
STARTED = time.monotonic()
RESULT = "nano.part"
BEGAN = "FASTVC_TRAINING_BEGAN"  # environment variable: when, if the program began again
PIECE_BYTES = 15_500_000
ENDING_S = 7.0  # of the time, for saving and a last measurement
RATE, RATE_OF_LISTENING, RATE_OF_CRITIC = 1.2e-3, 2.5e-4, 4e-4
WARM_STEPS, LEAST_RATE = 150, 0.03
CLIP, CRITIC_CLIP = 1.0, 5.0
AVERAGE = 0.999
RAMP = 0.1  # of the run, over which a new loss comes in
REPORT_S, REPORT_STEPS = 6.0, 20
SYNC_STEPS = 4
WARM_RUNS = 3  # before a capture: what libraries set up on first use is set up
DOUBTED_AT, DOUBTFUL = 80, 1.7  # step at which losses must not be so many times those before the captures
MEASURED_AT = (0.25, 0.5, 0.78)
SMOKE_STREAMS, SMOKE_S, SMOKE_ROWS = 6, 8, 8


Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Settings:
    seconds: float = 240.0  # in all
    rows: int = 128
    pace: float = 1.0  # times the learning rates
    fool_from: float = 0.30  # share of the run from which the critic has a say
    swap_from: float = 0.35  # and from which other voices say the words
    seed: int = 0
    eager: bool = False  # no CUDA graphs
    halved: bool = False  # autocast on a CPU too
    smoke: bool = False


def run(data: Path, out: Path, settings: Settings, resume: Path | None = None) -> None:
    """Train and write ``out/nano.part*`` and ``out/log.json``, at half, three quarters and the end."""
    began = time.monotonic() - spent_s()
    out.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.manual_seed(settings.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16, enabled=cuda or settings.halved, cache_enabled=False)

    log: list[dict[str, object]] = []

    def say(**what: object) -> None:
        log.append({"s": round(time.monotonic() - began, 1), **what})
        print(json.dumps(log[-1]), flush=True)

    if settings.smoke:
        streams, waves = unpack(data, wanted=FewOf())
        waves = [wave[: SMOKE_S * 16_000] for wave in waves]
    else:
        streams, waves = unpack(data, min(16, os.cpu_count() or 1))
    corpus = Annotated(streams, waves, device)
    tensors = unpack_tensors(data / TEACHER)
    teacher, networks, critic = Teacher(tensors).to(device), blank(), Critic()
    basis = start(networks, critic, data, tensors) if resume is None else load(resume, networks, critic)
    for part in (*networks.parts().values(), critic):
        part.to(device)
    networks.vocoder.eval().requires_grad_(False)
    basis = corpus.annotate(teacher, networks.content, autocast, 2 if settings.smoke else 24, basis)
    say(streams=len(streams), minutes=round(sum(map(len, waves)) / 16_000 / 60, 1), device=device.type)

    learner = Learner(networks, critic, teacher, corpus, autocast)
    averaged = copy.deepcopy(networks)
    steps = Steps(learner, settings, say)
    sampler, shapes = Sampler(corpus, settings.seed + 1), Shape.of(SMOKE_ROWS if settings.smoke else settings.rows)
    order = np.random.default_rng(settings.seed)
    batches = Ahead(lambda: sampled(sampler, shapes[order.integers(len(shapes))]))
    first_s = time.monotonic() - began
    step, shown, measured = 0, 0.0, 0
    recent: dict[str, float] = {}
    while True:
        if step % SYNC_STEPS == 0 and cuda:
            torch.cuda.synchronize()  # or the clock would be ahead of the device
        share = (time.monotonic() - began - first_s) / (settings.seconds - ENDING_S - first_s)
        if settings.smoke:
            share = step / 2
        if share >= 1:
            break
        shape, rows = batches.next()
        report = steps.take(shape, rows, step, share)
        step += 1
        blend(weights(averaged), steps.learnt, min(AVERAGE, step / (step + 10)))
        if step % REPORT_STEPS == 0 or settings.smoke:
            for name, value in report.items():
                now = float(value.detach())
                recent[name] = 0.7 * recent.get(name, now) + 0.3 * now if math.isfinite(now) else recent.get(name, 0.0)
        if time.monotonic() - shown > REPORT_S or settings.smoke:
            shown = time.monotonic()
            say(step=step, share=round(share, 3), **{key: round(value, 3) for key, value in recent.items()})
        if measured < len(MEASURED_AT) and share > MEASURED_AT[measured] and not settings.smoke:
            measured += 1
            say(measured={name: progress._asdict() for name, progress in measure(learner, averaged).items()})
            if measured > 1:
                save(out, averaged, critic, basis, log)
    batches.end()
    if settings.smoke or time.monotonic() - began < settings.seconds - 4:
        say(measured={name: progress._asdict() for name, progress in measure(learner, averaged).items()})
    save(out, averaged, critic, basis, log)


class Steps:
    """Steps of both optimisers. On CUDA a whole step is one graph, of each shape and phase: launching its thousands of
    kernels one by one takes longer than they run."""

    def __init__(self, learner: Learner, settings: Settings, say: Say) -> None:
        networks, cuda = learner.networks, learner.device.type == "cuda"
        self._learner, self._settings, self._say = learner, settings, say
        self.learnt = [*weights(networks)]
        self._critic = list(learner.critic.parameters())
        named = networks.content.named_parameters()
        pretrained = {id(weight) for name, weight in named if not name.startswith(("head", "norm"))}
        groups = [
            {"params": [weight for weight in self.learnt if id(weight) in pretrained], "usual": RATE_OF_LISTENING},
            {"params": [weight for weight in self.learnt if id(weight) not in pretrained], "usual": RATE},
        ]
        kind = {"fused": cuda, "capturable": cuda}
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, **kind)
        critics = [{"params": self._critic, "usual": RATE_OF_CRITIC}]
        self._critics = torch.optim.AdamW(critics, betas=(0.6, 0.95), weight_decay=0.0, **kind)
        self._graphs: dict[tuple[Shape, bool, bool], tuple[Inputs, torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._pool: Any = None
        self._on = cuda and not settings.eager
        self._first: dict[str, float] = {}  # losses before any capture
        for group in (*self._optimizer.param_groups, *self._critics.param_groups):
            group["lr"] = torch.tensor(0.0, device=learner.device) if cuda else 0.0

    def take(self, shape: Shape, rows: Rows, step: int, share: float) -> dict[str, Tensor]:
        """One step; what to report, valid until the next one."""
        settings = self._settings
        swap, fool = ramp(share, settings.swap_from), ramp(share, settings.fool_from)
        warm = min(1.0, (step + 1) / WARM_STEPS)
        pace = settings.pace * warm * (LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * share)))
        self._set(self._optimizer, pace)
        self._set(self._critics, warm * (1 - 0.8 * share))
        inputs = Inputs.of(rows, swap, fool, self._learner.device)
        key = shape, swap > 0, fool > 0
        if not self._on:
            return self._step(inputs, *key)
        if key not in self._graphs:
            return self._captured(inputs, key)
        static, graph, report = self._graphs[key]
        for field in fields(static):
            getattr(static, field.name).copy_(getattr(inputs, field.name))
        graph.replay()
        if step == DOUBTED_AT and any(
            not float(report[name]) < DOUBTFUL * self._first[name] for name in ("content", "mel")
        ):
            self._say(no_graphs="they give other losses", losses={name: float(value) for name, value in report.items()})
            begin_again()
        return report

    def _captured(self, inputs: Inputs, key: tuple[Shape, bool, bool]) -> dict[str, Tensor]:
        """A few steps as they are, then the graph."""
        began = time.monotonic()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_RUNS):
                report = {name: value.detach().clone() for name, value in self._step(inputs, *key).items()}
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self._first = self._first or {name: float(value) for name, value in report.items()}
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                static_report = self._step(inputs, *key)
        except Exception as error:
            self._say(no_graphs=f"{type(error).__name__}: {error}"[:600])
            begin_again()
        self._pool = self._pool or graph.pool()
        self._graphs[key] = inputs, graph, static_report
        gib = torch.cuda.max_memory_allocated() / 2**30
        self._say(captured=str(key), took_s=round(time.monotonic() - began, 1), gib=round(gib, 1))
        return report

    def _step(self, inputs: Inputs, shape: Shape, swap: bool, fool: bool) -> dict[str, Tensor]:
        loss, own, report = self._learner.losses(inputs, shape, swap=swap, fool=fool)
        length = follow(self._optimizer, loss, self.learnt, CLIP)
        if own is not None:
            follow(self._critics, own, self._critic, CRITIC_CLIP)
        return {name: value.detach() for name, value in report.items()} | {"slope": length}

    def _set(self, optimizer: torch.optim.Optimizer, pace: float) -> None:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["usual"] * pace)
            else:
                group["lr"] = group["usual"] * pace


def follow(optimizer: torch.optim.Optimizer, loss: Tensor, learnt: list[nn.Parameter], most: float) -> Tensor:
    """One step down a loss, nowhere where it leads nowhere; the gradient's length."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    length = nn.utils.clip_grad_norm_(learnt, most, foreach=True)
    for weight in learnt:
        if weight.grad is not None:
            weight.grad.nan_to_num_(0.0, 0.0, 0.0)
    optimizer.step()
    return length


def begin_again() -> NoReturn:
    """The same program from its start, without graphs: a failed capture leaves the device's random numbers unusable."""
    sys.stdout.flush()
    environment = os.environ | {BEGAN: str(time.time() - time.monotonic() + STARTED)}
    os._exit(subprocess.run([sys.executable, *sys.orig_argv[1:], "--eager"], env=environment, check=False).returncode)


def spent_s() -> float:
    """How long the program has been running, or the one that began it again."""
    return time.time() - float(os.environ[BEGAN]) if BEGAN in os.environ else time.monotonic() - STARTED


def sampled(sampler: Sampler, shape: Shape) -> tuple[Shape, Rows]:
    return shape, sampler.rows(shape)


class FewOf:
    """Wants the first streams of each kind."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def __call__(self, stream: Stream) -> bool:
        self._seen[stream.kind] = self._seen.get(stream.kind, 0) + 1
        return self._seen[stream.kind] <= SMOKE_STREAMS


def ramp(share: float, begin: float) -> float:
    return min(1.0, max(0.0, (share - begin) / RAMP))


def start(networks: NanoNetworks, critic: Critic, data: Path, tensors: dict[str, Tensor]) -> Tensor | None:
    """The teacher's first layers, and what the folder has of an earlier run; the components of that, if it has them."""
    start_from_teacher(networks.content, tensors)
    prepare(networks)
    earlier = unpack_tensors(data / START) if (data / START).exists() else {}
    for name, part in (networks.parts() | {"critic": critic}).items():
        own = {key.removeprefix(f"{name}."): value for key, value in earlier.items() if key.startswith(f"{name}.")}
        if own:
            part.load_state_dict(own)
    return earlier.get("basis")


def weights(networks: NanoNetworks) -> Iterable[nn.Parameter]:
    """Of all parts that learn."""
    for name, part in networks.parts().items():
        if name != "vocoder":
            yield from part.parameters()


@torch.no_grad()
def blend(averaged: Iterable[Tensor], latest: Iterable[Tensor], keep: float) -> None:
    """Exponential moving average of weights (Polyak & Juditsky, 1992)."""
    torch._foreach_lerp_(list(averaged), list(latest), 1 - keep)


def save(out: Path, networks: NanoNetworks, critic: Critic, basis: Tensor, log: list[dict[str, object]]) -> None:
    """In half precision, in pieces."""
    content = {name: halved(part) for name, part in networks.parts().items()}
    buffer = io.BytesIO()
    torch.save({**content, "critic": halved(critic), "basis": basis.half().cpu()}, buffer)
    raw = buffer.getvalue()
    for number, begin in enumerate(range(0, len(raw), PIECE_BYTES)):
        (out / f"{RESULT}{number}").write_bytes(raw[begin : begin + PIECE_BYTES])
    (out / "log.json").write_text(json.dumps(log))


def halved(part: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().half().cpu() for key, value in part.state_dict().items()}


def load(folder: Path, networks: NanoNetworks, critic: Critic | None = None) -> Tensor:
    """Take over what a run saved; its components."""
    raw = b"".join(path.read_bytes() for path in sorted(folder.glob(f"{RESULT}*")))
    saved = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
    parts: dict[str, nn.Module] = networks.parts() | ({} if critic is None else {"critic": critic})
    for name, part in parts.items():
        part.load_state_dict({key: value.float() for key, value in saved[name].items()})
    basis: Tensor = saved["basis"]
    return basis
