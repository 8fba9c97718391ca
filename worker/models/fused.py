"""Chains of elementwise operations as single kernels where there is a CUDA device: what bounds these networks there is
not arithmetic but how often their activations go through memory.

Results are those of the plain operations but for rounding. The kernels are tried out once a process; where one does not
work as it should (no Triton, no compiler, another device) the plain operations stay, and the log says so.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor

SAMPLES = 1024  # of a program's piece of a signal
SIGNAL_WARPS = 4
NORM_EPS, LEAST_ERROR = 1e-5, 1e-5
TRIED_WIDTH, TRIED_SAMPLES = 96, 1100  # of what is tried out

_kernels: ModuleType | None = None  # while they are used
_decided = False


def usable(x: Tensor) -> bool:
    """Whether kernels are to be used for ``x``: a tensor of a CUDA device, not one that only stands for such, and
    nothing that gradients are asked of."""
    if _kernels is None or not x.is_cuda or torch.is_grad_enabled():
        return False
    return type(x) in (Tensor, torch.nn.Parameter)


def switch(on: bool) -> None:
    """Whether kernels are used from now on. Raises ``ImportError`` without Triton."""
    global _kernels, _decided
    _decided = True
    if not on:
        _kernels = None
        return
    from worker.models import kernels

    _kernels = kernels


def try_out(device: torch.device, dtype: torch.dtype) -> None:
    """Use the kernels from now on if they work on ``device``; once a process, and only where there is CUDA."""
    if _decided or device.type != "cuda":
        return
    try:
        switch(on=True)
        error = _largest_error(device, dtype)
        if error > max(LEAST_ERROR, 8 * torch.finfo(dtype).eps):
            raise ArithmeticError(f"they are off by {error:.1e}")
    except Exception as error:
        switch(on=False)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("fused kernels do not work here ({}): the plain operations are used", reason)


@torch.inference_mode()
def _largest_error(device: torch.device, dtype: torch.dtype) -> float:
    """Of all kernels on small inputs, against the plain operations in float64, relative where they are above 1."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    width, samples = TRIED_WIDTH, TRIED_SAMPLES
    x, delta, gain = drawn(2, 3, width), drawn(2, 3, width), drawn(width)
    gate, bias = drawn(2, 1, width), drawn(2, 1, width)
    total, normed = add_normalise(x, delta, gate, gain, bias, NORM_EPS)
    plain = x.double() + gate.double() * delta.double()
    qkv, table = drawn(2, 3, 3, 2, 64), drawn(3, 32, 2)
    a, b = qkv.double().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.double()[:, None, None].unbind(-1)
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)[:, :, :2]
    wave, alpha, beta = drawn(2, 3, samples).clamp(-2, 2), drawn(3).abs() + 0.5, drawn(3).abs()
    taps = (torch.hann_window(14, periodic=False)[1:-1] / 6.5).to(device, dtype)
    kernel, slope = taps.double()[None, None], alpha.double()[:, None]
    padded = F.pad(wave.double(), (5, 5), mode="replicate").view(-1, 1, samples + 10)
    raised = 2 * F.conv_transpose1d(padded, kernel, stride=2)[..., 15:-15].view(2, 3, -1)
    raised = raised + (raised * slope.exp()).sin().square() / beta.double().exp()[:, None]
    padded = F.pad(raised, (5, 6), mode="replicate").view(-1, 1, 2 * samples + 11)
    both, shift = drawn(2, 6, samples), drawn(2, 6, 1)
    moved = both.double() + shift.double()
    pairs = [
        (total, plain),
        (normed, F.rms_norm(plain, (width,), eps=NORM_EPS) * gain.double() + bias.double()),
        (normalise(x, gain, None, NORM_EPS), F.rms_norm(x.double(), (width,), eps=NORM_EPS) * gain.double()),
        (add(x, delta), x.double() + delta.double()),
        (rotate_(qkv.clone(), table)[:, :, :2], turned),
        (gated(x, delta), F.silu(x.double()) * delta.double()),
        (wave_gate(both, shift), moved[:, :3].tanh() * moved[:, 3:].sigmoid()),
        (snake(wave, alpha), wave.double() + (wave.double() * slope).sin().square() / slope),
        (alias_free_snake(wave, alpha, beta, taps), F.conv1d(padded, kernel, stride=2).view(2, 3, -1)),
    ]
    if not all(bool(ours.isfinite().all()) for ours, _ in pairs):
        return math.inf
    return max(float(((ours.double() - plain).abs() / plain.abs().clamp(min=1)).max()) for ours, plain in pairs)


