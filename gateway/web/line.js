// One session over one line to the gateway, whichever carries it: the text messages of the standard protocol, how long the
// line takes, and how it ended. Connection and RtcLine are such lines; this knows nothing of what carries them.

const PING_EVERY_MS = 2000;
const SILENT_MS = 10_000; // without a word of the gateway, not even an answer to a ping, a line counts as lost

// Why a session ended or never began. `code` is the gateway's error code, or CONNECTION where it said none.
export class FastVCError extends Error {
  constructor(code, message, details) {
    super(message);
    Object.assign(this, { name: "FastVCError", code, details });
  }
}

export class Line {
  // config: the fields of the first message. on: {stats(object)}, optional, and what else the line tells.
  constructor(config, on) {
    this.config = config;
    this.on = on;
    this.networkMs = null; // both ways, smoothed; null until the first answer to a ping
    this.over = false;
    this.ready = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    this.closed = new Promise((resolve, reject) => (this.finish = { resolve, reject })); // with {stats}
    this.ready.catch(() => {}); // whoever waits hears of it; `closed` says the same
    this.closed.catch(() => {});
  }

  // Each line has its own: say(message), which tells whether it could be said; hangUp(), at once.

  // The line is there.
  introduce() {
    this.say({ type: "config", ...this.config });
  }

  // A message of the gateway.
  hear(text) {
    const message = JSON.parse(text);
    this.heardAt = performance.now();
    if (message.type === "ready") this.#begin(message);
    else if (message.type === "stats") this.on.stats?.(message);
    else if (message.type === "pong") this.#pong();
    else if (message.type === "complete") this.complete(message.stats);
    else if (message.type === "error") this.fail(new FastVCError(message.error_code, message.message, message.details));
  }

  complete(stats) {
    this.leave();
    this.finish.resolve({ stats });
  }

  // What ends the session first counts.
  fail(error) {
    if (this.over) return;
    this.leave();
    this.settle.reject(error);
    this.finish.reject(error);
    this.hangUp();
  }

  leave() {
    this.over = true;
    clearInterval(this.pinging);
  }

  // The rest follows, then `closed` resolves with the session's statistics.
  end() {
    if (!this.say({ type: "end" })) this.abort();
  }

  // At once, without the rest.
  abort() {
    this.fail(new FastVCError("ABORTED", "the call was ended"));
    this.hangUp();
  }

  #begin(message) {
    this.settle.resolve(message);
    this.pinging = setInterval(() => this.#ping(), PING_EVERY_MS);
  }

  #ping() {
    const now = performance.now();
    if (this.pingedAt && now - Math.max(this.pingedAt, this.heardAt) > SILENT_MS)
      this.fail(new FastVCError("CONNECTION", `nothing came for ${SILENT_MS / 1000} s`));
    else if (!this.pingedAt && this.say({ type: "ping" })) this.pingedAt = now;
  }

  #pong() {
    const took = performance.now() - this.pingedAt;
    this.pingedAt = null;
    this.networkMs = this.networkMs === null ? took : 0.7 * this.networkMs + 0.3 * took;
  }
}
