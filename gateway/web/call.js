// One call, whichever line carries it: microphone, loudspeaker, levels, latency, coming back, the end. SocketCall and RtcCall are such calls.

import { openMicrophone, openOutput } from "./devices.js";
import { watchEcho } from "./echo.js";
import { FastVCError } from "./line.js";
import { Resampler } from "./resampler.js";
import { knowsNoWay, RATE_IN, RETRIED, RETRY_AFTER_MS, sessionConfig } from "./service.js";

const here = (name) => new URL(name, import.meta.url).href;

// Root mean square and peak of what was added since it was taken last.
export class Level {
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

// Events (CustomEvent, what they say in `detail`):
//   measure  ten times a second: {inputRms, inputPeak, outputRms, outputPeak, playback: {...}, latency: {...}}, see latency()
//   stats    with each block, where the gateway sends them: {seq, queue_ms, compute_ms, steps, batch_size, concealed}
//   input    Float32Array at 16 kHz, as sent; output: Float32Array at 24 kHz, as received
//   echo     {delayMs}: the microphone hears the answer, so much later; null: no longer
//   state    "ready" | "reconnecting" | "ended"; with the last, {error} or {stats}
//
// A line's own call says:
//   worklets              names of modules besides the microphone's
//   dial(config)          -> Line
//   resumption            fields of the first message with which a call goes on; forget(): it cannot any more
//   welcome(ready)        the gateway takes the call, or takes it up again
//   hear(samples)         Float32Array at 16 kHz, from the microphone, silent while muted
//   age(parts)            -> how old the sound is that is played now, in ms, or null
//   playOut()             -> Promise: what has come was played
export class LiveCall extends EventTarget {
  worklets = [];

  constructor(settings) {
    super();
    this.settings = { reconnect: true, ...settings };
    this.sessionId = settings.sessionId ?? crypto.randomUUID?.() ?? `page-${Date.now()}-${Math.floor(Math.random() * 1e9)}`;
    this.isMuted = this.isLive = this.ending = this.told = false;
    this.cushionMs = null; // how long sound waits to be played
    this.inputLevel = new Level();
    this.retries = 0;
  }

  async open() {
    this.audio = new AudioContext({ latencyHint: "interactive" });
    const modules = ["microphone.worklet.js", ...this.worklets].map((name) => this.#load(name));
    await Promise.all([...modules, openMicrophone(this.settings.input).then((stream) => (this.microphone = stream))]);
    if (this.audio.state === "suspended") await this.audio.resume();
    for (const track of this.microphone.getAudioTracks()) track.addEventListener("ended", () => this.#withoutMicrophone());
    this.source = this.audio.createMediaStreamSource(this.microphone);
    this.tap(this.source, RATE_IN, (heard) => {
      if (this.isMuted) heard.fill(0);
      this.inputLevel.add(heard);
      this.hear(heard);
    });
    this.monitor = new GainNode(this.audio, { gain: 0 });
    ({ out: this.out, speaker: this.speaker } = await openOutput(this.audio, this.settings.outputId));
    this.source.connect(this.monitor).connect(this.out);
    await this.#connect();
  }

  async #load(name) {
    await this.audio.audioWorklet.addModule(here(name)).catch(({ message }) => {
      throw new FastVCError("CONNECTION", message);
    });
  }

  // What a node gives is handed on, 20 ms at a time, as Float32Array at `rate`.
  tap(node, rate, hear) {
    const tap = new AudioWorkletNode(this.audio, "fastvc-microphone", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    const resampler = new Resampler(this.audio.sampleRate, rate);
    tap.port.onmessage = ({ data }) => hear(resampler.process(data));
    node.connect(tap);
  }

  // The answer, as a node.
  play(node) {
    node.connect(this.out);
    watchEcho(this.audio, this.source, node, (echo) => this.emit("echo", echo)).catch(() => {}); // only a hint
  }

  async #connect() {
    const config = { ...(await sessionConfig({ ...this.settings, sessionId: this.sessionId })), ...this.resumption };
    if (this.ending) return;
    const line = (this.line = this.dial(config));
    const ready = await line.ready;
    this.retries = 0;
    this.welcome(ready);
    this.ready = ready;
    line.closed.then((result) => this.#ended(result), (error) => this.#lost(error));
    this.isLive = true;
    this.emit("state", { state: "ready", ready });
  }

  // Mute sends silence, so that time goes on.
  get muted() {
    return this.isMuted;
  }

  set muted(muted) {
    this.isMuted = Boolean(muted);
  }

  // One's own voice, as it is, in one's own ears: only while somebody asks for it.
  set hearMyself(on) {
    this.monitor?.gain.setTargetAtTime(on ? 1 : 0, this.audio.currentTime, 0.01);
  }

  measure(playback) {
    const { rms: inputRms, peak: inputPeak } = this.inputLevel.take();
    this.emit("measure", { inputRms, inputPeak, outputRms: playback.rms, outputPeak: playback.peak, playback, latency: this.latency() });
  }

  showStats(stats) {
    this.blockStats = stats;
    this.emit("stats", stats);
  }

  // In milliseconds. `total`: how old the sound is that is played now. The others are its parts: a block must be complete
  // (with what the model looks ahead), travels, waits, is converted, waits to be played. null: not known yet, or not told by this gateway.
  latency() {
    const { block_ms: block = 0, delay_ms: delay = 0 } = this.ready ?? {};
    const parts = {
      block: block + delay,
      network: this.line.networkMs,
      queue: this.blockStats?.queue_ms ?? null,
      conversion: this.blockStats?.compute_ms ?? null,
      playback: this.cushionMs,
      device: ((this.audio.baseLatency || 0) + (this.audio.outputLatency || 0)) * 1000,
    };
    return { ...parts, total: this.age(parts) };
  }

  // Ends the session; resolves with its statistics once the rest was played.
  async stop() {
    if (this.ending) return this.over;
    this.ending = true;
    this.over = (async () => {
      let result;
      try {
        this.#releaseMicrophone();
        this.line.end();
        result = await this.line.closed;
        await this.playOut();
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
    this.#releaseMicrophone();
    this.line?.abort();
    this.speaker?.pause();
    if (this.audio && this.audio.state !== "closed") await this.audio.close();
  }

  #withoutMicrophone() {
    if (this.ending) return;
    this.told = true; // the line's own end is nothing more to say
    this.close();
    this.emit("state", { state: "ended", error: new FastVCError("MICROPHONE", "it has ended") });
  }

  #releaseMicrophone() {
    this.microphone?.getTracks().forEach((track) => track.stop());
  }

  #ended(result) {
    if (!this.ending) return this.#lost(new FastVCError("CONNECTION", "the service ended the session")); // it restarts, perhaps
    this.isLive = false;
    this.emit("state", { state: "ended", ...result });
  }

  #lost(error) {
    this.isLive = false;
    if (this.told) return;
    if (this.ending) return this.emit("state", { state: "ended", error });
    if (knowsNoWay(error)) this.forget(); // it was away for too long: a call without a past
    else if (!this.settings.reconnect || !RETRIED.has(error.code) || this.retries >= RETRY_AFTER_MS.length) {
      this.close();
      return this.emit("state", { state: "ended", error });
    }
    const afterMs = RETRY_AFTER_MS[this.retries++];
    this.emit("state", { state: "reconnecting", error, attempt: this.retries, afterMs });
    this.retry = setTimeout(() => this.#connect().catch((failed) => this.#lost(failed)), afterMs);
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
