// What the page says, in two languages, and what to do about each error.

const EN = {
  language: "Language", live: "Live", headphones: "Use headphones: the microphone would hear the answer.", key: "API key or token",
  start: "Start", stop: "Stop", mute: "Mute (space bar)", monitor: "Hold to hear myself", input: "Microphone", output: "Converted",
  latency: "Latency", block: "Block and look-ahead", network: "Network", queue: "Queue", conversion: "Conversion",
  playback: "Playback buffer", device: "Audio device", total: "Sum, measured", plot: "Latency over the last minute",
  voices: "Voices", listen: "Listen", remove: "Remove", mine: "Yours", settings: "Settings", next_call: "They apply from the next start.",
  input_device: "Microphone", output_device: "Loudspeaker", steps: "Solver steps", guidance: "Guidance", f0_shift: "Pitch, semitones", intelligibility: "Intelligibility", similarity: "Similarity",
  noise: "Noise suppression", echo: "Echo cancellation", recordings: "Recordings", record: "Keep what is said in this page",
  files: "Files", choose: "Drop recordings here, or choose", original: "Original", converted: "Converted", download: "Download",
  standard: "Default", starting: "Starting …", speak: "Speak.", muted: "Muted: silence is sent.", ended: "Ended.",
  reconnecting: "The line is lost; trying again.", no_worker: "No worker is connected yet. The page looks again every few seconds.",
  work: ({ steps, batch_size: batch, rtf, concealed, gaps, droppedMs }) =>
    `${steps || "–"} steps, batch of ${batch || "–"}, real-time factor ${rtf ?? "–"}, ${concealed} blocks concealed, ${gaps} gaps, ${Math.round(droppedMs)} ms caught up`,
  errors: {
    AUTH_FAILED: "The key is not known here: type one that the operator gave you.", OVERLOADED: "All places are taken: try again in a minute.",
    TOO_MANY_SESSIONS: "All places are taken: try again in a minute.", CONNECTION: "The service does not answer: is it running?",
    INSECURE: "Open the page by https or on localhost: elsewhere browsers lend no microphone.", INVALID_CONFIG: "The worker refuses a setting: empty it, or choose another value.",
    WORKER_LOST: "The worker is gone: start again in a moment.", TIMEOUT: "Nothing was heard for too long: start again.",
    NotAllowedError: "Allow the microphone in the browser's address bar, then start again.", NotFoundError: "No microphone is there: connect one, then start again.",
    EncodingError: "This file is no recording that the browser can read: try WAV, FLAC or MP3.",
  },
};

const ZH = {
  language: "语言", live: "实时变声", headphones: "请戴耳机，否则麦克风会收到变声后的声音。", key: "API 密钥或令牌",
  start: "开始", stop: "停止", mute: "静音（空格键）", monitor: "按住听自己的原声", input: "麦克风", output: "变声后",
  latency: "延迟", block: "分块与前瞻", network: "网络", queue: "排队", conversion: "转换", playback: "播放缓冲", device: "音频设备",
  total: "总计（实测）", plot: "最近一分钟的延迟", voices: "音色", listen: "试听", remove: "删除", mine: "我的音色", settings: "设置", next_call: "下次开始时生效。",
  input_device: "麦克风", output_device: "扬声器", steps: "求解步数", guidance: "引导强度", f0_shift: "音高（半音）", intelligibility: "清晰度", similarity: "相似度", noise: "降噪", echo: "回声消除",
  recordings: "录音", record: "在本页保留说话内容", files: "文件", choose: "将录音拖到此处，或选择", original: "原声", converted: "变声后",
  download: "下载", standard: "默认", starting: "正在启动……", speak: "请说话。", muted: "已静音：发送的是静默。", ended: "已结束。",
  reconnecting: "连接中断，正在重试。", no_worker: "还没有可用的工作进程，页面会每隔几秒再查看。",
  work: ({ steps, batch_size: batch, rtf, concealed, gaps, droppedMs }) =>
    `${steps || "–"} 步，批量 ${batch || "–"}，实时率 ${rtf ?? "–"}，掩盖 ${concealed} 块，断续 ${gaps} 次，追回 ${Math.round(droppedMs)} 毫秒`,
  errors: {
    AUTH_FAILED: "密钥无效：请输入管理员提供的密钥。", OVERLOADED: "名额已满：请稍后再试。", TOO_MANY_SESSIONS: "名额已满：请稍后再试。",
    CONNECTION: "服务没有响应：它在运行吗？", INSECURE: "请用 https 或 localhost 打开本页，否则浏览器不提供麦克风。",
    INVALID_CONFIG: "某项设置被拒绝：请清空或换一个值。", WORKER_LOST: "工作进程已断开：请稍后重新开始。", TIMEOUT: "太久没有声音：请重新开始。",
    NotAllowedError: "请在地址栏允许使用麦克风，然后重新开始。", NotFoundError: "没有找到麦克风：请连接后重新开始。",
    EncodingError: "浏览器无法读取该文件：请用 WAV、FLAC 或 MP3。",
  },
};

export const languages = { en: EN, zh: ZH };

export const explain = (texts, error) => {
  const code = error.code && typeof error.code === "string" ? error.code : error.name;
  return `${texts.errors[code] ?? ""} (${code}: ${error.message})`.trim();
};
