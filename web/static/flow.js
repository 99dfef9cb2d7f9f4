// The Flow view: the pipeline as a picture with live numbers, and where it waits.
import { $, age, bytes, compact, duration, el, int, rate, set, svg } from "./fmt.js";
import { Metrics } from "./metrics.js";

const every = 1000;
const narrow = matchMedia("(max-width: 720px)");

// The stations and the ways between them. at: in units of the picture, wide and narrow.
const stations = [
  { id: "ingest", title: "ingest", room: "tapecast_ingest_", wide: [0, 0], tall: [0, 0] },
  { id: "feed", title: "feed topics", kafka: true, wide: [1, 1], tall: [0, 1] },
  { id: "fanout", title: "fan-out", room: "tapecast_fanout_", wide: [2, 0], tall: [0, 2] },
  { id: "delivery", title: "delivery topics", kafka: true, wide: [3, 1], tall: [0, 3] },
  { id: "gateway", title: "gateway", room: "tapecast_feed_", wide: [4, 0], tall: [0, 4] },
  { id: "sessions", title: "sessions", room: "tapecast_gateway_", wide: [5, 0], tall: [0, 5] },
];

const ways = [
  { id: "in", from: "ingest", to: "feed" },
  { id: "read", from: "feed", to: "fanout" },
  { id: "batch", from: "fanout", to: "delivery" },
  { id: "take", from: "delivery", to: "gateway" },
  { id: "write", from: "gateway", to: "sessions" },
  { id: "replay", from: "feed", to: "gateway", bow: true },
];

export class Flow {
  constructor(feed) {
    this.feed = feed; // the page has the Feed view, too
    this.m = new Metrics();
    narrow.addEventListener("change", () => this.build());
    this.build();
  }

  show() {
    this.shown = true;
    this.tick();
  }

  hide() {
    this.shown = false;
    clearTimeout(this.timer);
  }

