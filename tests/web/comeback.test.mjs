// A call that comes back: what is sent again, and what is not.

import assert from "node:assert/strict";
import test from "node:test";
import { Comeback } from "../../gateway/web/comeback.js";

const piece = (from, length) => Int16Array.from({ length }, (_, i) => from + i);
const joined = (pieces) => pieces.flatMap((one) => [...one]);

test("a first connection asks for nothing and begins", () => {
  const comeback = new Comeback(16000);
  assert.deepEqual(comeback.config, {});
  assert.equal(comeback.welcome({ resume: "a" }), null);
  assert.deepEqual(comeback.config, { resume: "a", heard: 0, kept: 0, padded_ms: 0 });
});

test("what was not received is sent again, to the sample", () => {
  const comeback = new Comeback(16000);
  comeback.welcome({ resume: "a" });
  for (let at = 0; at < 1000; at += 100) comeback.sent(piece(at, 100));
  comeback.heard += 500;
  const again = comeback.welcome({ resume: "a", resumed: true, new_stream: false, received: 730, heard: 480 });
  assert.deepEqual(joined(again), [...piece(730, 270)]);
  assert.equal(comeback.heard, 480);
  assert.deepEqual(comeback.welcome({ resume: "a", resumed: true, received: 1000, heard: 480 }), []);
});

test("no more is kept than can be asked for", () => {
  const comeback = new Comeback(1000, 500);
  comeback.welcome({ resume: "a" });
  for (let at = 0; at < 2000; at += 100) comeback.sent(piece(at, 100));
  assert.equal(comeback.config.kept, 1500);
  assert.deepEqual(joined(comeback.welcome({ resumed: true, received: 1500, heard: 0 })), [...piece(1500, 500)]);
});

test("silence that was put in counts over all streams", () => {
  const comeback = new Comeback(1000);
  comeback.welcome({ resume: "a" });
  comeback.padded(120);
  comeback.welcome({ resume: "b", resumed: true, new_stream: true, received: 0, heard: 0 });
  comeback.padded(30);
  assert.deepEqual(comeback.config, { resume: "b", heard: 0, kept: 0, padded_ms: 150 });
  comeback.welcome({ resume: "c" });
  assert.equal(comeback.config.padded_ms, 0);
});
