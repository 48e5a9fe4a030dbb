// Joins the parts: asks the server once a second, shows what it says, and connects the forms with the stream of ticks.

import { $, badge, make, write } from "./dom.mjs";
import { NONE, rate, seconds } from "./format.mjs";
import { Live } from "./live.mjs";
import { History, Sample } from "./metrics.mjs";
import * as panels from "./panels.mjs";
import { Plot, WINDOW } from "./plots.mjs";
import { MODES, Stream, keyOf } from "./stream.mjs";

/** Between two readings, ms; what changes slowly is read each second time. */
const PERIOD = 1000;
/** An answer that takes longer, ms, is none. */
const PATIENCE = 5000;

const STATES = { ready: "good", starting: "info", draining: "warn", degraded: "warn" };
const THEMES = { "": "auto", light: "light", dark: "dark" };

const clock = () => performance.now() / 1000;

async function ask(path) {
  return fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
}

/** Routes that the server of now does not have. */
const absent = new Set();

/** JSON of a route that this server may not have: { body } or { missing }. */
async function askJson(path) {
  const response = absent.has(path) ? { status: 404 } : await ask(path);
  if (response.status === 404) {
    absent.add(path);
    return { missing: "Not available: this server does not tell." };
  }
  if (!response.ok && response.status !== 503) return { missing: `Not available: the server answered ${response.status}.` };
  return { body: await response.json() };
}

// --- The picture of the server ---

const history = new History(15);
const lines = { throughput: [], latency: [] };
const plots = {
  throughput: new Plot($("throughput"), {
    title: "Throughput",
    series: [{ label: "out", tone: "out", width: 2, fill: true }, { label: "in", tone: "in", width: 2 }].reverse(),
    format: (value) => (Number.isFinite(value) ? `${rate(value)}` : NONE),
    floor: 10,
  }),
  latency: new Plot($("latency"), {
    title: "Latency",
    series: [{ label: "p50", tone: "p50", width: 2 }, { label: "p95", tone: "p95" }, { label: "p99", tone: "p99", width: 2 }],
    format: seconds,
    log: true,
  }),
};
let epoch = null;
let round = 0;

/** Another process answers: what was counted before means nothing now. */
function newServer(now) {
  if (epoch !== null && epoch !== now) {
    history.clear();
    absent.clear();
  }
  epoch = now;
}

function ready({ state, ready, version, epoch, listen, bus }) {
  newServer(epoch);
  write($("version"), version);
  const places = `${listen} ${bus}`;
  if ($("where").dataset.places !== places) {
    $("where").dataset.places = places;
    const codes = (list) => list.flatMap((address) => [" ", make("code", { textContent: address })]);
    $("where").replaceChildren("clients at", ...codes(listen.map((address) => `ws://${address}`)), ...(bus.length > 0 ? [" · publishers at", ...codes(bus)] : []));
  }
  badge($("state"), ready || state !== "degraded" ? state : "refusing new clients", STATES[state] ?? "bad");
}

function measured(text) {
  history.push(new Sample(text, clock()));
  const figures = panels.figures(history);
  panels.vitals(figures);
  panels.locks(history);
  $("market").hidden = history.now.sum("tickcast_sim_active") !== 1;
  const level = history.now.sum("tickcast_overload_level") ?? 0;
  $("overload").hidden = level === 0;
  badge($("overload"), `overload, level ${level} of 4`, level > 2 ? "bad" : "warn");
  const points = panels.points(history);
  for (const [name, line] of Object.entries(lines)) {
    // A gap in time, as after sleep, is a gap in the line.
    const last = line.at(-1)?.[0];
    if (last !== undefined && points[name][0] - last > 4 * (PERIOD / 1000)) line.push([last + 0.1, ...points[name].slice(1).map(() => null)]);
    line.push(points[name]);
    while (line[0][0] < points[name][0] - WINDOW) line.shift();
    plots[name].update(line);
  }
  return figures;
}

function trouble(text) {
  document.body.classList.toggle("stale", text !== "");
  $("trouble").hidden = text === "";
  write($("trouble"), text);
  if (text !== "") badge($("state"), "no answer", "bad");
}

const hot = new panels.Hot((stream) => want([{ exchange: stream.exchange, symbol: stream.symbol, mode: stream.mode }]));

async function look() {
  const slow = round % 2 === 0;
  round += 1;
  const [answer, metrics, feeds, sessions, subscriptions] = await Promise.all([
    askJson("readyz"),
    ask("metrics").then((response) => response.text()),
    ...(slow ? [askJson("feeds"), askJson("sessions?top=20&by=lag"), askJson("subscriptions?top=20&by=ticks")] : []),
  ]);
  trouble("");
  ready(answer.body);
  const figures = measured(metrics);
  if (!slow) return;
  panels.feeds(feeds);
  panels.sessions(sessions, figures.lagging);
  hot.show(subscriptions, clock());
  suggest(hot.streams);
}

async function lookForEver() {
  let due = performance.now();
  for (;;) {
    if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    try {
      await look();
    } catch (error) {
      console.info(error);
      trouble(`tickcast does not answer at ${location.host}. What you see is what it said last. Start it again, or look at its log; this page keeps trying.`);
    }
    due = Math.max(due + PERIOD, performance.now() + PERIOD / 4);
    await new Promise((passed) => setTimeout(passed, due - performance.now()));
  }
}

