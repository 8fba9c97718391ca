"""What every training stage shares: a time or step budget, a cosine learning rate, averaged weights, checkpoints."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

SMOOTH = 0.98  # of reported losses
SAVE_EVERY_S = 120.0
CLIP = 1.0
FAST_BFLOAT16: bool = torch.cpu._is_avx512_bf16_supported()  # products four times as fast as in float32


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a stage trains: whichever ends first. The learning rate follows the larger share used."""

    steps: int
    seconds: float = math.inf

    def used(self, step: int, elapsed_s: float) -> float:
        return max(step / self.steps, elapsed_s / self.seconds)


def train(
    name: str,
    modules: nn.ModuleDict,
    loss: Callable[[int], dict[str, Tensor]],
    budget: Budget,
    out: Path,
    *,
    rate: float,
    average: float = 0.998,
    warm_steps: int = 100,
) -> nn.ModuleDict:
    """Minimise ``loss(step)["loss"]`` over ``modules`` with AdamW; returns their averaged weights.

    Where the processor multiplies bfloat16 natively, ``loss`` runs under autocast; weights stay float32.

    Saves ``out/NAME.pt`` every two minutes and at the end, and goes on from it; the losses go to ``out/NAME.json``.
    """
    path, curve_path = out / f"{name}.pt", out / f"{name}.json"
    optimizer = torch.optim.AdamW(modules.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    averaged = copy.deepcopy(modules)
    step, elapsed_s = 0, 0.0
    curve: list[dict[str, float]] = []
    if path.exists():
        saved = torch.load(path, weights_only=True)
        modules.load_state_dict(saved["modules"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        step, elapsed_s = saved["step"], saved["elapsed_s"]
        curve = json.loads(curve_path.read_text()) if curve_path.exists() else []
    began, saved_at = time.monotonic() - elapsed_s, time.monotonic()
    smooth: dict[str, float] = {}
    bar = tqdm(total=budget.steps, initial=step, desc=name, mininterval=5)

    def save() -> None:
        state = {
            "modules": modules.state_dict(),
            "averaged": averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "elapsed_s": time.monotonic() - began,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        curve_path.write_text(json.dumps(curve))

    while (share := budget.used(step, time.monotonic() - began)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / warm_steps) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BFLOAT16):
            losses = loss(step)
        if not losses["loss"].isfinite():
            raise FloatingPointError(f"stage {name}: the loss of step {step} is {float(losses['loss'])}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(modules.parameters(), CLIP)
        optimizer.step()
        step += 1
        blend(averaged.parameters(), modules.parameters(), min(average, step / (step + 10)))
        for key, value in losses.items():
            now = float(value.detach())
            smooth[key] = SMOOTH * smooth.get(key, now) + (1 - SMOOTH) * now
        bar.update()
        if step % 50 == 0:
            bar.set_postfix({key: f"{value:.3f}" for key, value in smooth.items()})
            curve.append({"step": step, **smooth})
        if time.monotonic() - saved_at > SAVE_EVERY_S:
            save()
            saved_at = time.monotonic()
    bar.close()
    save()
    return averaged.eval()


@torch.no_grad()
def blend(averaged: Iterable[Tensor], latest: Iterable[Tensor], keep: float) -> None:
    """Exponential moving average of weights (Polyak & Juditsky, 1992)."""
    torch._foreach_lerp_(list(averaged), list(latest), 1 - keep)
