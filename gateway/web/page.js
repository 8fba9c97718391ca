// What the parts of the page share: its elements, the visitor's settings and language, and where it says what went wrong.

import { RATE_OUT } from "./fastvc.js";
import { explain, languages } from "./texts.js";

const SAVED = "fast-vc-studio"; // settings outlive the tab

// What was kept; nothing where that cannot be read, or the browser keeps nothing.
function kept() {
  try {
    return JSON.parse(localStorage.getItem(SAVED) ?? "{}");
  } catch {
    return {};
  }
}

export const el = (id) => document.getElementById(id);

export const settings = {
  voice: null,
  language: navigator.language.startsWith("zh") ? "zh" : "en",
  ...kept(),
};

export const keep = () => localStorage.setItem(SAVED, JSON.stringify(settings));

export const texts = () => languages[settings.language];

export function translate() {
  document.documentElement.lang = settings.language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = texts()[element.dataset.text];
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", texts()[element.dataset.label]);
}

export function tell(text, wrong = false) {
  el("status").textContent = text;
  el("status").classList.toggle("wrong", wrong);
}

export const complain = (error) => tell(explain(texts(), error), true);

export function button(text, pressed) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
  return made;
}

// A sound file as one channel at `rate`.
export async function decode(bytes, rate = RATE_OUT) {
  const sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  const mono = sound.getChannelData(0).slice();
  for (let channel = 1; channel < sound.numberOfChannels; channel += 1)
    sound.getChannelData(channel).forEach((sample, i) => (mono[i] += sample));
  return mono.map((sample) => sample / sound.numberOfChannels);
}
