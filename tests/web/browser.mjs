// The two browsers, with a fake microphone each and without any internet.

import puppeteer from "puppeteer-core";

const CHROMIUM = [
  "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--mute-audio=false",
  "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required",
];
const FIREFOX = {
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
  "media.autoplay.default": 0,
  "media.autoplay.blocking_policy": 0,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "app.update.enabled": false,
  "datareporting.policy.dataSubmissionEnabled": false,
};

// {browser: "chromium" | "firefox", executable, profile: folder, speech: WAV file, toneHz, lang, window: [width, height]}
export function launch({ browser, executable, profile, speech, toneHz = 200, lang = "en", window: [width, height] = [1100, 900] }) {
  const common = { executablePath: executable, userDataDir: profile, headless: true, defaultViewport: { width, height } };
  if (browser === "chromium")
    return puppeteer.launch({
      ...common,
      ignoreDefaultArgs: ["--mute-audio"],
      args: [...CHROMIUM, `--lang=${lang}`, `--use-file-for-fake-audio-capture=${speech}`],
    });
  const extraPrefsFirefox = { ...FIREFOX, "media.navigator.audio.fake_frequency": toneHz, "intl.accept_languages": lang };
  return puppeteer.launch({ ...common, browser: "firefox", extraPrefsFirefox });
}

// Before any script of the page: what every AudioContext takes from a microphone and gives to its destination is
// collected side by side, on one clock. `window.heard()` returns {rate, input, output}, base64 of float32;
// `window.heardFor()` how many seconds of it there are by now.
// A busy page makes Chromium's ScriptProcessor leave out quanta: the clock is recorded, too, as a third track that counts samples.
export function listenIn() {
  const QUANTUM = 128;
  const COUNTED = 2 ** 20; // exact in float32; then it begins anew
  const tracks = [[], [], []];
  let rate = 0;
  let clock = () => 0;
  const taps = new WeakMap();
  const { connect } = AudioNode.prototype;
  const { createMediaStreamSource } = AudioContext.prototype;
  const tap = (context) => {
    if (!taps.has(context)) {
      rate = context.sampleRate;
      const merger = context.createChannelMerger(3);
      const recorder = context.createScriptProcessor(16384, 3, 1);
      const counts = new AudioBuffer({ length: COUNTED, sampleRate: rate });
      counts.copyToChannel(Float32Array.from({ length: COUNTED }, (_, i) => i), 0);
      const counter = new AudioBufferSourceNode(context, { buffer: counts, loop: true });
      connect.call(counter, merger, 0, 2);
      counter.start();
      recorder.onaudioprocess = ({ inputBuffer }) =>
        tracks.forEach((track, channel) => track.push(inputBuffer.getChannelData(channel).slice()));
      connect.call(merger, recorder);
      connect.call(recorder, context.destination);
      taps.set(context, merger);
      const began = context.currentTime;
      clock = () => context.currentTime - began;
    }
    return taps.get(context);
  };
  AudioNode.prototype.connect = function (to, ...rest) {
    if (to instanceof AudioDestinationNode) connect.call(this, tap(this.context), 0, 1);
    return connect.call(this, to, ...rest);
  };
  const microphones = new WeakSet(); // and no streams of somebody else
  const { getUserMedia } = MediaDevices.prototype;
  MediaDevices.prototype.getUserMedia = async function (wanted) {
    const stream = await getUserMedia.call(this, wanted);
    microphones.add(stream);
    return stream;
  };
  AudioContext.prototype.createMediaStreamSource = function (stream) {
    const source = createMediaStreamSource.call(this, stream);
    if (microphones.has(stream)) connect.call(source, tap(this), 0, 0);
    return source;
  };
  // Each quantum where the counter says; silence where one was left out.
  const placed = () => {
    const [input, output, counts] = tracks.map((pieces) => pieces.flatMap((piece) => Array.from({ length: piece.length / QUANTUM }, (_, i) => piece.subarray(i * QUANTUM, (i + 1) * QUANTUM))));
    let round = 0;
    const places = counts.map(([count], i) => (i && count < counts[i - 1][0] && (round += COUNTED), round + count));
    return [input, output].map((quanta) => {
      const track = new Float32Array((places.at(-1) ?? -QUANTUM) + QUANTUM);
      quanta.forEach((quantum, i) => track.set(quantum, places[i]));
      return track;
    });
  };
  const base64 = async (parts) => {
    const url = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(new Blob(parts));
    });
    return url.slice(url.indexOf(",") + 1);
  };
  window.heardFor = () => clock();
  window.heard = async () => {
    const [input, output] = placed();
    return { rate, input: await base64([input]), output: await base64([output]) };
  };
}
