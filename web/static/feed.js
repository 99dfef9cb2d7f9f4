// The Feed view: topics, keys, the live chart, the tape, replay.
import { $, clock, compact, date, decoded, duration, el, int, many, percent, price, rate, set, svg } from "./fmt.js";
import { Link } from "./link.js";
import { Player } from "./player.js";
import { Series } from "./series.js";
import { Charts } from "./charts.js";
import { Tape } from "./tape.js";
import { Commands } from "./commands.js";

const backfill = 6000;  // events before the live edge, so that nothing begins empty
const drawEvery = 100;  // ms between two drawings of the charts and the tape
const pollEvery = 2000; // ms between two questions for the topics' bounds
const polled = 40;      // topics that are asked about
const sparks = 30;

export class Feed {
  constructor({ operator, onState }) {
    this.series = new Series(300);
    this.span = 300;
    this.topics = new Map();
    this.focus = null;
    this.keys = [];
    this.operator = operator;
    this.tape = new Tape(operator);
    this.charts = new Charts();
    this.commands = new Commands();
    this.link = new Link({ onFrame: (f) => this.player.push(f), onState });
    this.player = new Player(this.link);
    this.keyRows = new Map();
    this.second = { at: performance.now(), events: 0, rate: 0 };
    this.wire();
    this.loop = this.loop.bind(this);
    requestAnimationFrame(this.loop);
    this.poll();
  }

  wire() {
    $("filter").addEventListener("submit", (e) => {
      e.preventDefault();
      this.open(this.topic, $("filter-keys").value.split(",").map((k) => k.trim()).filter(Boolean));
    });
    const seek = $("seek");
    seek.addEventListener("input", () => { this.dragging = true; this.bubble(); });
    seek.addEventListener("change", () => {
      clearTimeout(this.seekTimer);
      this.seekTimer = setTimeout(() => this.seek(), 250); // arrow keys come in runs
    });
    $("go-live").addEventListener("click", () => this.live());
    $("speed").addEventListener("change", () => this.player.faster(this.speed()));
    $("span").addEventListener("change", () => this.setSpan(Number($("span").querySelector(":checked").value)));
  }

  speed() { return Number($("speed").querySelector(":checked").value); }

  // open subscribes to a topic; keys none = all.
  open(topic, keys = []) {
    if (!topic) return;
    this.topic = topic;
    this.keys = keys;
    this.focus = keys.length === 1 ? keys[0] : null;
    this.only = null;
    this.name(topic);
    if (!$("view-feed").hidden) history.replaceState(null, "", `#feed/${encodeURIComponent(topic)}${keys.length ? `/${keys.map(encodeURIComponent).join(",")}` : ""}`);
    this.live();
    this.edges(topic);
  }

