// The page. Texts of other people are inserted as text, never as HTML.

import { Connection } from "./connection.js";
import { ServerMap, svg } from "./map.js";

const PAUSE = 1500; // milliseconds between dropping the connection and reconnecting: others can send meanwhile
const KEPT = 300; // messages on the page
const ROOMS = 16; // the server accepts no more for one person
const COUNTS = {
  clients: "clients here", accepted: "accepted", local: "delivered here", sent_events: "sent", sent_frames: "frames sent",
  received_events: "received", forwarded: "forwarded", duplicates: "duplicates", repaired: "retransmitted",
  waiting_events: "waiting", undeliverable: "undeliverable", missed: "lost for good", dropped: "dropped",
};
const WHY = {
  unreachable: "Redis is unreachable", rolled_back: "Redis lost its latest writes", new_stream: "Redis lost them",
  unknown_position: "this page's place is unknown",
};
const ALARMS = new Set(["missed", "dropped"]);

const $ = (id) => document.getElementById(id);
const map = new ServerMap($("map"));
const page = { servers: {}, node: "", items: new Map() };
let connection;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A server keeps its colour while others go and come back.
const colour = (node) => `s${Math.max(0, [...connection.servers.keys()].sort().indexOf(node)) % 6}`;
const nodeOf = (name) => Object.keys(page.servers).find((node) => name in page.servers[node].clients);
const members = (room) =>
  Object.entries(page.servers).flatMap(([node, { clients }]) =>
    Object.keys(clients).filter((name) => room === null || clients[name].includes(room)).map((name) => ({ name, node })));

// Replaces the children only if they differ, so that focus and screen readers are not disturbed.
function fill(element, key, children) {
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  const focused = element.contains(document.activeElement) && document.activeElement.dataset.id;
  element.replaceChildren(...children());
  if (focused) [...element.querySelectorAll("[data-id]")].find((child) => child.dataset.id === focused)?.focus();
}

function status(state, text) {
  $("map").classList.toggle("dim", state === "off");
  $("status").dataset.state = state;
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
}

function banner(text) {
  $("banner").hidden = !text;
  if ($("banner").textContent !== text) $("banner").textContent = text;
}

// Notes in the messages that a server stopped answering, or answers again.
function noteSilence(before, now) {
  for (const [node, { silent }] of Object.entries(now)) {
    if (silent && before[node]?.silent === false) note(`${node} does not answer: it died or is cut off. Its people reconnect to other servers.`);
    if (!silent && before[node]?.silent) note(`${node} answers again.`);
  }
  for (const [node, { silent }] of Object.entries(before)) if (silent && !now[node]) note(`${node} is gone.`);
}

function show(frame) {
  noteSilence(page.servers, frame.servers);
  page.servers = frame.servers;
  page.node = frame.node;
  const away = frame.bus === "alone" || frame.bus === "disconnected";
  status(away ? "wait" : "on", `${connection.name} in ${connection.workspace}, on ${frame.node}`);
  banner(away ? "Redis is unreachable. People on this server can talk; messages for other servers, and to everyone, wait. The others are shown as last seen." : "");
  map.show(frame.servers, connection.name, frame.node, away, colour);
  $("move").textContent = Object.keys(frame.servers).length > 1 ? "Drop and reconnect elsewhere" : "Drop and reconnect";
  showPeople();
  showRooms();
  showTargets();
  showStats(frame.stats);
}

function showPeople() {
  fill($("people"), JSON.stringify(page.servers), () =>
    Object.entries(page.servers).map(([node, { clients, silent }]) => {
      const chips = Object.keys(clients).sort().map((name) => {
        if (name === connection.name) return make("span", { className: "me", textContent: `${name} (you)` });
        const chip = make("button", { type: "button", textContent: name, onclick: () => target(`person:${name}`) });
        chip.setAttribute("aria-label", `Write to ${name}`);
        chip.dataset.id = name;
        return chip;
      });
      const lamp = make("span", { className: "lamp" });
      const title = make("h3", {}, lamp, `${node} (${silent ? "no answer" : chips.length})`);
      const list = make("div", { className: "chips" }, ...(chips.length ? chips : [make("span", { className: "me", textContent: "empty" })]));
      return make("li", { className: silent ? `${colour(node)} silent` : colour(node) }, title, list);
    }));
}

