// What visitors do. Each resolves with what it saw.

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const stateIs = (page, state) => page.waitForSelector(`body[data-state="${state}"]`);

async function begin({ page, url }) {
  await page.goto(url);
  await stateIs(page, "idle");
  await page.click("#toggle");
  await stateIs(page, "live");
}

async function end({ page }) {
  await page.click("#toggle");
  await stateIs(page, "idle");
  return { said: await page.$eval("#status", (element) => element.textContent) };
}

const look = (page) => page.evaluate(() => window.studio.look());

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
  await sleep(wanted.before_ms);
  const before = await look(page);
  line.stall();
  await sleep(wanted.stall_ms);
  line.resume();
  await sleep(wanted.after_ms);
  const after = await look(page);
  return { before, after, ...(await end(visit)) };
}
