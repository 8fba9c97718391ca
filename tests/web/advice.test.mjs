// Which setting follows from what was measured.

import assert from "node:assert/strict";
import test from "node:test";
import { Advice } from "../../gateway/web/advice.js";

const block = { steps: 4, compute_ms: 80, queue_ms: 10, speech: true, concealed: false };

function after(blocks, latency = 300) {
  const advice = new Advice();
  for (const one of blocks) advice.add({ ...block, ...one }, latency);
  return advice;
}
const ten = (one = {}) => Array.from({ length: 10 }, () => one);

test("nothing is said before enough was heard, and of silence nothing at all", () => {
  const asked = { blockMs: 500, limits: [1, 10] };
  assert.equal(after([{}, {}]).given(asked), null);
  assert.equal(after(ten({ speech: false })).given(asked), null);
});

test("as many steps as fill half of a block, within the worker's limits", () => {
  const faster = after(ten()).given({ blockMs: 500, limits: [1, 30], chosen: 4 });
  assert.deepEqual([faster.latencyMs, faster.steps, faster.suggested, Math.round(faster.suggestedMs)], [300, 4, 12, 460]);
  assert.equal(after(ten()).given({ blockMs: 500, limits: [1, 10], chosen: 4 }).suggested, 10);
  assert.equal(after(ten()).given({ blockMs: 500, limits: [1, 10] }).suggested, null); // the default is as much as there is
  assert.equal(after(ten()).given({ blockMs: 120, limits: [1, 10], chosen: 4 }).suggested, 2);
  assert.equal(after(ten({ compute_ms: 900 })).given({ blockMs: 500, limits: [1, 10], chosen: 4 }).suggested, 1);
});

test("blocks that are concealed ask for less, however fast the others were", () => {
  const advice = after([...ten(), { concealed: true, speech: false }]);
  assert.equal(advice.given({ blockMs: 500, limits: [1, 10], chosen: 4 }).suggested, 3);
});

test("a model without a solver has a latency and no steps", () => {
  assert.deepEqual(after(ten()).given({ blockMs: 200 }), { latencyMs: 300, steps: null, suggested: null, suggestedMs: null });
});