function rooms() {
  return [...new Set([...connection.rooms, ...Object.values(page.servers).flatMap(({ clients }) => Object.values(clients).flat())])].sort();
}

function showRooms() {
  const shown = rooms().map((room) => [room, connection.rooms.has(room), members(room).map(({ name }) => name).sort()]);
  fill($("rooms"), JSON.stringify(shown), () =>
    shown.map(([room, inside, names]) => {
      const talk = make("button", { type: "button", textContent: `#${room}`, disabled: !inside, onclick: () => target(`room:${room}`) });
      talk.setAttribute("aria-label", `Write to the room ${room}`);
      const move = make("button", { type: "button", textContent: inside ? "Leave" : "Join", onclick: () => (inside ? leave(room) : join(room)) });
      move.setAttribute("aria-label", `${inside ? "Leave" : "Join"} the room ${room}`);
      talk.dataset.id = `talk:${room}`;
      move.dataset.id = `move:${room}`;
      const who = names.length ? `${names.length}: ${names.join(", ")}` : "empty";
      return make("li", {}, talk, make("span", { className: "who", textContent: who, title: who }), move);
    }));
}

function join(room) {
  if (connection.rooms.size >= ROOMS && !connection.rooms.has(room)) return note(`You are in ${ROOMS} rooms; leave one first.`);
  connection.join(room);
  showRooms();
  showTargets();
  target(`room:${room}`);
}

function leave(room) {
  connection.leave(room);
  showRooms();
  showTargets();
}

function showTargets() {
  const people = members(null).filter(({ name }) => name !== connection.name).sort((a, b) => a.name.localeCompare(b.name));
  const mine = [...connection.rooms].sort();
  const chosen = $("to").value;
  const gone = chosen.startsWith("person:") && !people.some(({ name }) => `person:${name}` === chosen);
  if (gone) people.push({ name: chosen.slice(7), node: "away" });
  fill($("to"), JSON.stringify([mine, people]), () => [
    make("option", { value: "workspace:", textContent: `To everyone in ${connection.workspace}` }),
    ...mine.map((room) => make("option", { value: `room:${room}`, textContent: `To the room #${room}` })),
    ...people.map(({ name, node }) => make("option", { value: `person:${name}`, textContent: `To ${name} (${node})` })),
  ]);
  if ([...$("to").options].some(({ value }) => value === chosen)) $("to").value = chosen;
}

function target(value) {
  $("to").value = value;
  $("text").focus();
}

function showStats(stats) {
  $("stats-node").textContent = stats.node;
  if (!$("stats").children.length) {
    $("stats").append(...Object.entries(COUNTS).map(([key, name]) => make("div", { id: `stat-${key}` }, make("dt", { textContent: name }), make("dd"))));
  }
  for (const key of Object.keys(COUNTS)) {
    $(`stat-${key}`).lastChild.textContent = Number(stats[key]).toLocaleString();
    $(`stat-${key}`).classList.toggle("alarm", ALARMS.has(key) && stats[key] > 0);
  }
}

const named = ({ scope, to }) => (scope === "room" ? `#${to}` : scope === "workspace" ? "everyone" : to === connection.name ? "you" : to);

