// A call over a WebSocket: sound goes both ways in messages, and the page plays it by itself.

import { LiveCall } from "./call.js";
import { Comeback } from "./comeback.js";
import { Connection } from "./connection.js";
import { toFloat, toInt } from "./pcm.js";
import { Resampler } from "./resampler.js";
import { addresses, RATE_IN, RATE_OUT } from "./service.js";

const ACKNOWLEDGE_EVERY = 2 * RATE_OUT; // samples

export class SocketCall extends LiveCall {
  worklets = ["playback.worklet.js"];
  pushedMs = 0; // of converted sound, over all connections
  offsetMs = 0; // of it, what was of calls before this one
  playedMs = 0;
  comeback = new Comeback(RATE_IN);

  dial(config) {
    return new Connection(addresses(this.settings.url).socket, config, {
      audio: (samples) => this.#receive(samples),
      stats: (stats) => (this.comeback.padded(stats.padded_ms ?? 0), this.showStats(stats)),
    });
  }

  get resumption() {
    return this.comeback.config;
  }

  forget() {
    this.comeback.begin();
  }

  welcome(ready) {
    const again = this.comeback.welcome(ready);
    if (again) this.line.sentMs = (ready.received / RATE_IN) * 1000;
    else this.#beginStream();
    for (const samples of again ?? []) this.line.send(samples, true);
    if (!this.playback) this.#openPlayback(ready.block_ms);
  }

  #beginStream() {
    this.up = new Resampler(RATE_OUT, this.audio.sampleRate);
    this.offsetMs = this.pushedMs;
    this.blockStats = null;
  }

  #openPlayback(blockMs) {
    this.playback = new AudioWorkletNode(this.audio, "fastvc-playback", {
      numberOfInputs: 0, outputChannelCount: [1], processorOptions: { blockMs },
    });
    this.playback.port.onmessage = ({ data }) => (data === "done" ? this.played?.() : this.#report(data));
    this.play(this.playback);
  }

  hear(heard) {
    if (this.ending || !(this.isLive || this.comeback.token)) return;
    const sound = toInt(heard);
    const isLost = this.isLive && this.line.isOpen && !this.line.send(sound); // what is said while away is sent on coming back
    if (!isLost) this.comeback.sent(sound);
    this.emit("input", heard);
  }

  #receive(samples) {
    const received = toFloat(samples);
    this.comeback.heard += samples.length;
    if (this.comeback.heard % ACKNOWLEDGE_EVERY < samples.length) this.line.acknowledge(this.comeback.heard);
    this.pushedMs += (samples.length / RATE_OUT) * 1000;
    this.emit("output", received);
    const sound = this.up.process(received);
    this.playback.port.postMessage(sound, sound === received ? [] : [sound.buffer]);
  }

  #report(playback) {
    this.playedMs = playback.playedMs;
    this.cushionMs = playback.cushionMs;
    this.measure(playback);
  }

  // Measured, from the samples sent and played.
  age({ device }) {
    const { prefill_ms: prefill = 0, delay_ms: delay = 0 } = this.ready ?? {};
    const played = this.playedMs - this.offsetMs;
    if (played <= 0 || this.ending) return null;
    return this.line.sentMs + this.comeback.paddedMs - (played - prefill - delay) + device;
  }

  playOut() {
    const playedOut = new Promise((resolve) => (this.played = resolve));
    this.playback.port.postMessage("end");
    return playedOut;
  }
}
