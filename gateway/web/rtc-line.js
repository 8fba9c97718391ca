// One session over one WebRTC connection, made in the manner of WHIP: the standard protocol on a data channel, the sound as
// tracks of the browser's own.

import { FastVCError } from "./connection.js";
import { addresses, refusal } from "./service.js";

const AWAY_MS = 3000; // without the other side the connection counts as lost
const CONNECT_MS = 10000;
const PING_EVERY_MS = 2000;
const LINK = /<([^>]+)>((?:\s*;[^,]*)*)/g;

// Whether the gateway has it; throws what it says otherwise. Resolves with its ICE servers, as RTCPeerConnection wants them.
export async function webrtcServers(url, credential) {
  const headers = credential ? { Authorization: `Bearer ${credential}` } : {};
  const answer = await fetch(new URL("webrtc", addresses(url).http), { method: "OPTIONS", headers });
  if (!answer.ok) throw await refusal(answer);
  if (!answer.headers.has("Accept-Post")) throw new FastVCError("NO_WEBRTC", "this gateway has no WebRTC");
  return [...(answer.headers.get("Link") ?? "").matchAll(LINK)].map(([, urls, words]) => {
    const word = (name) => words.match(new RegExp(`${name}="([^"]*)"`))?.[1];
    return { urls, username: word("username"), credential: word("credential") };
  });
}

export class RtcLine {
  // on: {track(MediaStream), stats(object)}. The first message is `config`; its api_key goes with the offer, too.
  constructor(url, config, microphone, on) {
    this.url = new URL("webrtc", addresses(url).http);
    this.config = config;
    this.on = on;
    this.networkMs = null;
    this.ready = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    this.closed = new Promise((resolve, reject) => (this.finish = { resolve, reject }));
    this.ready.catch(() => {}); // whoever waits hears of it; `closed` says the same
    this.closed.catch(() => {});
    this.#open(url, microphone).catch((error) => this.#fail(error));
  }

  async #open(url, microphone) {
    const credential = this.config.api_key;
    this.pc = new RTCPeerConnection({ iceServers: await webrtcServers(url, credential) });
    this.pc.ontrack = ({ track, streams }) => this.on.track(streams[0] ?? new MediaStream([track]));
    this.pc.onconnectionstatechange = () => this.#watch();
    this.pc.addTrack(microphone.getAudioTracks()[0], microphone);
    this.channel = this.pc.createDataChannel("control");
    this.channel.onopen = () => this.#say({ type: "config", ...this.config });
    this.channel.onmessage = ({ data }) => this.#hear(JSON.parse(data));
    this.channel.onclose = () => this.#fail();
    await this.pc.setLocalDescription();
    const headers = { "Content-Type": "application/sdp", ...(credential ? { Authorization: `Bearer ${credential}` } : {}) };
    const answer = await fetch(this.url, { method: "POST", headers, body: this.pc.localDescription.sdp });
    if (!answer.ok) throw await refusal(answer);
    await this.pc.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    this.waiting = setTimeout(() => this.#fail(), CONNECT_MS);
  }

  // The rest follows, then `closed` resolves with the session's statistics.
  end() {
    this.#say({ type: "end" });
  }

  // At once, without the rest.
  abort() {
    this.#fail(new FastVCError("ABORTED", "the call was ended"));
  }

  #say(message) {
    if (this.channel.readyState === "open") this.channel.send(JSON.stringify(message));
  }

  #hear(message) {
    if (message.type === "ready") this.#begin(message);
    else if (message.type === "stats") this.on.stats(message);
    else if (message.type === "pong") this.#pong();
    else if (message.type === "complete") {
      this.#finish();
      this.finish.resolve({ stats: message.stats });
    } else if (message.type === "error") this.#fail(new FastVCError(message.error_code, message.message, message.details));
  }

  #begin(message) {
    clearTimeout(this.waiting);
    this.settle.resolve(message);
    this.pinging = setInterval(() => {
      if (this.pingedAt) return;
      this.pingedAt = performance.now();
      this.#say({ type: "ping" });
    }, PING_EVERY_MS);
  }

  #pong() {
    const took = performance.now() - this.pingedAt;
    this.pingedAt = null;
    this.networkMs = this.networkMs === null ? took : 0.7 * this.networkMs + 0.3 * took;
  }

  #watch() {
    clearTimeout(this.missing);
    if (["failed", "closed"].includes(this.pc.connectionState)) this.#fail();
    if (this.pc.connectionState === "disconnected") this.missing = setTimeout(() => this.#fail(), AWAY_MS);
  }

  #finish() {
    this.over = true;
    clearTimeout(this.missing);
    clearTimeout(this.waiting);
    clearInterval(this.pinging);
  }

  #fail(error = new FastVCError("CONNECTION", "the connection ended")) {
    if (this.over) return;
    this.#finish();
    this.settle.reject(error);
    this.finish.reject(error);
    this.pc?.close();
  }
}
