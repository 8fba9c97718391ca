// Fast-VC Pool in a web page: the microphone in another voice, live, and recordings as fast as conversion goes.
//
//   startCall(settings)        -> Promise<LiveCall>      see LiveCall in call.js
//   convert(samples, settings) -> Promise<Float32Array>  see convert
//   listVoices(url, apiKey)    -> Promise<{voices: [{name, description, mine?, shared?}], default}>
//   FastVCError                   what all of them throw: {code, message, details}
//
// docs/page.md documents it, with an example of ten lines.

import { LiveCall } from "./call.js";
import { Connection } from "./connection.js";
import { FastVCError } from "./line.js";
import { toFloat, toInt } from "./pcm.js";
import { Resampler } from "./resampler.js";
import { RtcCall } from "./rtc-call.js";
import { addresses, RATE_IN, RATE_OUT, refusal, request, sessionConfig, valueOf } from "./service.js";
import { SocketCall } from "./socket-call.js";

export { FastVCError, LiveCall, RATE_IN, RATE_OUT, refusal, request };

const MAX_AHEAD_MS = 4000; // of a recording that is not answered yet

// With a credential those of one's own, too.
export async function listVoices(url, apiKey = "") {
  const credential = await valueOf(apiKey);
  const headers = credential ? { Authorization: `Bearer ${credential}` } : {};
  const answer = await request(new URL("voices", addresses(url).http), { headers });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

// settings: {url, apiKey: text, or a function that returns it or promises it whenever it is needed, voice, model, options: {steps, guidance, f0_shift}, input: MediaTrackConstraints,
// outputId: a device's id, reconnect: true, transport: "websocket" | "webrtc"}. Asks for the microphone. Resolves when the gateway is ready; throws
// FastVCError, or what getUserMedia throws.
export async function startCall(settings = {}) {
  const call = settings.transport === "webrtc" ? new RtcCall(settings) : new SocketCall(settings);
  try {
    await call.open();
  } catch (error) {
    await call.close();
    throw error;
  }
  return call;
}

// A recording (Float32Array, one channel, at settings.sampleRate), as fast as conversion goes. settings as for
// startCall, and {onProgress(share from 0 to 1), signal: AbortSignal}. Resolves with {samples: Float32Array, sampleRate, stats}:
// as long as the recording, laid over it (the service's lead is cut off).
export async function convert(samples, settings = {}) {
  const { sampleRate = RATE_IN, onProgress, signal } = settings;
  const input = toInt(new Resampler(sampleRate, RATE_IN).process(samples, true));
  const pieces = [];
  const connection = new Connection(addresses(settings.url).socket, await sessionConfig(settings), {
    audio: (piece) => pieces.push(piece),
  });
  const abort = () => connection.abort();
  signal?.addEventListener("abort", abort, { once: true });
  try {
    const ready = await connection.ready;
    const leadMs = ready.prefill_ms + ready.delay_ms;
    await feed(connection, input, onProgress, signal);
    connection.end();
    const { stats } = await connection.closed;
    const output = toFloat(joined(pieces));
    const from = Math.round((leadMs / 1000) * RATE_OUT);
    const length = Math.round((samples.length / sampleRate) * RATE_OUT);
    onProgress?.(1);
    return { samples: output.slice(from, from + length), sampleRate: RATE_OUT, stats };
  } finally {
    signal?.removeEventListener("abort", abort);
    connection.abort();
  }
}

// No further ahead of the answers than the gateway would wait for anyway.
async function feed(connection, input, onProgress, signal) {
  const step = RATE_IN / 10;
  const heardMs = () => (connection.heardSamples / RATE_OUT) * 1000;
  for (let at = 0; at < input.length; at += step) {
    while (connection.sentMs - heardMs() > MAX_AHEAD_MS || connection.unsentMs > MAX_AHEAD_MS / 2) {
      if (signal?.aborted) throw new FastVCError("ABORTED", "stopped");
      if (connection.over) throw new FastVCError("CONNECTION", "the service ended the session"); // it stops: no answer is to come
      await Promise.race([connection.closed, new Promise((resolve) => setTimeout(resolve, 20))]);
    }
    connection.send(input.subarray(at, at + step));
    onProgress?.(Math.min(1, ((heardMs() / 1000) * RATE_IN) / input.length));
  }
}

function joined(pieces) {
  const whole = new Int16Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
