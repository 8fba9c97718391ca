// What the page keeps of a call, and how long it holds the sound that it shows.

import assert from "node:assert/strict";
import test from "node:test";
import { Recorded, release } from "../../gateway/web/recording.js";

test("a recording keeps both sides of a call, says once that it is full, and keeps no more", () => {
  const recorded = new Recorded(4);
  assert.equal(recorded.add("input", Float32Array.of(1, 2)), false);
  assert.equal(recorded.add("output", Float32Array.of(9)), false);
  assert.equal(recorded.add("input", Float32Array.of(3, 4)), true);
  assert.equal(recorded.add("output", Float32Array.of(8)), false);
  assert.equal(recorded.add("input", Float32Array.of(5)), false);
  assert.deepEqual([...recorded.input], [1, 2, 3, 4]);
  assert.deepEqual([...recorded.output], [9]);
});

test("what is no longer shown falls silent and is let go", () => {
  const src = URL.createObjectURL(new Blob(["sound"]));
  const player = { src, paused: false, pause: () => (player.paused = true) };
  const { revokeObjectURL } = URL;
  const revoked = [];
  URL.revokeObjectURL = (url) => (revoked.push(url), revokeObjectURL.call(URL, url));
  release({ querySelectorAll: (kind) => (kind === "audio" ? [player] : []) });
  URL.revokeObjectURL = revokeObjectURL;
  assert.deepEqual([player.paused, revoked], [true, [src]]);
});
