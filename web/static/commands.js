// Commands that show elsewhere exactly what is on screen.
import { $, el, set } from "./fmt.js";

const sh = (s) => `'${s.replaceAll("'", "'\\''")}'`;
const js = (v) => JSON.stringify(v);

function here() {
  const base = document.baseURI.replace(/#.*$/, "").replace(/[^/]*$/, "");
  return { http: base, ws: base.replace(/^http/, "ws") + "ws" };
}

// short is `from` as the command line and the query string take it.
function short(from) {
  if (typeof from === "string") return from;
  if (from.last) return `last:${from.last}`;
  return new Date(from.time).toISOString();
}

const tabs = {
  curl({ topic, keys, from }) {
    const q = new URLSearchParams({ format: "ndjson" });
    for (const k of keys) q.append("key", k);
    if (from !== "live") q.set("from", short(from));
    return `curl -N ${sh(`${here().http}v1/topics/${encodeURIComponent(topic)}/events?${q}`)}`;
  },
  wscat({ topic, keys, from }) {
    const cmd = { cmd: "sub", id: 1, topic };
    if (keys.length) cmd.keys = keys;
    if (from !== "live") cmd.from = from.time ? { time: new Date(from.time).toISOString() } : from;
    return `wscat -c ${here().ws} -w 3600 -x ${sh(js(cmd))}`;
  },
  "tapecast sub"({ topic, keys, from }) {
    const url = here().ws === "ws://127.0.0.1:8080/ws" ? "" : ` --url ${here().ws}`;
    return `tapecast sub ${sh(topic)}${keys.map((k) => ` --key ${sh(k)}`).join("")}${from === "live" ? "" : ` --from ${short(from)}`}${url}`
      .replace(/'([\w.:-]+)'/g, "$1");
  },
  JavaScript({ topic, keys, from }) {
    const o = [];
    if (keys.length) o.push(`keys: ${js(keys)}`);
    if (from !== "live") o.push(`from: ${from.time ? `{ time: ${js(new Date(from.time).toISOString())} }` : js(from)}`);
    return `import { Client } from "tapecast"

const client = new Client(${js(here().ws)})
for await (const frame of client.subscribe(${js(topic)}, { ${o.join(", ")} })) {
  if (frame.kind === "data") console.log(frame.offset, frame.key, frame.data)
}`.replace("{  }", "{}");
  },
  Go({ topic, keys, from }) {
    const o = [];
    if (keys.length) o.push(`Keys: []string{${keys.map(js).join(", ")}}`);
    if (from.last) o.push(`From: client.Last(${from.last})`);
    else if (from.time) o.push(`From: client.Time(time.UnixMilli(${Math.floor(from.time)}))`);
    return `c, err := client.Dial(ctx, client.Options{URLs: []string{${js(here().ws)}}})
if err != nil {
	return err
}
defer c.Close()
sub, err := c.Subscribe(ctx, ${js(topic)}, client.SubscribeOptions{${o.join(", ")}})
if err != nil {
	return err
}
for event, err := range client.Events[json.RawMessage](ctx, sub) {
	if err != nil {
		return err
	}
	fmt.Println(event.Offset, event.Key, string(event.Data))
}`;
  },
};

export class Commands {
  constructor() {
    this.what = null;
    this.chosen = 0;
    this.buttons = Object.keys(tabs).map((name, i) => el("button", {
      type: "button", role: "tab", id: `copy-tab-${i}`, "aria-controls": "copy-panel", text: name,
      onclick: () => this.choose(i),
      onkeydown: (e) => {
        const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: this.buttons.length - 1 }[e.key];
        if (to === undefined) return;
        e.preventDefault();
        this.choose((to + this.buttons.length) % this.buttons.length);
        this.buttons[this.chosen].focus();
      },
    }));
    $("copy-tabs").append(...this.buttons);
    $("copy-button").addEventListener("click", () => this.copy());
    this.choose(0);
  }

  choose(i) {
    this.chosen = i;
    for (const [j, b] of this.buttons.entries()) {
      b.setAttribute("aria-selected", String(i === j));
      b.tabIndex = i === j ? 0 : -1;
    }
    $("copy-panel").setAttribute("aria-labelledby", `copy-tab-${i}`);
    this.show(this.what);
  }

  // show takes topic, keys and from of what is on screen.
  show(what) {
    this.what = what;
    if (what?.topic) set($("copy-code"), Object.values(tabs)[this.chosen](what));
  }

  async copy() {
    const button = $("copy-button");
    try {
      await navigator.clipboard.writeText($("copy-code").textContent);
      set(button, "Copied");
    } catch { // no clipboard here: select it, so that a key does it
      getSelection().selectAllChildren($("copy-code"));
      set(button, "Selected");
    }
    setTimeout(() => set(button, "Copy"), 1500);
  }
}
