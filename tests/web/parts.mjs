// What visitors do with the parts of the studio, one after the other. Each resolves with what it saw.

import { createServer } from "node:http";
import { begin, check, end, look, sleep, stateIs } from "./scenarios.mjs";

// Before any script of the page: what it asks devices for. `window.asked`: {input: constraints, sink: id}.
function spyOnDevices() {
  const asked = (window.asked = { input: null, sink: null });
  const { getUserMedia } = MediaDevices.prototype;
  MediaDevices.prototype.getUserMedia = async function (wanted) {
    const stream = await getUserMedia.call(this, wanted);
    asked.input = { ...wanted.audio, label: stream.getAudioTracks()[0].label };
    return stream;
  };
  for (const { prototype } of [window.AudioContext, window.HTMLMediaElement]) {
    const { setSinkId } = prototype;
    if (setSinkId) prototype.setSinkId = function (id) {
      asked.sink = id;
      return setSinkId.call(this, id);
    };
  }
}

// Options within the worker's limits, devices, a recording that is dropped; all of it after a reload.
export async function settings(visit) {
  const { page, url, wanted } = visit;
  await page.evaluateOnNewDocument(spyOnDevices);
  await page.goto(url);
  await stateIs(page, "idle");
  const shown = await page.$$eval(".option", (labels) =>
    labels.filter((label) => label.offsetParent).map((label) => {
      const { id, min, max } = label.querySelector("input");
      return [id, Number(min), Number(max)];
    }),
  );
  const type = async (id, text) => {
    await page.type(`#${id}`, text);
    await page.keyboard.press("Tab");
    return page.$eval(`#${id}`, (field) => field.value);
  };
  const typed = await type("f0_shift", "99");
  await page.click("#noise");
  await page.waitForFunction(() => document.getElementById("input-device").options.length > 1);
  const [input, output] = await page.$$eval("#input-device, #output-device", (lists) => lists.map((list) => list.options[list.options.length - 1].value));
  await page.select("#input-device", input);
  if (output) await page.select("#output-device", output);
  await page.click("#toggle");
  await stateIs(page, "live");
  await page.waitForSelector("#advice:not([hidden])");
  const advice = await page.$eval("#advice span", (element) => element.textContent);
  const { stats } = await look(page);
  const asked = await page.evaluate(() => window.asked);
  await end(visit);
  await page.reload();
  await stateIs(page, "idle");
  const kept = await page.$$eval("#f0_shift, #input-device, #output-device", (fields) => fields.map(({ value }) => value));
  await drop(page, wanted.speech);
  await page.waitForSelector("#files audio");
  const files = await page.$$eval("#files a", (links) => links.map((link) => link.download));
  return { shown, typed, chosen: { input, output }, advice, stats, asked, kept, files };
}

// Two steps of one to four: where there is time for more the button offers more, where there is not it offers fewer. It takes them, and
// the next call makes them.
export async function suggestion(visit) {
  const { page, url } = visit;
  await page.goto(url);
  await stateIs(page, "idle");
  await page.type("#steps", "2");
  await page.click("#toggle");
  await stateIs(page, "live");
  await page.waitForSelector("#advice:not([hidden]) #take-advice:not([hidden])");
  const text = (selector) => page.$eval(selector, (element) => element.textContent);
  const before = { measured: await text("#advice span"), offered: await text("#take-advice"), steps: (await look(page)).stats.steps };
  await page.click("#take-advice");
  const taken = await page.$eval("#steps", (field) => field.value);
  const hidden = await page.$eval("#take-advice", (button) => button.hidden);
  await end(visit);
  await page.click("#toggle");
  await stateIs(page, "live");
  await page.waitForFunction(() => window.studio.look().stats?.steps); // of a block with speech
  const { stats } = await look(page);
  await end(visit);
  await page.reload();
  await stateIs(page, "idle");
  return { before, taken, hidden, steps: stats.steps, kept: await page.$eval("#steps", (field) => field.value) };
}

// As a file manager would.
async function drop(page, path) {
  const client = await page.createCDPSession();
  await page.evaluate(() => document.getElementById("drop").scrollIntoView());
  const { x, y } = await page.$eval("#drop", (element) => ({ x: element.getBoundingClientRect().x + 20, y: element.getBoundingClientRect().y + 20 }));
  const data = { items: [], files: [path], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) await client.send("Input.dispatchDragEvent", { type, x, y, data });
}

