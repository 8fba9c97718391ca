// Plays what the page sends it, and says ten times a second how it is doing.

import { PlaybackBuffer } from "./playback-buffer.js";

const REPORTS_PER_S = 10;

class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.buffer = new PlaybackBuffer(sampleRate, processorOptions);
    this.peak = this.power = this.counted = 0;
    this.port.onmessage = ({ data }) => {
      if (data === "end") this.buffer.finish();
      else this.buffer.push(data);
    };
  }

  process(_, [[out]]) {
    const { buffer } = this;
    buffer.pull(out);
    for (const sample of out) {
      this.power += sample * sample;
      this.peak = Math.max(this.peak, Math.abs(sample));
    }
    this.counted += out.length;
    if (this.counted >= sampleRate / REPORTS_PER_S) this.report();
    if (buffer.ended && buffer.empty) {
      this.port.postMessage("done");
      return false;
    }
    return true;
  }

  report() {
    const { bufferedMs, spareMs, cushionMs, targetMs, droppedMs, gaps, position, started, waiting } = this.buffer;
    this.port.postMessage({
      bufferedMs, spareMs, cushionMs, targetMs, droppedMs, gaps, started, waiting,
      playedMs: (position / sampleRate) * 1000,
      rms: Math.sqrt(this.power / this.counted),
      peak: this.peak,
    });
    this.peak = this.power = this.counted = 0;
  }
}

registerProcessor("fastvc-playback", Playback);
