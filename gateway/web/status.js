// The operators' view: asks every two seconds, shows what has happened in the last half minute.

import { access } from "./access.js";
import { refusal, request } from "./fastvc.js";
import { plotLine } from "./figures.js";
import { complain, el, keep, settings, tell, texts, translate } from "./page.js";
import { quantile, since, sum, workersOf } from "./rates.js";

const EVERY_MS = 2000;
const WINDOW_MS = 30_000;
const PLOT_POINTS = 300; // ten minutes

let looks = []; // {at, gateways} of the latest WINDOW_MS
const plots = { sessions: [], p95: [] };

async function ask() {
  const answer = await request("tools/status", { headers: await access.headers() });
  const refused = answer.status === 401 || answer.status === 403;
  el("key-row").hidden = !refused && !access.typed;
  if (answer.ok) return (await answer.json()).gateways;
  const error = await refusal(answer);
  throw refused ? { code: "ADMIN", message: error.message } : error;
}

async function follow() {
  try {
    const gateways = await ask();
    const at = performance.now();
    looks = [...looks.filter((look) => at - look.at <= WINDOW_MS), { at, gateways }];
    show();
    document.body.dataset.state = "live";
    tell("");
  } catch (error) {
    document.body.dataset.state = "refused";
    complain(error);
  }
  setTimeout(follow, EVERY_MS);
}

function show() {
  const { gateways } = looks.at(-1);
  const before = new Map(looks[0].gateways.map((gateway) => [gateway.number, gateway]));
  const recent = gateways.map((gateway) => since(gateway, looks.length > 1 ? before.get(gateway.number) : undefined));
  const workers = workersOf(gateways);
  const all = sum(recent);
  const sessions = gateways.reduce((count, gateway) => count + gateway.sessions, 0);
  const p95 = quantile(all.latency_s, 0.95);
  showTiles(gateways, workers, all, sessions, p95);
  for (const [name, value] of [["sessions", sessions], ["p95", p95]]) {
    plots[name].splice(0, plots[name].length - PLOT_POINTS + 1);
    plots[name].push(value);
  }
  plotLine(el("sessions-plot"), plots.sessions, PLOT_POINTS, 4);
  plotLine(el("p95-plot"), plots.p95, PLOT_POINTS, 500, " ms");
  showTable("gateways", texts().gateway_columns, gateways.map((gateway, i) => [
    gateway.number, `${gateway.host} / ${gateway.pid}`, duration(Date.now() / 1000 - gateway.started), gateway.sessions,
    ms(quantile(recent[i].latency_s, 0.95)), recent[i].concealed, gateway.counted.opened, gateway.counted.refused,
    texts()[gateway.draining ? "leaving" : gateway.ready ? "takes_calls" : "full"],
  ]));
  showTable("workers", texts().worker_columns, workers.map((worker) => [
    worker.worker_id, `${worker.host} / ${worker.pid}`, worker.device, worker.model, `${worker.sessions} / ${worker.capacity}`,
    worker.steps || "–", ms(worker.queue_ms), texts()[worker.draining ? "leaving" : "takes_calls"],
  ]));
}

const ms = (value) => (value === null ? "–" : `${Math.round(value)} ms`);
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(part ? 2 : 0)} %` : "–");

function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}

function showTiles(gateways, workers, all, sessions, p95) {
  const places = workers.reduce((count, worker) => count + (worker.draining ? worker.sessions : worker.capacity), 0);
  const tiles = {
    gateways: gateways.length,
    workers: workers.length,
    sessions_places: `${sessions} / ${places}`,
    p95: ms(p95),
    steps_mean: all.steps_blocks ? (all.steps_sum / all.steps_blocks).toFixed(1) : "–",
    concealed: share(all.concealed, all.blocks),
    late: share(all.late, all.blocks),
    refused: all.refused,
  };
  el("tiles").replaceChildren(...Object.entries(tiles).map(([name, value]) => {
    const tile = Object.assign(document.createElement("div"), { id: `tile-${name}` });
    tile.append(
      Object.assign(document.createElement("dt"), { textContent: texts()[name] }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    );
    return tile;
  }));
}

function showTable(id, columns, rows) {
  const line = (cells, kind) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text) => Object.assign(document.createElement(kind), { textContent: text })));
    if (kind === "th") row.childNodes.forEach((cell) => (cell.scope = "col"));
    return row;
  };
  el(id).replaceChildren(line(columns, "th"), ...rows.map((cells) => line(cells, "td")));
}

el("language").value = settings.language;
el("language").onchange = () => ((settings.language = el("language").value), keep(), translate(), looks.length && show());
el("key").value = access.typed;
el("key").onchange = () => (access.typed = el("key").value);
translate();
follow();