  // route opens what the address asks for, if it is not on screen already, or
  // says that there is no such topic.
  route() {
    const [, name, list] = location.hash.match(/^#feed\/([^/]+)(?:\/(.*))?$/) ?? [];
    if (!this.listed || (!name && this.topic)) return;
    const topic = name ? decoded(name) : this.topics.has("quotes") ? "quotes" : this.topics.keys().next().value;
    const keys = list ? list.split(",").map(decoded) : [];
    if (!this.topics.has(topic)) this.none(topic);
    else if (topic !== this.topic || keys.join("\n") !== this.keys.join("\n")) this.open(topic, keys);
  }

  // none says that a topic is not there, and what there is.
  none(topic) {
    this.topic = null;
    this.keys = [];
    this.focus = this.only = null;
    this.name(topic);
    this.player.stop();
    this.begin();
    const links = [...this.topics.keys()].flatMap((name, i) => [i ? ", " : "", el("a", { href: `#feed/${encodeURIComponent(name)}`, text: name })]);
    $("none").replaceChildren(el("strong", { text: topic ? `There is no topic ${topic} here.` : "There is no topic here yet." }),
      ...(links.length ? [" There is ", ...links, "."] : [" It is shown as soon as there is one."]));
  }

  // name shows which topic is on screen; without its data, if it is not there.
  name(topic) {
    set($("title-topic"), topic || "no topic");
    $("filter-keys").value = this.keys.join(", ");
    for (const [name, t] of this.topics) t.button.setAttribute("aria-current", String(name === this.topic));
    $("none").hidden = Boolean(this.topic);
    for (const id of ["charts", "timeline", "copy"]) $(id).hidden = !this.topic;
  }

  live() {
    if (!this.topic) return;
    this.begin();
    this.player.live(this.topic, this.keys, backfill);
    this.tell({ last: 100 });
  }

  // tell shows the commands for what is on screen: from there on, and if one
  // key is in focus, for that key alone.
  tell(from = this.from) {
    this.from = from;
    this.commands.show({ topic: this.topic, keys: this.only ?? this.keys, from });
  }

  replay(at) {
    if (!this.topic) return;
    this.begin();
    const t = this.topics.get(this.topic);
    this.player.replay(this.topic, this.keys, at, this.speed(), t?.rate);
    this.charts.mark(at, "start", "replay");
    this.tell({ time: at });
  }

  begin() {
    clearTimeout(this.seekTimer);
    this.dragging = false;
    this.series.clear();
    this.charts.clear();
    this.tape.clear();
    this.tape.pause(false);
    this.keyRows.clear();
    $("keys").replaceChildren();
    this.newest = 0;
    this.second = { at: performance.now(), events: 0, rate: 0 };
    this.shown = 0;
    this.next = {};
    this.handed = "";
  }

  setSpan(seconds) {
    this.span = seconds;
    const old = this.player.mode;
    this.series = new Series(seconds);
    if (old === "replay") this.replay(this.player.clock());
    else this.live();
  }

  // edges asks for a topic's oldest event, which bounds the time line.
  async edges(topic) {
    this.oldest = 0;
    const stop = new AbortController();
    try {
      const answer = await fetch(`v1/topics/${encodeURIComponent(topic)}/events?from=earliest&format=ndjson`, { signal: stop.signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const lines = text.split("\n");
        text = lines.pop();
        const first = lines.map((l) => JSON.parse(l)).find((f) => f.event === undefined);
        if (first) {
          if (topic === this.topic) this.oldest = first.ts;
          break;
        }
        if (text.length > 1 << 20) break;
      }
    } catch { /* the time line then begins at its span */ } finally { stop.abort(); }
  }

  // window is what the time line spans, in ms.
  window() {
    const now = Date.now();
    const to = this.newest && now - this.newest > 600e3 && this.player.mode === "live" ? this.newest : now; // a recording
    return { from: to - this.span * 1000, to };
  }

  at() {
    const { from, to } = this.window();
    return from + (to - from) * Number($("seek").value) / 1000;
  }

  seek() {
    this.dragging = false;
    if (Number($("seek").value) >= 1000) this.live();
    else this.replay(Math.max(this.at(), this.oldest || 0));
  }

  bubble() {
    const b = $("bubble"), v = Number($("seek").value), { to } = this.window();
    b.hidden = !this.dragging;
    const text = v >= 1000 ? "live" : `${clock(this.at())}, ${duration(to - this.at())} ago`;
    set(b, text);
    b.style.left = `clamp(3.5rem, ${v / 10}%, calc(100% - 3.5rem))`;
    $("seek").setAttribute("aria-valuetext", text);
  }

  loop(now) {
    requestAnimationFrame(this.loop);
    for (const f of this.player.due(now)) this.take(f, now);
    if (document.hidden || $("view-feed").hidden || now - (this.drawn ?? 0) < drawEvery) return;
    this.drawn = now;
    this.draw(now);
  }

  take(f, now) {
    f.shownAt = this.player.clock();
    this.tape.add(f);
    if (f.event === undefined) {
      this.series.add(f, now);
      this.second.events++;
      this.shown++;
      this.next[f.partition ?? 0] = f.offset + 1;
      if (f.ts > this.newest) this.newest = f.ts;
      return;
    }
    const at = this.newest || this.player.clock();
    if (f.event === "live" && f.handover) {
      this.charts.mark(at, "live", "handed over to live");
      this.handed = `handed over to live at ${clock(at)}`;
    } else if (f.event === "live" && !this.link.counts.resumed) this.charts.mark(at, "live", "live");
    else if (f.event === "gap") this.charts.mark(at, "gap", `gap: ${f.cause}`);
    else if (f.event === "lost") this.charts.mark(at, "lost", "lost");
    else if (f.event === "resumed") this.charts.mark(at, "resumed", "resumed");
    else if (f.event === "reset") this.charts.mark(at, "gap", "reset");
  }

  draw(now) {
    const { counts } = this.link;
    if (now - this.second.at >= 1000) {
      this.second.rate = this.second.events * 1000 / (now - this.second.at);
      for (const k of this.series.keys.values()) {
        k.rate = (k.events - k.shown) * 1000 / (now - this.second.at);
        k.shown = k.events;
      }
      this.second.events = 0;
      this.second.at = now;
      this.drawKeys(now);
    }
    this.tape.draw(this.topic);
    set($("f-events"), int(this.shown));
    set($("f-rate"), rate(this.second.rate));
    set($("f-gaps"), int(counts.gaps));
    set($("f-doubled"), int(counts.doubled));
    set($("f-resumed"), int(counts.resumed));
    $("f-gaps").parentElement.classList.toggle("bad", counts.gaps > 0);
    $("f-doubled").parentElement.classList.toggle("bad", counts.doubled > 0);
    this.drawPosition();
    this.drawHead();
    this.drawTimeline();
    const { to } = this.window();
    if ($("charts").clientWidth) this.charts.draw(this.series, { to, shown: Math.min(to, this.player.clock()) }, this.span, this.focus);
  }

  drawPosition() {
    const at = Object.entries(this.player.mode === "live" ? this.link.next : this.next);
    set($("covered"), at.length ? at.slice(0, 8).map(([p, o]) => `${p}:${o}`).join("  ") + (at.length > 8 ? " …" : "") : "–");
    const live = this.player.mode === "live";
    const behind = live ? Date.now() - this.newest : Date.now() - this.player.clock();
    set($("f-fresh"), !this.newest && live ? "–" : duration(Math.max(0, live ? behind : Math.round(behind / 1000) * 1000)));
  }

  drawHead() {
    const name = this.focus ?? (this.series.keys.size === 1 ? [...this.series.keys.keys()][0] : null);
    const k = name === null ? null : this.series.keys.get(name);
    set($("title-key"), !this.topic ? "" : k && name ? name : this.keys.length > 1 ? `${this.keys.length} keys` : "all keys");
    $("title").parentElement.classList.toggle("many", !k);
    set($("last"), k ? price(k.last) : "");
    const d = k ? (k.last / k.first - 1) * 100 : NaN;
    set($("change"), k && Number.isFinite(d) ? percent(d) : "");
    $("change").dataset.dir = d > 0 ? "up" : d < 0 ? "down" : "";
  }

  drawTimeline() {
    const live = this.player.mode === "live", { from, to } = this.window();
    if (!this.dragging) {
      const v = live ? 1000 : Math.max(0, Math.min(1000, Math.round(1000 * (this.player.clock() - from) / Math.max(1, to - from))));
      if (Number($("seek").value) !== v) $("seek").value = String(v);
      $("seek").setAttribute("aria-valuetext", live ? "live" : clock(this.player.clock()));
    }
    this.bubble();
    $("seek").parentElement.style.setProperty("--at", `${Number($("seek").value) / 10}%`);
    $("go-live").setAttribute("aria-pressed", String(live));
    document.body.dataset.mode = this.player.mode;
    set($("seek-from"), date(from));
    set($("seek-to"), to < Date.now() - 1000 ? date(to) : "now");
    set($("seek-state"), live ? this.handed : `replay ×${this.player.speed} at ${date(this.player.clock())}`);
  }

  drawKeys(now) {
    set($("keys-count"), this.series.seen > 1 || !this.series.keys.has("") ? int(this.series.seen) : "");
    const names = [...this.series.keys.keys()].sort();
    if (names.length === this.keyRows.size && names.every((n) => this.keyRows.has(n))) {
      for (const n of names) this.fillKey(this.keyRows.get(n), this.series.keys.get(n), now);
      return;
    }
    const nodes = names.slice(0, 200).map((n) => {
      if (!this.keyRows.has(n)) this.keyRows.set(n, this.keyRow(n));
      const row = this.keyRows.get(n);
      this.fillKey(row, this.series.keys.get(n), now);
      return row.tr;
    });
    $("keys").replaceChildren(...nodes);
  }

  keyRow(name) {
    const button = el("button", { type: "button", onclick: () => {
      this.focus = this.focus === name ? null : name;
      this.only = this.focus !== null && this.series.keys.get(name)?.text ? [name] : null;
      this.drawKeys(performance.now());
      this.tell();
    } });
    const swatch = svg("svg", { viewBox: "0 0 10 10", width: 10, height: 10, "aria-hidden": "true" }, svg("rect", { width: 10, height: 3, y: 4, rx: 1.5 }));
    button.append(swatch, document.createTextNode(name || "(no key)"));
    const last = el("td", { class: "n" }), change = el("td", { class: "n delta" }), per = el("td", { class: "n" });
    return { tr: el("tr", {}, el("th", { scope: "row" }, button), last, change, per), button, swatch, last, change, per };
  }

  fillKey(row, k) {
    const i = this.charts.color(k.name);
    row.swatch.setAttribute("class", i < 0 ? "c-none" : `c${i}`);
    row.button.setAttribute("aria-pressed", String(this.focus === k.name));
    set(row.last, price(k.last));
    const d = (k.last / k.first - 1) * 100;
    set(row.change, Number.isFinite(d) ? percent(d) : "–");
    row.change.dataset.dir = d > 0 ? "up" : d < 0 ? "down" : "";
    set(row.per, rate(k.rate));
  }

  // poll asks how the topics stand: operators at once, others topic by topic.
  async poll() {
    try {
      if (this.operator) {
        const { topics } = await (await fetch("v1/admin/topics")).json();
        this.list(topics);
        for (const t of topics) this.stands(t);
      } else {
        const { topics } = await (await fetch("v1/topics")).json();
        this.list(topics);
        if (!document.hidden && !$("view-feed").hidden) await Promise.all(topics.slice(0, polled).map((t) => this.bounds(t.name)));
      }
    } catch { /* the connection's state says that the server is away */ }
    setTimeout(() => this.poll(), pollEvery);
  }

  list(topics) {
    const names = new Set(topics.map((t) => t.name));
    let changed = false;
    for (const name of this.topics.keys()) if (!names.has(name)) { this.topics.delete(name); changed = true; }
    for (const t of topics) {
      if (this.topics.has(t.name)) continue;
      this.topics.set(t.name, this.topicRow(t));
      changed = true;
    }
    if (!changed && this.listed) return;
    this.listed = true;
    $("topics").replaceChildren(...[...this.topics.values()].map((t) => t.li));
    if (!this.topic) this.route();
    else this.topics.get(this.topic)?.button.setAttribute("aria-current", "true");
  }

  topicRow(t) {
    const line = svg("polyline", { class: "spark" });
    const picture = svg("svg", { viewBox: `0 0 ${sparks - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" }, line);
    const per = el("span", { class: "per", text: "–" }), facts = el("span", { class: "facts" }), more = el("span", { class: "facts" });
    const button = el("button", { type: "button", onclick: () => this.open(t.name) },
      el("span", { class: "name", text: t.name }), per, picture, facts, more);
    return { li: el("li", {}, button), button, line, per, facts, more, history: [], rate: NaN };
  }

  async bounds(name) {
    const answer = await fetch(`v1/topics/${encodeURIComponent(name)}`);
    if (!answer.ok) return;
    const { partitions, format } = await answer.json();
    const sum = (of) => partitions.reduce((n, p) => n + p[of], 0);
    this.stands({ name, format, partitions: partitions.length, start: sum("start"), end: sum("end") });
  }

  // stands shows how a topic stands. t.oldest, t.newest, t.lag, t.subscribers
  // and t.tape_keys are for operators.
  stands(t) {
    const row = this.topics.get(t.name);
    if (!row) return;
    const now = performance.now();
    if (row.end !== undefined && now - row.at > 100) {
      row.rate = Math.max(0, t.end - row.end) * 1000 / (now - row.at);
      if (t.end !== row.end) row.moved = now;
      row.history.push(row.rate);
      if (row.history.length > sparks) row.history.shift();
    }
    row.end = t.end;
    row.at = now;
    row.moved ??= now;
    const quiet = t.newest ? Date.now() - t.newest : now - row.moved;
    const held = t.oldest && t.end > t.start ? ` over ${duration(Math.max(0, (t.newest || Date.now()) - t.oldest))}` : "";
    set(row.per, `${rate(row.rate)}/s`);
    set(row.facts, [many(t.partitions, "partition"), `${compact(t.end - t.start)} kept${held}`,
      quiet > 2 * pollEvery && t.end > t.start && `quiet for ${duration(quiet)}`].filter(Boolean).join(" · "));
    const keys = t.name === this.topic && !this.keys.length && this.series.seen && !this.series.keys.has("") ? this.series.seen : t.tape_keys;
    set(row.more, this.operator ? [many(t.subscribers, "subscriber"), keys > 0 && many(keys, "key"),
      `lag ${t.lag === undefined ? "not known" : compact(t.lag)}`, t.error && "cannot be asked"].filter(Boolean).join(" · ") : "");
    row.more.classList.toggle("warn", t.lag > Math.max(1000, 5 * row.rate));
    row.button.title = `${t.name}, ${t.format}: offsets ${int(t.start)} to ${int(t.end)}${t.partitions > 1 ? ", summed over the partitions" : ""}`;
    const top = Math.max(1, ...row.history);
    row.line.setAttribute("points", row.history.map((v, i) => `${sparks - row.history.length + i},${(18 - 16 * v / top).toFixed(1)}`).join(" "));
  }
}
