// What happens at present, from counts since the start: differences of two of them, over all gateway processes.

// The share `q` of blocks took no longer than so many ms; null without blocks. buckets: [bound in s or null, up to it].
export function quantile(buckets, q) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!total) return null;
  const wanted = q * total;
  let [low, below] = [0, 0];
  for (const [high, count] of buckets) {
    if (count >= wanted) return 1000 * (high === null ? low : low + ((high - low) * (wanted - below)) / Math.max(1e-9, count - below));
    [low, below] = [high, count];
  }
  return null;
}

const minus = (now, before) => now.map(([bound, count], i) => [bound, count - (before?.[i][1] ?? 0)]);

// What a process counted since `before`, an earlier look at it; all of it where there is none, or another one's.
export function since(now, before) {
  const same = before && before.pid === now.pid && before.started === now.started;
  const former = same ? before.counted : {};
  const made = {};
  for (const [name, value] of Object.entries(now.counted))
    made[name] = Array.isArray(value) ? minus(value, former[name]) : value - (former[name] ?? 0);
  return made;
}

export function sum(several) {
  const made = { latency_s: [] };
  for (const one of several)
    for (const [name, value] of Object.entries(one)) {
      if (!Array.isArray(value)) made[name] = (made[name] ?? 0) + value;
      else made[name] = value.map(([bound, count], i) => [bound, count + (made[name]?.[i]?.[1] ?? 0)]);
    }
  return made;
}

// Each worker once: what several gateways say of it is their part of its places.
export function workersOf(gateways) {
  const known = new Map();
  for (const worker of gateways.flatMap((gateway) => gateway.workers)) {
    const key = `${worker.host} ${worker.pid} ${worker.worker_id}`;
    const other = known.get(key);
    known.set(key, other ? { ...worker, sessions: worker.sessions + other.sessions, capacity: worker.capacity + other.capacity } : worker);
  }
  return [...known.values()];
}
