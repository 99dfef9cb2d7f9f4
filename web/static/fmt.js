// Words and numbers for people, and the little DOM that the views need. All
// text goes into text nodes: what a producer wrote is never markup.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const $ = (id) => document.getElementById(id);

export function el(name, props = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(props)) {
    if (v === undefined || v === null || v === false) continue;
    if (k === "class") e.className = v;
    else if (k === "text") e.textContent = v;
    else if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, v === true ? "" : String(v));
  }
  e.append(...children);
  return e;
}

export function svg(name, attrs = {}, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [k, v] of Object.entries(attrs)) if (v !== undefined && v !== null) e.setAttribute(k, String(v));
  e.append(...children);
  return e;
}

// decoded undoes encodeURIComponent; what nothing encodes to stays as it is.
export function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

// set changes a text only if it is another: a node that does not change costs no layout.
export function set(node, text) {
  if (node.firstChild?.nodeType === 3 && node.childNodes.length === 1) {
    if (node.firstChild.data !== text) node.firstChild.data = text;
  } else if (node.textContent !== text) node.textContent = text;
}

export const int = (n) => (Number.isFinite(n) ? whole.format(n) : "–");

export function compact(n) {
  if (!Number.isFinite(n)) return "–";
  return Math.abs(n) < 10000 ? whole.format(n) : short.format(n);
}

export function rate(n) {
  if (!Number.isFinite(n)) return "–";
  return n > 0 && n < 9.95 ? n.toFixed(1) : compact(n);
}

export function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (Math.abs(n) < 1000 || unit === "TB") return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1000;
  }
  return "";
}

// duration of milliseconds, in the unit that fits.
export function duration(ms) {
  if (!Number.isFinite(ms)) return "–";
  const a = Math.abs(ms);
  if (a === 0) return "0 s";
  if (a < 1) return `${Math.round(ms * 1000)} µs`;
  if (a < 10) return `${ms.toFixed(1)} ms`;
  if (a < 1000) return `${Math.round(ms)} ms`;
  if (a < 10e3) return `${(ms / 1000).toFixed(1)} s`;
  const s = Math.round(a / 1000), sign = ms < 0 ? "-" : "";
  if (s < 60) return `${sign}${s} s`;
  if (s < 3600) return `${sign}${Math.floor(s / 60)} m ${s % 60} s`;
  if (s < 86400) return `${sign}${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} m`;
  return `${sign}${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

const two = (n) => (n < 10 ? "0" + n : String(n));

export function clock(ms, millis = false) {
  const d = new Date(ms);
  if (Number.isNaN(d.getTime())) return "–";
  const t = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  return millis ? `${t}.${String(d.getMilliseconds()).padStart(3, "0")}` : t;
}

export function date(ms) {
  const d = new Date(ms);
  return new Date().toDateString() === d.toDateString() ? clock(ms) : `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(ms)}`;
}

export const many = (n, what) => `${compact(n)} ${what}${n === 1 ? "" : "s"}`;

// age is how long ago a moment (ms) was. Clocks do not agree to the millisecond.
export const age = (now, at) => (!at ? "–" : now - at < 1000 ? "now" : `${duration(now - at)} ago`);

// price keeps the digits that move: five significant ones at least.
export function price(v) {
  if (v === null || v === undefined || !Number.isFinite(v)) return "–";
  const a = Math.abs(v);
  if (Number.isInteger(v) && a >= 1000) return whole.format(v);
  const digits = a >= 1000 ? 2 : a >= 100 ? 2 : a >= 10 ? 3 : a >= 0.1 ? 4 : 5;
  return v.toLocaleString("en", { minimumFractionDigits: Number.isInteger(v) ? 0 : Math.min(digits, 4), maximumFractionDigits: digits });
}

export function percent(v) {
  if (!Number.isFinite(v)) return "–";
  return `${v > 0 ? "+" : v < 0 ? "−" : ""}${Math.abs(v).toFixed(2)}%`;
}