// Adds a message: at the end, or, if it was sent again, at the place of its time.
function add(message) {
  const key = `${message.sender}/${message.id}`; // the server stamps the sender, so one person cannot use another's ids
  const known = page.items.get(key);
  if (known) return known;
  const own = message.sender === connection.name;
  const time = new Date(message.at * 1000);
  const item = make("li", { className: `${own ? "own" : ""} ${colour(message.node)}` },
    make("div", { className: "from" }, make("b", { textContent: own ? "you" : message.sender }),
      make("span", { className: "target", textContent: `to ${named(message)}` }),
      make("time", { dateTime: time.toISOString(), textContent: time.toLocaleTimeString() })),
    make("div", { className: "text", textContent: message.text }),
    make("div", { className: "path" }));
  item.dataset.at = message.at;
  const log = $("messages");
  const low = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const later = message.again ? [...log.children].find((other) => Number(other.dataset.at) > message.at) : null;
  log.insertBefore(item, later ?? null);
  if (log.children.length > KEPT) log.firstChild.remove();
  if (low || own) log.scrollTop = log.scrollHeight;
  page.items.set(key, item);
  if (page.items.size > 2 * KEPT) page.items.delete(page.items.keys().next().value);
  return item;
}

function note(text) {
  const item = make("li", { className: "note", textContent: text });
  item.dataset.at = Date.now() / 1000;
  $("messages").append(item);
  $("messages").scrollTop = $("messages").scrollHeight;
}

function path(item, text, from, to, failed = false) {
  const line = item.querySelector(".path");
  line.classList.toggle("failed", failed);
  const parts = [text];
  if (from) {
    const picture = svg("svg", { width: from === to ? 10 : 40, height: 10, "aria-hidden": "true" });
    const dot = (x, node) => svg("circle", { class: colour(node), cx: x, cy: 5, r: 4, fill: "var(--server)" });
    if (from !== to) picture.append(svg("line", { x1: 5, x2: 35, y1: 5, y2: 5, stroke: "currentColor", "stroke-dasharray": "3 3" }), dot(35, to));
    picture.append(dot(5, from));
    parts.unshift(picture);
  }
  line.replaceChildren(...parts);
}

const words = (from, to, partition) => (from === to ? `local, on ${to}` : `${from} → ${partition} → ${to}`);

function trace(sender, from, receiver, to, partition) {
  map.travel({ name: sender, node: from }, { name: receiver, node: to }, from === to ? null : partition);
  $("trace").textContent = `${sender} to ${receiver}: ${words(from, to, partition)}`;
}

const own = (id) => page.items.get(`${connection.name}/${id}`);

const receivers = {
  state: show,
  message(message) {
    const fresh = !page.items.has(`${message.sender}/${message.id}`);
    const item = add(message);
    if (message.sender === connection.name && message.scope !== "person") return spread(message, item);
    if (fresh) {
      path(item, words(message.node, page.node, message.partition) + (message.again ? ", repeated" : ""), message.node, page.node);
      trace(message.sender, message.node, connection.name, page.node, message.partition);
    }
  },
  accepted({ id }) {
    const item = own(id);
    if (item?.dataset.scope === "person" && !item.dataset.done) path(item, "accepted, on its way");
  },
  delivered({ id, node, partition }) {
    const item = own(id);
    if (!item || item.dataset.done) return;
    item.dataset.done = "yes";
    path(item, `✓ ${words(item.dataset.node, node, partition)}`, item.dataset.node, node);
    trace(connection.name, item.dataset.node, item.dataset.to, node, partition);
  },
  refused({ id, text, later }) {
    const item = own(id);
    if (!item) note(`The server says: ${text}`);
    else path(item, later ? `${text}; retrying` : `Not sent: ${text}`, null, null, !later);
  },
  resumed({ events, missed, reason }) {
    if (reason === "trimmed") note(`${missed} missed: messages to everyone that are not kept any more.`);
    else if (reason) note(`Messages to everyone may be missing: ${WHY[reason]}.`);
    if (events) note(`Resumed ${events}: messages to everyone while you were away.`);
  },
  missed({ count }) {
    note(`${count} messages did not reach this server; the other servers were asked to send them again.`);
  },
};

