// A live call over WebRTC, as LiveCall of fastvc.js is one over a WebSocket: the same methods, the same events.

import { openMicrophone, openOutput } from "./devices.js";
import { watchEcho } from "./echo.js";
import { Resampler } from "./resampler.js";
import { RtcLine } from "./rtc-line.js";
import { knowsNoWay, RATE_IN, RATE_OUT, RETRIED, RETRY_AFTER_MS, sessionConfig } from "./service.js";

const MEASURE_MS = 100;
const LOOK_MS = 1000; // at what the browser counts
const PLAY_OUT_MS = 150; // beside what the browser's buffer holds

const here = (name) => new URL(name, import.meta.url).href;

class Level {
  constructor() {
    this.take();
  }

  add(samples) {
    for (const sample of samples) {
      this.power += sample * sample;
      this.peak = Math.max(this.peak, Math.abs(sample));
    }
    this.count += samples.length;
  }

  take() {
    const level = { rms: Math.sqrt(this.power / Math.max(1, this.count)), peak: this.peak };
    Object.assign(this, { power: 0, peak: 0, count: 0 });
    return level;
  }
}

export class RtcCall extends EventTarget {
  constructor(settings) {
    super();
    this.settings = { reconnect: true, ...settings };
    this.sessionId = settings.sessionId ?? crypto.randomUUID?.() ?? `page-${Date.now()}-${Math.floor(Math.random() * 1e9)}`;
    this.isMuted = this.ending = false;
    this.retries = 0;
    this.token = null; // to come back with
    this.levels = { input: new Level(), output: new Level() };
    this.counted = { gaps: 0, droppedMs: 0, cushionMs: null };
  }

  async open() {
    this.audio = new AudioContext({ latencyHint: "interactive" });
    [this.microphone] = await Promise.all([
      openMicrophone(this.settings.input),
      this.audio.audioWorklet.addModule(here("microphone.worklet.js")),
    ]);
    if (this.audio.state === "suspended") await this.audio.resume();
    this.source = this.#tap(this.microphone, RATE_IN, "input");
    this.monitor = new GainNode(this.audio, { gain: 0 });
    ({ out: this.out, speaker: this.speaker } = await openOutput(this.audio, this.settings.outputId));
    this.source.connect(this.monitor).connect(this.out);
    this.measuring = [setInterval(() => this.#measure(), MEASURE_MS), setInterval(() => this.#count(), LOOK_MS)];
    await this.#connect();
  }

  // A stream as a node, whose samples are told, too.
  #tap(stream, rate, name) {
    const source = this.audio.createMediaStreamSource(stream);
    const tap = new AudioWorkletNode(this.audio, "fastvc-microphone", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    const resampler = new Resampler(this.audio.sampleRate, rate);
    tap.port.onmessage = ({ data }) => {
      if (this.isMuted && name === "input") data.fill(0);
      this.levels[name].add(data);
      if (this.isLive) this.#emit(name, resampler.process(data));
    };
    source.connect(tap);
    return source;
  }

  async #connect() {
    const config = await sessionConfig({ ...this.settings, sessionId: this.sessionId });
    if (this.token) config.resume = this.token;
    const line = new RtcLine(this.settings.url, config, this.microphone, {
      track: (stream) => this.#play(stream),
      stats: (stats) => this.#emit("stats", (this.blockStats = stats)),
    });
    this.connection = line;
    this.ready = await line.ready;
    this.token = this.ready.resume ?? this.token;
    this.retries = 0;
    line.closed.then(({ stats }) => this.#ended({ stats }), (error) => this.#lost(error));
    this.isLive = true;
    this.#emit("state", { state: "ready", ready: this.ready });
  }

  #play(stream) {
    this.heard?.disconnect();
    this.puller ??= new Audio(); // without an element that plays it, Chromium decodes nothing
    Object.assign(this.puller, { muted: true, srcObject: stream });
    this.puller.play().catch(() => {});
    this.heard = this.#tap(stream, RATE_OUT, "output");
    this.heard.connect(this.out);
    watchEcho(this.audio, this.source, this.heard, (echo) => this.#emit("echo", echo)).catch(() => {}); // only a hint
  }

  // Mute sends silence, so that time goes on.
  get muted() {
    return this.isMuted;
  }

  set muted(muted) {
    this.isMuted = Boolean(muted);
    for (const track of this.microphone.getAudioTracks()) track.enabled = !this.isMuted;
  }

  // One's own voice, as it is, in one's own ears: only while somebody asks for it.
  set hearMyself(on) {
    this.monitor?.gain.setTargetAtTime(on ? 1 : 0, this.audio.currentTime, 0.01);
  }

  #measure() {
    const [input, output] = [this.levels.input.take(), this.levels.output.take()];
    const playback = { ...this.counted, rms: output.rms, peak: output.peak };
    this.#emit("measure", { inputRms: input.rms, inputPeak: input.peak, outputRms: output.rms, outputPeak: output.peak, playback, latency: this.latency() });
  }

  // What the browser's own playback did: gaps that it concealed, what it left out to catch up, what it holds.
  async #count() {
    for (const report of (await this.connection?.pc?.getStats())?.values() ?? []) {
      if (report.type !== "inbound-rtp" || report.kind !== "audio") continue;
      const emitted = report.jitterBufferEmittedCount - (this.emitted ?? 0);
      if (emitted > 0) this.counted.cushionMs = (1000 * (report.jitterBufferDelay - (this.delay ?? 0))) / emitted;
      [this.emitted, this.delay] = [report.jitterBufferEmittedCount, report.jitterBufferDelay];
      this.counted.gaps = report.concealmentEvents ?? 0;
      this.counted.droppedMs = (report.removedSamplesForAcceleration ?? 0) / 48;
    }
  }

