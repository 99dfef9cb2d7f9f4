// The console: which view is shown, the theme, the state of the connection.
import { $, decoded, set } from "./fmt.js";
import { Feed } from "./feed.js";
import { Flow } from "./flow.js";
import { Sessions } from "./sessions.js";
import { Trace } from "./trace.js";

const themes = ["system", "light", "dark"];

function state(word, text) {
  $("conn").dataset.state = word;
  set($("conn-text"), text);
}

function theme(views) {
  const button = $("theme");
  const show = () => {
    const t = document.documentElement.dataset.theme ?? "system";
    button.setAttribute("aria-label", `Theme: ${t}`);
    button.title = `Theme: ${t}`;
    set(button, { system: "◐", light: "☀", dark: "☾" }[t]);
  };
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = themes[(themes.indexOf(now) + 1) % themes.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try { localStorage.setItem("tapecast.theme", next); } catch { /* storage is off */ }
    views.feed?.charts.restyle();
    show();
  });
  show();
}

function router(views) {
  const names = Object.keys(views);
  let shown = "";
  const go = () => {
    const [name, ...rest] = location.hash.slice(1).split("/");
    const to = views[name] ? name : names[0];
    if (to !== shown) {
      for (const n of names) {
        $(`view-${n}`).hidden = n !== to;
        document.querySelector(`nav [data-view="${n}"]`).toggleAttribute("aria-current", n === to);
        if (n === to) document.querySelector(`nav [data-view="${n}"]`).setAttribute("aria-current", "page");
      }
      views[shown]?.hide?.();
      shown = to;
      document.title = `tapecast · ${to}`;
      views[to].show?.();
    }
    if (to === name) views[to].route?.(rest.map(decoded));
  };
  addEventListener("hashchange", go);
  go();
}

async function begin() {
  let parts = { feed: true, operator: false };
  try {
    parts = await (await fetch("console.json")).json();
  } catch { /* the feed alone */ }
  const views = {};
  if (parts.feed) views.feed = new Feed({ operator: parts.operator, onState: state });
  if (parts.operator) Object.assign(views, { flow: new Flow(parts.feed), sessions: new Sessions(), trace: new Trace(parts.feed) });
  for (const n of ["feed", "flow", "sessions", "trace"]) {
    const link = document.querySelector(`nav [data-view="${n}"]`);
    link.hidden = !views[n];
  }
  $("conn").hidden = !parts.feed;
  theme(views);
  router(views);
}

begin();
