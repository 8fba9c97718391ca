// The page: chooses, starts and stops a call.

import { listVoices, startCall } from "./fastvc.js";

const el = (id) => document.getElementById(id);
const enter = (state, text) => {
  document.body.dataset.state = state;
  if (text !== undefined) el("status").textContent = text;
};
let call = null;
let latest = null;

window.studio = { look: () => latest };

async function start() {
  enter("starting", "");
  try {
    call = await startCall({ apiKey: el("key").value, voice: el("voice").value });
  } catch (error) {
    return enter("idle", `${error.code ?? error.name}: ${error.message}`);
  }
  call.addEventListener("measure", ({ detail }) => (latest = detail));
  call.addEventListener("state", ({ detail }) => {
    if (detail.state === "ready") enter("live", "Speak.");
    if (detail.state === "reconnecting") enter("reconnecting", "The line is lost; trying again.");
    if (detail.state === "ended" && detail.error && !call.ending) enter("idle", detail.error.message);
  });
  enter("live", "Speak.");
}

async function stop() {
  enter("stopping");
  const { stats, error } = await call.stop();
  call = null;
  enter("idle", error ? `${error.code}: ${error.message}` : `${stats.chunks_processed} blocks`);
}

el("toggle").onclick = () => (call ? stop() : start());
const { api_key: key, required } = await (await fetch("web/key")).json();
if (key || !required) el("key").parentElement.hidden = true;
el("key").value = key ?? "";
const { voices } = await listVoices();
for (const voice of voices) el("voice").add(new Option(voice.name, voice.name));
enter("idle", "");
