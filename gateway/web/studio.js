// The page: a live call, what it leaves, and how its parts are put together.

import { access } from "./access.js";
import { Advice } from "./advice.js";
import { RATE_IN, RATE_OUT, request, startCall } from "./fastvc.js";
import { showAdvice, showEcho, showLatency, showMeasure } from "./figures.js";
import { wireFiles } from "./files.js";
import { callSettings, chosen, deviceSettings, limitsOf, restore, setOption, showDevices, showLimits, showTransports } from "./options.js";
import { complain, el, tell, texts, translate } from "./page.js";
import { showOwnVoice, wireOwnVoice } from "./own-voice.js";
import { present, Recorded, show } from "./recording.js";
import { loadVoices, showVoices } from "./voices.js";
import { explain, lacksVoice } from "./texts.js";

const MAX_RECORDED_S = 1800;
const LOOK_AGAIN_MS = 3000; // for a worker

const live = { call: null, measure: null, stats: null, concealed: 0, plot: [], advice: new Advice(), blockMs: null, recorded: null };

window.studio = { look: () => ({ ...live.measure, stats: live.stats, concealed: live.concealed }) }; // for whoever automates the page

function enter(state, text, wrong = false) {
  document.body.dataset.state = state;
  const running = ["live", "reconnecting"].includes(state);
  el("toggle").textContent = running ? texts().stop : texts().start;
  el("toggle").disabled = !running && state !== "idle";
  el("mute").disabled = el("monitor").disabled = !running;
  if (text !== undefined) tell(text, wrong);
}

const told = () => texts()[live.call?.muted ? "muted" : "speak"];

function speak() {
  translate();
  const { state } = document.body.dataset;
  enter(state, state === "live" ? told() : live.call ? undefined : "");
  showVoices();
  showDevices();
  showLimits();
  showOwnVoice();
  showLatency({});
  advise();
  if (!live.call) el("work").textContent = "";
}

// --- the call --------------------------------------------------------------------------------------------------------

async function start() {
  enter("starting", texts().starting);
  Object.assign(live, { measure: null, stats: null, concealed: 0, plot: [], advice: new Advice(), recorded: el("record").checked ? new Recorded(MAX_RECORDED_S * RATE_IN) : null });
  el("record-said").textContent = "";
  try {
    live.call = await startCall({ ...callSettings(), ...deviceSettings() });
  } catch (error) {
    if (lacksVoice(error)) await loadVoices().catch(() => {}); // somebody removed it
    return enter("idle", explain(texts(), error), true);
  }
  live.call.addEventListener("measure", ({ detail }) => showMeasure((live.measure = detail), live));
  live.call.addEventListener("stats", ({ detail }) => take(detail));
  live.call.addEventListener("echo", ({ detail }) => showEcho(detail.delayMs));
  live.call.addEventListener("state", ({ detail }) => follow(detail));
  live.call.addEventListener("input", ({ detail }) => record("input", detail));
  live.call.addEventListener("output", ({ detail }) => record("output", detail));
  live.blockMs = live.call.ready.block_ms;
  showEcho(null);
  mute(false);
  showDevices();
  enter("live", texts().speak);
}

function take(stats) {
  live.stats = limitsOf("steps") ? stats : { ...stats, steps: null }; // a model without a solver makes none
  live.concealed += stats.concealed;
  live.advice.add(stats, live.measure?.latency.total ?? null);
  advise();
}

function advise() {
  const given = live.advice.given({ blockMs: live.blockMs, limits: limitsOf("steps"), chosen: chosen("steps") });
  showAdvice(given, (steps) => (setOption("steps", steps), advise()));
}

function follow({ state, error }) {
  if (state === "ready") enter("live", told());
  if (state === "reconnecting") enter("reconnecting", texts().reconnecting, true);
  if (state === "ended" && document.body.dataset.state !== "stopping") over({ error });
}

async function stop() {
  enter("stopping");
  over(await live.call.stop());
}

function over({ error: why }) {
  const error = why?.code === "ABORTED" ? undefined : why; // the page hung up by itself
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
  tell(told());
}

function monitor(on) {
  if (live.call) live.call.hearMyself = on;
  el("monitor").setAttribute("aria-pressed", on && live.call !== null);
}

function record(track, samples) {
  if (live.recorded?.add(track, samples)) el("record-said").textContent = texts().record_full(MAX_RECORDED_S / 60);
}

function showRecordings() {
  if (!live.recorded?.said) return;
  const { input, output } = live.recorded;
  live.recorded = null;
  const { download, original, converted } = texts();
  show(
    el("recordings"),
    present("original.wav", input, RATE_IN, { title: original, download }),
    present("converted.wav", output, RATE_OUT, { title: converted, download }),
  );
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
  el("key").value = access.typed;
  el("key").onchange = () => ((access.typed = el("key").value), loadVoices().catch(complain));
  addEventListener("pagehide", () => live.call?.close()); // hangs up: a line that only breaks keeps its place, to be come back to
  wireFiles();
  wireOwnVoice();
}

async function load() {
  el("key-row").hidden = !(await access.mustType());
  while (!(await loadVoices())) {
    enter("loading", texts().no_worker);
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
  const { models } = await (await request("models")).json();
  showLimits(models[0]?.options);
  await showTransports();
  showOwnVoice(models[0]?.reference_ms > 0);
  enter("idle", el("status").classList.contains("wrong") ? undefined : "");
}

restore(speak);
wire();
speak();
load().catch((error) => enter("idle", explain(texts(), error), true));
