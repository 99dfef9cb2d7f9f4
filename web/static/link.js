// The connection: one WebSocket with one subscription on it. It keeps what a
// client has to keep, the next offset of each partition, and after a lost
// connection asks for exactly what follows. What it hands on is in order, once,
// and says itself where something is missing.

const firstWait = 250, longestWait = 8000;

export class Link {
  // onFrame gets frames, and the link's own {event: "lost"|"resumed"}; onState a word and a text.
  constructor({ onFrame, onState }) {
    this.onFrame = onFrame;
    this.onState = onState;
    this.ws = null;
    this.wish = null;
    this.legs = 0;
    this.counts = { events: 0, gaps: 0, doubled: 0, resumed: 0 };
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.hurry(); });
  }

  // start forgets what was, and subscribes. wish: topic, keys, from, until.
  start(wish) {
    this.next = {};
    this.epoch = "";
    this.counts = { events: 0, gaps: 0, doubled: 0, resumed: 0 };
    this.leg(wish);
  }

  // leg goes on from the held position with another end: positions are kept.
  leg(wish) {
    const old = this.wish ? this.legs : 0;
    this.wish = { ...wish };
    this.acked = false;
    this.until = null;
    this.legs++;
    this.tries = 0;
    if (this.ws?.readyState === WebSocket.OPEN) {
      if (old && !this.ended) this.send({ cmd: "unsub", id: old });
      this.send(this.command());
    } else if (!this.ws) this.connect();
    this.ended = false;
  }

  // command is the wish or, where its beginning was answered, its continuation.
  command() {
    const { topic, keys, from, until } = this.wish;
    const cmd = { cmd: "sub", id: this.legs, topic };
    if (keys?.length) cmd.keys = keys;
    cmd.from = from === "held" || this.acked ? this.held() : from;
    if (this.until) cmd.until = { offsets: this.until };
    else if (until) cmd.until = until;
    return cmd;
  }

  held() {
    const from = { offsets: { ...this.next } };
    if (this.epoch) from.epoch = this.epoch;
    return from;
  }

  send(cmd) { this.ws.send(JSON.stringify(cmd)); }

  connect() {
    clearTimeout(this.timer);
    const url = new URL("ws", document.baseURI.replace(/#.*$/, ""));
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const ws = new WebSocket(url, "tapecast.json.batch");
    this.ws = ws;
    this.onState("wait", "connecting");
    ws.onopen = () => { if (this.ws === ws) this.opened(); };
    ws.onmessage = (m) => {
      if (this.ws !== ws) return;
      for (const line of m.data.split("\n")) if (line) this.take(JSON.parse(line));
    };
    ws.onclose = (e) => { if (this.ws === ws) this.closed(e); };
  }

  opened() {
    this.tries = 0;
    this.onState("on", "connected");
    if (!this.wish || this.ended) return;
    this.resuming = this.acked;
    this.send(this.command());
  }

  closed(e) {
    this.ws = null;
    if (!this.wish) { this.onState("off", "not connected"); return; }
    if (e.code >= 4500) { this.wish = null; this.onState("bad", `closed by the server (${e.code})`); return; }
    if (this.acked) this.onFrame({ event: "lost", code: e.code });
    const bounds = this.byeWait;
    this.byeWait = null;
    const wait = bounds ? bounds[0] + Math.random() * (bounds[1] - bounds[0])
      : Math.min(longestWait, firstWait * 2 ** this.tries) * (0.5 + Math.random() / 2);
    this.tries++;
    this.onState("wait", `reconnecting in ${Math.max(1, Math.round(wait / 1000))} s`);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  // hurry ends a wait: the machine is awake, or on line, again.
  hurry() {
    if (this.wish && !this.ws) { this.tries = 0; this.connect(); }
  }

  take(f) {
    if (f.event === undefined) return this.data(f);
    switch (f.event) {
      case "subscribed": return this.subscribed(f);
      case "heartbeat": {
        const covered = f.covered?.[String(this.legs)];
        if (covered) this.advance(covered);
        return;
      }
      case "bye": this.byeWait = f.wait_ms; return;
      case "error": return this.failed(f);
    }
    if (f.id !== this.legs) return;
    switch (f.event) {
      case "gap":
        this.counts.gaps++;
        if (f.cause !== "epoch") this.advance({ [f.partition]: f.to });
        break;
      case "reset":
        this.epoch = f.epoch;
        this.next = { ...f.from };
        break;
      case "end":
        this.advance(f.at);
        this.ended = true;
        break;
    }
    this.onFrame(f);
  }

  data(f) {
    const p = f.partition ?? 0;
    // Frames of a subscription that was just left may still be on their way.
    if (!this.acked || this.ended) return;
    if (f.offset < (this.next[p] ?? 0)) { this.counts.doubled++; return; }
    this.next[p] = f.offset + 1;
    this.counts.events++;
    this.onFrame(f);
  }

  subscribed(f) {
    if (f.id !== this.legs) return;
    const again = this.resuming;
    this.resuming = false;
    this.acked = true;
    this.epoch = f.epoch;
    if (f.until) this.until = f.until;
    this.next = { ...f.from };
    if (again) {
      this.counts.resumed++;
      this.onFrame({ event: "resumed", resume: f.resume, from: f.from });
    } else this.onFrame(f);
  }

  advance(at) {
    for (const [p, next] of Object.entries(at)) if (next > (this.next[p] ?? 0)) this.next[p] = next;
  }

  failed(f) {
    if (f.id !== undefined && f.id !== this.legs) return;
    if (f.retry) { this.ws?.close(); return; }
    this.wish = null;
    this.onFrame(f);
    this.onState("bad", f.message);
  }
}
