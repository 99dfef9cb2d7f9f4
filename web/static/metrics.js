// Reads /metrics: figures, and what they gained per second between two looks.

function parse(text) {
  const out = new Map();
  for (const line of text.split("\n")) {
    if (!line.startsWith("tapecast_")) continue;
    const cut = line.lastIndexOf(" ");
    const v = Number(line.slice(cut + 1));
    if (Number.isFinite(v)) out.set(line.slice(0, cut), v);
  }
  return out;
}

export class Metrics {
  constructor() {
    this.now = new Map();
    this.before = new Map();
    this.seconds = 0;
  }

  async read() {
    const answer = await fetch("metrics");
    if (!answer.ok) throw new Error(`metrics: ${answer.status}`);
    const text = await answer.text();
    const at = performance.now();
    this.before = this.now;
    this.seconds = this.at ? (at - this.at) / 1000 : 0;
    this.at = at;
    this.now = parse(text);
  }

  // has tells whether the process has that room.
  has(prefix) {
    for (const name of this.now.keys()) if (name.startsWith(prefix)) return true;
    return false;
  }

  // sum adds the series of a name, over its labels.
  sum(name, from = this.now) {
    let total = NaN;
    for (const [k, v] of from) if (k === name || k.startsWith(name + "{")) total = (total || 0) + v;
    return total;
  }

  // label lists a metric's series by their one label.
  label(name) {
    const out = [];
    for (const [k, v] of this.now) {
      const m = k.startsWith(name + "{") && k.match(/="((?:[^"\\]|\\.)*)"\}$/);
      if (m) out.push([m[1], v]);
    }
    return out;
  }

  rate(name) {
    const d = this.sum(name) - this.sum(name, this.before);
    return this.seconds > 0 ? Math.max(0, d) / this.seconds : NaN;
  }

  // quantile of what a histogram gained since the last look, in its unit.
  quantile(name, q) {
    const buckets = [];
    for (const [k, v] of this.now) {
      const m = k.startsWith(name + "_bucket{") && k.match(/le="([^"]+)"/);
      if (m) buckets.push([m[1] === "+Inf" ? Infinity : Number(m[1]), v - (this.before.get(k) ?? 0)]);
    }
    buckets.sort((a, b) => a[0] - b[0]);
    const all = buckets.at(-1)?.[1];
    if (!all) return NaN;
    let low = 0, under = 0;
    for (const [le, n] of buckets) {
      if (n >= q * all) return le === Infinity ? low : low + (le - low) * (q * all - under) / Math.max(1, n - under);
      low = le;
      under = n;
    }
    return low;
  }
}
