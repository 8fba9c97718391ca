// Fast-VC Pool in a web page: the microphone in another voice, live, and recordings as fast as conversion goes.
//
//   startCall(settings)        -> Promise<LiveCall>      see LiveCall
//   convert(samples, settings) -> Promise<Float32Array>  see convert
//   listVoices(url, apiKey)    -> Promise<{voices: [{name, description, mine?, shared?}], default}>
//   FastVCError                   what all of them throw: {code, message, details}
//
// docs/page.md documents it, with an example of ten lines.

import { Comeback } from "./comeback.js";
import { Connection, FastVCError } from "./connection.js";
import { openMicrophone, openOutput } from "./devices.js";
import { watchEcho } from "./echo.js";
import { Resampler } from "./resampler.js";
import { RtcCall } from "./rtc-call.js";
import { addresses, knowsNoWay, RATE_IN, RATE_OUT, refusal, RETRIED, RETRY_AFTER_MS, sessionConfig, valueOf } from "./service.js";

export { FastVCError };

export { RATE_IN, RATE_OUT, refusal };

const ACKNOWLEDGE_EVERY = 2 * RATE_OUT; // samples
const MAX_AHEAD_MS = 4000; // of a recording that is not answered yet

const here = (name) => new URL(name, import.meta.url).href;

