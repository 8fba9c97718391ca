"""The kernels of ``fused``, in Triton. Importing this needs Triton, which torch brings along for CUDA.

A program holds one row of features, or one piece of a signal. All compute in float32 and round once, on the way out.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normed(
    value, item, gain, bias, gain_stride, bias_stride, eps, at, inside, biased: tl.constexpr, columns: tl.constexpr
):
    """Within a kernel: one row over its root mean square, with the gain and bias of its item."""
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / columns + eps)
    made = value * scale * tl.load(gain + item * gain_stride + at, mask=inside, other=0.0).to(tl.float32)
    if biased:
        made += tl.load(bias + item * bias_stride + at, mask=inside, other=0.0).to(tl.float32)
    return made


@triton.jit
def normalise(
    x,
    gain,
    bias,
    out,
    rows_each,
    gain_stride,
    bias_stride,
    eps,
    biased: tl.constexpr,
    columns: tl.constexpr,
    size: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    item = row // rows_each
    at = tl.arange(0, size)
    inside = at < columns
    value = tl.load(x + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    made = normed(value, item, gain, bias, gain_stride, bias_stride, eps, at, inside, biased, columns)
    tl.store(out + row * columns + at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add(
    x,
    delta,
    gate,
    gain,
    bias,
    total,
    out,
    rows_each,
    gate_stride,
    gain_stride,
    bias_stride,
    eps,
    gates: tl.constexpr,
    norms: tl.constexpr,
    biased: tl.constexpr,
    columns: tl.constexpr,
    size: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    item = row // rows_each
    at = tl.arange(0, size)
    inside = at < columns
    value = tl.load(delta + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    if gates:
        value *= tl.load(gate + item * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(x + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    rounded = value.to(total.dtype.element_ty)
    tl.store(total + row * columns + at, rounded, mask=inside)
    if norms:
        value = rounded.to(tl.float32)
        made = normed(value, item, gain, bias, gain_stride, bias_stride, eps, at, inside, biased, columns)
        tl.store(out + row * columns + at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rotate(qkv, table, tokens, heads: tl.constexpr, half: tl.constexpr, size: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    pairs = heads * half
    at = tl.arange(0, size)
    inside = at < pairs
    base = qkv + token * (6 * pairs) + which * (2 * pairs)
    place = table + (token % tokens) * (2 * half) + (at % half) * 2
    a = tl.load(base + 2 * at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(base + 2 * at + 1, mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(place + 1, mask=inside, other=0.0).to(tl.float32)
    tl.store(base + 2 * at, (a * cos - b * sin).to(qkv.dtype.element_ty), mask=inside)
    tl.store(base + 2 * at + 1, (b * cos + a * sin).to(qkv.dtype.element_ty), mask=inside)


@triton.jit
def gated(a, b, out, count, size: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = at < count
    value = tl.load(a + at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(b + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (value * tl.sigmoid(value) * gate).to(out.dtype.element_ty), mask=inside)


@triton.jit
def wave_gate(x, offset, out, channels, samples, offset_stride, size: tl.constexpr):
    line = tl.program_id(0).to(tl.int64)
    item, channel = line // channels, line % channels
    at = tl.program_id(1) * size + tl.arange(0, size)
    inside = at < samples
    filtered = x + (item * 2 * channels + channel) * samples + at
    a = tl.load(filtered, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(filtered + channels * samples, mask=inside, other=0.0).to(tl.float32)
    a += tl.load(offset + item * offset_stride + channel).to(tl.float32)
    b += tl.load(offset + item * offset_stride + channels + channel).to(tl.float32)
    made = (2.0 * tl.sigmoid(2.0 * a) - 1.0) * tl.sigmoid(b)
    tl.store(out + line * samples + at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def snake(x, alpha, out, channels, samples, size: tl.constexpr):
    line = tl.program_id(0).to(tl.int64)
    slope = tl.load(alpha + line % channels).to(tl.float32)
    at = tl.program_id(1) * size + tl.arange(0, size)
    inside = at < samples
    value = tl.load(x + line * samples + at, mask=inside, other=0.0).to(tl.float32)
    wave = tl.sin(value * slope)
    made = value + wave * wave / (slope + 1e-9)
    tl.store(out + line * samples + at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def raised(x, alpha, beta, taps, out, channels, samples, size: tl.constexpr):
    """Twice the rate, then the snake: sample ``i`` to samples ``2 i`` and ``2 i + 1``."""
    line = tl.program_id(0).to(tl.int64)
    slope = tl.exp(tl.load(alpha + line % channels).to(tl.float32))
    weight = 1.0 / (tl.exp(tl.load(beta + line % channels).to(tl.float32)) + 1e-9)
    at = tl.program_id(1) * size + tl.arange(0, size)
    inside = at < samples
    base = x + line * samples
    even = tl.zeros([size], dtype=tl.float32)
    odd = tl.zeros([size], dtype=tl.float32)
    for shift in tl.static_range(-3, 4):
        place = tl.minimum(tl.maximum(at + shift, 0), samples - 1)
        value = tl.load(base + place, mask=inside, other=0.0).to(tl.float32)
        if shift < 3:
            even += value * tl.load(taps + (5 - 2 * shift)).to(tl.float32)
        if shift > -3:
            odd += value * tl.load(taps + (6 - 2 * shift)).to(tl.float32)
    even, odd = 2.0 * even, 2.0 * odd
    sin_even, sin_odd = tl.sin(even * slope), tl.sin(odd * slope)
    even += weight * sin_even * sin_even
    odd += weight * sin_odd * sin_odd
    place = out + line * (2 * samples) + 2 * at
    tl.store(place, even.to(out.dtype.element_ty), mask=inside)
    tl.store(place + 1, odd.to(out.dtype.element_ty), mask=inside)


@triton.jit
def lowered(x, taps, out, samples, size: tl.constexpr):
    """Half the rate."""
    line = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * size + tl.arange(0, size)
    inside = at < samples
    base = x + line * (2 * samples)
    made = tl.zeros([size], dtype=tl.float32)
    for tap in tl.static_range(12):
        place = tl.minimum(tl.maximum(2 * at + (tap - 5), 0), 2 * samples - 1)
        made += tl.load(base + place, mask=inside, other=0.0).to(tl.float32) * tl.load(taps + tap).to(tl.float32)
    tl.store(out + line * samples + at, made.to(out.dtype.element_ty), mask=inside)
