// A call over WebRTC: the browser encodes, buffers, conceals and plays by itself.

import { Level, LiveCall } from "./call.js";
import { RtcLine } from "./rtc-line.js";
import { RATE_OUT } from "./service.js";

const MEASURE_MS = 100;
const LOOK_MS = 1000; // at what the browser counts
const PLAY_OUT_MS = 150; // beside what the browser's buffer holds

export class RtcCall extends LiveCall {
  token = null; // to come back with
  outputLevel = new Level();
  counted = { gaps: 0, droppedMs: 0 };

  dial(config) {
    this.measuring ??= [setInterval(() => this.#report(), MEASURE_MS), setInterval(() => this.#count(), LOOK_MS)];
    return new RtcLine(this.settings.url, config, this.microphone, {
      track: (stream) => this.#receive(stream),
      stats: (stats) => this.showStats(stats),
    });
  }

  get resumption() {
    return this.token ? { resume: this.token } : {};
  }

  forget() {
    this.token = null;
  }

  welcome(ready) {
    this.token = ready.resume ?? this.token;
  }

  hear(heard) {
    if (this.isLive) this.emit("input", heard);
  }

  #receive(stream) {
    this.heard?.disconnect();
    this.puller ??= new Audio(); // without an element that plays it, Chromium decodes nothing
    Object.assign(this.puller, { muted: true, srcObject: stream });
    this.puller.play().catch(() => {});
    this.heard = this.audio.createMediaStreamSource(stream);
    this.tap(this.heard, RATE_OUT, (samples) => {
      this.outputLevel.add(samples);
      if (this.isLive) this.emit("output", samples);
    });
    this.play(this.heard);
  }

  get muted() {
    return super.muted;
  }

  set muted(muted) {
    super.muted = muted;
    for (const track of this.microphone.getAudioTracks()) track.enabled = !this.isMuted;
  }

  #report() {
    this.measure({ ...this.counted, cushionMs: this.cushionMs, ...this.outputLevel.take() });
  }

  // What the browser's own playback did: gaps that it concealed, what it left out to catch up, what it holds.
  async #count() {
    for (const report of (await this.line.pc?.getStats())?.values() ?? []) {
      if (report.type !== "inbound-rtp" || report.kind !== "audio") continue;
      const emitted = report.jitterBufferEmittedCount - (this.emitted ?? 0);
      if (emitted > 0) this.cushionMs = (1000 * (report.jitterBufferDelay - (this.delay ?? 0))) / emitted;
      [this.emitted, this.delay] = [report.jitterBufferEmittedCount, report.jitterBufferDelay];
      this.counted.gaps = report.concealmentEvents ?? 0;
      this.counted.droppedMs = (report.removedSamplesForAcceleration ?? 0) / 48;
    }
  }

  // The sum of the parts that are known.
  age(parts) {
    return this.isLive && this.blockStats ? Object.values(parts).reduce((sum, part) => sum + (part ?? 0), 0) : null;
  }

  playOut() {
    return new Promise((resolve) => setTimeout(resolve, PLAY_OUT_MS + (this.cushionMs ?? 0)));
  }

  close() {
    this.measuring?.forEach(clearInterval);
    return super.close();
  }
}
