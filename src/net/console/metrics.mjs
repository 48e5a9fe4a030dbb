// Reads the Prometheus text of /metrics, and what two readings tell together: rates and percentiles. Pure.

const ESCAPES = { n: "\n", '"': '"', "\\": "\\" };
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

function number(text) {
  if (text === "+Inf") return Infinity;
  if (text === "-Inf") return -Infinity;
  return Number(text);
}

function labels(text) {
  const found = {};
  for (const [, name, value] of text.matchAll(LABEL)) found[name] = value.replace(/\\(.)/g, (_, c) => ESCAPES[c] ?? c);
  return found;
}

/** One reading: when (seconds of any clock that only goes forward) and all series. */
export class Sample {
  constructor(text, time) {
    this.time = time;
    /** Name → [{ labels, value }]. */
    this.series = new Map();
    for (const line of text.split("\n")) {
      if (line === "" || line.startsWith("#")) continue;
      const brace = line.indexOf("{");
      const close = brace < 0 ? -1 : line.lastIndexOf("}");
      const space = line.indexOf(" ", Math.max(close, 0));
      if (space < 0) continue;
      const name = brace < 0 ? line.slice(0, space) : line.slice(0, brace);
      const one = {
        labels: brace < 0 ? {} : labels(line.slice(brace + 1, close)),
        value: number(line.slice(space + 1).trim().split(" ")[0]),
      };
      const same = this.series.get(name);
      if (same) same.push(one);
      else this.series.set(name, [one]);
    }
  }

  /** The series of a name whose labels include `want`. */
  all(name, want = {}) {
    const wanted = Object.entries(want);
    const series = this.series.get(name) ?? [];
    return series.filter((one) => wanted.every(([label, value]) => one.labels[label] === value));
  }

  /** Their sum; null when there are none. */
  sum(name, want) {
    const found = this.all(name, want);
    return found.length === 0 ? null : found.reduce((sum, one) => sum + one.value, 0);
  }
}

/** Growth per second of a counter from one sample to a later one; null when unknown or when the server began anew. */
export function perSecond(before, now, name, want) {
  const [from, to] = [before?.sum(name, want) ?? 0, now.sum(name, want)];
  if (!before || to === null || now.time <= before.time || to < from) return null;
  return (to - from) / (now.time - before.time);
}

/** What a histogram counted between two samples: [[upper edge, count so far], …] up to +Inf; null when nothing. */
export function between(before, now, name, want) {
  const edges = new Map();
  const add = (sample, sign) => {
    for (const { labels, value } of sample.all(`${name}_bucket`, want)) {
      const edge = number(labels.le);
      edges.set(edge, (edges.get(edge) ?? 0) + sign * value);
    }
  };
  if (!before) return null;
  add(now, 1);
  add(before, -1);
  const buckets = [...edges].sort(([a], [b]) => a - b);
  const total = buckets.at(-1)?.[1] ?? 0;
  return total > 0 && buckets.every(([, count]) => count >= 0) ? buckets : null;
}

/** The value below which the share `q` of the samples lies, linear within a bucket, as Prometheus has it. */
export function quantile(buckets, q) {
  if (!buckets) return null;
  const rank = q * buckets.at(-1)[1];
  const at = buckets.findIndex(([, count]) => count >= rank);
  const [upper, count] = buckets[at];
  const [lower, below] = at === 0 ? [0, 0] : buckets[at - 1];
  // Beyond the last edge nothing is known but that it was exceeded.
  if (upper === Infinity) return lower;
  return count === below ? upper : lower + ((upper - lower) * (rank - below)) / (count - below);
}

/** The samples of the last while, oldest first. */
export class History {
  /** @param keep seconds */
  constructor(keep) {
    this.keep = keep;
    this.samples = [];
  }

  push(sample) {
    this.samples.push(sample);
    while (this.samples.length > 2 && this.samples[1].time <= sample.time - this.keep) this.samples.shift();
  }

  clear() {
    this.samples = [];
  }

  get now() {
    return this.samples.at(-1);
  }

  /** The youngest sample that is at least `seconds` older than the newest, else the oldest; null while there is one only. */
  back(seconds) {
    const { samples } = this;
    if (samples.length < 2) return null;
    const limit = this.now.time - seconds + 0.05;
    return samples.findLast((sample) => sample.time <= limit) ?? samples[0];
  }
}
