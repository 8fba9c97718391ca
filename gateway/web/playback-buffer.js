// What lies between the network and the loudspeaker: sound comes in blocks, goes out steadily, and is never late for good.
//
// `spare` is the one figure that matters: what would still be buffered when the next block is due. Below zero the
// listener hears a gap; above `target` he hears everything later than he must. So after a gap playback waits until `target` is
// spare, and what is spare beyond it is taken out again: at once where it is more than `maxExcessMs`, else by
// playing faster (whole periods are overlapped and dropped, WSOLA: Verhelst and Roelands 1993), fastest in silence.
//
// Time is counted in samples that were pulled, so that the same calls always give the same sound.

const FADE_MS = 5;
const OVERLAP_MS = 10; // of two places that are spliced
const MIN_LAG_MS = 4; // shortest and longest stretch that a splice drops: a period of 250 Hz, of 65 Hz
const MAX_LAG_MS = 15;
const START_MS = 60; // beyond target: playing faster begins, and
const STOP_MS = 10; // ends
const SPEEDS = [[400, 1.5], [150, 1.25], [0, 1.1]]; // by excess in ms
const SILENT_SPEED = 2;
const SILENCE_RMS = 0.003; // -50 dBFS
const GAP_RAISES_MS = 40; // target, with each gap
const CALM_S = 20; // without a gap lowers it again by
const CALM_LOWERS_MS = 10;
const COARSE = 4; // stride of the first search for a lag

export class PlaybackBuffer {
  // rate: of the samples, Hz. blockMs: how much comes at a time. targetMs, maxTargetMs: of spare sound.
  constructor(rate, { blockMs = 200, targetMs = 60, maxTargetMs = 400, maxExcessMs = 1000 } = {}) {
    Object.assign(this, { rate, blockMs, maxExcessMs, maxTargetMs, baseTargetMs: targetMs, targetMs });
    this.samples = new Float32Array(4 * rate);
    this.begin = this.end = 0; // of what is buffered, in `samples`
    this.clock = 0; // samples pulled
    this.pushedAt = -Infinity;
    this.calmSince = 0;
    this.nextSplice = 0;
    this.waiting = true; // for enough to start with
    this.catchingUp = false;
    this.fadeIn = 0; // samples of it to come
    this.position = 0; // samples of the stream that were played or dropped
    this.dropped = 0;
    this.cushionMs = 0; // what was left when the latest block came: how long sound waits here
    this.gaps = 0;
    this.started = false;
    this.ended = false;
  }

  get bufferedMs() {
    return ((this.end - this.begin) / this.rate) * 1000;
  }

  // What will be left when the next block is due.
  get spareMs() {
    const since = ((this.clock - this.pushedAt) / this.rate) * 1000;
    return this.bufferedMs - Math.max(0, this.blockMs - since);
  }

  get droppedMs() {
    return (this.dropped / this.rate) * 1000;
  }

  push(samples) {
    this.#makeRoom(samples.length);
    this.samples.set(samples, this.end);
    this.end += samples.length;
    this.pushedAt = this.clock;
    this.cushionMs = Math.max(0, this.spareMs);
    const excess = this.spareMs - this.targetMs - this.maxExcessMs;
    if (excess > 0) this.#cut(Math.round((excess / 1000) * this.rate));
  }

  // Nothing more will come: what is there is played, and its end is no gap.
  finish() {
    this.ended = true;
  }

  get empty() {
    return this.end === this.begin;
  }

  // Fills `out`, with silence where there is nothing.
  pull(out) {
    if (this.waiting && this.#isEnough()) this.#start();
    let n = 0;
    if (!this.waiting) {
      this.#catchUp(out.length);
      n = Math.min(out.length, this.end - this.begin);
      out.set(this.samples.subarray(this.begin, this.begin + n));
      this.begin += n;
      this.position += n;
      this.#fade(out, n);
      if (n < out.length) this.#stop();
    }
    out.fill(0, n);
    this.clock += out.length;
    this.#relax();
  }

  #isEnough() {
    if (this.empty || this.ended) return !this.empty;
    const since = ((this.clock - this.pushedAt) / this.rate) * 1000;
    return this.spareMs >= this.targetMs || since >= this.blockMs; // the latter: the last, short piece
  }

