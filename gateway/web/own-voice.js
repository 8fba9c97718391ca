// A voice of one's own: a recording that is chosen, or a line that is read into the microphone; heard, named, and used at once.

import { access } from "./access.js";
import { refusal, request } from "./fastvc.js";
import { deviceSettings } from "./options.js";
import { decode, el, texts } from "./page.js";
import { joined, present, show, wav } from "./recording.js";
import { explain } from "./texts.js";
import { choose, loadVoices } from "./voices.js";

const RATE = 48000; // of a file, once it is decoded: models differ in how much of it they use
const MAX_S = 30; // that the service takes
const READ_AT_MOST_S = 20;

let recorder = null; // while the line is being read
let clip = null; // {samples: Float32Array, rate}

export function showOwnVoice(possible) {
  if (possible !== undefined) el("own").hidden = !possible;
  el("own-record").textContent = recorder ? texts().own_stop : texts().own_record;
}

function say(text, wrong = false) {
  el("own-said").textContent = text;
  el("own-said").classList.toggle("wrong", wrong);
}

function propose(samples, rate, name) {
  clip = { samples: samples.slice(0, MAX_S * rate), rate };
  show(el("own-clip"), present(`${name}.wav`, clip.samples, rate, { title: texts().own_clip, download: texts().download }));
  if (!el("own-name").value) el("own-name").value = name.replace(/[^A-Za-z0-9_.-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64);
  el("own-add").disabled = false;
  say("");
}

// The microphone as it is, without what browsers do to telephone speech: it is a likeness that is wanted.
async function record() {
  const { input } = deviceSettings();
  const wanted = { ...input, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
  const context = new AudioContext(); // at the microphone's rate: Firefox joins no two
  const rate = context.sampleRate;
  const pieces = [];
  await context.audioWorklet.addModule(new URL("microphone.worklet.js", import.meta.url));
  const tap = new AudioWorkletNode(context, "fastvc-microphone", { numberOfOutputs: 0 });
  tap.port.onmessage = ({ data }) => {
    pieces.push(data);
    el("own-level").value = Math.max(-60, 20 * Math.log10(Math.max(...data.map(Math.abs)) + 1e-6));
    if (pieces.length * data.length > READ_AT_MOST_S * rate) finish();
  };
  context.createMediaStreamSource(stream).connect(tap);
  const finish = async () => {
    if (recorder !== finish) return;
    recorder = null;
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
    el("own-level").value = -60;
    showOwnVoice();
    propose(joined(pieces), rate, "my-voice");
  };
  recorder = finish;
  say(texts().own_reading);
  showOwnVoice();
}

async function add(event) {
  event.preventDefault();
  const name = el("own-name").value;
  el("own-add").disabled = true;
  say("");
  try {
    const answer = await request(`voices?name=${encodeURIComponent(name)}`, {
      method: "POST",
      headers: { ...(await access.headers()), "Content-Type": "audio/wav" },
      body: wav(clip.samples, clip.rate),
    });
    if (!answer.ok) return say(why(await refusal(answer), answer.status), true);
    await loadVoices();
    choose(name);
    say(texts().own_added(name));
  } finally {
    el("own-add").disabled = false;
  }
}

function why(error, status) {
  const { reason, fields } = error.details ?? {};
  const known = texts().reasons[status === 403 ? "scope" : (reason ?? fields?.[0])];
  return known ? `${known} (${error.message})` : explain(texts(), error);
}

const guarded = (work) => (event) => Promise.resolve(work(event)).catch((error) => say(explain(texts(), error), true));

export function wireOwnVoice() {
  el("own-record").onclick = guarded(() => (recorder ? recorder() : record()));
  el("own-file").onchange = guarded(async ({ target: { files: [file] } }) => {
    if (file) propose(await decode(await file.arrayBuffer(), RATE), RATE, file.name.replace(/\.[^.]*$/, ""));
  });
  el("own-form").onsubmit = guarded(add);
}
