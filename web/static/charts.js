// The charts: uPlot over a Series. One key in focus is shown by its value, with
// its spread; several by their change since the left edge, in percent.
import { $, clock, percent, price, rate, set } from "./fmt.js";
import { slices } from "./series.js";

const most = 8; // lines

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Charts {
  constructor() {
    this.marks = []; // {at, kind, text}, by the time of the events
    this.plots = [];
    this.shape = "";
    new ResizeObserver(() => this.resize()).observe($("charts"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
  }

  restyle() { this.shape = ""; }

  clear() {
    this.marks = [];
    this.shape = "";
  }

  mark(at, kind, text) {
    this.marks.push({ at, kind, text });
    if (this.marks.length > 64) this.marks.shift();
  }

  // draw shows a series: the axis goes to a moment, the lines to what is shown
  // by now. focus is a key's name, or null.
  draw(series, { to: until, shown }, span, focus) {
    const keys = this.choose(series, focus);
    const single = keys.length === 1;
    const spread = single && series.spreads;
    const shape = `${single}|${spread}|${keys.map((k) => k.name).join("\n")}`;
    if (shape !== this.shape) this.build(shape, keys, single, spread);
    const { head, x } = series.axis(until, shown);
    const lines = keys.map((k) => {
      if (single) return series.line(k, head, "value");
      let base = null;
      return series.line(k, head, "value", (v) => { base ??= v; return (v / base - 1) * 100; });
    });
    if (!lines.length) lines.push(new Array(slices).fill(null));
    this.set(this.price, [x, ...lines], until, span);
    if (spread) this.set(this.spread, [x, series.line(keys[0], head, "spread")], until, span);
    this.set(this.rate, [x, series.rates(head)], until, span);
  }

  // choose is the key in focus, or the busiest; they keep their place, so that colours stay.
  choose(series, focus) {
    const one = focus !== null && series.keys.get(focus);
    if (one) return [one];
    const now = performance.now();
    if (!this.chosen || this.chosenOf !== series || now - this.chosenAt > 3000 || this.chosen.length < Math.min(most, series.keys.size)) {
      const busy = [...series.keys.values()].filter((k) => Number.isFinite(k.last)).sort((a, b) => b.events - a.events).slice(0, most);
      const old = this.chosenOf === series ? this.chosen.filter((k) => busy.includes(k)) : [];
      this.chosen = [...old, ...busy.filter((k) => !old.includes(k)).sort((a, b) => (a.name < b.name ? -1 : 1))];
      this.chosenOf = series;
      this.chosenAt = now;
    }
    return this.chosen;
  }

  color(name) {
    const i = this.names?.indexOf(name) ?? -1;
    return i < 0 ? -1 : i;
  }

  set(u, data, until, span) {
    u.batch(() => {
      u.setData(data, false);
      u.setScale("x", { min: until / 1000 - span, max: until / 1000 });
    });
  }

  build(shape, keys, single, spread) {
    for (const u of this.plots) u.destroy();
    this.shape = shape;
    this.names = keys.map((k) => k.name);
    $("chart-spread").hidden = !spread;
    const sync = { key: "feed" };
    const axis = { stroke: css("--muted"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const base = (host, height, fmt, bottom, series) => new uPlot({
      width: this.width(), height, padding: [8, 2, bottom ? 0 : 2, 2],
      cursor: { sync, y: false, drag: { x: false, y: false }, points: { show: false } },
      legend: { show: false },
      scales: { x: { time: true }, y: { range: (u, min, max) => this.range(min, max, host.id === "chart-rate") } },
      axes: [
        { ...axis, show: bottom, size: 22, space: 72, values: (u, vs, i, space, step) => vs.map((v) => (step >= 60 ? clock(v * 1000).slice(0, 5) : clock(v * 1000))) },
        { ...axis, side: 1, size: 64, gap: 6, space: 34, values: (u, vs) => vs.map(fmt) },
      ],
      series: [{}, ...series],
      hooks: { draw: [(u) => this.annotate(u, host.id === "chart-price")] },
    }, Array.from({ length: series.length + 1 }, () => []), host);
    const stepped = uPlot.paths.stepped({ align: 1 });
    const line = (i, fill) => ({ stroke: css(`--c${i}`), width: 1.5, fill, paths: stepped, points: { show: false } });
    this.price = base($("chart-price"), this.tall(spread), single ? price : (v) => percent(v), false,
      keys.length ? keys.map((k, i) => line(i, single ? css("--c0-fill") : undefined)) : [line(0)]);
    this.plots = [this.price];
    if (spread) this.plots.push(this.spread = base($("chart-spread"), 84, price, false, [line(3)]));
    this.plots.push(this.rate = base($("chart-rate"), 104, (v) => rate(v), true,
      [{ stroke: css("--muted"), width: 1, fill: css("--rate-fill"), points: { show: false } }]));
    set($("caption-price"), single ? (spread ? "mid" : "value") : "change since the left edge");
    for (const u of this.plots) u.over.parentElement.setAttribute("aria-hidden", "true");
    this.values = keys.length;
  }

  range(min, max, zero) {
    if (!Number.isFinite(min) || !Number.isFinite(max)) return [0, 1];
    if (zero) return [0, Math.max(1, max * 1.15)];
    const pad = max > min ? (max - min) * 0.1 : Math.abs(max) * 0.001 || 1;
    return [min - pad, max + pad];
  }

  width() { return Math.max(220, Math.floor($("charts").clientWidth)); }

  tall(spread) { return Math.max(180, Math.floor($("charts").clientHeight) - 104 - (spread ? 84 : 0) - 2); }

  resize() {
    if (!this.plots.length || !$("charts").clientWidth) return;
    const width = this.width(), tall = this.tall(!$("chart-spread").hidden);
    for (const u of this.plots) {
      const height = u === this.price ? tall : u.height;
      if (u.width !== width || u.height !== height) u.setSize({ width, height });
    }
  }

  // annotate draws the moments: hand-over, lost and resumed connections, gaps.
  annotate(u, words) {
    const { ctx, bbox } = u;
    const dpr = devicePixelRatio || 1;
    for (const m of this.marks) {
      const at = m.at / 1000;
      if (at < u.scales.x.min || at > u.scales.x.max) continue;
      const x = Math.round(u.valToPos(at, "x", true)) + 0.5;
      const color = css({ live: "--good", gap: "--bad", lost: "--warn", resumed: "--accent", start: "--muted" }[m.kind] ?? "--muted");
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = color;
      ctx.lineWidth = dpr;
      if (m.kind !== "live") ctx.setLineDash([3 * dpr, 3 * dpr]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (words) {
        ctx.font = `600 ${11 * dpr}px system-ui, sans-serif`;
        const w = ctx.measureText(m.text).width;
        const left = x + w + 10 * dpr > bbox.left + bbox.width;
        ctx.textAlign = left ? "right" : "left";
        ctx.fillText(m.text, x + (left ? -5 : 5) * dpr, bbox.top + 12 * dpr);
      }
      ctx.restore();
    }
  }
}
