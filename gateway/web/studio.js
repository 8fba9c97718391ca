// The page: voices, settings, a live call and its figures, recordings, files.

import { RATE_IN, RATE_OUT, convert, listVoices, startCall } from "./fastvc.js";
import { joined, present } from "./recording.js";
import { explain, languages } from "./texts.js";

const SAVED = "fast-vc-studio"; // settings outlive the tab, a key does not
const PARTS = ["block", "network", "queue", "conversion", "playback", "device", "total"];
const PLOT_POINTS = 600; // a minute
const MAX_RECORDED_S = 1800;
const FIELDS = ["steps", "guidance", "f0_shift", "noise", "echo", "record", "language", "input-device", "output-device"];

const el = (id) => document.getElementById(id);
const saved = JSON.parse(localStorage.getItem(SAVED) ?? "{}");
const settings = { voice: null, language: navigator.language.startsWith("zh") ? "zh" : "en", ...saved };
const keep = () => localStorage.setItem(SAVED, JSON.stringify(settings));
const texts = () => languages[settings.language];
const live = { call: null, measure: null, stats: null, concealed: 0, plot: [], recorded: null };
let catalogue = { voices: [], default: null };

window.studio = { look: () => ({ ...live.measure, stats: live.stats, concealed: live.concealed }) }; // for whoever automates the page

function enter(state, text, wrong = false) {
  document.body.dataset.state = state;
  const running = ["live", "reconnecting"].includes(state);
  el("toggle").textContent = running ? texts().stop : texts().start;
  el("toggle").disabled = !running && state !== "idle";
  el("mute").disabled = el("monitor").disabled = !running;
  if (text === undefined) return;
  el("status").textContent = text;
  el("status").classList.toggle("wrong", wrong);
}

// --- voices and settings -------------------------------------------------------------------------------------------

function speak() {
  document.documentElement.lang = settings.language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = texts()[element.dataset.text];
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", texts()[element.dataset.label]);
  enter(document.body.dataset.state, live.call ? undefined : "");
  showVoices();
  showDevices();
  showLatency({});
  if (!live.call) el("work").textContent = "";
}

function button(text, pressed) {
  const made = document.createElement("button");
  made.textContent = text;
  if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
  return made;
}

function showVoices() {
  const cards = catalogue.voices.map(({ name, description }) => {
    const card = Object.assign(document.createElement("div"), { className: "voice" });
    const choose = button(name, String(name === settings.voice));
    choose.append(Object.assign(document.createElement("small"), { textContent: description }));
    choose.onclick = () => ((settings.voice = name), keep(), showVoices());
    const listen = button(texts().listen);
    listen.setAttribute("aria-label", `${texts().listen}: ${name}`);
    listen.onclick = () => preview(name, card, listen);
    card.append(choose, listen);
    return card;
  });
  el("voices").replaceChildren(...cards);
}

// The bundled sentence through the service itself: what the voice sounds like here and now.
async function preview(voice, card, listen) {
  listen.disabled = true;
  try {
    const spoken = await decode(await (await fetch("web/sample.flac")).arrayBuffer());
    const { samples, sampleRate } = await convert(spoken, { ...callSettings(), voice, sampleRate: RATE_OUT });
    const made = present(`${voice}.wav`, samples, sampleRate, { title: voice, download: texts().download });
    card.after(made);
    await made.querySelector("audio").play().catch(() => {});
  } catch (error) {
    enter(document.body.dataset.state, explain(texts(), error), true);
  }
  listen.disabled = false;
}

async function decode(bytes) {
  const sound = await new OfflineAudioContext(1, 1, RATE_OUT).decodeAudioData(bytes);
  const mono = sound.getChannelData(0).slice();
  for (let channel = 1; channel < sound.numberOfChannels; channel += 1)
    sound.getChannelData(channel).forEach((sample, i) => (mono[i] += sample));
  return mono.map((sample) => sample / sound.numberOfChannels);
}

function callSettings() {
  const options = {};
  for (const name of ["steps", "guidance", "f0_shift"]) if (el(name).value !== "") options[name] = Number(el(name).value);
  return { apiKey: el("key").value, voice: settings.voice, options };
}

