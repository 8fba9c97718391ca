// Recordings that are dropped or chosen: through the service as fast as it goes, to be heard side by side.

import { wireDrop } from "./drop.js";
import { convert, RATE_OUT } from "./fastvc.js";
import { callSettings } from "./options.js";
import { decode, el, settings, texts } from "./page.js";
import { present } from "./recording.js";
import { explain } from "./texts.js";

async function take(files) {
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

export function wireFiles() {
  el("choose").onchange = ({ target }) => take([...target.files]);
  wireDrop(window, el("drop"), take);
}
