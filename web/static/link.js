// The connection: the client library with one subscription at a time. It
// reconnects, resumes and checks; this says to the console what it does.
import { Client } from "./tapecast.js";

export class Link {
  // onFrame gets data frames, control frames with their kind as `event`, and
  // the link's own {event: "lost"|"resumed"|"error"}; onState a word and a text.
  constructor({ onFrame, onState }) {
    this.onFrame = onFrame;
    this.onState = onState;
    this.sub = null;
    this.counts = this.nothing();
  }

  nothing() { return { events: 0, gaps: 0, doubled: 0, resumed: 0 }; }

  // next is the next offset by partition.
  get next() { return this.sub?.position?.offsets ?? {}; }

  // start forgets what was, and subscribes. wish: topic, keys, from, until.
  start(wish) {
    this.stop();
    this.leg(wish);
  }

  stop() {
    this.sub?.close();
    this.sub = null;
    this.counts = this.nothing();
  }

  // leg subscribes anew; with from "held" it goes on from where the last one stands.
  leg({ topic, keys, from, until }) {
    const held = this.sub?.position;
    this.sub?.close();
    if (!this.client || this.client.error) this.connect();
    let acked = false;
    const sub = this.client.subscribe(topic, {
      keys: keys?.length ? keys : undefined, from: from === "held" ? held : from, until,
      onframe: (f, s) => {
        if (s !== this.sub) return;
        if (f.kind === "data") this.counts.events++;
        else if (!this.control(f, acked)) return;
        acked = true;
        if (f.kind !== "subscribed") this.onFrame(f);
      },
      onclose: (e, s) => {
        if (s !== this.sub || e.code === "end" || e.code === "closed") return;
        this.onFrame({ event: "error", message: e.message });
        this.onState("bad", e.message);
      },
    });
    this.sub = sub;
  }

  // control counts, and tells whether the frame is for the screen.
  control(f, again) {
    if (f.kind === "heartbeat") return false;
    if (f.kind === "gap") this.counts.gaps++;
    if (f.kind === "subscribed" && again) {
      this.counts.resumed++;
      this.onFrame({ event: "resumed", resume: f.resume, from: f.from });
    }
    f.event = f.kind;
    return true;
  }

  connect() {
    const url = new URL("ws", document.baseURI.replace(/#.*$/, ""));
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    let up = false;
    this.client = new Client(url.href, {
      maxBackoff: 8000,
      onstate: (s) => {
        if (up && s.phase === "waiting" && this.sub?.position) this.onFrame({ event: "lost" });
        up = s.phase === "connected";
        if (up) this.onState("on", "connected");
        else if (s.phase === "waiting") this.onState("wait", `reconnecting in ${Math.max(1, Math.round(s.wait / 1000))} s`);
        else if (s.phase === "closed") this.onState("bad", s.error.message);
        else this.onState("wait", "connecting");
      },
      onviolation: (v) => {
        if (v.kind === "order") this.counts.doubled++;
        else this.onFrame({ event: "error", message: `${v.kind}: the feed broke its promise at ${v.partition}:${v.offset}` });
      },
    });
  }
}