async function showDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  for (const [id, kind] of [["input-device", "audioinput"], ["output-device", "audiooutput"]]) {
    const found = devices.filter((device) => device.kind === kind && device.deviceId);
    el(id).replaceChildren(new Option(texts().standard, ""), ...found.map(({ label, deviceId }) => new Option(label || deviceId.slice(0, 8), deviceId)));
    el(id).value = found.some(({ deviceId }) => deviceId === settings[id]) ? settings[id] : "";
  }
}

function restore() {
  for (const id of FIELDS) {
    const field = el(id);
    const property = field.type === "checkbox" ? "checked" : "value";
    if (settings[id] !== undefined && !id.endsWith("device")) field[property] = settings[id];
    field.onchange = () => ((settings[id] = field[property]), keep(), id === "language" && speak());
  }
  el("key").value = sessionStorage.getItem(SAVED) ?? "";
  el("key").onchange = () => sessionStorage.setItem(SAVED, el("key").value);
}

// --- the call --------------------------------------------------------------------------------------------------------

async function start() {
  enter("starting", texts().starting);
  Object.assign(live, { measure: null, stats: null, concealed: 0, plot: [], recorded: el("record").checked ? { input: [], output: [], samples: 0 } : null });
  const input = { noiseSuppression: el("noise").checked, echoCancellation: el("echo").checked };
  if (el("input-device").value) input.deviceId = { exact: el("input-device").value };
  try {
    live.call = await startCall({ ...callSettings(), input, outputId: el("output-device").value });
  } catch (error) {
    return enter("idle", explain(texts(), error), true);
  }
  live.call.addEventListener("measure", ({ detail }) => showMeasure((live.measure = detail)));
  live.call.addEventListener("stats", ({ detail }) => ((live.stats = detail), (live.concealed += detail.concealed)));
  live.call.addEventListener("state", ({ detail }) => follow(detail));
  live.call.addEventListener("input", ({ detail }) => record("input", detail));
  live.call.addEventListener("output", ({ detail }) => record("output", detail));
  mute(false);
  showDevices();
  enter("live", texts().speak);
}

function follow({ state, error }) {
  if (state === "ready") enter("live", texts().speak);
  if (state === "reconnecting") enter("reconnecting", texts().reconnecting, true);
  if (state === "ended" && document.body.dataset.state !== "stopping") over({ error });
}

async function stop() {
  enter("stopping");
  over(await live.call.stop());
}

function over({ error }) {
  live.call = null;
  el("mute").setAttribute("aria-pressed", false);
  monitor(false);
  showRecordings();
  enter("idle", error ? explain(texts(), error) : texts().ended, Boolean(error));
}

function mute(on) {
  if (!live.call) return;
  live.call.muted = on;
  el("mute").setAttribute("aria-pressed", on);
  el("status").textContent = on ? texts().muted : texts().speak;
}

function monitor(on) {
  if (live.call) live.call.hearMyself = on;
  el("monitor").setAttribute("aria-pressed", on && live.call !== null);
}

function record(track, samples) {
  if (!live.recorded || live.recorded.samples > MAX_RECORDED_S * RATE_IN) return;
  live.recorded[track].push(samples);
  if (track === "input") live.recorded.samples += samples.length;
}

function showRecordings() {
  if (!live.recorded?.samples) return;
  const { input, output } = live.recorded;
  live.recorded = null;
  const { download, original, converted } = texts();
  el("recordings").replaceChildren(
    present("original.wav", joined(input), RATE_IN, { title: original, download }),
    present("converted.wav", joined(output), RATE_OUT, { title: converted, download }),
  );
}

// --- figures ---------------------------------------------------------------------------------------------------------

const decibels = (value) => Math.max(-60, 20 * Math.log10(value + 1e-6));

function showMeasure({ inputRms, outputRms, latency, playback }) {
  el("input-level").value = decibels(inputRms);
  el("output-level").value = decibels(outputRms);
  showLatency(latency);
  live.plot = [...live.plot.slice(-PLOT_POINTS + 1), latency.total];
  drawPlot();
  const rtf = live.stats?.compute_ms ? (live.stats.compute_ms / live.call?.ready.block_ms).toFixed(2) : null;
  el("work").textContent = texts().work({ ...live.stats, rtf, concealed: live.concealed, ...playback });
}

