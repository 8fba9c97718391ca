// Levels, latency told apart, its plot, and how the worker does.

import { el, texts } from "./page.js";

const PARTS = ["block", "network", "queue", "conversion", "playback", "device", "total"];
const PLOT_POINTS = 600; // a minute

const decibels = (value) => Math.max(-60, 20 * Math.log10(value + 1e-6));

export function showMeasure({ inputRms, outputRms, latency, playback }, { plot, stats, concealed, blockMs }) {
  el("input-level").value = decibels(inputRms);
  el("output-level").value = decibels(outputRms);
  showLatency(latency);
  plot.splice(0, plot.length - PLOT_POINTS + 1);
  plot.push(latency.total);
  plotLine(el("plot"), plot, PLOT_POINTS, 500, " ms");
  const rtf = stats?.compute_ms && blockMs ? (stats.compute_ms / blockMs).toFixed(2) : null;
  el("work").textContent = texts().work({ ...stats, rtf, concealed, ...playback });
}

// The microphone hears the answer, so many ms later; null: it does not.
export function showEcho(delayMs) {
  const key = delayMs === null ? "headphones" : "feedback";
  el("hint").dataset.text = key;
  el("hint").textContent = texts()[key];
  el("hint").classList.toggle("wrong", delayMs !== null);
}

// given: as Advice has it. onTake: called with the number of steps that are suggested.
export function showAdvice(given, onTake) {
  el("advice").hidden = given === null;
  if (given === null) return;
  const { suggested, steps } = given;
  el("advice").firstElementChild.textContent = [texts().measured(given), steps && suggested === null ? texts().fits : ""].join(" ");
  el("take-advice").hidden = suggested === null;
  if (suggested === null) return;
  el("take-advice").textContent = texts().suggested(given);
  el("take-advice").onclick = () => onTake(suggested);
}

export function showLatency(latency) {
  const rows = PARTS.map((part) => {
    const row = document.createElement("tr");
    const head = Object.assign(document.createElement("th"), { scope: "row", textContent: texts()[part] });
    const ms = latency[part];
    row.append(head, Object.assign(document.createElement("td"), { textContent: ms == null ? "–" : `${Math.round(ms)} ms` }));
    return row;
  });
  el("latency").replaceChildren(...rows);
}

// values: the latest of at most `points`, null where there is none. The scale reaches at least to `atLeast`, and says how far.
export function plotLine(canvas, values, points, atLeast, unit = "") {
  canvas.width = canvas.clientWidth * devicePixelRatio; // which clears it
  canvas.height = canvas.clientHeight * devicePixelRatio;
  const context = canvas.getContext("2d");
  const { color, borderColor } = getComputedStyle(canvas);
  const highest = Math.max(atLeast, ...values) * 1.1;
  context.fillStyle = color;
  context.font = `${13 * devicePixelRatio}px system-ui, sans-serif`;
  context.textAlign = "right";
  context.fillText(`${Math.round(highest / 1.1)}${unit}`, canvas.width - 6, canvas.height / 11 + 16 * devicePixelRatio);
  context.strokeStyle = borderColor;
  context.strokeRect(0, canvas.height / 11, canvas.width, canvas.height);
  context.strokeStyle = color;
  context.lineWidth = 1.5 * devicePixelRatio;
  context.beginPath();
  values.forEach((value, i) => value !== null && context.lineTo((i / points) * canvas.width, canvas.height * (1 - value / highest)));
  context.stroke();
}
