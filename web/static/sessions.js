// The Sessions view: who is slow, who lags, who replays, and why sessions ended.
import { $, bytes, clock, duration, el, int, set } from "./fmt.js";

const every = 2000;
const empty = (columns, text) => el("tr", {}, el("td", { colspan: columns, class: "hint", text }));

export class Sessions {
  constructor() {
    $("sessions-filter").addEventListener("change", () => this.tick());
  }

  show() {
    this.shown = true;
    this.tick();
  }

  hide() {
    this.shown = false;
    clearTimeout(this.timer);
  }

  async tick() {
    clearTimeout(this.timer);
    if (!this.shown) return;
    try {
      const state = $("sessions-filter").querySelector(":checked").value;
      const answer = await fetch(`v1/admin/sessions?limit=100${state ? `&state=${state}` : ""}`);
      if (answer.ok) this.draw(await answer.json());
      else set($("sessions-note"), "cannot be read now");
    } catch {
      set($("sessions-note"), "cannot be read now");
    }
    this.timer = setTimeout(() => this.tick(), every);
  }

  draw(a) {
    const now = a.taken_at;
    set($("sessions-note"), a.sessions.length < a.matching ? `node ${a.node}, the worst ${int(a.sessions.length)} of ${int(a.matching)}` : `node ${a.node}`);
    $("sessions-counts").replaceChildren(...["open", "blocked", "lagging", "replaying", "live", "idle"].map((k) =>
      el("div", { class: a.counts[k] > 0 && (k === "blocked" || k === "lagging") ? "bad" : "" }, el("dt", { text: k }), el("dd", { text: int(a.counts[k] ?? 0) }))));
    const rows = [];
    for (const s of a.sessions) {
      const subs = s.subscriptions?.length ? s.subscriptions : [null];
      for (const [i, sub] of subs.entries()) rows.push(this.row(s, sub, i === 0, now));
    }
    if (!rows.length) rows.push(empty(11, "No session is in this state."));
    $("sessions-rows").replaceChildren(...rows);
    const closed = a.closed ?? [];
    $("closed-rows").replaceChildren(...(closed.length ? [] : [empty(5, "None since the gateway began.")]), ...closed.map((c) => el("tr", {},
      el("td", { text: clock(c.at) }), el("td", {}, el("span", { class: "chip", "data-state": ["slow", "panic", "timeout", "write"].includes(c.reason) ? "warn" : "", text: c.reason })),
      el("td", { text: `${c.transport} ${c.id}` }), el("td", { text: c.remote || "–" }), el("td", { text: duration(c.lasted_ms) }))));
  }

  row(s, sub, first, now) {
    const state = sub ? sub.state : s.state;
    const bad = { blocked: "bad", lagging: "warn", replaying: "info", live: "ok" }[first ? s.state : state] ?? "";
    const at = Object.entries(sub?.at ?? {});
    return el("tr", { class: first ? "first" : "" },
      el("td", {}, el("span", { class: "chip", "data-state": bad, text: first ? s.state : state })),
      el("td", { text: first ? `${s.transport} ${s.id}` : "" }), el("td", { text: first ? s.remote || "–" : "" }),
      el("td", { text: first ? duration(now - s.since) : "" }),
      el("td", { text: sub ? sub.topic : "–" }), el("td", { class: "n", text: sub ? (sub.keys ? int(sub.keys) : "all") : "" }),
      el("td", { text: sub?.mode ?? "" }), el("td", { class: "n", text: sub ? (sub.behind === undefined ? "–" : int(sub.behind)) : "" }),
      el("td", { class: "n", text: sub?.behind_ms > 0 ? duration(sub.behind_ms) : sub ? "–" : "" }),
      el("td", { class: "n", text: first ? bytes(s.buffered_bytes) : "" }),
      el("td", { class: "mono", text: at.slice(0, 6).map(([p, o]) => `${p}:${o}`).join(" ") + (at.length > 6 ? " …" : "") }));
  }
}
