// What a call measured, and the setting that follows from it.

const BLOCKS = 60; // the latest that count
const ENOUGH = 6; // below it nothing is said
const SHARE = 0.5; // of a block's length that its conversion, with the wait for it, should take
const BAD = 0.02; // of the blocks concealed, from which less is wanted

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? null;

export class Advice {
  constructor() {
    this.blocks = [];
    this.latencies = [];
  }

  // A block as the service tells of it (`stats`), and the latency that was measured then, in ms or null.
  add(stats, latencyMs) {
    if (!stats.speech && !stats.concealed) return;
    this.blocks = [...this.blocks.slice(1 - BLOCKS), stats];
    if (latencyMs !== null) this.latencies = [...this.latencies.slice(1 - BLOCKS), latencyMs];
  }

  // {latencyMs, steps, suggested, suggestedMs}, or null before enough is known. steps: null without a solver. suggested:
  // a number of steps within `limits` ([low, high]; absent: no solver) other than `chosen`, or null where that fits.
  given({ blockMs, limits, chosen }) {
    const made = this.blocks.filter(({ concealed }) => !concealed);
    const latencyMs = median(this.latencies);
    if (this.blocks.length < ENOUGH || !made.length || latencyMs === null) return null;
    const steps = limits ? median(made.map((block) => block.steps)) || null : null;
    if (!steps) return { latencyMs, steps, suggested: null, suggestedMs: null };
    const same = made.filter((block) => block.steps === steps);
    const conversion = median(same.map(({ compute_ms: ms }) => ms));
    const [low, high] = limits;
    let fitting = Math.floor((SHARE * blockMs - median(same.map(({ queue_ms: ms }) => ms))) / (conversion / steps)); // at worst: not all of it is steps
    if (this.blocks.length - made.length > BAD * this.blocks.length) fitting = Math.min(fitting, steps - 1);
    const suggested = Math.min(high, Math.max(low, fitting));
    if (suggested === (chosen ?? high)) return { latencyMs, steps, suggested: null, suggestedMs: null };
    return { latencyMs, steps, suggested, suggestedMs: latencyMs + conversion * (suggested / steps - 1) };
  }
}
