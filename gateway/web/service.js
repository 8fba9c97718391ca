// The gateway as its clients see it: addresses, what a call asks for, and what is tried again.

import { FastVCError } from "./line.js";

export const RATE_IN = 16000; // what the models hear
export const RATE_OUT = 24000; // what the page asks for
export const RETRY_AFTER_MS = [300, 1000, 2000, 4000, 8000, 8000];
export const RETRIED = new Set(["CONNECTION", "WORKER_LOST", "OVERLOADED", "TOO_MANY_SESSIONS"]);

// http(s) or ws(s) address of a gateway, absent: the one that served this module.
export function addresses(url = new URL("..", import.meta.url).href) {
  const base = url.replace(/^ws/, "http").replace(/\/?(ws)?$/, "/");
  return { socket: new URL("ws", base).href.replace(/^http/, "ws"), http: base };
}

// fetch, of which a gateway that cannot be reached is an error like others.
export async function request(address, init) {
  try {
    return await fetch(address, init);
  } catch (error) {
    throw new FastVCError("CONNECTION", `${new URL(address, globalThis.location?.href).pathname} cannot be reached (${error.message})`);
  }
}

// What the gateway says in place of an answer over HTTP.
export async function refusal(answer) {
  const { error_code: code, message, details } = await answer.json().catch(() => ({}));
  return new FastVCError(code ?? "CONNECTION", message ?? `${new URL(answer.url).pathname} answered ${answer.status}`, details);
}

export const knowsNoWay = ({ code, details }) => code === "INVALID_CONFIG" && details?.fields?.some((field) => ["resume", "heard", "kept"].includes(field));

export const valueOf = (key) => (typeof key === "function" ? key() : key); // or a promise of it

export async function sessionConfig({ apiKey = "", voice, model, options, sessionId }) {
  const config = { api_key: await valueOf(apiKey), sample_rate: RATE_IN, sample_rate_out: RATE_OUT, stats: true };
  if (voice) config.voice = voice;
  if (model) config.model = model;
  if (sessionId) config.session_id = sessionId;
  if (options && Object.keys(options).length) config.options = options;
  return config;
}
