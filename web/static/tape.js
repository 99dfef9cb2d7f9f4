// The tape: the newest events and what happened between them, in rows that are
// used again and again. A busy feed costs no more than a quiet one.
import { $, clock, compact, el, set, int } from "./fmt.js";

const rows = 80;

const words = {
  gap: (f) => `gap: offsets ${int(f.from)} to ${int(f.to - 1)} of partition ${f.partition}, ${f.cause}`,
  lost: () => "connection lost",
  resumed: (f) => `resumed at ${Object.entries(f.from).map(([p, o]) => `${p}:${o}`).slice(0, 4).join(" ")}${f.resume === "exact" ? "" : `, ${f.resume}`}`,
  live: (f) => (f.handover ? `handed over to live after ${int(f.replayed)} events` : `live after ${int(f.replayed)} events`),
  reset: (f) => `begins anew: ${f.cause}`,
  error: (f) => f.message,
};

// size is a number in few letters, where they say all of it.
const size = (v) => (v >= 1e5 && v % 1e5 === 0 ? compact(v) : v);

// brief is a value in one line, without what other columns say.
export function brief(f) {
  const d = f.data;
  if (d === null) return "deleted";
  if (typeof d !== "object") return String(d);
  if (Array.isArray(d)) return JSON.stringify(d);
  const parts = [], quoted = d.bid !== undefined && d.ask !== undefined;
  if (quoted) parts.push(`${d.bid} / ${d.ask}`);
  if (quoted && d.bid_size !== undefined) parts.push(`${size(d.bid_size)} × ${size(d.ask_size)}`);
  for (const [k, v] of Object.entries(d)) {
    if (k === "ts" || v === f.key || (quoted && /^(bid|ask)(_size)?$/.test(k))) continue;
    parts.push(`${k} ${typeof v === "object" ? JSON.stringify(v) : v}`);
    if (parts.length > 12) break;
  }
  return parts.join("  ");
}

export class Tape {
  constructor(trace) {
    this.trace = trace;
    this.kept = [];
    this.head = 0;
    this.paused = false;
    this.dirty = false;
    this.lines = Array.from({ length: rows }, () => this.row());
    $("rows").append(...this.lines.map((l) => l.tr));
    $("pause").addEventListener("click", () => this.pause(!this.paused));
    $("rows").addEventListener("keydown", (e) => {
      const links = this.lines.map((l) => l.link).filter((a) => a.href), at = links.indexOf(e.target);
      const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
      if (!step || at < 0) return;
      e.preventDefault();
      links[at + step]?.focus();
    });
  }

  row() {
    const time = el("td"), link = el(this.trace ? "a" : "span"), key = el("td", { class: "key" }), value = el("td", { class: "value" });
    link.tabIndex = -1;
    const tr = el("tr", { hidden: true }, time, el("td", { class: "n" }, link), key, value);
    return { tr, time, link, key, value, of: null };
  }

  pause(on) {
    this.paused = on;
    $("pause").setAttribute("aria-pressed", String(on));
    set($("pause"), on ? "Resume" : "Pause");
    this.dirty = true;
  }

  clear() {
    this.kept = [];
    this.dirty = true;
  }

  add(f) {
    if (f.event !== undefined && !words[f.event]) return;
    this.kept.push(f);
    if (this.kept.length > 4 * rows) this.kept = this.kept.slice(-rows);
    this.dirty = true;
  }

  draw(topic) {
    if (!this.dirty || this.paused) return;
    this.dirty = false;
    const n = this.kept.length;
    for (let i = 0; i < rows; i++) this.fill(this.lines[i], this.kept[n - 1 - i], topic);
    // One stop of the Tab key for all rows: the first link; the arrows go on from there.
    const first = this.trace && this.lines.find((l) => l.link.hasAttribute("href"));
    if (first !== this.first) {
      if (this.first) this.first.link.tabIndex = -1;
      if (first) first.link.tabIndex = 0;
      this.first = first;
    }
  }

  fill(line, f, topic) {
    if (line.of === f) return;
    line.of = f;
    line.tr.hidden = !f;
    if (!f) return;
    if (f.event !== undefined) {
      line.tr.className = `mark ${f.event}`;
      line.tr.removeAttribute("data-offset");
      set(line.time, clock(f.shownAt ?? Date.now()));
      set(line.link, "");
      line.link.removeAttribute("href");
      set(line.key, f.event);
      set(line.value, words[f.event](f));
      return;
    }
    line.tr.className = "";
    const p = f.partition ?? 0;
    line.tr.setAttribute("data-offset", `${p}:${f.offset}`);
    set(line.time, clock(f.ts, true));
    set(line.link, p ? `${p}:${f.offset}` : String(f.offset));
    if (this.trace) line.link.href = `#trace/${encodeURIComponent(topic)}/${p}/${f.offset}`;
    set(line.key, f.key ?? f.keyBase64 ?? "");
    set(line.value, brief(f));
  }
}
