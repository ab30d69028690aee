// The topology as SVG: places for the width at hand, cables as curves, and the state of each.
//
// Hosts that are cabled to the same switches stand together below these; switches stand in rows by their distance to hosts.
// Text from the lab is only ever set as text. What a click does is the caller's affair.

const NS = "http://www.w3.org/2000/svg";
const FEW = 24; // hosts that are drawn large
const BUSY = 1; // packets per second, from which a cable has traffic
const STATES = { up: "up", cut: "cut" }; // all others: no link

export function element(name, attributes = {}, ...inside) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

const parent = (device) => device?.replace(/\.[0-9a-f]{4}$/, ""); // of a partition child, the device of its port
const node = (end) => end.slice(0, end.indexOf("/"));

export class Fabric {
  constructor(place, on) {
    this.place = place;
    this.on = on; // {cable(name), show(cable, event), hide()}
    this.drawing = null;
    this.rates = null;
    this.width = 0;
    this.cables = new Map();
    this.nodes = new Map();
    new ResizeObserver(() => this.resized()).observe(place);
  }

  resized() {
    const width = this.place.clientWidth;
    if (this.drawing && Math.abs(width - this.width) > 8) this.draw();
  }

  set(drawing) {
    this.drawing = drawing;
    this.draw();
  }

  draw() {
    const { place, drawing } = this;
    const style = getComputedStyle(place);
    const width = place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    this.width = place.clientWidth;
    const focused = document.activeElement?.closest?.(".cable")?.dataset.name;
    const layout = arrange(drawing, Math.max(width, 240));
    const svg = element("svg", { class: "topology", viewBox: `0 0 ${layout.width} ${layout.height}`, height: layout.height });
    svg.classList.toggle("many", layout.many);
    const [lines, boxes] = [element("g"), element("g")];
    svg.append(lines, boxes);
    this.cables.clear();
    this.nodes.clear();
    for (const { name, kind } of drawing.nodes) {
      const drawn = box(name, kind, layout.boxes.get(name));
      this.nodes.set(name, drawn);
      boxes.append(drawn.group);
    }
    for (const cable of drawing.cables) {
      const drawn = this.cable(cable, layout);
      lines.append(drawn.group);
      for (const end of drawn.ends) boxes.append(end.dot);
      this.cables.set(cable.name, drawn);
    }
    place.replaceChildren(svg);
    if (this.rates) this.update(this.rates);
    if (focused) this.cables.get(focused)?.group.focus();
  }

  cable(cable, layout) {
    const path = curve(...cable.ends.map((end) => layout.ends.get(end)));
    const group = element("g", { class: "cable", tabindex: "0", role: "button" });
    group.dataset.name = cable.name;
    const [wire, flow, hit] = ["wire", "flow", "hit"].map((part) => element("path", { class: part, d: path }));
    group.append(wire, flow, hit);
    const drawn = { cable, group, wire, flow, ends: [], state: "", rate: 0, loss: 0 };
    for (const end of cable.ends) {
      if (!layout.hosts.has(node(end))) continue;
      const { x, y } = layout.ends.get(end);
      const dot = element("circle", { class: "member", cx: x, cy: y, r: layout.many ? 3.6 : 6 });
      drawn.ends.push({ end, dot });
    }
    for (const part of [group, ...drawn.ends.map(({ dot }) => dot)]) {
      part.addEventListener("click", () => this.on.cable(drawn));
      part.addEventListener("pointermove", (event) => (group.classList.add("near"), this.on.show(drawn, event)));
      part.addEventListener("pointerleave", () => (group.classList.remove("near"), this.on.hide()));
    }
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.on.cable(drawn);
    });
    return drawn;
  }

  update(rates) {
    this.rates = rates;
    const { drawing } = this;
    if (!drawing || rates.cables.length !== drawing.cables.length) return;
    const up = new Map(drawing.nodes.map(({ name }) => [name, { up: 0, all: 0 }]));
    drawing.cables.forEach((cable, index) => {
      const [state, rate, loss] = rates.cables[index];
      for (const name of [cable.a, cable.b]) {
        up.get(name).all += 1;
        up.get(name).up += state === "up";
      }
      this.updateCable(this.cables.get(cable.name), state, rate, loss);
    });
    const active = new Map();
    rates.bonds.forEach(({ active: member }, index) => {
      const [host, bond] = drawing.bonds[index]?.name.split("/") ?? [];
      if (host) active.set(host, [...(active.get(host) ?? []), [bond, member]]);
    });
    for (const [name, drawn] of this.nodes) updateNode(drawn, up.get(name), active.get(name));
    const members = new Set([...active].flatMap(([host, bonds]) => bonds.map(([, member]) => `${host}/${parent(member)}`)));
    for (const { ends } of this.cables.values())
      for (const { end, dot } of ends) dot.classList.toggle("active", members.has(end) && !dot.classList.contains("cut"));
  }

  updateCable(drawn, state, rate, loss) {
    Object.assign(drawn, { state, rate, loss });
    const look = STATES[state] ?? "down";
    const { classList } = drawn.group;
    for (const each of ["up", "cut", "down"]) classList.toggle(each, each === look);
    const busy = look === "up" && rate >= BUSY;
    classList.toggle("busy", busy);
    classList.toggle("lossy", look === "up" && loss > 0);
    classList.remove("asked");
    drawn.wire.style.strokeWidth = busy ? `${1.8 + 1.05 * Math.log10(1 + rate)}px` : "";
    drawn.flow.style.animationDuration = `${Math.max(0.35, 1.5 - 0.28 * Math.log10(1 + rate))}s`;
    for (const { dot } of drawn.ends) {
      dot.classList.toggle("cut", look === "cut");
      dot.classList.toggle("down", look === "down");
    }
    const [a, b] = drawn.cable.ends;
    drawn.group.setAttribute("aria-label", `cable ${a} to ${b}: ${state}; ${look === "cut" ? "mend" : "cut"} it`);
  }

  find(text) {
    for (const [name, { group }] of this.nodes) group.classList.toggle("found", text !== "" && name.includes(text));
  }
}

