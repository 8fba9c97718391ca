// A line over WebRTC, made in the manner of WHIP: text messages on a data channel, sound as tracks of the browser's own.

import { FastVCError, Line } from "./line.js";
import { addresses, refusal, request } from "./service.js";

const AWAY_MS = 3000; // without the other side the connection counts as lost
const CONNECT_MS = 10000;
const LINK = /<([^>]+)>((?:\s*;[^,]*)*)/g;

// Whether the gateway has it; throws what it says otherwise. Resolves with its ICE servers, as RTCPeerConnection wants them.
export async function webrtcServers(url, credential) {
  const headers = credential ? { Authorization: `Bearer ${credential}` } : {};
  const answer = await request(new URL("webrtc", addresses(url).http), { method: "OPTIONS", headers });
  if (!answer.ok) throw await refusal(answer);
  if (!answer.headers.has("Accept-Post")) throw new FastVCError("NO_WEBRTC", "this gateway has no WebRTC");
  return [...(answer.headers.get("Link") ?? "").matchAll(LINK)].map(([, urls, words]) => {
    const word = (name) => words.match(new RegExp(`${name}="([^"]*)"`))?.[1];
    return { urls, username: word("username"), credential: word("credential") };
  });
}

const lost = () => new FastVCError("CONNECTION", "the connection ended");

export class RtcLine extends Line {
  // on: {track(MediaStream), stats(object)}. The first message is `config`; its api_key goes with the offer, too.
  constructor(url, config, microphone, on) {
    super(config, on);
    this.#open(url, microphone).catch((error) => this.fail(error));
  }

  async #open(url, microphone) {
    const credential = this.config.api_key;
    const iceServers = await webrtcServers(url, credential);
    if (this.over) return;
    this.pc = new RTCPeerConnection({ iceServers });
    this.pc.ontrack = ({ track, streams }) => this.on.track(streams[0] ?? new MediaStream([track]));
    this.pc.onconnectionstatechange = () => this.#watch();
    this.pc.addTrack(microphone.getAudioTracks()[0], microphone);
    this.channel = this.pc.createDataChannel("control");
    this.channel.onopen = () => this.introduce();
    this.channel.onmessage = ({ data }) => this.hear(data);
    this.channel.onclose = () => this.fail(lost());
    await this.pc.setLocalDescription();
    const headers = { "Content-Type": "application/sdp", ...(credential ? { Authorization: `Bearer ${credential}` } : {}) };
    const address = new URL("webrtc", addresses(url).http);
    const answer = await request(address, { method: "POST", headers, body: this.pc.localDescription.sdp });
    if (!answer.ok) throw await refusal(answer);
    await this.pc.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    const waiting = setTimeout(() => this.fail(lost()), CONNECT_MS);
    this.ready.finally(() => clearTimeout(waiting)).catch(() => {});
  }

  say(message) {
    const isOpen = this.channel?.readyState === "open";
    if (isOpen) this.channel.send(JSON.stringify(message));
    return isOpen;
  }

  hangUp() {
    this.pc?.close();
  }

  leave() {
    super.leave();
    clearTimeout(this.missing);
  }

  #watch() {
    clearTimeout(this.missing);
    if (["failed", "closed"].includes(this.pc.connectionState)) this.fail(lost());
    else if (this.pc.connectionState === "disconnected") this.missing = setTimeout(() => this.fail(lost()), AWAY_MS);
  }
}
