// The microphone and the loudspeaker of a call.

import { FastVCError } from "./line.js";

export async function openMicrophone(input) {
  if (!navigator.mediaDevices) throw new FastVCError("INSECURE", "browsers lend the microphone over https or on localhost only");
  const wanted = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, ...input };
  return navigator.mediaDevices.getUserMedia({ audio: wanted });
}

// {out: where an AudioContext's nodes connect to, for the device `id`; speaker: an element to be paused in the end, or undefined}
export async function openOutput(audio, id) {
  if (!id || id === "default") return { out: audio.destination };
  if (audio.setSinkId) {
    await audio.setSinkId(id);
    return { out: audio.destination };
  }
  const out = audio.createMediaStreamDestination(); // Firefox sends elements, not contexts, to a device
  const speaker = new Audio();
  speaker.srcObject = out.stream;
  await speaker.setSinkId(id);
  await speaker.play();
  return { out, speaker };
}
