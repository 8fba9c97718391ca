// A gateway that stops in the middle, and one that is not there.

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
const { convert, listVoices } = await import("../../gateway/web/fastvc.js");
const { webrtcServers } = await import("../../gateway/web/rtc-line.js");

test("a session that completes before the recording was sent is an error, not a page that hangs", async () => {
  const made = convert(new Float32Array(20 * 16000), { url: "http://here/", sampleRate: 16000 });
  made.catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 5));
  FakeSocket.latest.say({ type: "ready", prefill_ms: 0, delay_ms: 0 });
  await new Promise((resolve) => setTimeout(resolve, 50)); // as far ahead as it goes
  FakeSocket.latest.say({ type: "complete", stats: {} });
  await assert.rejects(made, { code: "CONNECTION" });
});

test("a gateway that cannot be reached is an error of the client's own", async (t) => {
  t.mock.method(globalThis, "fetch", () => Promise.reject(new TypeError("Failed to fetch")));
  await assert.rejects(listVoices("http://here/"), { name: "FastVCError", code: "CONNECTION" });
  await assert.rejects(webrtcServers("http://here/"), { name: "FastVCError", code: "CONNECTION" }); // which is tried again
});
