// A line over a WebSocket: sound as binary messages beside those of text.

import { FastVCError, Line } from "./line.js";

const MAX_UNSENT_MS = 5000; // of sound that a stalled line has not taken; beyond it, and what is sent again, sound is lost, and counted

export class Connection extends Line {
  // url: ws: or wss:. config: the fields of the first message. on: {audio(Int16Array), stats(object)}, both optional.
  constructor(url, config, on = {}) {
    super({ sample_rate: 16000, sample_rate_out: 16000, ...config }, on);
    this.sentMs = 0;
    this.againMs = 0; // of what was sent however much there was, and waits
    this.lostMs = 0; // discarded because the line took nothing
    this.heardSamples = 0;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.introduce();
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.hear(data) : this.#listen(new Int16Array(data)));
    this.socket.onclose = ({ code, wasClean }) =>
      this.fail(new FastVCError("CONNECTION", `the connection ended (${code}${wasClean ? "" : ", not cleanly"})`));
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  say(message) {
    if (this.isOpen) this.socket.send(JSON.stringify(message));
    return this.isOpen;
  }

  // Int16Array at `sample_rate`; whether the line takes it. `anyway`: however much it has not taken yet.
  send(samples, anyway = false) {
    if (!this.isOpen) return false;
    const ms = (samples.length / this.config.sample_rate) * 1000;
    this.againMs = Math.min(this.againMs, this.unsentMs);
    if (anyway) this.againMs += ms;
    else if (this.unsentMs - this.againMs > MAX_UNSENT_MS) {
      this.lostMs += ms;
      return false;
    }
    this.sentMs += ms;
    this.socket.send(samples);
    return true;
  }

  // So many samples of the answer have come, of this connection and those before it.
  acknowledge(heard) {
    this.say({ type: "ack", heard });
  }

  get unsentMs() {
    return (this.socket.bufferedAmount / 2 / this.config.sample_rate) * 1000;
  }

  hangUp() {
    this.socket.close(1000);
  }

  #listen(samples) {
    this.heardAt = performance.now();
    this.heardSamples += samples.length;
    this.on.audio?.(samples);
  }
}
