// What the operators' view makes of counts.

import assert from "node:assert/strict";
import test from "node:test";
import { quantile, since, sum, workersOf } from "../../gateway/web/rates.js";

test("a quantile lies within its bucket, by the share of it that is below", () => {
  const buckets = [[0.1, 50], [0.2, 90], [0.4, 100], [null, 100]];
  assert.equal(Math.round(quantile(buckets, 0.95)), 300);
  assert.equal(Math.round(quantile(buckets, 0.5)), 100);
  assert.equal(quantile([[0.1, 0], [null, 0]], 0.95), null);
  assert.equal(quantile([[0.1, 0], [null, 3]], 0.95), 100); // beyond the last bound: at least so much
});

const process = (pid, blocks) => ({ pid, started: pid, counted: { blocks, latency_s: [[0.1, blocks], [null, blocks]] } });

test("counts are differences while it is the same process, and start anew with another", () => {
  assert.deepEqual(since(process(1, 7), process(1, 5)), { blocks: 2, latency_s: [[0.1, 2], [null, 2]] });
  assert.equal(since(process(2, 3), process(1, 5)).blocks, 3);
  assert.equal(since(process(2, 3), undefined).blocks, 3);
});

test("processes add up, and a worker that several know is one", () => {
  assert.deepEqual(sum([process(1, 2).counted, process(2, 3).counted]), { blocks: 5, latency_s: [[0.1, 5], [null, 5]] });
  const worker = { host: "h", pid: 1, worker_id: "w", sessions: 1, capacity: 4 };
  const [one, ...rest] = workersOf([{ workers: [worker] }, { workers: [{ ...worker, sessions: 2 }] }]);
  assert.deepEqual([one.sessions, one.capacity, rest], [3, 8, []]);
});