  #start() {
    this.waiting = false;
    this.started = true;
    this.fadeIn = this.#samples(FADE_MS);
    this.calmSince = this.clock;
  }

  #stop() {
    this.waiting = true;
    this.catchingUp = false;
    if (this.ended) return;
    this.gaps += 1;
    this.targetMs = Math.min(this.maxTargetMs, this.targetMs + GAP_RAISES_MS);
  }

  #relax() {
    if (this.waiting || this.clock - this.calmSince < CALM_S * this.rate) return;
    this.calmSince = this.clock;
    this.targetMs = Math.max(this.baseTargetMs, this.targetMs - CALM_LOWERS_MS);
  }

  #fade(out, n) {
    const whole = this.#samples(FADE_MS);
    for (let i = 0; i < n && this.fadeIn > 0; i += 1, this.fadeIn -= 1) out[i] *= 1 - this.fadeIn / whole;
    if (n === out.length) return;
    const tail = Math.min(n, whole); // as much of an end as there is
    for (let i = 0; i < tail; i += 1) out[n - 1 - i] *= i / tail;
  }

  // --- playing faster --------------------------------------------------------------------------------------------

  #catchUp(pulled) {
    const excess = this.spareMs - this.targetMs;
    this.catchingUp = excess > (this.catchingUp ? STOP_MS : START_MS);
    if (!this.catchingUp) return;
    const overlap = this.#samples(OVERLAP_MS);
    const longest = this.#samples(MAX_LAG_MS);
    for (let due = this.clock + pulled; this.nextSplice < due; ) {
      if (this.end - this.begin < overlap + longest + pulled) return;
      const silent = this.#rms(this.begin, overlap + longest) < SILENCE_RMS;
      const lag = silent ? longest : this.#bestLag(overlap, longest);
      this.#splice(lag, overlap);
      const speed = silent ? SILENT_SPEED : SPEEDS.find(([from]) => excess > from || from === 0)[1];
      this.nextSplice = Math.max(this.nextSplice, this.clock) + Math.max(overlap, lag / (speed - 1));
    }
  }

  // The distance at which the sound resembles itself most.
  #bestLag(overlap, longest) {
    const shortest = this.#samples(MIN_LAG_MS);
    let best = shortest;
    let score = -Infinity;
    const look = (lag, stride) => {
      const found = this.#likeness(lag, overlap, stride);
      if (found > score) [best, score] = [lag, found];
    };
    for (let lag = shortest; lag <= longest; lag += COARSE) look(lag, COARSE);
    const around = best;
    score = -Infinity;
    for (let lag = Math.max(shortest, around - COARSE); lag <= Math.min(longest, around + COARSE); lag += 1) look(lag, 1);
    return best;
  }

  #likeness(lag, length, stride) {
    const x = this.samples;
    let product = 0;
    let energy = 1e-9;
    for (let i = this.begin, end = this.begin + length; i < end; i += stride) {
      product += x[i] * x[i + lag];
      energy += x[i + lag] * x[i + lag];
    }
    return product / Math.sqrt(energy);
  }

  // Drops `lag` samples: what is `lag` later fades in over what is next.
  #splice(lag, overlap) {
    const x = this.samples;
    for (let i = 0, at = this.begin; i < overlap; i += 1, at += 1) {
      const later = (i + 0.5) / overlap;
      x[at + lag] = (1 - later) * x[at] + later * x[at + lag];
    }
    this.#drop(lag);
  }

  #cut(count) {
    const overlap = this.#samples(OVERLAP_MS);
    if (count <= 0 || this.end - this.begin < count + overlap) return;
    this.#splice(count, overlap);
  }

  #drop(count) {
    this.begin += count;
    this.position += count;
    this.dropped += count;
  }

  #rms(at, length) {
    let sum = 0;
    for (let i = at; i < at + length; i += 1) sum += this.samples[i] ** 2;
    return Math.sqrt(sum / length);
  }

  #samples(ms) {
    return Math.round((ms / 1000) * this.rate);
  }

  #makeRoom(count) {
    if (this.end + count <= this.samples.length) return;
    const kept = this.end - this.begin;
    const size = Math.max(this.samples.length, 2 * (kept + count));
    const room = size === this.samples.length ? this.samples : new Float32Array(size);
    room.set(this.samples.subarray(this.begin, this.end));
    this.samples = room;
    this.begin = 0;
    this.end = kept;
  }
}
