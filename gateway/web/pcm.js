// Samples as the line has them (Int16Array), and as audio nodes do (Float32Array).

export const toFloat = (samples) => Float32Array.from(samples, (sample) => sample / 32768);
export const toInt = (samples) => Int16Array.from(samples, (sample) => Math.max(-1, Math.min(1, sample)) * 32767);
