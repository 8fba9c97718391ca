// When the microphone hears the loudspeaker, and when it only seems so.

import assert from "node:assert/strict";
import test from "node:test";
import { EchoDetector } from "../../gateway/web/echo.js";

const RATE = 4000;
const WINDOW = RATE;
const REACH = 0.4 * RATE;

// Always the same numbers in [-1, 1].
function noise(seed) {
  let state = seed;
  return () => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0), state / 2 ** 31 - 1);
}

// Much like speech: a gliding pitch with harmonics, breath, and pauses between syllables.
function voice(seconds, pitch, seed) {
  const random = noise(seed);
  let [phase, level] = [0, 0];
  return Float32Array.from({ length: seconds * RATE }, (_, i) => {
    const f0 = pitch * (1 + 0.15 * Math.sin(i / 850 + seed) + 0.05 * Math.sin(i / 205));
    phase += f0 / RATE;
    if (i % 800 === 0) level = Math.max(0, random());
    let sum = 0;
    for (let h = 1; h * f0 < 1900; h += 1) sum += Math.sin(2 * Math.PI * h * phase) / h;
    return level * (0.2 * sum + 0.05 * random());
  });
}

const delayed = (samples, ms, gain = 1) => {
  const shift = Math.round((ms / 1000) * RATE);
  return Float32Array.from(samples, (_, i) => gain * (samples[i - shift] ?? 0));
};
const sum = (...all) => Float32Array.from(all[0], (_, i) => all.reduce((total, one) => total + one[i], 0));

function watch(heard, played) {
  const detector = new EchoDetector(RATE);
  const found = [];
  for (let at = REACH; at + WINDOW <= heard.length; at += WINDOW)
    found.push(detector.compare(heard.subarray(at, at + WINDOW), played.subarray(at - REACH, at + WINDOW)).delayMs);
  return found;
}

test("an echo in a room is noticed within seconds, under the speaker's own voice, with its delay", () => {
  const [own, other] = [voice(10, 120, 1), voice(10, 210, 2)];
  for (const ms of [12, 120, 380]) {
    const room = sum(delayed(other, ms, 0.3), delayed(other, ms + 13, 0.15), delayed(other, ms + 31, 0.1));
    const found = watch(sum(own, room), other);
    assert.ok(found.slice(2).every((delay) => Math.abs(delay - ms) < 1), `${ms} ms: ${found}`);
  }
});

test("nothing is noticed where there is none", () => {
  const [own, other] = [voice(20, 120, 1), voice(20, 210, 2)];
  const tone = (hz) => Float32Array.from({ length: 10 * RATE }, (_, i) => 0.3 * Math.sin((2 * Math.PI * hz * i) / RATE));
  const cases = {
    "two voices": [own, other],
    "what was said comes back later, unconverted": [own, delayed(own, 700)],
    "the same tone": [tone(200), delayed(tone(200), 100)],
    silence: [new Float32Array(5 * RATE), other.subarray(0, 5 * RATE)],
  };
  for (const [name, [heard, played]] of Object.entries(cases)) assert.deepEqual([...new Set(watch(heard, played))], [null], name);
});

test("it is forgotten once headphones are on", () => {
  const [own, other] = [voice(20, 120, 1), voice(20, 210, 2)];
  const before = sum(own, delayed(other, 90, 0.3)).subarray(0, 6 * RATE);
  const heard = Float32Array.from(own);
  heard.set(before);
  const found = watch(heard, other);
  assert.notEqual(found[4], null);
  assert.equal(found.at(-1), null);
});