// With a credential those of one's own, too.
export async function listVoices(url, apiKey = "") {
  const credential = await valueOf(apiKey);
  const headers = credential ? { Authorization: `Bearer ${credential}` } : {};
  const answer = await fetch(new URL("voices", addresses(url).http), { headers });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

const toFloat = (samples) => Float32Array.from(samples, (sample) => sample / 32768);
const toInt = (samples) => Int16Array.from(samples, (sample) => Math.max(-1, Math.min(1, sample)) * 32767);

// settings: {url, apiKey: text, or a function that returns it or promises it whenever it is needed, voice, model, options: {steps, guidance, f0_shift}, input: MediaTrackConstraints,
// outputId: a device's id, reconnect: true, transport: "websocket" | "webrtc"}. Asks for the microphone. Resolves when the gateway is ready; throws
// FastVCError, or what getUserMedia throws.
export async function startCall(settings = {}) {
  const call = settings.transport === "webrtc" ? new RtcCall(settings) : new LiveCall(settings);
  try {
    await call.open();
  } catch (error) {
    await call.close();
    throw error;
  }
  return call;
}

// One call. Events (CustomEvent, what they say in `detail`):
//   measure  ten times a second: {inputRms, inputPeak, outputRms, outputPeak, playback: {...}, latency: {...}}, see latency()
//   stats    with each block, where the gateway sends them: {seq, queue_ms, compute_ms, steps, batch_size, concealed}
//   input    Float32Array at 16 kHz, as sent; output: Float32Array at 24 kHz, as received
//   echo     {delayMs}: the microphone hears the answer, so much later; null: no longer
//   state    "ready" | "reconnecting" | "ended"; with the last, {error} or {stats}
export class LiveCall extends EventTarget {
  constructor(settings) {
    super();
    this.settings = { reconnect: true, ...settings };
    this.sessionId = settings.sessionId ?? crypto.randomUUID?.() ?? `page-${Date.now()}-${Math.floor(Math.random() * 1e9)}`;
    this.isMuted = false;
    this.ending = false;
    this.pushedMs = 0; // of converted sound, over all connections
    this.offsetMs = 0; // of it, what was of calls before this one
    this.comeback = new Comeback(RATE_IN);
    this.retries = 0;
    this.input = { power: 0, peak: 0, count: 0 };
  }

  async open() {
    this.audio = new AudioContext({ latencyHint: "interactive" });
    await Promise.all([
      this.audio.audioWorklet.addModule(here("playback.worklet.js")),
      this.audio.audioWorklet.addModule(here("microphone.worklet.js")),
      openMicrophone(this.settings.input).then((stream) => (this.microphone = stream)),
    ]);
    if (this.audio.state === "suspended") await this.audio.resume();
    this.down = new Resampler(this.audio.sampleRate, RATE_IN);
    this.source = this.audio.createMediaStreamSource(this.microphone);
    this.tap = new AudioWorkletNode(this.audio, "fastvc-microphone", { numberOfOutputs: 0 });
    this.tap.port.onmessage = ({ data }) => this.#hear(data);
    this.source.connect(this.tap);
    this.monitor = new GainNode(this.audio, { gain: 0 });
    ({ out: this.out, speaker: this.speaker } = await openOutput(this.audio, this.settings.outputId));
    this.source.connect(this.monitor).connect(this.out);
    await this.#connect();
  }

  async #connect() {
    const { socket } = addresses(this.settings.url);
    const config = { ...(await sessionConfig({ ...this.settings, sessionId: this.sessionId })), ...this.comeback.config };
    const connection = new Connection(socket, config, {
      audio: (samples) => this.#play(samples),
      stats: (stats) => (this.comeback.padded(stats.padded_ms ?? 0), this.#emit("stats", (this.blockStats = stats))),
    });
    this.connection = connection;
    const ready = await connection.ready;
    this.retries = 0;
    const again = this.comeback.welcome(ready);
    if (again) connection.sentMs = (ready.received / RATE_IN) * 1000;
    else this.#beginStream();
    this.ready = ready;
    for (const samples of again ?? []) connection.send(samples, true);
    this.#openPlayback();
    connection.closed.then(({ stats, code }) => this.#ended({ stats }, code), (error) => this.#lost(error));
    this.isLive = true;
    this.#emit("state", { state: "ready", ready: this.ready });
  }

  #beginStream() {
    this.up = new Resampler(RATE_OUT, this.audio.sampleRate);
    this.offsetMs = this.pushedMs;
    this.blockStats = null;
  }

  #openPlayback() {
    if (this.playback) return;
    const processorOptions = { blockMs: this.ready.block_ms };
    this.playback = new AudioWorkletNode(this.audio, "fastvc-playback", {
      numberOfInputs: 0, outputChannelCount: [1], processorOptions,
    });
    this.playback.port.onmessage = ({ data }) => (data === "done" ? this.played?.() : this.#measure(data));
    this.playback.connect(this.out);
    watchEcho(this.audio, this.source, this.playback, (echo) => this.#emit("echo", echo)).catch(() => {}); // only a hint
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

  #hear(samples) {
    const heard = this.down.process(samples);
    if (this.isMuted) heard.fill(0);
    for (const sample of heard) {
      this.input.power += sample * sample;
      this.input.peak = Math.max(this.input.peak, Math.abs(sample));
    }
    this.input.count += heard.length;
    if (this.ending || !(this.isLive || this.comeback.token)) return;
    const sound = toInt(heard);
    if (!this.isLive || this.connection.send(sound)) this.comeback.sent(sound); // away: it is sent on coming back
    this.#emit("input", heard);
  }

  #play(samples) {
    const received = toFloat(samples);
    this.comeback.heard += samples.length;
    if (this.comeback.heard % ACKNOWLEDGE_EVERY < samples.length) this.connection.acknowledge(this.comeback.heard);
    this.pushedMs += (samples.length / RATE_OUT) * 1000;
    this.#emit("output", received);
    const sound = this.up.process(received);
    this.playback.port.postMessage(sound, sound === received ? [] : [sound.buffer]);
  }

  #measure(playback) {
    this.state = playback;
    const { power, peak, count } = this.input;
    this.input = { power: 0, peak: 0, count: 0 };
    this.#emit("measure", {
      inputRms: Math.sqrt(power / Math.max(1, count)), inputPeak: peak,
      outputRms: playback.rms, outputPeak: playback.peak,
      playback, latency: this.latency(),
    });
  }

  // In milliseconds. `total` is measured: how old the sound is that is played now, from the samples sent and played.
  // The others are its parts: a block must be complete (with what the model looks ahead), travels, waits, is
  // converted, waits to be played. null: not known yet, or not told by this gateway.
  latency() {
    const { block_ms: block = 0, prefill_ms: prefill = 0, delay_ms: delay = 0 } = this.ready ?? {};
    const played = (this.state?.playedMs ?? 0) - this.offsetMs;
    const device = ((this.audio.baseLatency || 0) + (this.audio.outputLatency || 0)) * 1000;
    const total = played > 0 && !this.ending ? this.connection.sentMs + this.comeback.paddedMs - (played - prefill - delay) + device : null;
    return {
      block: block + delay,
      network: this.connection.networkMs,
      queue: this.blockStats?.queue_ms ?? null,
      conversion: this.blockStats?.compute_ms ?? null,
      playback: this.state?.cushionMs ?? null,
      device,
      total,
    };
  }

  // Ends the session; resolves with its statistics once the rest was played.
  async stop() {
    if (this.ending) return this.over;
    this.ending = true;
    const playedOut = new Promise((resolve) => (this.played = resolve));
    this.over = (async () => {
      let result = {};
      try {
        this.microphone?.getTracks().forEach((track) => track.stop());
        this.connection.end();
        result = await this.connection.closed;
        this.playback?.port.postMessage("end");
        await playedOut;
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
    this.microphone?.getTracks().forEach((track) => track.stop());
    this.connection?.abort();
    this.speaker?.pause();
    if (this.audio && this.audio.state !== "closed") await this.audio.close();
  }

  #ended(result, code) {
    this.isLive = false;
    if (this.ending) return this.#emit("state", { state: "ended", ...result });
    this.#lost(new FastVCError("CONNECTION", `the service ended the session (${code})`)); // it restarts, perhaps
  }

  #lost(error) {
    this.isLive = false;
    if (this.ending) return this.#emit("state", { state: "ended", error });
    if (knowsNoWay(error)) this.comeback.begin(); // it was away for too long: a call without a past
    else if (!this.settings.reconnect || !RETRIED.has(error.code) || this.retries >= RETRY_AFTER_MS.length) {
      this.close();
      return this.#emit("state", { state: "ended", error });
    }
    const afterMs = RETRY_AFTER_MS[this.retries++];
    this.#emit("state", { state: "reconnecting", error, attempt: this.retries, afterMs });
    this.retry = setTimeout(() => this.#connect().catch((failed) => this.#lost(failed)), afterMs);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail: typeof detail === "string" ? { state: detail } : detail }));
  }
}

// A recording (Float32Array, one channel, at settings.sampleRate), as fast as conversion goes. settings as for
// startCall, and {onProgress(share from 0 to 1), signal: AbortSignal}. Resolves with {samples: Float32Array, sampleRate, stats}:
// as long as the recording, laid over it (the service's lead is cut off).
export async function convert(samples, settings = {}) {
  const { sampleRate = RATE_IN, onProgress, signal } = settings;
  const input = toInt(new Resampler(sampleRate, RATE_IN).process(samples, true));
  const pieces = [];
  const connection = new Connection(addresses(settings.url).socket, await sessionConfig(settings), {
    audio: (piece) => pieces.push(piece),
  });
  const abort = () => connection.abort();
  signal?.addEventListener("abort", abort, { once: true });
  try {
    const ready = await connection.ready;
    const leadMs = ready.prefill_ms + ready.delay_ms;
    await feed(connection, input, onProgress, signal);
    connection.end();
    const { stats } = await connection.closed;
    const output = toFloat(joined(pieces));
    const from = Math.round((leadMs / 1000) * RATE_OUT);
    const length = Math.round((samples.length / sampleRate) * RATE_OUT);
    onProgress?.(1);
    return { samples: output.slice(from, from + length), sampleRate: RATE_OUT, stats };
  } finally {
    signal?.removeEventListener("abort", abort);
    connection.abort();
  }
}

// No further ahead of the answers than the gateway would wait for anyway.
async function feed(connection, input, onProgress, signal) {
  const step = RATE_IN / 10;
  const heardMs = () => (connection.heardSamples / RATE_OUT) * 1000;
  for (let at = 0; at < input.length; at += step) {
    while (connection.sentMs - heardMs() > MAX_AHEAD_MS || connection.unsentMs > MAX_AHEAD_MS / 2) {
      if (signal?.aborted) throw new FastVCError("ABORTED", "stopped");
      await Promise.race([connection.closed, new Promise((resolve) => setTimeout(resolve, 20))]);
    }
    connection.send(input.subarray(at, at + step));
    onProgress?.(Math.min(1, ((heardMs() / 1000) * RATE_IN) / input.length));
  }
}

function joined(pieces) {
  const whole = new Int16Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
