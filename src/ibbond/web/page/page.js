// The page: what the lab says (server-sent events) to the panels, clicks to the lab. No library, no build step.

import { Fabric } from "./fabric.js";
import { Bonds, Events, bits, make } from "./panels.js";

const $ = (selector) => document.querySelector(selector);
const THEMES = ["auto", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
let drawing = null;
let rates = null;
let theme = "auto";

// Colors

function applyTheme() {
  document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  $("#theme").textContent = theme[0].toUpperCase() + theme.slice(1);
}

dark.addEventListener("change", applyTheme);
$("#theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  applyTheme();
});
applyTheme();

// What is asked of the lab

async function ask(what, cables) {
  try {
    const answer = await fetch(what, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ cables }),
    });
    if (answer.ok) return notice("");
    const { what: refused, why, fix } = await answer.json();
    notice([refused, why].filter(Boolean).join(": ") + (fix ? `. ${fix}.` : ""));
  } catch {
    notice(`cannot ${what}: ibbond lab web does not answer`);
  }
}

function notice(text) {
  $("#notice").textContent = text;
  $("#notice").hidden = !text;
}

const tip = $("#tip");
const fabric = new Fabric($(".canvas"), {
  cable({ cable, state, group }) {
    group.classList.add("asked");
    ask(state === "cut" ? "mend" : "cut", [cable.name]).finally(() => setTimeout(() => group.classList.remove("asked"), 1500));
  },
  show({ cable, state, rate, loss }, { clientX, clientY }) {
    const words = state === "up" ? `${Math.round(rate).toLocaleString("en")} packets/s` : state === "cut" ? "cut" : "no link";
    const lost = loss ? `, loses ${loss} %` : "";
    tip.replaceChildren(make("b", "", `${cable.ends[0]} – ${cable.ends[1]}`), make("span", "", `${words}${lost} · click to ${state === "cut" ? "mend" : "cut"}`));
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(6, Math.min(clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${clientY + 18 + height > innerHeight ? clientY - height - 12 : clientY + 18}px`;
  },
  hide() {
    tip.hidden = true;
  },
});
const bonds = new Bonds($("#bonds"), (text) => fabric.find(text));
const events = new Events($("#events"));

$("#mend-all").addEventListener("click", () => ask("mend", cut()));
const cut = () => drawing.cables.filter((_, index) => rates.cables[index][0] === "cut").map(({ name }) => name);

// What the lab says

function fact(count, words, kind = "") {
  return make("li", kind, make("b", "", count), ` ${words}`);
}

function showFacts() {
  const count = (wanted) => drawing.nodes.filter(({ kind }) => kind === wanted).length;
  const facts = [fact(count("host"), "hosts"), fact(count("switch"), "switches"), fact(drawing.cables.length, "cables")];
  if (rates) {
    const out = cut().length;
    const down = rates.cables.filter(([state]) => state !== "up" && state !== "cut").length;
    const sum = rates.bonds.reduce((total, { members }) => total + members.reduce((each, [, , rate]) => each + rate, 0), 0);
    if (out) facts.push(fact(out, "cut", "bad"));
    if (down) facts.push(fact(down, "without link", "warn"));
    if (!rates.manager_alive) facts.push(fact("no", "subnet manager", "bad"));
    facts.push(fact(bits(sum), "on all bonds"));
    if (rates.late_ms >= 5) facts.push(fact(`${rates.late_ms} ms`, "late, the machine is busy", "warn"));
    $("#mend-all").hidden = out < 2;
  }
  $("#facts").replaceChildren(...facts);
}

const handlers = {
  lab({ runs, what, fix }) {
    link(runs ? "live" : "gone", runs ? "live" : "waiting");
    notice(runs ? "" : `${what}. ${fix}.`);
  },
  drawing(message) {
    drawing = message;
    rates = null;
    $("#name").textContent = message.lab.name;
    document.title = `lab ${message.lab.name}`;
    bonds.set(message);
    fabric.set(message);
    showFacts();
  },
  rates(message) {
    if (!drawing || message.cables.length !== drawing.cables.length) return;
    rates = message;
    bonds.update(drawing, message);
    fabric.update(message);
    showFacts();
  },
  events: (message) => events.add(message),
};

function link(kind, words) {
  $("#link").className = `link ${kind}`;
  $("#link").textContent = words;
}

const source = new EventSource("events");
for (const [kind, handle] of Object.entries(handlers)) source.addEventListener(kind, ({ data }) => handle(JSON.parse(data)));
source.addEventListener("error", () => link("gone", source.readyState === EventSource.CLOSED ? "ended" : "no answer"));