  // In milliseconds, as LiveCall has it; but `total` is the sum of what is known of it.
  latency() {
    const { block_ms: block = 0, delay_ms: delay = 0 } = this.ready ?? {};
    const parts = {
      block: block + delay,
      network: this.connection?.networkMs ?? null,
      queue: this.blockStats?.queue_ms ?? null,
      conversion: this.blockStats?.compute_ms ?? null,
      playback: this.counted.cushionMs,
      device: ((this.audio.baseLatency || 0) + (this.audio.outputLatency || 0)) * 1000,
    };
    const total = this.isLive && this.blockStats ? Object.values(parts).reduce((sum, part) => sum + (part ?? 0)) : null;
    return { ...parts, total };
  }

  // Ends the session; resolves with its statistics once the rest was played.
  async stop() {
    if (this.ending) return this.over;
    this.ending = true;
    this.over = (async () => {
      let result = {};
      try {
        this.connection.end();
        result = await this.connection.closed;
        await new Promise((resolve) => setTimeout(resolve, PLAY_OUT_MS + (this.counted.cushionMs ?? 0)));
      } catch (error) {
        result = { error };
      }
      await this.close();
      return result;
    })();
    return this.over;
  }

  // At once.
  async close() {
    this.ending = true;
    this.isLive = false;
    clearTimeout(this.retry);
    this.measuring?.forEach(clearInterval);
    this.microphone?.getTracks().forEach((track) => track.stop());
    this.connection?.abort();
    this.connection?.pc?.close();
    this.speaker?.pause();
    if (this.audio && this.audio.state !== "closed") await this.audio.close();
  }

  #ended(result) {
    if (this.ending) return this.#emit("state", { state: "ended", ...result });
    this.#lost(Object.assign(new Error("the service ended the session"), { code: "CONNECTION" })); // it restarts, perhaps
  }

  #lost(error) {
    this.isLive = false;
    if (this.ending) return this.#emit("state", { state: "ended", error });
    if (knowsNoWay(error)) this.token = null;
    else if (!this.settings.reconnect || !RETRIED.has(error.code) || this.retries >= RETRY_AFTER_MS.length) {
      this.close();
      return this.#emit("state", { state: "ended", error });
    }
    const afterMs = RETRY_AFTER_MS[this.retries++];
    this.#emit("state", { state: "reconnecting", error, attempt: this.retries, afterMs });
    this.retry = setTimeout(() => this.#connect().catch((failed) => this.#lost(failed)), afterMs);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
