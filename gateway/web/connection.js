// One session over one WebSocket: the standard protocol as the README has it, and nothing about microphones or loudspeakers.

const PING_EVERY_MS = 2000;
const MAX_UNSENT_MS = 5000; // of sound that a stalled line has not taken; beyond it sound is lost, and counted

// Why a session ended or never began. `code` is the gateway's error code, or CONNECTION where it said none.
export class FastVCError extends Error {
  constructor(code, message, details) {
    super(message);
    Object.assign(this, { name: "FastVCError", code, details });
  }
}

export class Connection {
  // url: ws: or wss:. config: the fields of the first message. on: {audio(Int16Array), stats(object)}, both optional.
  constructor(url, config, on = {}) {
    this.config = { sample_rate: 16000, sample_rate_out: 16000, ...config };
    this.on = on;
    this.sentMs = 0;
    this.lostMs = 0; // discarded because the line took nothing
    this.heardSamples = 0;
    this.networkMs = null; // both ways, smoothed; null until the first answer to a ping
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.ready = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    this.closed = new Promise((resolve, reject) => (this.finish = { resolve, reject }));
    this.ready.catch(() => {}); // whoever waits hears of it; `closed` says the same
    this.closed.catch(() => {});
    this.socket.onopen = () => this.#say({ type: "config", ...this.config });
    this.socket.onmessage = ({ data }) => this.#hear(data);
    this.socket.onclose = ({ code, wasClean }) => this.#close(code, wasClean);
  }

  // Int16Array at `sample_rate`; whether the line takes it. `anyway`: however much it has not taken yet.
  send(samples, anyway = false) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    const ms = (samples.length / this.config.sample_rate) * 1000;
    if (!anyway && this.socket.bufferedAmount > (MAX_UNSENT_MS / 1000) * this.config.sample_rate * 2) {
      this.lostMs += ms;
      return false;
    }
    this.sentMs += ms;
    this.socket.send(samples);
    return true;
  }

  // So many samples of the answer have come, of this connection and those before it.
  acknowledge(heard) {
    if (this.socket.readyState === WebSocket.OPEN) this.#say({ type: "ack", heard });
  }

  get unsentMs() {
    return (this.socket.bufferedAmount / 2 / this.config.sample_rate) * 1000;
  }

  // The rest follows, then `closed` resolves with the session's statistics.
  end() {
    if (this.socket.readyState === WebSocket.OPEN) this.#say({ type: "end" });
    else this.socket.close();
  }

  // At once, without the rest.
  abort() {
    this.socket.close(1000);
  }

  #say(message) {
    this.socket.send(JSON.stringify(message));
  }

  #hear(data) {
    if (typeof data !== "string") {
      const samples = new Int16Array(data);
      this.heardSamples += samples.length;
      this.on.audio?.(samples);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "ready") this.#begin(message);
    else if (message.type === "stats") this.on.stats?.(message);
    else if (message.type === "pong") this.#pong();
    else if (message.type === "complete") this.complete = message.stats;
    else if (message.type === "error") this.error = new FastVCError(message.error_code, message.message, message.details);
  }

  #begin(message) {
    this.settle.resolve(message);
    this.pinging = setInterval(() => {
      if (this.pingedAt || this.socket.readyState !== WebSocket.OPEN) return;
      this.pingedAt = performance.now();
      this.#say({ type: "ping" });
    }, PING_EVERY_MS);
  }

  #pong() {
    const took = performance.now() - this.pingedAt;
    this.pingedAt = null;
    this.networkMs = this.networkMs === null ? took : 0.7 * this.networkMs + 0.3 * took;
  }

  #close(code, wasClean) {
    clearInterval(this.pinging);
    if (this.complete) return this.finish.resolve({ stats: this.complete, code });
    const lost = new FastVCError("CONNECTION", `the connection ended (${code}${wasClean ? "" : ", not cleanly"})`);
    this.settle.reject(this.error ?? lost);
    this.finish.reject(this.error ?? lost);
  }
}
