// Draws servers, people and the paths of messages as SVG. The lists beside it have the same content as text.

const NS = "http://www.w3.org/2000/svg";
const BOX = 118;
const GAP = 12;
const BUS = 54;
const ROWS = 4; // people that are drawn per server
const still = matchMedia("(prefers-reduced-motion: reduce)");

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export class ServerMap {
  constructor(element) {
    this.element = element;
    this.servers = {};
    this.still = svg("g");
    this.moving = svg("g");
    element.append(this.still, this.moving);
    new ResizeObserver(() => {
      this.moving.replaceChildren();
      this.draw();
    }).observe(element);
  }

  show(servers, me, mine, away, colour) {
    Object.assign(this, { servers, me, mine, away, colour });
    this.draw();
  }

  draw() {
    const nodes = Object.keys(this.servers);
    const width = this.element.clientWidth;
    if (!width || !nodes.length) return;
    const columns = Math.max(1, Math.min(nodes.length, Math.floor((width + GAP) / (104 + GAP))));
    const rows = Math.ceil(nodes.length / columns);
    const box = (width - GAP * (columns - 1)) / columns;
    const step = BOX + BUS + GAP;
    const shared = nodes.length > 1 || this.away;
    const height = shared ? rows * step - GAP : BOX;
    this.element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.element.style.height = `${height}px`;
    this.places = {};
    const parts = [];
    for (let row = 0; shared && row < rows; row++) {
      const y = row * step + BOX + BUS - 26;
      parts.push(svg("rect", { class: this.away ? "hub away" : "hub", x: 1, y, width: width - 2, height: 25, rx: 12.5 }));
      const text = svg("text", { class: "hub-text", x: width - 14, y: y + 17.5 });
      text.textContent = this.away ? "Redis is unreachable" : "Redis";
      parts.push(text);
    }
    nodes.forEach((node, index) => {
      const x = (index % columns) * (box + GAP);
      const y = Math.floor(index / columns) * step;
      parts.push(this.#server(node, x, y, box, shared));
    });
    this.still.replaceChildren(...parts);
  }

  #server(node, x, y, width, shared) {
    const first = (name) => Number(name !== this.me);
    const people = Object.keys(this.servers[node].clients).sort((a, b) => first(a) - first(b) || a.localeCompare(b));
    const silent = this.servers[node].silent;
    const group = svg("g", { class: silent ? `${this.colour(node)} silent` : this.colour(node) });
    const post = x + 16; // the line on which events leave and arrive
    const hub = y + BOX + BUS - 13.5;
    const place = { people: {}, post, hub, else: { x: post + 14, y: y + BOX - 18 } };
    if (shared) group.append(svg("line", { class: this.away || silent ? "wire away" : "wire", x1: post, x2: post, y1: y + BOX, y2: hub - 12 }));
    group.append(svg("rect", { class: node === this.mine ? "box mine" : "box", x: x + 1, y: y + 1, width: width - 2, height: BOX - 2, rx: 10 }));
    group.append(label(node, x + 12, y + 22, width - 20, "title"));
    const shown = people.length > ROWS - silent ? people.slice(0, ROWS - 1) : people;
    shown.forEach((name, row) => {
      const at = { x: x + 30, y: y + 42 + row * 20 };
      place.people[name] = at;
      group.append(svg("circle", { class: "person", cx: at.x, cy: at.y, r: 4.5 }));
      group.append(label(name === this.me ? `${name} (you)` : name, at.x + 11, at.y + 4.5, width - 52, ""));
    });
    if (people.length > shown.length && !silent) group.append(label(`and ${people.length - shown.length} more`, x + 12, y + 106, width - 20, "none"));
    if (silent) group.append(label("no answer", x + 12, y + (people.length ? 106 : 46), width - 20, "none"));
    else if (!people.length) group.append(label("empty", x + 12, y + 46, width - 20, "none"));
    this.places[node] = place;
    return group;
  }

  // Draws the path of a message between two people; `partition` is null if both are on one server.
  travel(from, to, partition) {
    const start = this.places?.[from.node];
    const end = this.places?.[to.node];
    if (!start || !end) return;
    const a = start.people[from.name] ?? start.else;
    const b = end.people[to.name] ?? end.else;
    const points = [a, { x: start.post, y: a.y }, ...(partition === null ? [] : over(start, end)), { x: end.post, y: b.y }, b];
    const path = points.map((point, index) => `${index ? "L" : "M"}${point.x} ${point.y}`).join(" ");
    const group = svg("g", {}, svg("path", { class: "way", d: path }));
    if (partition !== null) group.append(...tag(partition, end.post, end.hub - 12.5, this.element.clientWidth));
    const parcel = svg("circle", { class: "parcel", r: 7 });
    group.append(parcel);
    this.moving.append(group);
    const line = group.firstChild;
    const length = line.getTotalLength();
    const time = still.matches ? 0 : 350 + length;
    const begin = performance.now();
    const advance = (now) => {
      const done = time ? Math.min(1, (now - begin) / time) : 1;
      const point = line.getPointAtLength(length * (1 - (1 - done) ** 2));
      parcel.setAttribute("cx", point.x);
      parcel.setAttribute("cy", point.y);
      if (done < 1) requestAnimationFrame(advance);
    };
    requestAnimationFrame(advance);
    setTimeout(() => group.remove(), time + 1600);
  }
}

// The part of a path through Redis; it reaches another row of servers along the edge.
function over(start, end) {
  const edge = start.hub === end.hub ? [] : [{ x: 3, y: start.hub }, { x: 3, y: end.hub }];
  return [{ x: start.post, y: start.hub }, ...edge, { x: end.post, y: end.hub }];
}

function tag(text, post, y, limit) {
  const width = text.length * 7.4 + 16;
  const x = Math.min(post + 8 + width / 2, limit - 66 - width / 2); // not over the word Redis
  const word = svg("text", { class: "label-text", x, y: y + 4 });
  word.textContent = text;
  return [svg("rect", { class: "label", x: x - width / 2, y: y - 10, width, height: 20, rx: 10 }), word];
}

const pen = document.createElement("canvas").getContext("2d");

// A text that is cut where it would leave its box; `space` is its width in pixels.
function label(text, x, y, space, kind) {
  pen.font = `${kind === "title" ? "600 " : ""}13px system-ui, sans-serif`;
  let shown = text;
  while (shown.length > 1 && pen.measureText(shown).width > space) shown = `${shown.replace(/…$/, "").slice(0, -1)}…`;
  const element = svg("text", { class: kind, x, y });
  element.textContent = shown;
  return element;
}
