// What visitors do. Each resolves with what it saw.

import { readFile, writeFile } from "node:fs/promises";
import { makeWay } from "./line.mjs";

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const stateIs = (page, state) => page.waitForSelector(`body[data-state="${state}"]`);

// choices: what is ticked before.
export async function begin({ page, url, wanted }, ...choices) {
  await page.goto(url);
  await stateIs(page, "idle");
  for (const choice of choices) await page.click(choice);
  if (wanted.webrtc) await page.click("#webrtc");
  for (let tries = 1; ; tries += 1) {
    await page.click("#toggle");
    const state = await page.waitForSelector('body[data-state="live"], body[data-state="idle"]:has(#status.wrong)');
    if (await state.evaluate((body) => body.dataset.state === "live")) return;
    const told = await page.$eval("#status", (element) => element.textContent);
    if (tries === 3 || !told.includes("does not answer")) throw new Error(`no call: ${told}`);
  } // a machine that is very busy needs longer to connect than the page waits
}

export async function end({ page }) {
  await page.click("#toggle");
  await stateIs(page, "idle");
  return { said: await page.$eval("#status", (element) => element.textContent) };
}

export const look = (page) => page.evaluate(() => window.studio.look());

// Waits for a stretch of so many seconds in which playback neither had a gap nor made up for time; resolves with what the page
// says then, and when the stretch began and ended on the recording's clock. However slow the machine is, it comes.
export async function steady(page, lengthS) {
  await page.evaluate(() => (window.stretch = null));
  const found = await page.waitForFunction(
    (length) => {
      const { playback } = window.studio.look();
      const isOn = playback?.started && !playback.waiting && document.body.dataset.state === "live";
      const key = isOn ? `${playback.gaps} ${playback.droppedMs}` : null;
      if (window.stretch?.key !== key) window.stretch = { key, from: window.heardFor() };
      const to = window.heardFor();
      return isOn && to - window.stretch.from >= length && { from: window.stretch.from, to };
    },
    { polling: 50 },
    lengthS,
  );
  return { ...(await look(page)), ...(await found.jsonValue()) };
}

// Before any script of the page: what it makes links for.
function keepBlobs() {
  window.blobs = [];
  const { createObjectURL } = URL;
  URL.createObjectURL = (blob) => (window.blobs.push(blob), createObjectURL.call(URL, blob));
}

// The recordings that the page offers, as files NAME in the visit's folder.
async function save({ page, out }, names) {
  for (const [i, name] of names.entries()) {
    const url = await page.evaluate(
      (at) =>
        new Promise((resolve) => {
          const reader = new FileReader();
          reader.onload = () => resolve(reader.result);
          reader.readAsDataURL(window.blobs.at(at));
        }),
      i - names.length,
    );
    await writeFile(`${out}/${name}`, Buffer.from(url.slice(url.indexOf(",") + 1), "base64"));
  }
}

// axe-core's opinion of what is shown, kept in `visit.violations`, and a picture of it, STATE.png.
export async function check({ page, out, violations }, state) {
  await page.evaluate(await readFile(new URL("./node_modules/axe-core/axe.min.js", import.meta.url), "utf8"));
  const found = await page.evaluate(() => window.axe.run());
  violations.push(...found.violations.map(({ id, nodes }) => `${state}: ${id} ${nodes.map((node) => node.html).join(" ").slice(0, 300)}`));
  await page.screenshot({ path: `${out}/${state}.png`, fullPage: true });
}

// Speaks for wanted.talk_ms.
export async function talk(visit) {
  await begin(visit);
  await sleep(visit.wanted.talk_ms);
  const live = await look(visit.page);
  return { live, ...(await end(visit)) };
}

// The line takes and gives nothing for wanted.stall_ms.
export async function stall(visit) {
  const { page, line, wanted } = visit;
  await begin(visit);
  const before = await steady(page, 2.5);
  line.stall();
  await sleep(wanted.stall_ms);
  line.resume();
  const after = await steady(page, 2.5);
  return { before, after, ...(await end(visit)) };
}

