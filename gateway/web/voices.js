// Voices as cards: to choose, to hear, and, if they are one's own, to remove.

import { access } from "./access.js";
import { convert, listVoices, RATE_OUT, refusal, request } from "./fastvc.js";
import { callSettings } from "./options.js";
import { button, complain, decode, el, keep, settings, texts } from "./page.js";
import { present, release, show } from "./recording.js";

let catalogue = { voices: [], default: null };
let sample = null; // the figure that is shown: one voice is listened to at a time

// Whether there is any.
export async function loadVoices() {
  catalogue = await listVoices(undefined, () => access.credential()).catch((error) => {
    if (error.code !== "AUTH_FAILED") throw error;
    complain(error);
    return listVoices(); // without those of one's own
  });
  if (!catalogue.voices.length) return false;
  if (!catalogue.voices.some(({ name }) => name === settings.voice)) settings.voice = catalogue.default;
  showVoices();
  return true;
}

export function choose(name) {
  settings.voice = name;
  keep();
  for (const card of el("voices").querySelectorAll(".voice")) card.firstChild.setAttribute("aria-pressed", card.dataset.name === name);
}

export function showVoices() {
  show(el("voices"), ...catalogue.voices.map(card));
}

function card({ name, description, mine }) {
  const made = Object.assign(document.createElement("div"), { className: "voice" });
  made.dataset.name = name;
  const pick = button(name, String(name === settings.voice));
  const about = mine ? [texts().mine, description].filter(Boolean).join(": ") : description;
  pick.append(Object.assign(document.createElement("small"), { textContent: about }));
  pick.onclick = () => choose(name);
  const listen = labelled(texts().listen, name);
  listen.onclick = () => preview(name, listen);
  made.append(pick, listen);
  if (mine) {
    const remove = labelled(texts().remove, name);
    remove.onclick = () => removeVoice(name);
    made.append(remove);
  }
  return made;
}

function labelled(text, name) {
  const made = button(text);
  made.setAttribute("aria-label", `${text}: ${name}`);
  return made;
}

// The bundled sentence through the service itself: what the voice sounds like here and now.
async function preview(voice, listen) {
  listen.disabled = true;
  try {
    const spoken = await decode(await (await request("web/sample.flac")).arrayBuffer());
    const { samples, sampleRate } = await convert(spoken, { ...callSettings(), voice, sampleRate: RATE_OUT });
    if (sample) release(sample), sample.remove();
    sample = present(`${voice}.wav`, samples, sampleRate, { title: voice, download: texts().download });
    el("voices").querySelector(`[data-name="${CSS.escape(voice)}"]`)?.after(sample); // the cards may have been made anew
    if (sample.isConnected) await sample.querySelector("audio").play().catch(() => {});
  } catch (error) {
    complain(error);
  }
  listen.disabled = false;
}

async function removeVoice(name) {
  try {
    const answer = await request(`voices/${encodeURIComponent(name)}`, { method: "DELETE", headers: await access.headers() });
    if (!answer.ok) complain(await refusal(answer));
    await loadVoices();
  } catch (error) {
    complain(error);
  }
}