// Hears themselves while they hold the button, muted, so that nothing else is heard; then the line stands still.
export async function monitor(visit) {
  const { page, line } = visit;
  await begin(visit);
  await sleep(2000);
  const early = await page.evaluate(() => window.heardFor());
  await page.click("#mute");
  await sleep(1500);
  const button = await page.$("#monitor");
  await button.hover();
  await page.mouse.down();
  const from = await page.evaluate(() => window.heardFor());
  await sleep(2000);
  const to = await page.evaluate(() => window.heardFor());
  const pressed = await page.$eval("#monitor", (element) => element.getAttribute("aria-pressed"));
  await page.mouse.up();
  await page.click("#mute");
  await sleep(2000);
  line.stall();
  const stalled = await page.evaluate(() => window.heardFor());
  await sleep(2500);
  const resumed = await page.evaluate(() => window.heardFor());
  line.resume();
  await sleep(500);
  const released = await page.$eval("#monitor", (element) => element.getAttribute("aria-pressed"));
  return { early, from, to, stalled, resumed, pressed, released, ...(await end(visit)) };
}

const named = (page) => page.$$eval(".voice > :first-child", (cards) => cards.map((card) => card.firstChild.textContent));

async function read(page, ms) {
  await page.click("#own-record");
  await page.waitForFunction((seconds) => window.heardFor() > seconds, {}, ms / 1000); // of sound, however long that takes
  await page.click("#own-record");
  await page.waitForSelector("#own-clip audio");
}

async function upload(page, path, seconds) {
  await (await page.$("#own-file")).uploadFile(path);
  await page.waitForFunction((length) => document.querySelector("#own-clip figcaption").textContent.includes(length), {}, `${seconds} s`);
}

// Resolves with what the page says to it.
async function add(page, name) {
  await page.$eval("#own-name", (field) => (field.value = ""));
  await page.type("#own-name", name);
  await page.$eval("#own-said", (element) => (element.textContent = ""));
  await page.click("#own-add");
  await page.waitForFunction(() => document.getElementById("own-said").textContent && !document.getElementById("own-add").disabled);
  return page.$eval("#own-said", (element) => element.textContent);
}

async function removeLast(page) {
  const before = (await named(page)).length;
  await (await (await page.$$(".voice")).at(-1).$("button:last-child")).click();
  await page.waitForFunction((count) => document.querySelectorAll(".voice").length < count, {}, before);
  return named(page);
}

// A voice of one's own, read into the microphone; what is said of names and recordings that are of no use.
export async function ownVoice(visit) {
  const { page, url, wanted } = visit;
  await page.goto(url);
  await stateIs(page, "idle");
  await page.click("#own summary");
  await read(page, wanted.read_ms);
  const taken = await add(page, "carlo");
  const added = await add(page, "read-aloud");
  const chosen = await page.$eval('.voice [aria-pressed="true"]', (card) => card.firstChild.textContent);
  await check(visit, "own");
  await upload(page, wanted.silence, "2.0");
  const silent = await add(page, "nothing");
  await page.click("#toggle"); // at once
  await stateIs(page, "live");
  await sleep(4000);
  await end(visit);
  await page.reload();
  await stateIs(page, "idle");
  const kept = await named(page);
  return { taken, added, chosen, silent, kept, left: await removeLast(page) };
}

// The same where the microphone hums: from a file. Then a look at the operators' view.
export async function ownFile(visit) {
  const { page, url, wanted } = visit;
  await page.goto(url);
  await stateIs(page, "idle");
  await page.click("#own summary");
  await read(page, wanted.read_ms);
  const hum = await add(page, "hum");
  await upload(page, wanted.speech, wanted.seconds);
  const added = await add(page, "from-file");
  await page.click(".voice:last-child button:nth-child(2)");
  await page.waitForSelector("#voices audio");
  const left = await removeLast(page);
  await page.goto(`${url}status`);
  await stateIs(page, "live");
  return { hum, added, left, rows: await page.$$eval("#workers tr", (lines) => lines.length - 1) };
}

