// What the charts show: per key and slice of time the last value, its spread,
// and how many events there were. A ring of slices; memory does not grow.

export const slices = 480;
const maxKeys = 500;     // that have a line
const maxNames = 20000;  // that are counted

// field finds the number that a topic is about.
export function reading(data) {
  if (typeof data === "number") return { value: data, spread: NaN };
  if (typeof data === "string" && data !== "" && Number.isFinite(Number(data))) return { value: Number(data), spread: NaN };
  if (data === null || typeof data !== "object") return { value: NaN, spread: NaN };
  const bid = Number(data.bid ?? NaN), ask = Number(data.ask ?? NaN);
  if (Number.isFinite(bid) && Number.isFinite(ask)) return { value: (bid + ask) / 2, spread: ask - bid };
  for (const name of ["price", "last", "value", "close", "mid"]) {
    const v = Number(data[name] ?? NaN);
    if (Number.isFinite(v)) return { value: v, spread: NaN };
  }
  for (const [name, v] of Object.entries(data)) {
    if (typeof v === "number" && !/(^|_)(ts|time|id)$|timestamp/i.test(name)) return { value: v, spread: NaN };
  }
  return { value: NaN, spread: NaN };
}

export class Series {
  constructor(seconds) {
    this.step = seconds * 1000 / slices;
    this.clear();
  }

  clear() {
    this.keys = new Map();
    this.names = new Set();
    this.total = new Float64Array(slices);
    this.at = new Float64Array(slices).fill(-1);
    this.spreads = false;
    this.values = false;
    this.first = Infinity;
  }

  // seen is how many keys there were, as far as they are counted.
  get seen() { return this.names.size; }

  // add takes one event, and returns its key's record (null beyond the limit of keys).
  add(f, now) {
    const b = Math.floor(f.ts / this.step);
    if (f.ts < this.first) this.first = f.ts;
    const i = ((b % slices) + slices) % slices;
    if (this.at[i] < b) { this.at[i] = b; this.total[i] = 0; }
    if (this.at[i] === b) this.total[i]++;
    const name = f.key ?? f.keyBase64 ?? "";
    let k = this.keys.get(name);
    if (!k) {
      if (this.names.size < maxNames) this.names.add(name);
      if (this.keys.size >= maxKeys) return null;
      k = { name, text: Boolean(f.key), at: new Float64Array(slices).fill(-1), value: new Float64Array(slices), spread: new Float64Array(slices), first: NaN, last: NaN, prev: NaN, events: 0, shown: 0, rate: 0 };
      this.keys.set(name, k);
    }
    k.events++;
    const { value, spread } = reading(f.data);
    if (!Number.isFinite(value)) return k;
    this.values = true;
    if (!Number.isFinite(k.first)) k.first = value;
    if (value !== k.last) { k.prev = k.last; k.last = value; k.moved = now; }
    if (Number.isFinite(spread)) this.spreads = true;
    if (k.at[i] <= b) { k.at[i] = b; k.value[i] = value; k.spread[i] = spread; }
    return k;
  }

  // axis is the times of the slices up to a moment, in seconds.
  axis(until, shown = until) {
    const head = Math.floor(until / this.step);
    this.stop = slices - 1 - (head - Math.floor(shown / this.step)); // nothing is known beyond
    const x = new Array(slices);
    for (let j = 0; j < slices; j++) x[j] = (head - slices + 1 + j) * this.step / 1000;
    return { head, x };
  }

  // line is one key's values on an axis, each holding until the next; map changes each.
  line(k, head, of, map) {
    const out = new Array(slices);
    let held = null;
    for (let j = 0; j < slices; j++) {
      const b = head - slices + 1 + j, i = ((b % slices) + slices) % slices;
      if (k.at[i] === b) held = map ? map(k[of][i]) : k[of][i];
      out[j] = j > this.stop ? null : held;
    }
    return out;
  }

  // rates is events per second on an axis; the newest slice is not full yet.
  rates(head) {
    const out = new Array(slices), perSlice = 1000 / this.step;
    const wide = Math.max(1, Math.round(1000 / this.step)); // a mean over a second at least
    let sum = 0;
    const count = (b) => { const i = ((b % slices) + slices) % slices; return this.at[i] === b ? this.total[i] : 0; };
    for (let j = -wide; j < slices; j++) {
      const b = head - slices + 1 + j;
      sum += count(b) - count(b - wide);
      if (j >= 0) out[j] = (b + 1) * this.step < this.first ? null : sum * perSlice / wide;
      else if (j === -wide) { sum = 0; for (let n = 0; n < wide; n++) sum += count(b - n); }
    }
    out[slices - 1] = out[slices - 2];
    for (let j = Math.max(0, this.stop); j < slices && this.stop < slices - 1; j++) out[j] = null;
    return out;
  }
}
