// The Trace view: what is known of one event's way.
import { $, clock, duration, el, int, svg } from "./fmt.js";

const stages = [
  ["accepted", "accepted by ingest"],
  ["read", "read by the fan-out"],
  ["batched", "written to this gateway's topic"],
  ["arrived", "read by this gateway"],
  ["taped", "on the tape"],
  ["encoded", "handed to its first session"],
];

// micros is a moment in microseconds, by the clock of this machine's zone.
const micros = (us) => `${clock(Math.floor(us / 1000))}.${String(us % 1e6).padStart(6, "0")}`;

export class Trace {
  constructor() {
    $("trace-form").addEventListener("submit", (e) => {
      e.preventDefault();
      const at = $("trace-at").value.trim().split("/");
      if (at.length < 3) return this.say("Write topic/partition/offset, for instance quotes/0/4711.");
      const offset = at.pop(), partition = at.pop();
      location.hash = `#trace/${encodeURIComponent(at.join("/"))}/${encodeURIComponent(partition)}/${encodeURIComponent(offset)}`;
    });
  }

  show() { if (!$("trace-result").firstChild) this.say("Click an offset on the tape, or write topic/partition/offset."); }

  async route([topic, partition, offset]) {
    if (offset === undefined) return;
    $("trace-at").value = `${topic}/${partition}/${offset}`;
    try {
      const answer = await fetch(`v1/admin/trace/${encodeURIComponent(topic)}/${encodeURIComponent(partition)}/${encodeURIComponent(offset)}`);
      const body = await answer.json();
      if (answer.ok) this.draw(body);
      else if (body.code === "unknown_topic") this.say(`There is no topic ${topic} here.`);
      else this.say(body.message ? `${body.field ?? body.code}: ${body.message}` : `not known (${answer.status})`);
    } catch {
      this.say("The gateway does not answer.");
    }
  }

  say(text) { $("trace-result").replaceChildren(el("p", { class: "hint", text })); }

  draw(t) {
    const known = stages.filter(([k]) => t.hops[k]).map(([k, name]) => ({ k, name, at: t.hops[k] / 1000 }));
    const parts = [this.facts(t)];
    if (known.length) parts.push(this.picture(known), this.table(t, known));
    if (t.nodes?.length) parts.push(this.nodes(t));
    for (const note of t.notes ?? []) parts.push(el("p", { class: "hint", text: note }));
    $("trace-result").replaceChildren(...parts);
  }

  facts(t) {
    const s = t.sessions;
    const list = [["Event", `${t.topic}/${t.partition}/${t.offset}`], ["Key", t.key ?? "–"], ["Time of the event", t.ts ? clock(t.ts, true) : "–"],
      ["Came by", { fanout: "the fan-out", kafka: "Kafka, around the fan-out" }[t.via] ?? "not known"],
      ["Node", t.node], ["Late at its first session", t.late_us === undefined ? "–" : duration(t.late_us / 1000)],
      ["Passed by", s ? `${int(s.passed)} of ${int(s.matching)} open sessions` : "–"]];
    if (s?.waiting) list.push(["Not yet at it", int(s.waiting)]);
    if (s?.unknown) list.push(["Did not answer", int(s.unknown)]);
    return el("dl", { class: "facts wide" }, ...list.map(([k, v]) => el("div", {}, el("dt", { text: k }), el("dd", { text: v }))));
  }

  // nodes lists to whom the fan-out sent it, as Kafka's delivery topics tell.
  nodes(t) {
    const from = t.hops.accepted, after = (at) => (at && from ? `+${duration((at - from) / 1000)}` : "–");
    const heads = [["To gateway", ""], ["Process", ""], ["By fan-out", ""], ["Read", "n"], ["Written", "n"], ["Written at", ""]];
    return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Gateways that it was sent to" },
      el("h3", { text: `Sent to ${t.nodes.length === 1 ? "one gateway" : `${int(t.nodes.length)} gateways`}, by Kafka's delivery topics` }),
      el("table", { class: "lined nodes" }, el("thead", {}, el("tr", {}, ...heads.map(([text, c]) => el("th", { scope: "col", class: c, text })))),
        el("tbody", {}, ...t.nodes.map((n) => el("tr", {}, el("th", { scope: "row", text: n.node === t.node ? `${n.node} (this one)` : n.node }), el("td", { class: "mono", text: n.incarnation }),
          el("td", { text: n.fanout }), el("td", { class: "n", text: after(n.read) }), el("td", { class: "n", text: after(n.batched) }), el("td", { class: "mono", text: micros(n.batched) }))))));
  }

  // picture draws the hops on one line of time.
  picture(known) {
    const from = known[0].at, to = known.at(-1).at, span = Math.max(to - from, 0.01);
    const w = 900, left = 250, right = 90, row = 30;
    const x = (at) => left + (w - left - right) * (at - from) / span;
    const root = svg("svg", { viewBox: `0 0 ${w} ${known.length * row + 8}`, class: "waterfall", role: "img", "aria-label": "Hops of the event" });
    for (const [i, h] of known.entries()) {
      const y = 8 + i * row, prev = i ? known[i - 1].at : h.at;
      root.append(svg("text", { x: left - 14, y: y + 15, "text-anchor": "end", class: "what" }, h.name),
        svg("line", { x1: left, x2: w - right, y1: y + 10, y2: y + 10, class: "rail" }),
        svg("rect", { x: Math.min(x(prev), x(h.at)), y: y + 5, width: Math.max(3, Math.abs(x(h.at) - x(prev))), height: 10, rx: 2, class: `c${i}` }),
        svg("text", { x: w - right + 10, y: y + 15, class: "figure" }, i ? `+${duration(h.at - from)}` : "0"));
    }
    return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Hops, drawn" }, root);
  }

  table(t, known) {
    return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Hops" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Hop" }), el("th", { scope: "col", class: "n", text: "After the first" }), el("th", { scope: "col", class: "n", text: "After the hop before" }), el("th", { scope: "col", text: "At" }))),
      el("tbody", {}, ...known.map((h, i) => el("tr", {}, el("th", { scope: "row", text: h.name }), el("td", { class: "n", text: i ? `+${duration(h.at - known[0].at)}` : "0" }),
        el("td", { class: "n", text: i ? duration(h.at - known[i - 1].at) : "–" }), el("td", { class: "mono", text: micros(t.hops[h.k]) }))))));
  }
}