// The own message to many, back from the bus: each server with a receiver gets it by the topic's lane.
function spread(message, item) {
  if (item.dataset.done) return;
  item.dataset.done = "yes";
  const all = members(message.scope === "room" ? message.to : null).filter(({ name }) => name !== connection.name);
  const nodes = [...new Set(all.map(({ node }) => node))].filter((node) => node !== page.node);
  path(item, nodes.length ? `${page.node} → ${message.partition} → ${nodes.join(", ")}` : `local, on ${page.node}`, page.node, nodes[0] ?? page.node);
  for (const { name, node } of all.slice(0, 12)) trace(connection.name, page.node, name, node, message.partition);
  if (all.length > 1) $("trace").textContent = `${connection.name} to ${named(message)}: ${item.querySelector(".path").textContent}`;
}

function connect(workspace, name, list) {
  const url = location.protocol.replace("http", "ws") + "//" + location.host;
  connection = new Connection(workspace, name, list, url);
  const host = (url) => Object.keys(page.servers).find((node) => page.servers[node].url === url) ?? url.replace(/^wss?:\/\//, "");
  const on = (type, react) => connection.addEventListener(type, ({ detail }) => react(detail));
  on("frame", (frame) => receivers[frame.kind]?.(frame));
  on("connecting", ({ url }) => status("wait", `connecting to ${host(url)}…`));
  on("dropped", ({ url, pause }) => {
    status("off", "not connected");
    banner(`You dropped the connection. Reconnecting to ${host(url)} in ${pause / 1000} s; messages sent to you meanwhile are kept.`);
  });
  on("lost", ({ code, reason, url }) => {
    status("off", "not connected");
    const why = { 1012: "This server is being replaced", 1013: `No connection: ${reason}` };
    banner(`${why[code] ?? "The connection to the server is lost"}. Trying ${host(url)} next.`);
  });
  on("elsewhere", () => end(`${name} is connected in another window now. This one is signed out.`));
  on("refused", ({ reason }) => end(`The server refused the connection: ${reason}`));
  $("sign-in").hidden = true;
  $("main").hidden = $("move").hidden = false;
  document.title = `${name} · eventbus gateway`;
}

function end(text) {
  status("off", "not connected");
  banner(text);
  $("move").hidden = true;
  for (const control of $("main").querySelectorAll("button, input, select")) control.disabled = true;
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const { workspace, name } = Object.fromEntries(new FormData(event.target));
  history.replaceState(null, "", `?${new URLSearchParams({ workspace, name, room: "lobby" })}`);
  connect(workspace.trim(), name.trim(), ["lobby"]);
});

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const room = $("room").value.trim().replace(/^#/, "");
  $("room").value = "";
  if (!/^[\p{L}\p{N}_-]{1,24}$/u.test(room)) return note("A room is named with letters, digits, _ and -; at most 24.");
  join(room);
});

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const [, scope, to] = $("to").value.match(/^(\w+):(.*)$/);
  const message = { id: identifier(), scope, to, text: $("text").value };
  const item = add({ ...message, sender: connection.name, node: page.node, at: Date.now() / 1000 });
  Object.assign(item.dataset, { scope, to, node: page.node });
  path(item, connection.ready ? "sending" : "waits for the connection");
  connection.say(message);
  $("text").value = "";
});

$("move").addEventListener("click", () => connection.move(PAUSE));

// Keeps the last message in view when the size of the list changes.
let atEnd = true;
$("messages").addEventListener("scroll", ({ target: log }) => (atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60));
new ResizeObserver(([{ target: log }]) => atEnd && (log.scrollTop = log.scrollHeight)).observe($("messages"));

function identifier() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const given = new URLSearchParams(location.search);
if (given.get("name")) connect(given.get("workspace") || "acme", given.get("name"), given.getAll("room"));
