// The list of bonds, with the traffic of the last minute, and the list of events. Text from the lab is only set as text.

const HISTORY = 60; // samples
const MAX_EVENTS = 300; // of the main kinds, and as many of the others
const CALM = 16; // bonds; of more than these, those in trouble come first
const MAIN_EVENTS = new Set(["cut", "mend", "kill", "revive", "lossy", "failover", "ready", "died", "duplicate"]);

export function make(name, className = "", ...inside) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...inside);
  return made;
}

export function bits(rate) {
  for (const [size, unit] of [[1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"]])
    if (rate >= size) return `${(rate / size).toFixed(rate < 10 * size ? 1 : 0)} ${unit}`;
  return rate >= 1 ? `${Math.round(rate)} bit/s` : "idle";
}

export function ago(ms) {
  const seconds = ms / 1000;
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
}

export class Bonds {
  constructor(section, onFind) {
    this.list = section.querySelector("ol");
    this.count = section.querySelector("small");
    this.filter = section.querySelector("input");
    this.rows = new Map();
    this.filter.addEventListener("input", () => (this.find(), onFind(this.text)));
  }

  get text() {
    return this.filter.value.trim();
  }

  set(drawing) {
    const before = this.rows;
    this.rows = new Map(drawing.bonds.map((bond) => [bond.name, before.get(bond.name) ?? row(bond)]));
    this.list.replaceChildren(...[...this.rows.values()].map(({ item }) => item));
    if (!this.rows.size) this.list.append(make("li", "empty", "no bonds"));
    this.filter.hidden = this.rows.size <= 6;
    this.find();
  }

  find() {
    for (const [name, { item }] of this.rows) item.hidden = !name.includes(this.text);
  }

  update(drawing, rates) {
    let whole = 0;
    const troubled = [];
    rates.bonds.forEach((bond, index) => {
      const drawn = this.rows.get(drawing.bonds[index]?.name);
      if (!drawn) return;
      const sound = bond.active !== null && bond.members.every(([, state]) => state === "up");
      whole += sound;
      if (!sound) troubled.push(drawn.item);
      updateRow(drawn, bond);
    });
    const all = rates.bonds.length;
    this.count.textContent = whole === all ? "all members up" : `${all - whole} of ${all} degraded`;
    if (this.rows.size > CALM) this.first(troubled);
  }

  first(troubled) {
    const wanted = [...troubled, ...[...this.rows.values()].map(({ item }) => item).filter((item) => !troubled.includes(item))];
    if (wanted.some((item, index) => this.list.children[index] !== item)) this.list.replaceChildren(...wanted);
  }
}

function row({ name, addresses }) {
  const spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  spark.setAttribute("viewBox", `0 0 ${HISTORY - 1} 24`);
  spark.setAttribute("preserveAspectRatio", "none");
  spark.setAttribute("aria-hidden", "true");
  const [area, line] = ["area", ""].map((kind) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", kind);
    path.setAttribute("vector-effect", "non-scaling-stroke");
    return path;
  });
  spark.append(area, line);
  const [rate, pills, last] = [make("span", "rate"), make("span", "pills"), make("span", "last")];
  const item = make("li", "", make("span", "bond", name), spark, rate, pills, last);
  item.title = addresses.join("\n");
  return { item, rate, pills, last, area, line, history: [] };
}

function updateRow(drawn, bond) {
  const total = bond.members.reduce((sum, [, , rate]) => sum + rate, 0);
  drawn.history.push(total);
  if (drawn.history.length > HISTORY) drawn.history.shift();
  const most = Math.max(1000, ...drawn.history);
  const points = drawn.history.map((rate, index) => `${HISTORY - drawn.history.length + index} ${(22.5 - (21 * rate) / most).toFixed(1)}`);
  drawn.line.setAttribute("d", `M${points.join("L")}`);
  drawn.area.setAttribute("d", `M${HISTORY - drawn.history.length} 24L${points.join("L")}L${HISTORY - 1} 24Z`);
  drawn.rate.textContent = bits(total);
  const pills = bond.members.map(([name, state]) => {
    const pill = make("span", "pill", name);
    pill.classList.toggle("active", name === bond.active);
    pill.classList.toggle("out", state !== "up");
    pill.title = name === bond.active ? `${state}, active` : state;
    return pill;
  });
  drawn.pills.replaceChildren(...pills);
  drawn.last.textContent = bond.failover_age_ms === null ? "" : `${bond.failover.replace("->", "→")}, ${ago(bond.failover_age_ms)}`;
}

export class Events {
  constructor(section) {
    this.list = section.querySelector("ol");
    const all = section.querySelector("input");
    all.addEventListener("change", () => section.classList.toggle("all", all.checked));
  }

  add({ forget, missed, items }) {
    if (forget) this.list.replaceChildren();
    const rows = items.map(eventRow).reverse();
    if (missed) rows.push(make("li", "empty", `${missed} more events: ibbond lab events`));
    this.list.prepend(...rows);
    for (const kind of [".quiet", ":not(.quiet)"])
      for (const old of [...this.list.querySelectorAll(`li${kind}`)].slice(MAX_EVENTS)) old.remove();
  }
}

function eventRow({ t_ms: at, what, where, detail }) {
  const text = make("span", "text", where, " ", make("span", "detail", detail.replaceAll("->", "→")));
  const made = make("li", "", make("time", "", `${(at / 1000).toFixed(3)} s`), make("span", "what", what), text);
  if (/^[a-z]+$/.test(what)) made.classList.add(what);
  if (!MAIN_EVENTS.has(what)) made.classList.add("quiet");
  return made;
}