// The operators' view beside a call of a visitor; then through a proxy, where the scope is asked for.
export async function operate(visit) {
  const { page, url, wanted } = visit;
  await begin(visit);
  const operator = await page.browser().newPage(); // in front: what is behind draws nothing, and waits for that
  const tile = (name) => operator.$eval(`#tile-${name} dd`, (value) => value.textContent);
  await operator.goto(`${url}status`);
  await stateIs(operator, "live");
  await operator.waitForFunction(() => document.querySelector("#tile-sessions_places dd").textContent.startsWith("1 /"));
  await operator.waitForFunction(() => document.querySelector("#tile-p95 dd").textContent.endsWith("ms"));
  const tiles = {};
  for (const name of ["gateways", "workers", "sessions_places", "p95", "concealed"]) tiles[name] = await tile(name);
  const rows = await operator.$$eval("#gateways tr", (lines) => lines.length - 1);
  const workers = await operator.$$eval("#workers tr:last-child td", (cells) => cells.map((cell) => cell.textContent));
  await check({ ...visit, page: operator }, "status");
  await operator.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  await operator.setViewport({ width: 390, height: 800 });
  await operator.select("#language", "zh");
  await check({ ...visit, page: operator }, "status-phone");
  const overflow = await operator.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  await operator.select("#language", "en");
  await page.bringToFront();
  await end(visit);
  await operator.bringToFront();
  await operator.setExtraHTTPHeaders({ "X-Forwarded-For": "192.0.2.7" });
  await operator.reload();
  await stateIs(operator, "refused");
  const told = await operator.$eval("#status", (element) => element.textContent);
  await operator.type("#key", wanted.key);
  await operator.keyboard.press("Tab");
  await stateIs(operator, "live");
  await operator.reload();
  await stateIs(operator, "live"); // kept for the tab
  return { tiles, rows, workers, overflow, told };
}

// The client in a page, wanted.html, of a site that may not call; then of one that may.
export async function embed(visit) {
  const { page, wanted } = visit;
  const site = createServer((_, answer) => answer.setHeader("Content-Type", "text/html").end(wanted.html));
  await new Promise((resolve) => site.listen(wanted.site, "127.0.0.1", resolve));
  const logged = [];
  page.on("console", async (message) => message.type() === "log" && logged.push(await message.args()[0]?.jsonValue()));
  await page.goto(`http://localhost:${wanted.site}/`); // modules are loaded by then, or refused
  const refused = await page.evaluate(() => document.getElementById("talk").onclick === null);
  await page.goto(`http://127.0.0.1:${wanted.site}/`);
  await page.waitForFunction(() => document.getElementById("talk").onclick);
  await page.click("#talk");
  for (let waited = 0; waited < 20_000 && !logged.some((what) => what?.stats); waited += 200) await sleep(200);
  site.close();
  site.closeAllConnections();
  return { latencies: logged.filter((what) => typeof what === "number"), stats: logged.find((what) => what?.stats)?.stats, refused };
}

// Before any script of the page: a room, in which the microphone hears the loudspeaker wanted.echo_ms later, if at all.
function makeRoom(echoMs) {
  const rooms = new WeakMap();
  const { connect } = AudioNode.prototype;
  const { createMediaStreamSource } = AudioContext.prototype;
  const roomOf = (context) => {
    if (!rooms.has(context)) {
      const air = new DelayNode(context, { delayTime: echoMs / 1000 });
      connect.call(air, (air.ear = new GainNode(context, { gain: 0.4 })));
      rooms.set(context, air);
    }
    return rooms.get(context);
  };
  AudioNode.prototype.connect = function (to, ...rest) {
    if (to instanceof AudioDestinationNode) connect.call(this, roomOf(this.context));
    return connect.call(this, to, ...rest);
  };
  AudioContext.prototype.createMediaStreamSource = function (stream) {
    const microphone = new GainNode(this);
    connect.call(createMediaStreamSource.call(this, stream), microphone);
    connect.call(roomOf(this).ear, microphone);
    return microphone;
  };
}

// With headphones nothing is said; in a room there is a hint, until the call is over.
export async function room(visit) {
  const { page, wanted } = visit;
  const hint = () => page.$eval("#hint", (element) => [element.textContent, element.className]);
  await begin(visit);
  await sleep(wanted.calm_ms);
  const calm = await hint();
  await end(visit);
  await page.evaluateOnNewDocument(makeRoom, wanted.echo_ms);
  await begin(visit);
  await page.waitForSelector("#hint.wrong");
  await check(visit, "feedback");
  return { calm, warned: await hint(), ...(await end(visit)) };
}
