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
  drawPlot(plot);
  const rtf = stats?.compute_ms && blockMs ? (stats.compute_ms / blockMs).toFixed(2) : null;
  el("work").textContent = texts().work({ ...stats, rtf, concealed, ...playback });
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

function drawPlot(plot) {
  const canvas = el("plot");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 2;
  const highest = Math.max(500, ...plot) * 1.1;
  context.beginPath();
  plot.forEach((ms, i) => ms !== null && context.lineTo((i / PLOT_POINTS) * canvas.width, canvas.height * (1 - ms / highest)));
  context.stroke();
}