def normalise(x: Tensor, gain: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """``gain * x / rms(x) + bias`` over the last axis. x: ``[R, N, D]``. gain, bias: ``[D]``, ``[1, 1, D]`` or
    ``[R, 1, D]``."""
    x = x.contiguous()
    columns = x.shape[-1]
    rows = x.numel() // columns
    out = torch.empty_like(x)
    (gain, gain_stride), (shift, shift_stride) = _each(gain, columns), _each(gain if bias is None else bias, columns)
    size = _power(columns)
    _of().normalise[(rows,)](
        x,
        gain,
        shift,
        out,
        rows // x.shape[0],
        gain_stride,
        shift_stride,
        eps,
        biased=bias is not None,
        columns=columns,
        size=size,
        num_warps=_warps(size),
    )
    return out


def add(x: Tensor, delta: Tensor, gate: Tensor | None = None) -> Tensor:
    """``x + gate * delta``; shapes as in ``normalise``."""
    return _added(x, delta, gate, None, None, 0.0)[0]


def add_normalise(
    x: Tensor, delta: Tensor, gate: Tensor | None, gain: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """``x + gate * delta``, and ``normalise`` of it."""
    return _added(x, delta, gate, gain, bias, eps)


def _added(
    x: Tensor, delta: Tensor, gate: Tensor | None, gain: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    x, delta = x.contiguous(), delta.contiguous()
    columns = x.shape[-1]
    rows = x.numel() // columns
    total = torch.empty_like(x)
    out = total if gain is None else torch.empty_like(x)
    parts = [_each(x if part is None else part, columns) for part in (gate, gain, bias)]
    size = _power(columns)
    _of().add[(rows,)](
        x,
        delta,
        *(part for part, _ in parts),
        total,
        out,
        rows // x.shape[0],
        *(stride for _, stride in parts),
        eps,
        gates=gate is not None,
        norms=gain is not None,
        biased=bias is not None,
        columns=columns,
        size=size,
        num_warps=_warps(size),
    )
    return total, out


def _each(part: Tensor, columns: int) -> tuple[Tensor, int]:
    """Contiguous, and how far the next item's begins: nowhere, if all share it."""
    return part.contiguous(), columns if part.numel() > columns else 0


def rotate_(qkv: Tensor, table: Tensor) -> Tensor:
    """Queries and keys of ``qkv [R, N, 3, heads, 2 half]``, contiguous, rotated in place by ``table [N, half, 2]``."""
    rows, tokens, _, heads, width = qkv.shape
    size = _power(heads * width // 2)
    _of().rotate[(rows * tokens, 2)](
        qkv, table.contiguous(), tokens, heads, half=width // 2, size=size, num_warps=_warps(size)
    )
    return qkv


def gated(a: Tensor, b: Tensor) -> Tensor:
    """``silu(a) * b``."""
    a, b = a.contiguous(), b.contiguous()
    out = torch.empty_like(a)
    _of().gated[(_cdiv(a.numel(), SAMPLES),)](a, b, out, a.numel(), size=SAMPLES, num_warps=SIGNAL_WARPS)
    return out


def wave_gate(x: Tensor, offset: Tensor) -> Tensor:
    """``tanh(a) * sigmoid(b)`` of the halves of ``x + offset``. x: ``[B, 2 C, T]``. offset: ``[1 or B, 2 C, 1]``."""
    x, offset = x.contiguous(), offset.contiguous()
    batch, double, samples = x.shape
    out = x.new_empty(batch, double // 2, samples)
    grid, stride = (batch * double // 2, _cdiv(samples, SAMPLES)), 0 if len(offset) == 1 else double
    _of().wave_gate[grid](x, offset, out, double // 2, samples, stride, size=SAMPLES, num_warps=SIGNAL_WARPS)
    return out


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """``x + sin^2(alpha x) / alpha``. x: ``[B, C, T]``. alpha: ``[C]``."""
    x = x.contiguous()
    batch, channels, samples = x.shape
    out = torch.empty_like(x)
    grid = batch * channels, _cdiv(samples, SAMPLES)
    _of().snake[grid](x, alpha, out, channels, samples, size=SAMPLES, num_warps=SIGNAL_WARPS)
    return out


def alias_free_snake(x: Tensor, alpha: Tensor, beta: Tensor, taps: Tensor) -> Tensor:
    """Twice the rate, ``x + sin^2(x e^alpha) / e^beta``, half the rate. x: ``[B, C, T]``. alpha, beta: ``[C]``. taps:
    of both low-passes, ``[TAPS]``."""
    x = x.contiguous()
    batch, channels, samples = x.shape
    raised, out = x.new_empty(batch, channels, 2 * samples), torch.empty_like(x)
    grid = batch * channels, _cdiv(samples, SAMPLES)
    _of().raised[grid](x, alpha, beta, taps, raised, channels, samples, size=SAMPLES, num_warps=SIGNAL_WARPS)
    _of().lowered[grid](raised, taps, out, samples, size=SAMPLES, num_warps=SIGNAL_WARPS)
    return out


def _of() -> ModuleType:
    assert _kernels is not None, "only where `usable` says so"
    return _kernels


def _cdiv(count: int, size: int) -> int:
    return -(-count // size)


def _power(count: int) -> int:
    return max(16, 1 << (count - 1).bit_length())


def _warps(size: int) -> int:
    return max(1, min(8, size // 256))