// Everything at once: a call that is muted, recorded and photographed, a voice listened to, a file dropped, axe-core in
// each state, both languages, a phone's width, a reload.
export async function tour(visit) {
  const { page, url, wanted } = visit;
  await page.evaluateOnNewDocument(() => {
    window.released = [];
    const { revokeObjectURL } = URL;
    URL.revokeObjectURL = (blob) => (window.released.push(blob), revokeObjectURL.call(URL, blob));
  });
  await page.goto(url);
  await stateIs(page, "idle");
  await check(visit, "idle");
  await page.click("#record");
  await page.click(".voice:last-child > :first-child");
  await page.click("#toggle");
  await stateIs(page, "live");
  const live = await steady(page, 3);
  await check(visit, "live");
  await page.keyboard.press("Space");
  await sleep(1500);
  const muted = { ...(await look(page)), pressed: await page.$eval("#mute", (button) => button.getAttribute("aria-pressed")) };
  await page.click("#toggle");
  await stateIs(page, "idle");
  const recordings = await page.$$eval("#recordings a", (links) => links.map((link) => link.download));
  const players = [];
  for (const voice of ["first-child", "first-child", "last-child"]) {
    const before = await page.evaluate(() => (window.player = document.querySelector("#voices audio"))?.src);
    await page.click(`.voice:${voice} > :nth-child(2)`);
    await page.waitForFunction(() => document.querySelector("#voices audio") && document.querySelector("#voices audio") !== window.player);
    const silent = !before || (await page.evaluate(() => window.player.paused));
    const gone = !before || (await page.evaluate((url) => window.released.includes(url), before));
    players.push([await page.$$eval("#voices audio", (all) => all.length), silent, gone]);
  }
  const input = await page.$("#choose");
  await input.uploadFile(wanted.speech);
  await page.waitForSelector("#files audio");
  const files = await page.$$eval("#files figcaption", (captions) => captions.map((caption) => caption.textContent));
  await check(visit, "files");
  await page.emulateMediaFeatures?.([{ name: "prefers-color-scheme", value: "dark" }]).catch(() => {});
  await page.setViewport({ width: 390, height: 800 });
  await page.select("#language", "zh");
  await check(visit, "phone");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  await page.reload();
  await stateIs(page, "idle");
  const kept = await page.evaluate(() => ({
    lang: document.documentElement.lang,
    voice: document.querySelector('.voice [aria-pressed="true"]').firstChild.textContent,
    last: document.querySelector(".voice:last-child > :first-child").firstChild.textContent,
  }));
  return { live, muted, recordings, players, files, overflow, kept };
}

// The line is lost (wanted.how: "cut", or "freeze", of which nothing is told): the page finds its way back by itself. All of it is
// recorded in the page, too.
export async function lost(visit) {
  const { page, line, wanted } = visit;
  await page.evaluateOnNewDocument(keepBlobs);
  await begin(visit, "#record");
  const before = await steady(page, 2.5);
  line[wanted.how]();
  await stateIs(page, "reconnecting");
  await stateIs(page, "live");
  const after = await steady(page, 2.5);
  const ended = await end(visit);
  const last = (await look(page)).stats;
  await save(visit, ["original.wav", "converted.wav"]);
  return { before, after, last, ...ended };
}

// The gateway ends a call over WebRTC: the page begins another by itself.
export async function deleted(visit) {
  const { page } = visit;
  await page.evaluateOnNewDocument(() => {
    const { fetch } = window;
    window.fetch = async (...request) => {
      const answer = await fetch(...request);
      window.called = answer.headers.get("Location") ?? window.called;
      return answer;
    };
  });
  await begin(visit);
  await sleep(1500);
  await page.evaluate(() => fetch(window.called, { method: "DELETE" }));
  await stateIs(page, "reconnecting");
  await stateIs(page, "live");
  await sleep(4000);
  return { live: await look(page), ...(await end(visit)) };
}

// Before any script of the page: whatever it sends over WebRTC goes by `window.findWay(address, port)`.
function takeWays() {
  const { setRemoteDescription } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.setRemoteDescription = async function ({ type, sdp }) {
    const lines = [];
    for (const line of sdp.split("\r\n")) {
      const [, , transport, , address, port, , kind] = line.split(" ");
      if (!line.startsWith("a=candidate:")) lines.push(line);
      else if (transport === "udp" && kind === "host" && !address.includes(":"))
        lines.push(line.replace(` ${port} `, ` ${await window.findWay(address, Number(port))} `));
    }
    return setRemoteDescription.call(this, { type, sdp: lines.join("\r\n") });
  };
}

