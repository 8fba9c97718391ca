// Playback: steady, bounded, and back on time after whatever the line did.

import assert from "node:assert/strict";
import test from "node:test";
import { PlaybackBuffer } from "../../gateway/web/playback-buffer.js";

const RATE = 48000;
const BLOCK_MS = 200;
const QUANTUM = 128;

const tone = (samples, from = 0, hz = 150) =>
  Float32Array.from({ length: samples }, (_, i) => 0.5 * Math.sin((2 * Math.PI * hz * (from + i)) / RATE));

// Blocks that come at the given times (ms) are played for `forMs`; what comes out, and the spare at each moment.
function play(buffer, arrivals, forMs, make = tone) {
  const block = (RATE * BLOCK_MS) / 1000;
  const out = new Float32Array(Math.floor((RATE * forMs) / 1000 / QUANTUM) * QUANTUM);
  const spare = [];
  let next = 0;
  for (let at = 0; at < out.length; at += QUANTUM) {
    for (; next < arrivals.length && arrivals[next] <= (at / RATE) * 1000; next += 1) buffer.push(make(block, next * block));
    buffer.pull(out.subarray(at, at + QUANTUM));
    spare.push(buffer.spareMs);
  }
  return { out, spare };
}

const steady = (count, from = 0) => Array.from({ length: count }, (_, i) => from + i * BLOCK_MS);

// The largest step between neighbouring samples: a click is one far above the tone's own.
const steepest = (out) => out.reduce((most, sample, i) => (i ? Math.max(most, Math.abs(sample - out[i - 1])) : 0), 0);

test("a punctual stream is played as it is, once the target is spare", () => {
  const buffer = new PlaybackBuffer(RATE, { blockMs: BLOCK_MS, targetMs: 60 });
  const { out } = play(buffer, steady(20), 3900);
  const start = out.findIndex((sample) => sample !== 0);
  assert.ok(Math.abs((start / RATE) * 1000 - 60) < 6);
  assert.equal(buffer.gaps, 0);
  assert.equal(buffer.dropped, 0);
  const shift = Math.round(((RATE * 60) / 1000 + QUANTUM - 1) / QUANTUM) * QUANTUM;
  const late = [0, -QUANTUM, QUANTUM].map((d) => shift + d).find((d) => out[d + 5000] === tone(1, 5000)[0]);
  assert.ok(late !== undefined);
});

test("jitter within the target makes no gap", () => {
  const buffer = new PlaybackBuffer(RATE, { blockMs: BLOCK_MS, targetMs: 60 });
  const arrivals = steady(40).map((at, i) => at + [0, 45, 10, 30][i % 4]);
  play(buffer, arrivals, 7800);
  assert.equal(buffer.gaps, 0);
});

test("after a stall lateness returns to the target within seconds, without a click", () => {
  const buffer = new PlaybackBuffer(RATE, { blockMs: BLOCK_MS, targetMs: 60 });
  const arrivals = steady(60).map((at) => (at > 2000 && at < 5000 ? 5000 : at));
  const { out, spare } = play(buffer, arrivals, 11_800);
  const at = (ms) => spare[Math.floor((ms / 1000) * (RATE / QUANTUM))];
  assert.equal(buffer.gaps, 1);
  assert.ok(at(5100) <= 100 + 1000, `bounded at once: ${at(5100)}`);
  assert.ok(at(9500) < 100 + 65, `back on time: ${at(9500)}`);
  assert.ok(buffer.droppedMs > 2500);
  assert.ok(steepest(out) < 0.03, `a click of ${steepest(out)}`); // the tone's own steps are up to 0.01
});

test("nothing is played twice or left out but what is counted", () => {
  const buffer = new PlaybackBuffer(RATE, { blockMs: BLOCK_MS });
  play(buffer, steady(60).map((at) => (at > 2000 && at < 5000 ? 5000 : at)), 11_800);
  assert.equal(buffer.position + buffer.end - buffer.begin, 59 * ((RATE * BLOCK_MS) / 1000));
});

test("silence is passed over faster than speech", () => {
  const took = (make) => {
    const buffer = new PlaybackBuffer(RATE, { blockMs: BLOCK_MS });
    const { spare } = play(buffer, steady(60).map((at) => (at < 800 ? 800 : at)), 11_800, make);
    const from = Math.floor(0.9 * (RATE / QUANTUM));
    return spare.slice(from).findIndex((ms) => ms < buffer.targetMs + 20);
  };
  assert.ok(took((samples) => new Float32Array(samples)) < took(tone));
});

test("each gap raises the target up to a bound; calm lowers it again", () => {
  const buffer = new PlaybackBuffer(RATE, { blockMs: BLOCK_MS, targetMs: 60, maxTargetMs: 400 });
  const arrivals = Array.from({ length: 30 }, (_, i) => i * 700);
  play(buffer, arrivals, 21_000);
  assert.equal(buffer.targetMs, 400);
  play(buffer, steady(300), 60_000);
  assert.ok(buffer.targetMs < 400);
});

test("the last piece is played to its end, and that is no gap", () => {
  const buffer = new PlaybackBuffer(RATE, { blockMs: BLOCK_MS });
  buffer.push(tone(1000));
  buffer.finish();
  const out = new Float32Array(1280);
  for (let at = 0; at < out.length; at += QUANTUM) buffer.pull(out.subarray(at, at + QUANTUM));
  assert.equal(buffer.position, 1000);
  assert.equal(buffer.gaps, 0);
});
