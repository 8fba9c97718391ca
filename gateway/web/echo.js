// Notices when the microphone hears what the loudspeaker plays: then the service converts its own answer, again and again.
//
// What was played and what is heard are compared by their phases alone (GCC-PHAT: Knapp and Carter 1976): a copy, however it
// was coloured, is one sharp peak at its delay; two voices, or two tones, make none.

export const REACH_MS = 400; // the longest way from loudspeaker to microphone, with the devices' own delay
const WINDOW_MS = 1000;
const MEMORY = 0.7; // of the windows before
const PEAK = 9; // standard deviations above the mean of all delays; by chance 4
const SAME_MS = 2; // two windows in a row must agree so well
const FORGET_AFTER = 8; // windows without
const FAINT = 1e-7; // beside the strongest frequency: says nothing
const BROAD = 0.1; // of all frequencies must say something: a tone is like every tone
const QUIET_RMS = 0.001; // -60 dBFS: nothing to compare

export class EchoDetector {
  constructor(rate) {
    this.rate = rate;
    this.window = Math.round((WINDOW_MS / 1000) * rate);
    this.reach = Math.round((REACH_MS / 1000) * rate);
    this.size = 2 ** Math.ceil(Math.log2(this.window + this.reach));
    this.cross = { re: new Float64Array(this.size), im: new Float64Array(this.size) };
    this.latest = null; // delay in ms of the latest window's peak
    this.without = FORGET_AFTER;
  }

  // heard: `window` samples of the microphone. played: the `reach + window` samples up to the same moment. Returns the
  // delay in ms, or null; and how far the peak stands out.
  compare(heard, played) {
    const { delayMs, peak } = this.#peak(heard, played);
    const agrees = delayMs !== null && this.latest !== null && Math.abs(delayMs - this.latest) <= SAME_MS;
    this.latest = delayMs;
    if (agrees) [this.delayMs, this.without] = [delayMs, 0];
    else this.without += 1;
    return { delayMs: this.without < FORGET_AFTER ? this.delayMs : null, peak };
  }

  #peak(heard, played) {
    if (rms(heard) < QUIET_RMS || rms(played) < QUIET_RMS) return { delayMs: null, peak: 0 };
    const { size, cross, reach } = this;
    const { x, y } = spectra(heard.map((sample, i) => sample * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / heard.length))), played, size);
    const phases = { re: new Float64Array(size), im: new Float64Array(size) };
    let strongest = 0;
    for (let k = 0; k < size; k += 1) {
      cross.re[k] = MEMORY * cross.re[k] + x.re[k] * y.re[k] + x.im[k] * y.im[k];
      cross.im[k] = MEMORY * cross.im[k] + x.re[k] * y.im[k] - x.im[k] * y.re[k];
      strongest = Math.max(strongest, Math.hypot(cross.re[k], cross.im[k]));
    }
    let loud = 0;
    for (let k = 0; k < size; k += 1) {
      const strength = Math.hypot(cross.re[k], cross.im[k]);
      if (strength <= FAINT * strongest) continue;
      loud += 1;
      phases.re[k] = cross.re[k] / strength;
      phases.im[k] = cross.im[k] / strength;
    }
    if (loud < BROAD * size) return { delayMs: null, peak: 0 };
    transform(phases.re, phases.im, -1);
    let [sum, squares, best, at] = [0, 0, 0, 0];
    for (let shift = 0; shift <= reach; shift += 1) {
      const value = phases.re[shift]; // `heard` is like `played` from `shift` on
      sum += value;
      squares += value * value;
      if (value > best) [best, at] = [value, shift];
    }
    const mean = sum / (reach + 1);
    const peak = (best - mean) / Math.sqrt(squares / (reach + 1) - mean * mean + 1e-24);
    return { delayMs: peak > PEAK ? ((reach - at) / this.rate) * 1000 : null, peak };
  }
}

// Watches a call's own audio graph; calls onChange with {delayMs} when an echo comes or goes (null).
export async function watchEcho(context, microphone, playback, onChange) {
  await context.audioWorklet.addModule(new URL("echo.worklet.js", import.meta.url));
  const node = new AudioWorkletNode(context, "fastvc-echo", { numberOfInputs: 2, numberOfOutputs: 0, processorOptions: { windowMs: WINDOW_MS, reachMs: REACH_MS } });
  let detector = null;
  let told = null;
  node.port.onmessage = ({ data: { heard, played, rate } }) => {
    detector ??= new EchoDetector(rate);
    const { delayMs } = detector.compare(heard, played);
    if ((delayMs === null) === (told === null)) return;
    told = delayMs;
    onChange({ delayMs });
  };
  microphone.connect(node, 0, 0);
  playback.connect(node, 0, 1);
}

function rms(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.sqrt(sum / samples.length);
}

// Of two real signals, as one complex transform: they are its even and its odd part.
function spectra(first, second, size) {
  const [re, im] = [new Float64Array(size), new Float64Array(size)];
  re.set(first);
  im.set(second);
  transform(re, im, 1);
  const made = () => ({ re: new Float64Array(size), im: new Float64Array(size) });
  const [x, y] = [made(), made()];
  for (let k = 0; k < size; k += 1) {
    const back = (size - k) % size;
    [x.re[k], x.im[k]] = [(re[k] + re[back]) / 2, (im[k] - im[back]) / 2];
    [y.re[k], y.im[k]] = [(im[k] + im[back]) / 2, (re[back] - re[k]) / 2];
  }
  return { x, y };
}

// In place, without a factor; sign -1: the inverse. Radix 2 (Cooley and Tukey 1965).
function transform(re, im, sign) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i += 1) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
  }
  for (let length = 2; length <= n; length *= 2) {
    const half = length / 2;
    for (let k = 0; k < half; k += 1) {
      const angle = (-sign * 2 * Math.PI * k) / length;
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      for (let i = k; i < n; i += length) {
        const [a, b] = [re[i + half] * c - im[i + half] * s, re[i + half] * s + im[i + half] * c];
        [re[i + half], im[i + half]] = [re[i] - a, im[i] - b];
        [re[i], im[i]] = [re[i] + a, im[i] + b];
      }
    }
  }
}
