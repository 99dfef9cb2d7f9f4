// The page keeps what a client has to keep: the position after the last frame
// it has handled, per partition. After a reconnect it asks for what follows.
"use strict";

const $ = (id) => document.getElementById(id);
const kept = 200;

let ws = null;          // the open connection, or null
let wish = null;        // the sub command as the user wished it; null = nothing
let next = {};          // next offset by partition
let epoch = "";
let acked = false;
let tries = 0;
let timer = 0;
let events = 0, shown = 0, resumes = 0;
let queue = [];

const say = (text) => { $("status").textContent = text; };

async function loadTopics() {
  try {
    const answer = await fetch("v1/topics");
    const body = await answer.json();
    $("topics").replaceChildren(...body.topics.map((t) => {
      const o = document.createElement("option");
      o.value = t.name;
      return o;
    }));
    if (!$("topic").value && body.topics.length > 0) $("topic").value = body.topics[0].name;
  } catch {
    say("the list of topics cannot be read");
  }
}

function fromForm() {
  const at = $("at").value.trim();
  switch ($("from").value) {
    case "last": return { last: 100 };
    case "earliest": return "earliest";
    case "time": return { time: /^\d+$/.test(at) ? Number(at) : at };
    case "offset": return { offset: /^\d+$/.test(at) ? Number(at) : at };
  }
  return "live";
}

function readForm() {
  const cmd = { cmd: "sub", id: 1, topic: $("topic").value.trim() };
  const keys = $("keys").value.split(",").map((k) => k.trim()).filter((k) => k !== "");
  if (keys.length > 0) cmd.keys = keys;
  if ($("mode").value !== "all") cmd.mode = $("mode").value;
  if (cmd.mode !== "snapshot") cmd.from = fromForm();
  return cmd;
}

// command is the wish, or, where something was received already, its continuation.
function command() {
  if (!acked || Object.keys(next).length === 0) return wish;
  const cmd = { ...wish, from: { offsets: next } };
  if (epoch) cmd.from.epoch = epoch;
  if (cmd.mode === "snapshot") delete cmd.mode;
  return cmd;
}

function connect() {
  clearTimeout(timer);
  const url = new URL("ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url);
  ws = socket;
  say("connecting");
  socket.onopen = () => {
    tries = 0;
    if (acked) resumes++;
    say("connected");
    socket.send(JSON.stringify(command()));
    buttons();
  };
  socket.onmessage = (m) => { if (ws === socket) take(m.data); };
  socket.onclose = (e) => {
    if (ws !== socket) return;
    ws = null;
    buttons();
    if (!wish) { say("stopped"); return; }
    if (e.code >= 4500) { wish = null; buttons(); say(`closed by the server (${e.code})`); return; }
    const wait = Math.min(15000, 250 * 2 ** tries++) * (0.5 + Math.random() / 2);
    say(`disconnected (${e.code}); again in ${Math.ceil(wait / 1000)} s`);
    timer = setTimeout(connect, wait);
  };
}

function take(text) {
  const f = JSON.parse(text);
  let kind = "control";
  if (!f.event) {
    kind = "";
    events++;
    const p = f.partition ?? 0;
    if (!f.snapshot && !f.latest) next[p] = f.offset + 1;
  } else {
    kind += takeControl(f);
  }
  queue.push([text, kind]);
  if (queue.length > kept) queue.shift();
}

function takeControl(f) {
  switch (f.event) {
    case "subscribed":
      acked = f.mode !== "snapshot";
      epoch = f.epoch;
      next = { ...f.from };
      break;
    case "live":
      acked = true;
      break;
    case "reset":
      epoch = f.epoch;
      next = { ...f.from };
      break;
    case "gap":
      next[f.partition] = f.to;
      return " gap";
    case "heartbeat":
      if (f.covered["1"]) Object.assign(next, f.covered["1"]);
      break;
    case "error":
      say(f.message);
      if (!f.retry) { wish = null; buttons(); } else if (ws) ws.close();
      return " error";
    case "end":
      wish = null;
      say("the end was reached");
      buttons();
  }
  return "";
}

// draw shows at each animation frame what has come, so that a busy feed costs
// the page no more than a quiet one.
function draw() {
  if (queue.length > 0) {
    const list = $("frames");
    const items = queue.map(([text, kind]) => {
      const li = document.createElement("li");
      li.className = kind;
      li.textContent = text;
      return li;
    });
    list.prepend(...items.reverse());
    while (list.children.length > kept) list.lastChild.remove();
    queue = [];
    $("count").textContent = events.toLocaleString();
    $("resumed").textContent = String(resumes);
    $("covered").textContent = JSON.stringify(next);
  }
  requestAnimationFrame(draw);
}

function buttons() {
  $("stop").disabled = !wish;
  $("drop").disabled = !ws;
}

function stop() {
  wish = null;
  clearTimeout(timer);
  if (ws) ws.close();
  else say("stopped");
  buttons();
}

$("form").addEventListener("submit", (e) => {
  e.preventDefault();
  wish = readForm();
  next = {};
  acked = false;
  tries = 0;
  const old = ws;
  ws = null;
  if (old) old.close();
  connect();
  buttons();
});
$("stop").addEventListener("click", stop);
$("drop").addEventListener("click", () => { if (ws) ws.close(); });
$("clear").addEventListener("click", () => {
  $("frames").replaceChildren();
  queue = [];
  events = 0;
  shown = 0;
  $("count").textContent = "0";
});
$("from").addEventListener("change", () => { $("at").disabled = !["time", "offset"].includes($("from").value); });
$("mode").addEventListener("change", () => { $("from").disabled = $("mode").value === "snapshot"; });
setInterval(() => {
  $("rate").textContent = (events - shown).toLocaleString();
  shown = events;
}, 1000);
requestAnimationFrame(draw);
loadTopics();
setInterval(loadTopics, 10000);
