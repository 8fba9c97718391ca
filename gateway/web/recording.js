// Recordings as visitors keep them: WAV files, a waveform, a player.

export function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"), view.setUint32(4, 36 + 2 * samples.length, true), text(8, "WAVEfmt "), view.setUint32(16, 16, true);
  view.setUint16(20, 1, true), view.setUint16(22, 1, true), view.setUint32(24, rate, true), view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true), view.setUint16(34, 16, true), text(36, "data"), view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}

export function joined(pieces) {
  const whole = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  pieces.reduce((at, piece) => (whole.set(piece, at), at + piece.length), 0);
  return whole;
}

// A figure with name, waveform, player and a link to download.
export function present(name, samples, rate, { title, download }) {
  const url = URL.createObjectURL(wav(samples, rate));
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 60 });
  canvas.setAttribute("aria-hidden", "true");
  const player = Object.assign(document.createElement("audio"), { controls: true, src: url });
  player.setAttribute("aria-label", title);
  const link = Object.assign(document.createElement("a"), { href: url, download: name, textContent: `${download} ${name}` });
  caption.textContent = `${title}, ${(samples.length / rate).toFixed(1)} s`;
  figure.append(caption, canvas, player, link);
  queueMicrotask(() => drawWave(canvas, samples));
  return figure;
}

// Figures in place of what `parent` shows, which falls silent, and whose sound the browser need not hold any longer.
export function show(parent, ...figures) {
  release(parent);
  parent.replaceChildren(...figures);
}

export function release(shown) {
  for (const player of shown.querySelectorAll("audio")) {
    player.pause();
    URL.revokeObjectURL(player.src);
  }
}

// Both sides of a call, until so much was said.
export class Recorded {
  pieces = { input: [], output: [] };
  said = 0; // samples

  constructor(most) {
    this.most = most;
  }

  // Whether this was the last that is kept.
  add(track, samples) {
    if (this.isFull) return false;
    this.pieces[track].push(samples);
    if (track === "input") this.said += samples.length;
    return this.isFull;
  }

  get isFull() {
    return this.said >= this.most;
  }

  get input() {
    return joined(this.pieces.input);
  }

  get output() {
    return joined(this.pieces.output);
  }
}

function drawWave(canvas, samples) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  const step = Math.max(1, Math.floor(samples.length / width));
  for (let x = 0; x < width; x += 1) {
    let peak = 0;
    for (let i = x * step; i < Math.min(samples.length, (x + 1) * step); i += 1) peak = Math.max(peak, Math.abs(samples[i]));
    context.fillRect(x, (height / 2) * (1 - peak), 1, Math.max(1, height * peak));
  }
}