  build() {
    const tall = narrow.matches;
    const w = 164, h = 96, gx = 60, gy = tall ? 48 : 112;
    const cols = tall ? 1 : 6, rows = tall ? 6 : 2;
    const left = 12, top = tall ? 12 : 16;
    const width = 2 * left + cols * w + (cols - 1) * gx + (tall ? 90 : 0), height = 2 * top + rows * h + (rows - 1) * gy + (tall ? 0 : 34);
    const place = (s) => { const [c, r] = tall ? s.tall : s.wide; return { x: left + c * (w + gx), y: top + r * (h + gy) }; };
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: `pipeline ${tall ? "tall" : ""}`, role: "img", "aria-labelledby": "flow-title" },
      svg("title", { id: "flow-title" }, "ingest to feed topics to fan-out to delivery topics to gateway to sessions"));
    this.ways = new Map();
    this.boxes = new Map();
    for (const y of ways) {
      const a = place(stations.find((s) => s.id === y.from)), b = place(stations.find((s) => s.id === y.to));
      root.append(this.way(y, a, b, w, h, tall));
    }
    for (const s of stations) root.append(this.box(s, place(s), w, h));
    $("flow-picture").replaceChildren(root);
  }

  way(y, a, b, w, h, tall) {
    let d, tx, ty, anchor = "middle";
    if (y.bow && tall) {
      d = `M${a.x + w} ${a.y + h / 2} C ${a.x + w + 70} ${a.y + h / 2}, ${b.x + w + 70} ${b.y + h / 2}, ${b.x + w} ${b.y + h / 2}`;
      [tx, ty, anchor] = [a.x + w + 60, (a.y + b.y + h) / 2, "start"];
    } else if (y.bow) {
      const base = a.y + h + 26;
      d = `M${a.x + w / 2} ${a.y + h} C ${a.x + w / 2} ${base + 20}, ${b.x + w / 2} ${base + 20}, ${b.x + w / 2} ${b.y + h}`;
      [tx, ty] = [b.x + w / 2 - 14, a.y + h / 2 + 20];
      anchor = "end";
      // past the delivery topics, below them, then up
      d = `M${a.x + w * 0.5} ${a.y + h} V ${base - 12} Q ${a.x + w * 0.5} ${base} ${a.x + w * 0.5 + 12} ${base} H ${b.x + w * 0.5 - 12} Q ${b.x + w * 0.5} ${base} ${b.x + w * 0.5} ${base - 12} V ${b.y + h}`;
      [tx, ty] = [(a.x + b.x + w) / 2, base - 7];
      anchor = "middle";
    } else if (tall) {
      d = `M${a.x + w / 2} ${a.y + h} V ${b.y}`;
      [tx, ty, anchor] = [a.x + w / 2 + 10, (a.y + h + b.y) / 2 + 4, "start"];
    } else if (a.y === b.y) {
      d = `M${a.x + w} ${a.y + h / 2} H ${b.x}`;
      [tx, ty] = [(a.x + w + b.x) / 2, a.y + h / 2 - 9];
    } else {
      const down = b.y > a.y;
      const x1 = a.x + w * 0.72, y1 = down ? a.y + h : a.y, x2 = b.x + w * 0.28, y2 = down ? b.y : b.y + h;
      const my = (y1 + y2) / 2, r = down ? 12 : -12;
      d = `M${x1} ${y1} V ${my - r} Q ${x1} ${my} ${x1 + 12} ${my} H ${x2 - 12} Q ${x2} ${my} ${x2} ${my + r} V ${y2}`;
      [tx, ty] = [(x1 + x2) / 2, my - 7];
    }
    const line = svg("path", { d, class: "way" }), moving = svg("path", { d, class: "moving" });
    const text = svg("text", { x: tx, y: ty, "text-anchor": anchor, class: "wayrate" });
    this.ways.set(y.id, { line, moving, text });
    return svg("g", { class: `lane lane-${y.id}` }, line, moving, text);
  }

  box(s, { x, y }, w, h) {
    const frame = svg("rect", { x, y, width: w, height: h, rx: s.kafka ? 4 : 9, class: s.kafka ? "kafka" : "room" });
    const dot = svg("circle", { cx: x + w - 14, cy: y + 16, r: 4, class: "dot" });
    const lines = [0, 1, 2].map((i) => ({
      name: svg("text", { x: x + 12, y: y + 44 + i * 18, class: "what" }),
      value: svg("text", { x: x + w - 12, y: y + 44 + i * 18, "text-anchor": "end", class: "figure" }),
    }));
    const g = svg("g", { class: "station" }, frame, svg("text", { x: x + 12, y: y + 21, class: "name" }, s.title), dot);
    for (const l of lines) g.append(l.name, l.value);
    this.boxes.set(s.id, { g, lines, room: s.room });
    return g;
  }

  async tick() {
    clearTimeout(this.timer);
    if (!this.shown) return;
    try {
      await this.m.read();
      if (this.m.seconds > 0) this.draw();
      const answer = await fetch("v1/admin/topics");
      if (answer.ok) this.drawTopics(await answer.json());
    } catch {
      this.verdict("bad", "the figures cannot be read");
    }
    this.timer = setTimeout(() => this.tick(), this.m.seconds ? every : 300);
  }

  verdict(word, text) {
    $("flow-verdict").dataset.state = word;
    set($("flow-verdict"), text);
  }

  put(id, state, ...lines) {
    const b = this.boxes.get(id);
    const here = !b.room || this.m.has(b.room);
    b.g.dataset.state = here ? state : "absent";
    for (const [i, l] of b.lines.entries()) {
      const [name, value] = here ? lines[i] ?? ["", ""] : i === 0 ? ["another process", ""] : ["", ""];
      set(l.name, name);
      set(l.value, value);
    }
  }

  go(id, perSecond, text, state = "") {
    const y = this.ways.get(id);
    set(y.text, text);
    const moving = perSecond > 0;
    y.moving.dataset.speed = !moving ? "0" : perSecond < 20 ? "1" : perSecond < 500 ? "2" : "3";
    y.line.dataset.state = y.moving.dataset.state = state;
  }

  draw() {
    const m = this.m, g = (n) => m.sum(n), r = (n) => m.rate(n);
    const lag = g("tapecast_fanout_lag_records"), cut = g("tapecast_fanout_nodes_cut"), queue = g("tapecast_fanout_queue_bytes"), queueMax = g("tapecast_fanout_queue_bytes_max");
    const read = r("tapecast_fanout_records_read_total"), bypass = g("tapecast_feed_partitions_bypassing");
    const lagging = g("tapecast_gateway_subscriptions_lagging"), replaying = g("tapecast_gateway_subscriptions_replaying");
    const gaps = r("tapecast_gateway_gaps_total"), holes = r('tapecast_feed_coverage_total{verdict="gap"}');
    const p50 = m.quantile("tapecast_accepted_to_written_seconds", 0.5) * 1000, p99 = m.quantile("tapecast_accepted_to_written_seconds", 0.99) * 1000;
    const lease = g("tapecast_feed_lease_age_seconds"), events = r("tapecast_gateway_events_total");
    const replayBytes = r("tapecast_feed_replay_read_bytes_total"), errors = r("tapecast_ingest_errors_total");
    const late = lag > Math.max(1000, 5 * read);
    this.put("ingest", errors > 0 ? "warn" : "ok", ["events/s", rate(r("tapecast_ingest_events_total"))], ["buffered", bytes(g("tapecast_ingest_buffered_bytes"))], ["refused/s", rate(errors)]);
    this.put("feed", "ok", ["partitions", int(g("tapecast_fanout_owned_partitions"))], ["records/s", rate(read)], ["bytes/s", bytes(r("tapecast_fanout_read_bytes_total"))]);
    this.put("fanout", cut > 0 ? "bad" : late ? "warn" : "ok", ["lag, records", compact(lag)], ["queued", bytes(queue)], ["nodes, cut", `${int(g("tapecast_fanout_nodes"))}, ${int(cut)}`]);
    this.put("delivery", "ok", ["deliveries/s", rate(r("tapecast_fanout_deliveries_total") || r("tapecast_feed_deliveries_total"))], ["batches/s", rate(r("tapecast_feed_batches_total"))], ["bytes/s", bytes(r("tapecast_fanout_published_bytes_total"))]);
    this.put("gateway", bypass > 0 || lease > 7 ? "warn" : "ok", ["interests", int(g("tapecast_feed_interests"))], ["tape", bytes(g("tapecast_feed_tape_bytes"))], ["bypassing", int(bypass)]);
    this.put("sessions", gaps > 0 ? "bad" : lagging > 0 ? "warn" : "ok", ["open", int(g("tapecast_gateway_sessions"))], ["replaying", int(replaying)], ["lagging", int(lagging)]);
    this.go("in", r("tapecast_ingest_events_total"), `${rate(r("tapecast_ingest_events_total"))}/s`);
    this.go("read", read, `${rate(read)}/s`, late ? "warn" : "");
    this.go("batch", r("tapecast_fanout_deliveries_total"), `${rate(r("tapecast_fanout_deliveries_total"))}/s`, cut > 0 ? "bad" : "");
    this.go("take", r("tapecast_feed_deliveries_total"), `${rate(r("tapecast_feed_deliveries_total"))}/s`, holes > 0 ? "warn" : "");
    this.go("write", events, `${rate(events)}/s`, gaps > 0 ? "bad" : lagging > 0 ? "warn" : "");
    this.go("replay", replayBytes, replayBytes > 0 ? `replay ${bytes(replayBytes)}/s` : "replay", "");
    this.drawCards({ p50, p99, gaps, queue, queueMax });
    const down = m.label("tapecast_dependency_up").filter(([, v]) => v === 0).map(([n]) => n);
    const wrong = [
      down.length && `${down.join(", ")} does not answer`, cut > 0 && `${int(cut)} nodes are cut off`, late && `the fan-out is ${compact(lag)} records behind`,
      bypass > 0 && `${int(bypass)} partitions are read around the fan-out`, lagging > 0 && `${int(lagging)} subscriptions lag`, gaps > 0 && "gaps are being told",
    ].filter(Boolean);
    if (wrong.length) this.verdict(down.length || cut > 0 || gaps > 0 ? "bad" : "warn", wrong.join("; "));
    else this.verdict("ok", "nothing waits");
  }

  drawTopics({ topics, taken_at: now }) {
    $("flow-topics").replaceChildren(...topics.map((t) => {
      const late = t.lag > Math.max(1000, 5 * (t.rate ?? 0));
      const cells = [int(t.partitions), rate(t.rate), compact(t.end - t.start), t.end > t.start ? `${int(t.start)} – ${int(t.end - 1)}` : "none", age(now, t.oldest), age(now, t.newest),
        t.lag === undefined ? "–" : int(t.lag), int(t.subscribers), t.followed_partitions ? int(t.tape_keys) : "no tape"];
      return el("tr", { title: t.error }, el("th", { scope: "row" }, this.feed ? el("a", { href: `#feed/${encodeURIComponent(t.name)}`, text: t.name }) : t.name),
        ...cells.map((text, i) => el("td", { class: i === 3 ? "mono" : i === 6 && late ? "n warn" : "n", text })));
    }));
  }

  drawCards({ p50, p99, queue, queueMax }) {
    const m = this.m, g = (n) => m.sum(n), r = (n) => m.rate(n);
    const cards = [
      ["From accepted to written", [["median", duration(p50)], ["99 %", duration(p99)], ["writes/s", rate(r("tapecast_gateway_writes_total"))], ["to clients", `${bytes(r("tapecast_gateway_written_bytes_total"))}/s`]]],
      ["Fan-out", [["publish, 99 %", duration(m.quantile("tapecast_fanout_publish_seconds", 0.99) * 1000)], ["queue, fullest", Number.isFinite(queueMax) ? bytes(queueMax) : bytes(queue)], ["commit age", duration(g("tapecast_fanout_commit_age_seconds") * 1000)], ["generation", int(g("tapecast_fanout_generation"))]]],
      ["Gateway memory", [["tape", bytes(g("tapecast_feed_tape_bytes"))], ["events on tape", compact(g("tapecast_feed_tape_events"))], ["replayed blocks", bytes(g("tapecast_feed_replay_bytes"))], ["lease age", duration(g("tapecast_feed_lease_age_seconds") * 1000)]]],
      ["Gaps told, by cause", m.label("tapecast_gateway_gaps_total").filter(([c]) => c !== "other").map(([c, v]) => [c, int(v), v > 0 ? "warn" : ""])],
      ["Sessions ended, by reason", m.label("tapecast_gateway_closes_total").filter(([c, v]) => v > 0 || ["client", "slow", "timeout"].includes(c)).map(([c, v]) => [c, int(v), v > 0 && ["slow", "panic", "timeout"].includes(c) ? "warn" : ""])],
    ];
    $("flow-cards").replaceChildren(...cards.filter(([, l]) => l.length).map(([title, list]) => el("div", { class: "panel card" }, el("h3", { text: title }),
      el("dl", { class: "pairs" }, ...list.map(([k, v, s]) => el("div", { "data-state": s || undefined }, el("dt", { text: k }), el("dd", { text: v })))))));
  }
}
