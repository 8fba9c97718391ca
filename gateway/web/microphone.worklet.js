// Hands the microphone's samples to the page, 20 ms at a time.

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Float32Array(Math.round(sampleRate * 0.02));
    this.filled = 0;
  }

  process([[heard]]) {
    for (const sample of heard ?? []) {
      this.samples[this.filled++] = sample;
      if (this.filled < this.samples.length) continue;
      this.port.postMessage(this.samples, [this.samples.buffer]);
      this.samples = new Float32Array(Math.round(sampleRate * 0.02));
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor("fastvc-microphone", Microphone);
