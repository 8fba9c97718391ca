// node drive.mjs '{"scenario": NAME, "port": PORT, "out": FOLDER, ...as launch()}': one visit to the page.
// Prints what was seen as one line of JSON; recordings and pictures lie in FOLDER.

import { mkdir, writeFile } from "node:fs/promises";
import { launch, listenIn } from "./browser.mjs";
import { makeLine } from "./line.mjs";
import * as calls from "./scenarios.mjs";
import * as parts from "./parts.mjs";

const wanted = JSON.parse(process.argv[2]);
await mkdir(wanted.out, { recursive: true });
const line = await makeLine(wanted.port);
const browser = await launch(wanted);
const seen = { version: await browser.version(), faults: [], violations: [] };
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(120_000);
  page.on("pageerror", (error) => seen.faults.push(`error: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && seen.faults.push(`console: ${message.text()}`));
  await page.evaluateOnNewDocument(listenIn);
  const url = `http://127.0.0.1:${line.port}/`;
  Object.assign(seen, await { ...calls, ...parts }[wanted.scenario]({ page, line, url, wanted, out: wanted.out, violations: seen.violations }));
  const heard = await page.evaluate(() => window.heard?.());
  if (heard?.rate) {
    await writeFile(`${wanted.out}/input.f32`, Buffer.from(heard.input, "base64"));
    await writeFile(`${wanted.out}/output.f32`, Buffer.from(heard.output, "base64"));
    seen.rate = heard.rate;
  }
} finally {
  await browser.close();
  line.close();
}
console.log(JSON.stringify(seen));
