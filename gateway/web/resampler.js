// Sample rates changed piece by piece: a windowed sinc, cut off below the lower of both rates.

const HALF_WIDTH = 16; // zero crossings on either side, at the lower rate
const PHASES = 256; // of the kernel's table; between two of them it is interpolated
const CUTOFF = 0.94; // of the lower Nyquist frequency

export class Resampler {
  constructor(rateIn, rateOut) {
    this.step = rateIn / rateOut;
    this.same = rateIn === rateOut;
    const scale = Math.min(1, rateOut / rateIn) * CUTOFF;
    this.reach = Math.ceil(HALF_WIDTH / scale); // input samples on either side
    this.table = kernel(scale, this.reach);
    this.kept = new Float32Array(this.reach);
    this.position = this.reach; // of the next output, in kept + what comes
  }

  // Float32Array in, Float32Array out. `last` gives out what is held back.
  process(samples, last = false) {
    if (this.same) return samples;
    const input = new Float32Array(this.kept.length + samples.length + (last ? this.reach : 0));
    input.set(this.kept);
    input.set(samples, this.kept.length);
    const count = Math.max(0, Math.ceil((input.length - this.reach - this.position) / this.step));
    const output = new Float32Array(count);
    for (let i = 0; i < count; i += 1) output[i] = this.#at(input, this.position + i * this.step);
    const next = this.position + count * this.step;
    const from = Math.max(0, Math.floor(next) - this.reach);
    this.kept = input.slice(from);
    this.position = next - from;
    return output;
  }

  #at(input, position) {
    const middle = Math.floor(position);
    const phase = (position - middle) * PHASES;
    const row = Math.floor(phase);
    const mix = phase - row;
    const taps = 2 * this.reach;
    const one = row * taps;
    const two = one + taps;
    let sum = 0;
    for (let k = 0, at = middle - this.reach + 1; k < taps; k += 1, at += 1)
      if (at >= 0 && at < input.length) sum += input[at] * ((1 - mix) * this.table[one + k] + mix * this.table[two + k]);
    return sum;
  }
}

function kernel(scale, reach) {
  const taps = 2 * reach;
  const table = new Float32Array((PHASES + 1) * taps);
  for (let row = 0; row <= PHASES; row += 1)
    for (let k = 0; k < taps; k += 1) {
      const x = k - reach + 1 - row / PHASES;
      const window = Math.abs(x) < reach ? Math.cos((Math.PI / 2) * (x / reach)) ** 2 : 0;
      table[row * taps + k] = scale * sinc(scale * x) * window;
    }
  return table;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