function box(name, kind, { x, y, width, height, large }) {
  const group = element("g", { class: `node ${kind}` });
  const label = element("text", { class: "name", x, y: large ? y - 8 : y }, name);
  const more = element("text", { class: "more", x, y: y + 9 });
  const title = element("title", {}, name);
  const rectangle = element("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: kind === "host" ? 9 : 5 });
  group.append(title, rectangle, label);
  if (large) group.append(more);
  if (label.textContent.length * 7 > width - 6) label.setAttribute("textLength", width - 8), label.setAttribute("lengthAdjust", "spacingAndGlyphs");
  return { group, more, kind, width };
}

function updateNode({ group, more, kind, width }, { up, all }, bonds) {
  group.classList.toggle("dark", all > 0 && up === 0);
  group.classList.toggle("degraded", kind === "host" && up > 0 && up < all);
  const words = bonds?.map(([bond, member]) => `${bond}: ${member ?? "none"}`).join(", ") ?? "no bond";
  const fits = words.length * 6.3 < width;
  const shown = fits ? words : `${bonds.length} bonds`;
  const plugs = `${all} cable${all === 1 ? "" : "s"}`;
  more.textContent = kind === "host" ? shown : kind === "manager" ? "subnet manager" : up === all ? plugs : `${up} of ${plugs}`;
}

// Places. A box is {x, y, width, height} with its middle; an end of a cable is {x, y, up}: where it leaves its node.
function arrange({ nodes, cables }, width) {
  const top = Math.max(...nodes.map(({ level }) => level));
  const rows = Array.from({ length: top + 1 }, (_, level) => nodes.filter((each) => each.level === level).map(({ name }) => name));
  const hosts = new Set(rows[0]);
  const many = hosts.size > FEW;
  const peers = new Map(nodes.map(({ name }) => [name, []]));
  for (const { a, b } of cables) peers.get(a).push(b), peers.get(b).push(a);
  const boxes = new Map();
  const room = (innerHeight - 240 - 52 * (top + 1)) / top; // so that a small fabric fills the window
  const apart = many ? 110 : Math.max(110, Math.min(230, room));
  let y = 0;
  for (let level = top; level > 0; level -= 1) {
    const perRow = Math.max(1, Math.floor(width / 74));
    for (let first = 0; first < rows[level].length; first += perRow) {
      const row = rows[level].slice(first, first + perRow);
      const step = width / row.length;
      const size = { width: Math.min(136, step - 12), height: 46, large: !many || step > 100 };
      y += first ? 66 : 0;
      row.forEach((name, index) => boxes.set(name, { x: step * (index + 0.5), y: y + 26, ...size }));
    }
    y += 52 + apart;
  }
  const height = placeHosts(rows[0], peers, boxes, width, y, many);
  return { boxes, ends: placeEnds(cables, boxes, nodes, many), width, height, hosts, many };
}

function placeHosts(names, peers, boxes, width, y, many) {
  const at = (name) => boxes.get(name)?.x ?? width / 2;
  const groups = new Map();
  for (const name of names) {
    const switches = [...new Set(peers.get(name))].sort();
    const key = many ? switches.join(" ") : "";
    if (!groups.has(key)) groups.set(key, { names: [], x: switches.reduce((sum, each) => sum + at(each), 0) / (switches.length || 1) });
    groups.get(key).names.push(name);
  }
  const [tile, tall] = many ? [44, 24] : [Math.min(132, Math.max(92, width / names.length - 18)), 52];
  const [gap, below, between] = many ? [5, 12, 15] : [Math.max(18, Math.min(170, width / names.length - tile - 18)), 34, 18];
  const ordered = [...groups.values()].sort((a, b) => a.x - b.x);
  const fitting = Math.max(1, Math.floor((width + gap) / (tile + gap)));
  const share = Math.max(1, Math.floor((width - between * (ordered.length - 1)) / ordered.length / (tile + gap)));
  let line = [];
  let bottom = y;
  const flush = () => {
    const total = line.reduce((sum, { columns }) => sum + columns * (tile + gap) - gap + between, -between);
    let x = (width - total) / 2;
    let rows = 0;
    for (const { group, columns } of line) {
      group.names.forEach((name, index) => {
        const row = Math.floor(index / columns);
        const inRow = Math.min(columns, group.names.length - row * columns);
        const shift = ((columns - inRow) * (tile + gap)) / 2;
        const place = { x: x + shift + (index % columns) * (tile + gap) + tile / 2, y: bottom + row * (tall + below) + tall / 2 };
        boxes.set(name, { ...place, width: tile, height: tall, large: !many });
        rows = Math.max(rows, row + 1);
      });
      x += columns * (tile + gap) - gap + between;
    }
    bottom += rows * (tall + below) + 16;
    line = [];
  };
  let used = 0;
  for (const group of ordered) {
    const columns = Math.min(group.names.length, many ? Math.max(share, Math.min(2, fitting)) : fitting, fitting);
    const needs = columns * (tile + gap) - gap + between;
    if (line.length && used + needs > width + between) flush(), (used = 0);
    line.push({ group, columns });
    used += needs;
  }
  flush();
  return bottom - below - 16 + 22;
}

function placeEnds(cables, boxes, nodes, many) {
  const level = new Map(nodes.map(({ name, level: each }) => [name, each]));
  const sides = new Map(); // "node side" to its ends
  for (const cable of cables)
    for (const [own, other, end] of [[cable.a, cable.b, cable.ends[0]], [cable.b, cable.a, cable.ends[1]]]) {
      const [mine, theirs] = [boxes.get(own), boxes.get(other)];
      const beside = level.get(own) === level.get(other) && mine.y === theirs.y;
      const side = beside ? (theirs.x > mine.x ? "right" : "left") : theirs.y < mine.y ? "top" : "bottom";
      const key = `${own}\n${side}`;
      if (!sides.has(key)) sides.set(key, { box: mine, side, host: level.get(own) === 0, ends: [] });
      sides.get(key).ends.push({ end, x: theirs.x, y: theirs.y });
    }
  const ends = new Map();
  for (const { box: mine, side, host, ends: here } of sides.values()) {
    if (!host) here.sort((one, two) => one.x - two.x || one.y - two.y);
    const vertical = side === "left" || side === "right";
    const length = vertical ? mine.height : mine.width;
    const step = Math.min(host ? (many ? 13 : 30) : 24, (length - 12) / here.length);
    here.forEach(({ end }, index) => {
      const along = (index - (here.length - 1) / 2) * step;
      ends.set(end, vertical
        ? { x: mine.x + (side === "right" ? 1 : -1) * (mine.width / 2), y: mine.y + along, side }
        : { x: mine.x + along, y: mine.y + (side === "top" ? -1 : 1) * (mine.height / 2), side });
    });
  }
  return ends;
}

function curve(a, b) {
  const away = { top: [0, -1], bottom: [0, 1], left: [-1, 0], right: [1, 0] };
  const reach = Math.max(18, Math.min(120, Math.hypot(b.x - a.x, b.y - a.y) * 0.42));
  const flat = a.side === "left" || a.side === "right";
  const points = [a, b].map(({ x, y, side }) => [x + away[side][0] * reach * (flat ? 0.6 : 1), y + away[side][1] * reach]);
  const round = (values) => values.map((value) => Math.round(value * 10) / 10).join(" ");
  return `M${round([a.x, a.y])}C${round(points[0])} ${round(points[1])} ${round([b.x, b.y])}`;
}

