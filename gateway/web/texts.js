// What the page says, in two languages, and what to do about each error.

const EN = {
  language: "Language", live: "Live", headphones: "Use headphones: the microphone would hear the answer.", key: "API key or token",
  start: "Start", stop: "Stop", mute: "Mute (space bar)", monitor: "Hold to hear myself", input: "Microphone", output: "Converted",
  latency: "Latency", block: "Block and look-ahead", network: "Network", queue: "Queue", conversion: "Conversion",
  playback: "Playback buffer", device: "Audio device", total: "Sum, measured", plot: "Latency over the last minute",
  voices: "Voices", listen: "Listen", remove: "Remove", mine: "Yours", settings: "Settings", next_call: "They apply from the next start.",
  input_device: "Microphone", output_device: "Loudspeaker", steps: "Solver steps", guidance: "Guidance", f0_shift: "Pitch, semitones", intelligibility: "Intelligibility", similarity: "Similarity",
  noise: "Noise suppression", echo: "Echo cancellation", webrtc: "WebRTC, for lines that lose packets", recordings: "Recordings", record: "Keep what is said in this page, 30 minutes at most",
  record_full: (minutes) => `The recording ends here, after ${minutes} minutes. The call goes on.`,
  files: "Files", choose: "Drop recordings here, or choose", original: "Original", converted: "Converted", download: "Download",
  standard: "Default", starting: "Starting …", speak: "Speak.", muted: "Muted: silence is sent.", ended: "Ended.",
  reconnecting: "The line is lost; trying again.", no_worker: "No worker is connected yet. The page looks again every few seconds.",
  work: ({ steps, batch_size: batch, rtf, concealed, gaps, droppedMs }) =>
    `${steps || "–"} steps, batch of ${batch || "–"}, real-time factor ${rtf ?? "–"}, ${concealed} blocks concealed, ${gaps} gaps, ${Math.round(droppedMs)} ms caught up`,
  operation: "operation", now: "The last half minute", admin_key: "Key or token with the scope admin",
  gateways: "Gateways", workers: "Workers", sessions_places: "Sessions / places", p95: "95 % of blocks within", steps_mean: "Solver steps",
  concealed: "Concealed blocks", late: "Late blocks", refused: "Callers refused", sessions_plot: "Sessions, ten minutes", p95_plot: "95 % of blocks within, ten minutes",
  gateway_columns: ["No.", "Host / process", "Up", "Sessions", "95 % within", "Concealed", "Calls", "Refused", "State"],
  worker_columns: ["Worker", "Host / process", "Device", "Model", "Sessions / places", "Steps", "Queue", "State"],
  takes_calls: "takes calls", full: "no place", leaving: "leaving",
  feedback: "The microphone hears the answer, which is then converted again: use headphones, or turn the loudspeaker down and echo cancellation on.",
  measured: ({ latencyMs, steps }) => `Your machine: ${Math.round(latencyMs)} ms${steps ? `, ${steps} ${steps === 1 ? "step" : "steps"}` : ""}.`,
  fits: "The setting fits.", suggested: ({ suggested, suggestedMs }) => `Use ${suggested} ${suggested === 1 ? "step" : "steps"}, some ${Math.round(suggestedMs)} ms`,
  own: "A voice of your own", own_hint: "Read this aloud, at your usual pace, in a quiet room. Only voices of people who agreed.",
  own_line: "On a quiet morning I walk along the river, count the boats that pass, and think of nothing but the colour of the water.",
  own_record: "Read into the microphone", own_stop: "Done", own_reading: "Listening … read the line, then press Done.", own_file: "Or choose a recording, 1 to 30 s",
  own_clip: "Your recording", own_name: "Its name", own_add: "Add the voice", own_added: (name) => `${name} is there and chosen. Listen, or start.`,
  reasons: {
    too_short: "Too short: at least one second.", too_long: "Too long: at most 30 seconds.", silent: "Nothing is to be heard: is the microphone on?",
    too_quiet: "Too quiet: come closer to the microphone.", clipped: "Too loud: step back from the microphone.", no_speech: "No speech is to be heard in it.",
    several_talkers: "Several people speak in it: one alone, please.", full: "You have as many voices as may be kept: remove one.", unreadable: "This is no recording that can be read: try WAV or FLAC.",
    too_large: "The recording is too large.", name: "Choose another name: letters, digits, - _ . and none that is taken.", scope: "Your key may not add voices: ask the operator for the scope “voices”.",
  },
  errors: {
    AUTH_FAILED: "The key is not known here: type one that the operator gave you.", OVERLOADED: "All places are taken: try again in a minute.",
    TOO_MANY_SESSIONS: "All places are taken: try again in a minute.", CONNECTION: "The service does not answer: is it running?",
    INSECURE: "Open the page by https or on localhost: elsewhere browsers lend no microphone.", INVALID_CONFIG: "The worker refuses a setting: empty it, or choose another value.",
    WORKER_LOST: "The worker is gone: start again in a moment.", TIMEOUT: "Nothing was heard for too long: start again.",
    NotAllowedError: "Allow the microphone in the browser's address bar, then start again.", NotFoundError: "No microphone is there: connect one, then start again.",
    ADMIN: "Operators alone may look: type a key with the scope admin (fast-vc keys api NAME --scope admin).",
    OverconstrainedError: "The chosen microphone is gone: choose another one in the settings.",
    NotReadableError: "Another program holds the microphone: close it, or choose another microphone.",
    MICROPHONE: "The microphone is gone: connect it, or choose another one, then start again.",
    VOICE: "This voice is no longer there: choose another one.", INTERNAL_ERROR: "Something is wrong with the service: its operator finds why in its log.",
    INVALID_AUDIO: "The service cannot read the sound that came: start again.",
    NO_WEBRTC: "WebRTC does not come through here: take the tick from it in the settings, then start again.",
    EncodingError: "This file is no recording that the browser can read: try WAV, FLAC or MP3.",
  },
};

