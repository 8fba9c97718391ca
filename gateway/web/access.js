// Who the visitor is to the service: on this machine, with the demo configuration, a token of minutes that the gateway gives;
// elsewhere a key or token that was typed, kept for the tab.

import { request } from "./service.js";

const SAVED = "fast-vc-key";
const AHEAD_S = 60; // before a token ends another one is asked for

let given = null; // {required, token, expires_in_s}
let until = 0;

async function ask() {
  given = await (await request(new URL("token", import.meta.url))).json();
  until = performance.now() / 1000 + (given.expires_in_s ?? Infinity) - AHEAD_S;
}

export const access = {
  // Whether somebody must type something.
  async mustType() {
    await ask();
    return given.required && given.token === null;
  },

  get typed() {
    return sessionStorage.getItem(SAVED) ?? "";
  },

  set typed(key) {
    sessionStorage.setItem(SAVED, key);
  },

  // What goes with the next request; empty where nothing is asked for.
  async credential() {
    if (given === null || performance.now() / 1000 > until) await ask();
    return given.token ?? (given.required ? this.typed : "");
  },

  // The same as a header.
  async headers() {
    const credential = await this.credential();
    return credential ? { Authorization: `Bearer ${credential}` } : {};
  },
};