// The network under a call over WebRTC is gone, and the page finds another.
export async function astray(visit) {
  const { page } = visit;
  const ways = [];
  await page.exposeFunction("findWay", async (address, port) => (ways.push(await makeWay(address, port)), ways.at(-1).port));
  await page.evaluateOnNewDocument(takeWays);
  await begin(visit);
  await page.waitForFunction(() => window.studio.look().outputPeak > 0.01);
  const used = ways.length;
  ways.forEach((way) => way.block());
  const lost = performance.now();
  await stateIs(page, "reconnecting");
  const noticedMs = performance.now() - lost;
  await stateIs(page, "live");
  const backMs = performance.now() - lost;
  const from = await page.evaluate(() => window.heardFor());
  await page.waitForFunction(() => window.studio.look().outputPeak > 0.01);
  await page.waitForFunction((at) => window.heardFor() > at, {}, from + 4);
  const seen = { used, noticedMs, backMs, from, live: await look(page), ...(await end(visit)) };
  ways.forEach((way) => way.close());
  return seen;
}

// Where a key is asked for: a wrong one, then the right one, wanted.key.
export async function stranger(visit) {
  const { page, url, wanted } = visit;
  await page.goto(url);
  await stateIs(page, "idle");
  const asked = await page.$eval("#key-row", (row) => !row.hidden);
  await page.type("#key", "a-wrong-key");
  await page.click("#toggle");
  await page.waitForSelector('body[data-state="idle"] #status.wrong'); // the voices that are asked for with it are refused, too, and maybe earlier
  const told = await page.$eval("#status", (element) => element.textContent);
  await page.$eval("#key", (field) => (field.value = ""));
  await page.type("#key", wanted.key);
  await page.click("#toggle");
  await stateIs(page, "live");
  await page.click("#toggle");
  await stateIs(page, "idle");
  await page.reload();
  await stateIs(page, "idle");
  return { asked, told, kept: await page.$eval("#key", (field) => field.value), stored: await page.evaluate(() => JSON.stringify(localStorage)) };
}

// Left in the middle of a call, by a link and by a reload: it is over, and the next begins at once. Who is muted when the line breaks
// stays so and is told; settings that cannot be read are none. A microphone that is unplugged ends the call, and a voice that somebody
// removed is no longer offered.
export async function leave(visit) {
  const { page, url, line } = visit;
  await begin(visit);
  await page.goto(`${url}status`);
  await page.goBack();
  await stateIs(page, "idle");
  const told = await page.$eval("#status", (element) => element.textContent);
  await begin(visit);
  await page.reload();
  await stateIs(page, "idle");
  await page.click("#toggle");
  await page.waitForSelector('body[data-state="live"], #status.wrong');
  const again = await page.$eval("#status", (element) => element.textContent);
  await page.click("#mute");
  line.cut();
  await stateIs(page, "reconnecting");
  await stateIs(page, "live");
  const muted = await page.$eval("#status", (element) => element.textContent);
  await end(visit);
  await page.evaluate(() => localStorage.setItem("fast-vc-studio", "{no JSON"));
  await page.reload();
  await stateIs(page, "idle");
  const status = () => page.$eval("#status", (element) => element.textContent);
  await page.evaluateOnNewDocument(() => {
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => (window.microphone = await open(wanted));
  });
  await begin(visit);
  await page.evaluate(() => window.microphone.getAudioTracks()[0].dispatchEvent(new Event("ended")));
  await stateIs(page, "idle");
  const unplugged = await status();
  await page.evaluate(async () => ((await import(new URL("page.js", document.querySelector("script[type=module]").src))).settings.voice = "nobody"));
  await page.click("#toggle");
  await page.waitForSelector("#status.wrong");
  await page.waitForFunction(() => document.body.dataset.state === "idle" && document.querySelector('.voice [aria-pressed="true"]'));
  const nobody = await status();
  await begin(visit);
  await end(visit);
  return { told, again, muted, unplugged, nobody };
}
