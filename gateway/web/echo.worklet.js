// Hands the page what the microphone hears (input 0) beside what is played (input 1), on one clock, at some 4 kHz, a second at a time.

const RATE = 4000;

class Echo extends AudioWorkletProcessor {
  constructor({ processorOptions: { windowMs, reachMs } }) {
    super();
    this.factor = Math.max(1, Math.round(sampleRate / RATE));
    this.rate = sampleRate / this.factor;
    this.window = Math.round((windowMs / 1000) * this.rate);
    this.played = new Float32Array(Math.round((reachMs / 1000) * this.rate) + this.window);
    this.heard = new Float32Array(this.window);
    this.filled = this.count = 0;
    this.sums = [0, 0];
  }

  process([[heard], [played]]) {
    const length = (heard ?? played)?.length ?? 128;
    for (let i = 0; i < length; i += 1) {
      this.sums[0] += heard?.[i] ?? 0;
      this.sums[1] += played?.[i] ?? 0;
      this.count += 1;
      if (this.count === this.factor) this.keep();
    }
    return true;
  }

  // Means of `factor` samples: a filter that is good enough to tell a copy from another voice.
  keep() {
    const reach = this.played.length - this.window;
    this.heard[this.filled] = this.sums[0] / this.factor;
    this.played[reach + this.filled] = this.sums[1] / this.factor;
    this.sums.fill(0);
    this.count = 0;
    this.filled += 1;
    if (this.filled < this.window) return;
    this.port.postMessage({ heard: this.heard, played: this.played, rate: this.rate });
    this.played.copyWithin(0, this.window);
    this.filled = 0;
  }
}

registerProcessor("fastvc-echo", Echo);
