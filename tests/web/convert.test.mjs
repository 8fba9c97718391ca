// A recording that goes through a service which stops in the middle.

import assert from "node:assert/strict";
import test from "node:test";

class FakeSocket {
  static OPEN = 1;
  readyState = 1;
  bufferedAmount = 0;

  constructor() {
    FakeSocket.latest = this;
  }

  send() {}

  close() {
    this.readyState = 3;
  }

  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}
globalThis.WebSocket = FakeSocket;
const { convert } = await import("../../gateway/web/fastvc.js");

test("a session that completes before the recording was sent is an error, not a page that hangs", async () => {
  const made = convert(new Float32Array(20 * 16000), { url: "http://here/", sampleRate: 16000 });
  made.catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 5));
  FakeSocket.latest.say({ type: "ready", prefill_ms: 0, delay_ms: 0 });
  await new Promise((resolve) => setTimeout(resolve, 50)); // as far ahead as it goes
  FakeSocket.latest.say({ type: "complete", stats: {} });
  await assert.rejects(made, { code: "CONNECTION" });
});