const ZH = {
  language: "语言", live: "实时变声", headphones: "请戴耳机，否则麦克风会收到变声后的声音。", key: "API 密钥或令牌",
  start: "开始", stop: "停止", mute: "静音（空格键）", monitor: "按住听自己的原声", input: "麦克风", output: "变声后",
  latency: "延迟", block: "分块与前瞻", network: "网络", queue: "排队", conversion: "转换", playback: "播放缓冲", device: "音频设备",
  total: "总计（实测）", plot: "最近一分钟的延迟", voices: "音色", listen: "试听", remove: "删除", mine: "我的音色", settings: "设置", next_call: "下次开始时生效。",
  input_device: "麦克风", output_device: "扬声器", steps: "求解步数", guidance: "引导强度", f0_shift: "音高（半音）", intelligibility: "清晰度", similarity: "相似度", noise: "降噪", echo: "回声消除", webrtc: "WebRTC（适合会丢包的网络）",
  recordings: "录音", record: "在本页保留说话内容（最多 30 分钟）",
  record_full: (minutes) => `录音已满 ${minutes} 分钟，到此为止；通话继续。`, files: "文件", choose: "将录音拖到此处，或选择", original: "原声", converted: "变声后",
  download: "下载", standard: "默认", starting: "正在启动……", speak: "请说话。", muted: "已静音：发送的是静默。", ended: "已结束。",
  reconnecting: "连接中断，正在重试。", no_worker: "还没有可用的工作进程，页面会每隔几秒再查看。",
  work: ({ steps, batch_size: batch, rtf, concealed, gaps, droppedMs }) =>
    `${steps || "–"} 步，批量 ${batch || "–"}，实时率 ${rtf ?? "–"}，掩盖 ${concealed} 块，断续 ${gaps} 次，追回 ${Math.round(droppedMs)} 毫秒`,
  operation: "运行状态", now: "最近半分钟", admin_key: "带 admin 权限的密钥或令牌",
  gateways: "网关", workers: "工作进程", sessions_places: "会话 / 名额", p95: "95% 的块不超过", steps_mean: "求解步数",
  concealed: "掩盖的块", late: "迟到的块", refused: "拒绝的呼叫", sessions_plot: "会话数（十分钟）", p95_plot: "95% 的块不超过（十分钟）",
  gateway_columns: ["编号", "主机 / 进程", "已运行", "会话", "95% 不超过", "掩盖", "呼叫", "拒绝", "状态"],
  worker_columns: ["工作进程", "主机 / 进程", "设备", "模型", "会话 / 名额", "步数", "排队", "状态"],
  takes_calls: "可接入", full: "无名额", leaving: "正在退出",
  feedback: "麦克风听到了变声后的声音，它会被再次转换：请戴耳机，或调低音量并打开回声消除。",
  measured: ({ latencyMs, steps }) => `您的机器：${Math.round(latencyMs)} 毫秒${steps ? `，${steps} 步` : ""}。`,
  fits: "当前设置合适。", suggested: ({ suggested, suggestedMs }) => `改用 ${suggested} 步，约 ${Math.round(suggestedMs)} 毫秒`,
  own: "我的音色", own_hint: "请在安静的房间里，用平常的语速朗读下面这句话。只可使用已同意者的声音。",
  own_line: "清晨我沿着河边散步，数着来往的小船，听着水声，心里什么也不想，只看着天空慢慢变亮。",
  own_record: "对着麦克风朗读", own_stop: "完成", own_reading: "正在聆听……读完后请按“完成”。", own_file: "或选择一段录音（1 至 30 秒）",
  own_clip: "您的录音", own_name: "名称", own_add: "添加音色", own_added: (name) => `${name} 已添加并选中，可以试听或开始。`,
  reasons: {
    too_short: "太短：至少一秒。", too_long: "太长：最多 30 秒。", silent: "没有声音：麦克风开了吗？", too_quiet: "声音太小：请靠近麦克风。", clipped: "声音太大：请离麦克风远一些。",
    no_speech: "没有听到人声。", several_talkers: "有多人说话：请只由一人朗读。", full: "可保存的音色已满：请删除一个。", unreadable: "无法读取该录音：请用 WAV 或 FLAC。",
    too_large: "录音文件太大。", name: "请换一个名称：字母、数字、- _ .，且未被占用。", scope: "您的密钥不能添加音色：请向管理员申请 voices 权限。",
  },
  errors: {
    AUTH_FAILED: "密钥无效：请输入管理员提供的密钥。", OVERLOADED: "名额已满：请稍后再试。", TOO_MANY_SESSIONS: "名额已满：请稍后再试。",
    CONNECTION: "服务没有响应：它在运行吗？", INSECURE: "请用 https 或 localhost 打开本页，否则浏览器不提供麦克风。",
    INVALID_CONFIG: "某项设置被拒绝：请清空或换一个值。", WORKER_LOST: "工作进程已断开：请稍后重新开始。", TIMEOUT: "太久没有声音：请重新开始。",
    NotAllowedError: "请在地址栏允许使用麦克风，然后重新开始。", NotFoundError: "没有找到麦克风：请连接后重新开始。",
    ADMIN: "仅限管理员：请输入带 admin 权限的密钥（fast-vc keys api NAME --scope admin）。",
    OverconstrainedError: "所选麦克风已不在：请在设置中另选一个。", NotReadableError: "麦克风被其他程序占用：请关闭该程序，或另选麦克风。",
    MICROPHONE: "麦克风已断开：请重新连接或另选一个，然后重新开始。", VOICE: "该音色已不存在：请另选一个。",
    INTERNAL_ERROR: "服务出错：请联系管理员查看日志。", INVALID_AUDIO: "服务无法识别收到的声音：请重新开始。", NO_WEBRTC: "此处无法使用 WebRTC：请在设置中取消勾选，然后重新开始。",
    EncodingError: "浏览器无法读取该文件：请用 WAV、FLAC 或 MP3。",
  },
};

export const languages = { en: EN, zh: ZH };

export const lacksVoice = ({ code, details }) => code === "INVALID_CONFIG" && details?.fields?.includes("voice");

export const explain = (texts, error) => {
  const code = lacksVoice(error) ? "VOICE" : error.code && typeof error.code === "string" ? error.code : error.name;
  return `${texts.errors[code] ?? ""} (${code}: ${error.message})`.trim();
};
