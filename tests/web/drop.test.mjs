// Files that are dropped into the page: into the zone, beside it, onto a field that takes files, and what is no file.

import assert from "node:assert/strict";
import test from "node:test";
import { wireDrop } from "../../gateway/web/drop.js";

// What comes of `kind` at `target`.
function drag(kind, { inside = false, field = false, types = ["Files"] } = {}) {
  const page = new EventTarget();
  const taken = [];
  const zone = { contains: () => inside, classList: { toggle: (_, on) => (zone.over = on) } };
  page.closest = () => (field ? {} : null);
  wireDrop(page, zone, (files) => taken.push(...files));
  const event = Object.assign(new Event(kind, { cancelable: true }), { dataTransfer: { types, files: ["a.wav"], dropEffect: "copy" } });
  page.dispatchEvent(event);
  return { leaves: !event.defaultPrevented, effect: event.dataTransfer.dropEffect, taken, over: zone.over };
}

test("a file in the zone is taken", () => {
  assert.deepEqual(drag("dragover", { inside: true }), { leaves: false, effect: "copy", taken: [], over: true });
  assert.deepEqual(drag("drop", { inside: true }), { leaves: false, effect: "copy", taken: ["a.wav"], over: false });
});

test("a file beside it is not, and the page stays", () => {
  assert.deepEqual(drag("dragover"), { leaves: false, effect: "none", taken: [], over: false });
  assert.deepEqual(drag("drop"), { leaves: false, effect: "copy", taken: [], over: false });
});

test("a field for files and text are the browser's", () => {
  for (const other of [{ field: true }, { types: ["text/plain"] }]) {
    assert.equal(drag("dragover", other).leaves, true);
    assert.equal(drag("drop", other).leaves, true);
  }
});
