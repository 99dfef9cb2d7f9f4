// The player stands between the connection and the screen. Live, everything
// passes. In a replay it fetches the past in legs, each with an end, so that no
// more is in memory than is played soon, and releases events by their own time,
// scaled. The last leg has no end: the server hands over to the live edge in it,
// and where it says so the player marks the moment.

const legEvents = 20000;    // about that many are fetched ahead
const livelag = 2000;       // ms: a leg that ends later than that before now needs no end
const quiet = 1500;         // ms on screen without an event, after which a replay jumps to the next one

export class Player {
  constructor(link) {
    this.link = link;
    this.speed = 10;
    this.reset();
  }

  reset() {
    this.mode = "live";
    this.parts = new Map(); // partition -> events that wait, with their place in the order of arrival
    this.marks = [];        // control frames, which wait for what came before them
    this.seq = 0;
    this.size = 0;
    this.loaded = this.newest = 0;
    this.clockAt = 0;
    this.open = this.handed = this.over = this.fetching = false;
  }

  stop() {
    this.reset();
    this.link.stop();
  }

  live(topic, keys, last) {
    this.reset();
    this.link.start({ topic, keys, from: last ? { last } : "live" });
  }

  // replay begins at a time (ms) of the events.
  replay(topic, keys, at, speed, perSecond) {
    this.reset();
    this.mode = "replay";
    this.topic = topic;
    this.keys = keys;
    this.speed = speed;
    this.clockAt = at;
    this.clockSet = performance.now();
    this.legTo = at;
    this.legLength = Math.max(2000, Math.min(60000, 4000 * speed, 1000 * legEvents / Math.max(1, perSecond || 100)));
    this.fetch({ time: Math.floor(at) });
  }

  fetch(from) {
    const wish = { topic: this.topic, keys: this.keys, from };
    this.legTo += this.legLength;
    this.legCount = 0;
    this.open = Date.now() - this.legTo < livelag;
    if (!this.open) wish.until = { time: Math.floor(this.legTo) };
    this.fetching = true;
    if (from === "held") this.link.leg(wish);
    else this.link.start(wish);
  }

  faster(speed) { this.speed = speed; }

  // clock is the time of the events that is on screen.
  clock() { return this.mode === "replay" ? this.clockAt : Date.now(); }

  // advance moves the clock on, but not beyond what has been fetched.
  advance(now) {
    const to = this.clockAt + Math.max(0, now - this.clockSet) * this.speed;
    this.clockSet = now;
    if (this.open) this.loaded = this.handed ? Date.now() : Math.max(this.loaded, this.newest);
    this.clockAt = Math.max(this.clockAt, Math.min(to, this.loaded));
  }

  push(f) {
    f.seq = ++this.seq;
    if (f.event !== undefined) {
      this.control(f);
      this.marks.push(f);
      return;
    }
    this.size++;
    this.legCount++;
    if (f.ts > this.newest) this.newest = f.ts;
    const p = f.partition ?? 0;
    let q = this.parts.get(p);
    if (!q) this.parts.set(p, q = { items: [], head: 0 });
    q.items.push(f);
  }

  control(f) {
    if (this.mode !== "replay") return;
    if (f.event === "end") {
      this.fetching = false;
      this.loaded = this.legTo;
      if (this.legCount === 0) this.legLength *= 4; // nothing happened then
      else this.legLength = Math.max(1000, Math.min(this.legLength * 2, this.legLength * legEvents / this.legCount, 8000 * this.speed));
    } else if (f.event === "live" && this.open) this.handed = true;
  }

  // due returns what is to be shown now.
  due(now = performance.now()) {
    const out = [];
    if (this.mode === "live") {
      this.release(out, Infinity);
      return out;
    }
    this.advance(now);
    this.release(out, this.clockAt);
    this.jump();
    if (!this.fetching && !this.open && this.loaded - this.clockAt < this.legLength / 2) this.fetch("held");
    if (this.over) {
      this.mode = "live";
      this.over = false;
      this.release(out, Infinity);
    }
    return out;
  }

  // jump skips a stretch in which nothing happened.
  jump() {
    const next = this.head();
    if (next) {
      if ((next.ts - this.clockAt) / this.speed > quiet) this.clockAt = next.ts;
    } else if (!this.fetching && !this.open) this.clockAt = Math.max(this.clockAt, this.loaded);
  }

  head() {
    let best = null;
    for (const q of this.parts.values()) {
      const f = q.items[q.head];
      if (f && (!best || f.ts < best.ts)) best = f;
    }
    return best;
  }

  lowest() {
    let low = Infinity;
    for (const q of this.parts.values()) if (q.head < q.items.length) low = Math.min(low, q.items[q.head].seq);
    return low;
  }

  release(out, until) {
    for (;;) {
      if (this.marks.length && this.marks[0].seq < this.lowest()) {
        const m = this.marks.shift();
        if (m.event === "live" && this.mode === "replay") {
          this.over = true;
          m.handover = true;
          out.push(m);
          return;
        }
        out.push(m);
        continue;
      }
      let best = null;
      for (const q of this.parts.values()) {
        const f = q.items[q.head];
        if (f && (!best || f.ts < best.items[best.head].ts)) best = q;
      }
      if (!best || best.items[best.head].ts > until) return;
      out.push(best.items[best.head++]);
      this.size--;
      if (best.head > 1024 && best.head * 2 > best.items.length) {
        best.items.splice(0, best.head);
        best.head = 0;
      }
    }
  }
}
