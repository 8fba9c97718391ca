// What a call is made with: devices, and the options that the worker's model knows, within its limits.

import { access } from "./access.js";
import { webrtcServers } from "./rtc-line.js";
import { el, keep, settings, texts } from "./page.js";

const OPTIONS = ["steps", "guidance", "f0_shift", "intelligibility", "similarity"];
const FIELDS = [...OPTIONS, "noise", "echo", "webrtc", "record", "language", "input-device", "output-device"];

let limits = {}; // option -> [low, high]
let offersWebRtc = false;

// For startCall and convert.
export function callSettings() {
  const options = {};
  for (const name of OPTIONS) if (limits[name] && chosen(name) !== undefined) options[name] = chosen(name);
  return { apiKey: () => access.credential(), voice: settings.voice, options };
}

// Of startCall alone.
export function deviceSettings() {
  const input = { noiseSuppression: el("noise").checked, echoCancellation: el("echo").checked };
  if (el("input-device").value) input.deviceId = { exact: el("input-device").value };
  const transport = offersWebRtc && el("webrtc").checked ? "webrtc" : "websocket";
  return { input, outputId: el("output-device").value, transport };
}

// Only where the gateway has it.
export async function showTransports() {
  offersWebRtc = await webrtcServers().then(() => true, () => false);
  el("webrtc").closest("label").hidden = !offersWebRtc;
}

// What was typed; undefined: nothing.
export const chosen = (name) => (el(name).value === "" ? undefined : Number(el(name).value));

export const limitsOf = (name) => limits[name];

// As /models has them; what the model does not know is not shown.
export function showLimits(known = limits) {
  limits = Object.fromEntries(Object.entries(known).filter(([, [low, high]]) => low < high)); // of one value there is no choice
  for (const name of OPTIONS) {
    const field = el(name);
    field.closest("label").hidden = !limits[name];
    if (!limits[name]) continue;
    [field.min, field.max] = limits[name];
    field.placeholder = texts().standard;
    field.previousElementSibling.textContent = `${texts()[name]} (${limits[name].join(" … ")})`;
    within(field);
  }
}

// What was typed, or comes from another worker's days, becomes the nearest value that this one takes.
function within(field) {
  if (field.value === "") return;
  const inside = Math.min(Number(field.max), Math.max(Number(field.min), Number(field.value)));
  field.value = field.step === "1" ? Math.round(inside) : inside;
}

export function setOption(name, value) {
  el(name).value = value;
  el(name).dispatchEvent(new Event("change"));
}

export async function showDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  for (const [id, kind] of [["input-device", "audioinput"], ["output-device", "audiooutput"]]) {
    const found = devices.filter((device) => device.kind === kind && device.deviceId);
    el(id).replaceChildren(new Option(texts().standard, ""), ...found.map(({ label, deviceId }) => new Option(label || deviceId.slice(0, 8), deviceId)));
    el(id).value = found.some(({ deviceId }) => deviceId === settings[id]) ? settings[id] : "";
  }
}

// As the visitor left them. onLanguage: called when another one was chosen.
export function restore(onLanguage) {
  for (const id of FIELDS) {
    const field = el(id);
    const property = field.type === "checkbox" ? "checked" : "value";
    if (settings[id] !== undefined && !id.endsWith("device")) field[property] = settings[id];
    field.onchange = () => {
      if (OPTIONS.includes(id)) within(field);
      settings[id] = field[property];
      keep();
      if (id === "language") onLanguage();
    };
  }
  el("language").value = settings.language;
  navigator.mediaDevices?.addEventListener?.("devicechange", showDevices);
}