// --- Live ticks ---

const live = new Live((key) => stream?.remove(key));
let stream = null;
let demo = false;
let suggested = null;

const told = {
  state(state, text) {
    write($("stream"), text);
    const connected = state !== "off" && state !== "failed";
    const focused = document.activeElement;
    $("connect").hidden = connected;
    $("disconnect").hidden = !connected;
    live.stale(state !== "live");
    problem(state === "failed" ? text : "");
    if (state === "failed") {
      write($("stream"), "Not connected");
      $("key").focus();
    } else if (connected && $("connect").contains(focused)) $("symbol").focus();
    else if (state === "off" && focused === $("disconnect")) $("key").focus();
  },
  tick: (key, tick) => live.tick(key, tick),
  refused(key, message) {
    live.drop(key);
    problem(`${key.split("/")[0]}: ${message}`);
  },
  feed: ({ broker, state, detail }) => write($("stream"), `Connected. The feed of ${broker} is ${state}: ${detail}.`),
};

function problem(text) {
  $("live-error").hidden = text === "";
  write($("live-error"), text);
}

function connect() {
  const key = $("key").value.trim();
  if (key === "") {
    problem("First the API key, then symbols.");
    $("key").focus();
    return;
  }
  if (!demo) $("key").value = "";
  stream.start(key);
}

/** Adds instruments to the table, and connects if that has not happened yet. */
function want(instruments) {
  for (const instrument of instruments) {
    if (live.rows.has(keyOf(instrument))) continue;
    if (live.full) return problem("The table is full. Remove a symbol first.");
    live.add(instrument);
    stream.add(instrument);
  }
  if (["off", "failed"].includes(stream.state)) connect();
}

/** `NSE:SBIN NSE_INDEX:NIFTY`, separated by spaces or commas; a string instead when something is wrong. */
function instruments(text, mode) {
  const found = [];
  for (const word of text.split(/[\s,;]+/).filter(Boolean)) {
    const [, exchange, symbol] = /^([^:]+):(.+)$/.exec(word) ?? [];
    if (!symbol) return `“${word}” lacks its exchange. Write EXCHANGE:SYMBOL, for example NSE:${word.replaceAll(":", "") || "RELIANCE"}.`;
    found.push({ exchange, symbol, mode });
  }
  return found.length > 0 ? found : "Write EXCHANGE:SYMBOL, for example NSE:RELIANCE.";
}

/** What may be typed, from what others take; and in the simulated market, what there is. */
function suggest(streams) {
  const names = [...new Set(streams.map(({ exchange, symbol }) => `${exchange}:${symbol}`))];
  const simulated = $("market").hidden ? [] : ["NSE_INDEX:NIFTY", "NSE:RELIANCE", "NSE:INFY", "NSE:SBIN"];
  const all = [...new Set([...simulated, ...names])];
  if (suggested === all.join()) return;
  suggested = all.join();
  $("known").replaceChildren(...all.map((value) => make("option", { value })));
  const chips = all.slice(0, 6).map((name) => {
    const chip = make("button", { type: "button", className: "chip", textContent: name });
    chip.addEventListener("click", () => want(instruments(name, MODES[$("mode").value])));
    return chip;
  });
  const words = chips.length > 0 ? "Nothing here yet. Type a symbol above, or try one of these:" : "Nothing here yet. Type a symbol above, such as NSE:RELIANCE.";
  $("nothing").replaceChildren(make("p", { textContent: words }), make("p", { className: "chips" }, ...chips));
}

function forms() {
  $("connect").addEventListener("submit", (event) => {
    event.preventDefault();
    connect();
  });
  $("disconnect").addEventListener("click", () => stream.stop());
  $("subscribe").addEventListener("submit", (event) => {
    event.preventDefault();
    const found = instruments($("symbol").value, MODES[$("mode").value]);
    if (typeof found === "string") return problem(found);
    problem("");
    $("symbol").value = "";
    want(found);
  });
}

function theme() {
  const button = $("theme");
  const root = document.documentElement;
  const show = () => {
    const name = THEMES[root.dataset.theme ?? ""];
    write(button.lastElementChild, name);
    Object.values(plots).forEach((plot) => plot.draw());
  };
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(root.dataset.theme ?? "") + 1) % names.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    try {
      localStorage.setItem("tickcast.theme", next);
    } catch {
      // It holds for this visit, then.
    }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

async function begin() {
  theme();
  forms();
  suggest([]);
  for (;;) {
    try {
      const { websocket, demo_key } = (await askJson("console.json")).body;
      stream = new Stream(websocket, told);
      demo = demo_key !== null;
      if (demo) {
        $("key").value = demo_key;
        write($("key-note"), "the demo key, which everybody knows");
      }
      break;
    } catch {
      trouble(`tickcast does not answer at ${location.host}; this page keeps trying.`);
      await new Promise((passed) => setTimeout(passed, PERIOD));
    }
  }
  write($("stream"), "Not connected");
  await lookForEver();
}

begin();
