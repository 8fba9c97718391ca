// Rates changed in pieces of any size.

import assert from "node:assert/strict";
import test from "node:test";
import { Resampler } from "../../gateway/web/resampler.js";

const tone = (hz, rate, samples) => Float32Array.from({ length: samples }, (_, i) => Math.sin((2 * Math.PI * hz * i) / rate));

function inPieces(resampler, samples, sizes) {
  const out = [];
  for (let at = 0, i = 0; at < samples.length; i += 1) {
    const piece = samples.subarray(at, at + sizes[i % sizes.length]);
    at += piece.length;
    out.push(...resampler.process(piece, at >= samples.length));
  }
  return out;
}

for (const [from, to] of [[48000, 16000], [44100, 16000], [24000, 48000], [24000, 44100], [16000, 16000]])
  test(`${from} to ${to} Hz: length, place and level`, () => {
    const out = inPieces(new Resampler(from, to), tone(1000, from, from), [882, 960, 17]);
    assert.ok(Math.abs(out.length - to) <= 1);
    const expected = tone(1000, to, to);
    for (let i = 500; i < to - 500; i += 7) assert.ok(Math.abs(out[i] - expected[i]) < 0.01);
  });

test("what the lower rate cannot carry is gone", () => {
  const out = inPieces(new Resampler(48000, 16000), tone(10_000, 48000, 48000), [960]);
  const rms = Math.sqrt(out.slice(500, -500).reduce((sum, sample) => sum + sample * sample, 0) / (out.length - 1000));
  assert.ok(rms < 0.003, `${rms}`);
});