function showLatency(latency) {
  const rows = PARTS.map((part) => {
    const row = document.createElement("tr");
    const head = Object.assign(document.createElement("th"), { scope: "row", textContent: texts()[part] });
    const ms = latency[part];
    row.append(head, Object.assign(document.createElement("td"), { textContent: ms == null ? "–" : `${Math.round(ms)} ms` }));
    return row;
  });
  el("latency").replaceChildren(...rows);
}

function drawPlot() {
  const canvas = el("plot");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 2;
  const highest = Math.max(500, ...live.plot) * 1.1;
  context.beginPath();
  live.plot.forEach((ms, i) => ms !== null && context.lineTo((i / PLOT_POINTS) * canvas.width, canvas.height * (1 - ms / highest)));
  context.stroke();
}

// --- files -----------------------------------------------------------------------------------------------------------

async function takeFiles(files) {
  for (const file of files) {
    const place = document.createElement("div");
    const title = Object.assign(document.createElement("h3"), { textContent: file.name });
    const progress = Object.assign(document.createElement("progress"), { max: 1, value: 0 });
    progress.setAttribute("aria-label", file.name);
    place.append(title, progress);
    el("files").append(place);
    try {
      const samples = await decode(await file.arrayBuffer());
      const made = await convert(samples, { ...callSettings(), sampleRate: RATE_OUT, onProgress: (share) => (progress.value = share) });
      const { download, original, converted } = texts();
      const name = file.name.replace(/\.[^.]*$/, "");
      progress.replaceWith(
        present(`${name}-original.wav`, samples, RATE_OUT, { title: `A: ${original}`, download }),
        present(`${name}-${settings.voice}.wav`, made.samples, made.sampleRate, { title: `B: ${converted}`, download }),
      );
    } catch (error) {
      progress.replaceWith(Object.assign(document.createElement("p"), { textContent: explain(texts(), error) }));
    }
  }
}

// --- wiring ----------------------------------------------------------------------------------------------------------

const typing = ({ target }) => target.closest("input, select, button, audio, a, summary");

function wire() {
  el("toggle").onclick = () => (live.call ? stop() : start());
  el("mute").onclick = () => mute(!live.call.muted);
  el("monitor").onpointerdown = () => monitor(true);
  for (const end of ["onpointerup", "onpointerleave", "onblur", "onkeyup"]) el("monitor")[end] = () => monitor(false);
  el("monitor").onkeydown = ({ key }) => [" ", "Enter"].includes(key) && monitor(true);
  document.addEventListener("keydown", (event) => {
    if (event.code !== "Space" || event.repeat || !live.call || (typing(event) && event.target !== el("toggle"))) return;
    event.preventDefault(); // the button that was pressed last would be pressed again
    mute(!live.call.muted);
  });
  el("toggle").onkeyup = (event) => event.code === "Space" && live.call && event.preventDefault();
  el("choose").onchange = ({ target }) => takeFiles([...target.files]);
  el("drop").ondragover = (event) => (event.preventDefault(), el("drop").classList.add("over"));
  el("drop").ondragleave = () => el("drop").classList.remove("over");
  el("drop").ondrop = (event) => (event.preventDefault(), el("drop").classList.remove("over"), takeFiles([...event.dataTransfer.files]));
}

async function load() {
  const { api_key: key, required } = await (await fetch("web/key")).json();
  el("key-row").hidden = Boolean(key) || !required;
  if (key) el("key").value = key;
  for (;;) {
    catalogue = await listVoices();
    if (catalogue.voices.length) break;
    enter("loading", texts().no_worker);
    await new Promise((resolve) => setTimeout(resolve, 3000));
  }
  if (!catalogue.voices.some(({ name }) => name === settings.voice)) settings.voice = catalogue.default;
  showVoices();
  enter("idle", "");
}

restore();
el("language").value = settings.language;
wire();
speak();
load().catch((error) => enter("idle", explain(texts(), error), true));
