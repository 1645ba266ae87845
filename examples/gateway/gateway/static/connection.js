// A websocket that reconnects, to another server if need be, and repeats messages that no server accepted yet.

const SILENCE = 4000; // milliseconds; the server sends its state twice a second
const FATAL = { 4000: "refused", 4001: "elsewhere" };
const REMEMBERED = 60;

export class Connection extends EventTarget {
  constructor(workspace, name, rooms, url) {
    super();
    this.workspace = workspace;
    this.name = name;
    this.url = url;
    this.servers = new Map(); // the addresses of all servers heard of so far: a server that is down may come back
    this.node = null;
    this.rooms = new Set(rooms);
    this.waiting = new Map(); // messages that no server has accepted yet, by id
    this.heard = 0;
    this.position = ""; // of the last message to everyone
    this.fails = 0;
    setTimeout(() => this.open());
    setInterval(() => this.#watch(), 1000);
  }

  open() {
    clearTimeout(this.timer);
    const away = this.heard ? Math.min(REMEMBERED, (Date.now() - this.heard) / 1000) : 0;
    const query = new URLSearchParams([...this.rooms].map((room) => ["room", room]));
    query.set("away", away.toFixed(3));
    query.set("since", this.position);
    const path = `/ws/${encodeURIComponent(this.workspace)}/${encodeURIComponent(this.name)}?${query}`;
    const socket = (this.socket = new WebSocket(this.url + path));
    this.ready = false;
    this.begun = Date.now();
    this.#tell("connecting", { url: this.url });
    socket.onmessage = ({ data }) => this.socket === socket && this.#read(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.socket === socket && this.#lost(code, reason);
  }

  // Drops the connection and reconnects after a pause, to another server if there is one.
  move(pause) {
    this.#turn();
    this.socket.onclose = null;
    this.socket.close();
    this.socket = null;
    this.ready = false;
    this.#tell("dropped", { url: this.url, pause });
    this.timer = setTimeout(() => this.open(), pause);
  }

  say(message) {
    this.waiting.set(message.id, message);
    this.#send({ kind: "say", ...message });
  }

  join(room) {
    this.rooms.add(room);
    this.#tellRooms();
  }

  leave(room) {
    this.rooms.delete(room);
    this.#tellRooms();
  }

  #tellRooms() {
    this.#send({ kind: "rooms", rooms: [...this.rooms] });
  }

  #send(frame) {
    if (this.ready) this.socket.send(JSON.stringify(frame));
  }

  #read(frame) {
    this.heard = Date.now();
    this.position = frame.position || this.position;
    if (!this.ready) {
      this.ready = true;
      this.fails = 0;
      this.#tellRooms(); // the person may have changed rooms while the page connected
      for (const message of this.waiting.values()) this.#send({ kind: "say", ...message });
    }
    if (frame.kind === "state") {
      this.node = frame.node;
      for (const [node, { url }] of Object.entries(frame.servers)) this.servers.set(node, url);
    }
    if (frame.kind === "accepted" || (frame.kind === "refused" && !frame.later)) this.waiting.delete(frame.id);
    if (frame.kind === "refused" && frame.later) {
      setTimeout(() => this.waiting.has(frame.id) && this.#send({ kind: "say", ...this.waiting.get(frame.id) }), 1000);
    }
    this.#tell("frame", frame);
  }

  #lost(code, reason) {
    this.ready = false;
    this.socket = null;
    if (FATAL[code]) return this.#tell(FATAL[code], { reason });
    const hint = code === 1012 && /^retry-after=([\d.]+)$/.exec(reason); // the server drains, and says when
    const pause = hint ? hint[1] * 1000 : Math.min(4000, 250 * 2 ** this.fails++) * (0.75 + Math.random() / 2);
    this.#turn();
    this.#tell("lost", { code, reason, url: this.url, pause });
    this.timer = setTimeout(() => this.open(), pause);
  }

  #turn() {
    const nodes = [...this.servers.keys()].sort();
    this.node = nodes[(nodes.indexOf(this.node) + 1) % nodes.length] ?? null;
    this.url = this.servers.get(this.node) ?? this.url;
  }

  // A connection can be dead without being closed.
  #watch() {
    if (!this.socket || Date.now() - Math.max(this.heard, this.begun) < SILENCE) return;
    const socket = this.socket;
    socket.onclose = null;
    socket.close();
    this.#lost(0, "silent");
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
