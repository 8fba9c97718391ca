// A line over a WebSocket: what it takes, and when it counts as lost.

import assert from "node:assert/strict";
import test from "node:test";

class FakeSocket {
  static OPEN = 1;
  readyState = 1;
  bufferedAmount = 0;

  send(data) {
    if (typeof data !== "string") this.bufferedAmount += data.byteLength;
  }

  close() {
    this.readyState = 3;
  }

  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}
globalThis.WebSocket = FakeSocket;
const { Connection } = await import("../../gateway/web/connection.js");

const second = () => new Int16Array(16000);

test("a line that stands still takes five seconds, and says what it did not take", () => {
  const line = new Connection("ws://here/ws", {});
  const taken = Array.from({ length: 8 }, () => line.send(second())).filter(Boolean);
  assert.equal(taken.length, 6); // the last of them found no more than five
  assert.equal(line.lostMs, 2000);
});

test("what is sent again makes no new sound find the line full", () => {
  const line = new Connection("ws://here/ws", {});
  for (let i = 0; i < 20; i += 1) assert.ok(line.send(second(), true));
  assert.ok(line.send(second()));
  line.socket.bufferedAmount = 0; // all of it has left
  for (let i = 0; i < 6; i += 1) assert.ok(line.send(second()));
  assert.ok(!line.send(second()));
});

test("a line on which nothing comes is lost, and one on which sound comes is not", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  let now = 0;
  t.mock.method(performance, "now", () => now);
  const pass = (seconds, line, sounding) => {
    for (let i = 0; i < seconds; i += 1) {
      now += 1000;
      if (sounding) line.socket.onmessage({ data: new Int16Array(10).buffer });
      t.mock.timers.tick(1000);
    }
  };
  const line = new Connection("ws://here/ws", {});
  line.socket.say({ type: "ready" });
  pass(30, line, true); // no ping is answered: the way there is slow
  assert.ok(!line.over);
  pass(14, line, false);
  assert.ok(line.over);
  await assert.rejects(line.closed, { code: "CONNECTION" });
});

test("the first word about the end counts", async () => {
  const line = new Connection("ws://here/ws", {});
  line.socket.say({ type: "error", error_code: "AUTH_FAILED", message: "no" });
  line.socket.onclose({ code: 1008, wasClean: true });
  await assert.rejects(line.ready, { code: "AUTH_FAILED" });
  const other = new Connection("ws://here/ws", {});
  other.socket.say({ type: "complete", stats: { chunks_processed: 3 } });
  other.socket.onclose({ code: 1000, wasClean: true });
  assert.deepEqual(await other.closed, { stats: { chunks_processed: 3 } });
});
